"""The profile's file: it comes back as it went; a damaged, foreign or stale one is told and not used."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.cost.baseline import read_samples
from djinn_fx.calibrate.journal import Journal
from djinn_fx.costmodels.profile import (
    PROFILE_FILE,
    SAMPLES_FILE,
    Conditions,
    Profile,
    Sample,
    profile_folder,
    read_checked,
    read_profile,
    write_checked,
    write_profile,
    write_samples,
)
from djinn_fx.costmodels.work.work import Read, Work, WorkGraph
from djinn_fx.errors import StoreError

MACHINE = {"model": "a processor", "cores": 2}
VERSIONS = {"torch": "2.13.0"}
HERE = Conditions(machine=MACHINE, versions=VERSIONS, threads=2)


def profile() -> Profile:
    return Profile(
        made="2026-01-02T03:04:05+00:00",
        machine=MACHINE,
        versions=VERSIONS,
        threads=(1, 2),
        noise={"within": 0.02},
        samples=7,
        fitted={"eager/2": {"call_s": 1e-6, "grid": [1, 2.5]}},
    )


def sample() -> Sample:
    works = (Work(op="aten.mm", kind="matmul", matmul_flops=16, sides=(1, 2, 2, 2)), Work(op="aten.t", kind="view"))
    reads = ((Read(producer=-1, nbytes=16, is_weight=True),), (Read(producer=0, nbytes=16),))
    graph = WorkGraph(ops=works, reads=reads, escapes=(False, True), names=("mm", "t"))
    return Sample(engine="eager", threads=2, label="a", graph=graph, time_s=1e-5, spread=0.01, family="f")


def test_a_profile_comes_back_as_it_went(tmp_path: Path) -> None:
    path = write_profile(profile(), tmp_path / "calibration")
    found = read_profile(path.parent, HERE)
    assert found.profile == profile()
    assert found.problem is None
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [one.name for one in path.parent.iterdir()] == [PROFILE_FILE]


def test_samples_come_back_as_they_went(tmp_path: Path) -> None:
    write_samples([sample()], tmp_path / "c")
    assert read_samples(tmp_path / "c") == [sample()]


def test_where_nobody_calibrated_there_is_no_problem(tmp_path: Path) -> None:
    found = read_profile(tmp_path, HERE)
    assert (found.profile, found.problem) == (None, None)


@pytest.mark.parametrize(
    ("here", "told"),
    [
        (replace(HERE, machine={**MACHINE, "cores": 64}), "cores was 2, is 64 (another machine)"),
        (replace(HERE, machine={"model": "a processor"}), "cores was 2, is absent (another machine)"),
        (replace(HERE, versions={"torch": "2.14.0"}), "torch was 2.13.0, is 2.14.0 (other versions)"),
        (replace(HERE, versions={**VERSIONS, "openvino": "1"}), "openvino was absent, is 1 (other versions)"),
        (replace(HERE, threads=4), "measured with 1, 2 threads, this process uses 4"),
    ],
)
def test_a_profile_of_other_conditions_is_not_used(tmp_path: Path, here: Conditions, told: str) -> None:
    write_profile(profile(), tmp_path / "c")
    found = read_profile(tmp_path / "c", here)
    assert found.profile is None
    assert found.problem is not None
    assert told in found.problem
    assert "djinn calibrate" in found.problem
    assert str(found.path) in found.problem


@given(st.integers(min_value=0, max_value=10_000))
def test_a_profile_cut_anywhere_is_told_and_not_used(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("cut") / "c"
    path = write_profile(profile(), folder)
    whole = path.read_bytes()
    cut %= len(whole) - 1  # without the newline at its end it is still whole
    path.write_bytes(whole[:cut])
    found = read_profile(folder, HERE)
    assert found.profile is None
    assert found.problem is not None
    assert "damaged" in found.problem


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"schema": "djinn-profile/0"}, "its schema is 'djinn-profile/0'"),
        ({**profile().to_json(), "made": "yesterday"}, "yesterday"),
        ({name: value for name, value in profile().to_json().items() if name != "fitted"}, "'fitted' is missing"),
        ({**profile().to_json(), "fitted": [1]}, "'fitted' is no mapping"),
        ([], "damaged"),
        (None, "damaged"),
        ("text", "damaged"),
    ],
)
def test_another_form_is_told_and_not_used(tmp_path: Path, content: Any, told: str) -> None:
    write_checked(tmp_path / "c" / PROFILE_FILE, content)
    found = read_profile(tmp_path / "c", HERE)
    assert found.profile is None
    assert told in (found.problem or "")


def test_a_changed_figure_is_noticed(tmp_path: Path) -> None:
    path = write_profile(profile(), tmp_path / "c")
    path.write_text(path.read_text().replace("1e-06", "2e-06"))
    assert "checksum" in (read_profile(tmp_path / "c", HERE).problem or "")


@pytest.mark.skipif(os.name != "posix", reason="links and owners as POSIX has them")
def test_what_is_no_file_of_ours_is_not_read(tmp_path: Path) -> None:
    real = write_profile(profile(), tmp_path / "real")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / PROFILE_FILE).symlink_to(real)
    (tmp_path / "folder" / PROFILE_FILE).mkdir(parents=True)
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / PROFILE_FILE)
    for name in ("linked", "folder", "pipe"):
        found = read_profile(tmp_path / name, HERE)
        assert found.profile is None, name
        assert found.problem is not None, name


def test_a_folder_that_is_a_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("")
    with pytest.raises(StoreError, match="is not a folder"):
        write_profile(profile(), tmp_path / "c")


def test_a_number_that_is_none_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_profile(replace(profile(), fitted={"a": float("nan")}), tmp_path / "c")
    assert not (tmp_path / "c" / PROFILE_FILE).exists()


def test_a_sample_without_a_time_is_refused() -> None:
    data = json.loads(json.dumps(sample().to_json()))
    assert Sample.from_json(data) == sample()
    for wrong in (0.0, -1.0, float("inf")):
        with pytest.raises(ValueError, match="time_s"):
            Sample.from_json({**data, "time_s": wrong})


def test_the_folder_follows_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert profile_folder(tmp_path) == tmp_path / "calibration"
    monkeypatch.setenv("DJINN_CACHE_DIR", str(tmp_path / "x"))
    assert profile_folder() == tmp_path / "x" / "calibration"


def test_checked_files_need_their_checksum(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("[1]")
    with pytest.raises(ValueError, match="cut short"):
        read_checked(path)


def test_what_somebody_else_measured_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJINN_CONFIG_DIR", str(tmp_path / "mallory"))
    folder = tmp_path / "calibration"
    write_profile(profile(), folder)
    Journal(folder, {"machine": 1}).close()
    monkeypatch.setenv("DJINN_CONFIG_DIR", str(tmp_path / "alice"))
    found = read_profile(folder)
    assert found.profile is None
    assert "djinn calibrate" in str(found.problem)
    journal = Journal(folder, {"machine": 1})
    journal.close()
    assert journal.dropped
    os.rename(folder / PROFILE_FILE, folder / SAMPLES_FILE)
    monkeypatch.setenv("DJINN_CONFIG_DIR", str(tmp_path / "mallory"))
    with pytest.raises(ValueError):
        read_samples(folder)
