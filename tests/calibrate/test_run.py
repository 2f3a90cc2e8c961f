"""A calibration from beginning to end with a process that does not measure; the command ``djinn calibrate``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench.cost.baseline import read_samples
from djinn_fx.calibrate import run as run_module
from djinn_fx.calibrate.cases.case import Case, Task
from djinn_fx.calibrate.child import Outcome
from djinn_fx.calibrate.run import Progress, Request, calibrate, installed_engines, measure
from djinn_fx.cli import calibrate as calibrate_cli
from djinn_fx.cli.main import main
from djinn_fx.costmodels.profile import Sample, conditions, profile_folder, read_profile
from djinn_fx.costmodels.work.work import WorkGraph


def no_program() -> Any:
    raise AssertionError("nothing is traced in this process")


CASES = [
    *(
        Case(name=f"a{i}", family="a", make=no_program, engines=("eager", "openvino"), one_thread=True)
        for i in range(4)
    ),
    Case(name="slow", family="b", make=no_program, engines=("inductor", "eager"), quick_build=True),
    Case(name="slower", family="b", make=no_program, engines=("inductor",), one_thread=True),
    Case(name="long", family="b", make=no_program, quick=False),
]
#: openvino takes all cases but this one, and dies on that one.
REFUSED, FAILED = "openvino/2/a1", "openvino/2/a2"


class FakeChild:
    """Measures nothing; notes what it is asked."""

    asked: Counter[str] = Counter()  # noqa: RUF012  (one for all processes)
    stop_after: int | None = None
    processes = 0

    def __enter__(self) -> FakeChild:
        FakeChild.processes += 1
        self._time_s = 1.0 + 0.01 * FakeChild.processes
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def measure(self, tasks: Sequence[Task], budget_s: float) -> Iterator[Outcome]:
        assert run_module.LEAST_S <= budget_s <= run_module.MOST_S
        assert len({task.case.name for task in tasks}) == 1
        for task in tasks:
            if FakeChild.stop_after is not None and sum(FakeChild.asked.values()) >= FakeChild.stop_after:
                raise KeyboardInterrupt
            FakeChild.asked[task.name] += 1
            if task.name in (REFUSED, FAILED):
                yield Outcome(task=task.name, why="because", refused=task.name == REFUSED)
                continue
            sample = Sample(
                engine=task.engine,
                threads=task.threads,
                label=task.case.name,
                family=task.case.family,
                graph=WorkGraph(ops=(), reads=(), escapes=()),
                time_s=self._time_s,
                spread=0.0,
            )
            yield Outcome(task=task.name, sample=sample)


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "MeasuringChild", FakeChild)
    monkeypatch.setattr(run_module, "all_cases", lambda: CASES)
    monkeypatch.setattr(FakeChild, "asked", Counter())
    monkeypatch.setattr(FakeChild, "stop_after", None)
    monkeypatch.setattr(FakeChild, "processes", 0)


def request(folder: Path, **more: Any) -> Request:
    given: dict[str, Any] = {"seconds": 1e6, "engines": ("eager", "openvino", "inductor"), "threads": (2, 1)}
    return Request(folder=folder, **{**given, **more})


def fit(samples: Sequence[Sample]) -> Mapping[str, Any]:
    return {"n": len(samples)}


#: a0 to a3 on two engines with two numbers of threads, "slow" on two engines.
SHORT = 4 * 2 * 2 + 2


def test_every_task_is_measured_once(tmp_path: Path) -> None:
    steps: list[Progress] = []
    found = measure(request(tmp_path / "c"), steps.append)
    assert len(found.samples) == SHORT - 2
    assert found.refused == {REFUSED: "because"}
    assert found.failed == {FAILED: "because"}
    assert (found.left, found.resumed) == (0, 0)
    assert len(FakeChild.asked) == SHORT
    assert "inductor/2/slow" in FakeChild.asked
    assert [step.done for step in steps] == list(range(1, steps[-1].total + 1))


def test_the_long_list_has_more(tmp_path: Path) -> None:
    measure(request(tmp_path / "c", quick=False))
    assert {"eager/2/long", "inductor/2/slower", "inductor/1/slower"} <= FakeChild.asked.keys()


def test_rounds_are_other_processes_and_give_the_noise(tmp_path: Path) -> None:
    found = measure(request(tmp_path / "c", rounds=3))
    assert FakeChild.processes == 3
    assert set(FakeChild.asked.values()) == {3}
    assert found.noise["tasks"] == SHORT - 2
    assert found.noise["between"] == pytest.approx(0.02 / 3 / 1.02)
    assert all(one.time_s == pytest.approx(1.02) for one in found.samples)


def test_one_round_still_has_a_noise_floor(tmp_path: Path) -> None:
    found = measure(request(tmp_path / "c"))
    assert found.noise["tasks"] == 1
    assert max(FakeChild.asked.values()) == 3


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeChild, "stop_after", 7)
    with pytest.raises(KeyboardInterrupt):
        measure(request(tmp_path / "c"))
    monkeypatch.setattr(FakeChild, "stop_after", None)
    found = measure(request(tmp_path / "c"))
    assert found.resumed == 7
    assert len(found.samples) == SHORT - 2
    noisy = [name for name, times in FakeChild.asked.items() if times > 1]
    assert len(noisy) == 1  # the one that other processes measure again; no other was asked twice


def test_fresh_begins_anew(tmp_path: Path) -> None:
    measure(request(tmp_path / "c"))
    before = FakeChild.asked.total()
    assert measure(request(tmp_path / "c", fresh=True)).resumed == 0
    assert FakeChild.asked.total() == 2 * before


def test_when_the_time_is_up_the_rest_is_left_and_told(tmp_path: Path) -> None:
    found = measure(request(tmp_path / "c", seconds=0.0))
    assert found.left == SHORT
    assert not FakeChild.asked


def test_a_profile_is_written_and_read(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    profile, found = calibrate(request(folder), fit=fit)
    assert read_profile(folder, conditions(2)).profile == profile
    assert profile.fitted == {"n": SHORT - 2}
    assert profile.threads == (1, 2)
    assert profile.versions["torch"]
    assert read_samples(folder) == list(found.samples)
    assert not (folder / "journal.jsonl").exists()


def test_what_was_left_is_measured_by_the_next_run(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    with pytest.raises(ValueError, match="nothing was measured"):
        calibrate(request(folder, seconds=0.0), fit=fit)
    assert (folder / "journal.jsonl").exists()
    assert not (folder / "profile.json").exists()


def test_engines_are_those_that_run_here() -> None:
    assert "eager" in installed_engines()
    assert installed_engines(["eager"]) == ("eager",)


# The command


@pytest.fixture
def _fit(monkeypatch: pytest.MonkeyPatch) -> None:
    from djinn_fx.costmodels.laws import fit as fit_module

    monkeypatch.setattr(fit_module, "fit", fit)


@pytest.mark.usefixtures("_fit")
def test_the_command_writes_a_profile_and_says_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    assert main(["calibrate", "--engines", "eager", "--json", str(out)]) == 0
    told = capsys.readouterr().out
    assert "eager: 9 samples" in told or "eager: 5 samples" in told  # one number of threads on a machine of one core
    assert "written:" in told
    report = json.loads(out.read_text())
    assert report["schema"] == calibrate_cli.SCHEMA
    assert report["left"] == 0
    assert read_profile(profile_folder()).profile is not None
    assert main(["calibrate", "--show"]) == 0
    assert "it is used" in capsys.readouterr().out


@pytest.mark.usefixtures("_fit")
def test_the_command_as_json_prints_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "--engines", "eager", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"].keys() == {"eager"}


def test_show_says_where_nothing_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "--show"]) == 1
    assert "no profile yet" in capsys.readouterr().out


@pytest.mark.usefixtures("_fit")
def test_show_says_what_is_damaged(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "--engines", "eager"]) == 0
    path = profile_folder() / "profile.json"
    path.write_bytes(path.read_bytes()[:100])
    capsys.readouterr()
    assert main(["calibrate", "--show"]) == 1
    assert "is damaged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--engines", "eagle"], "known engines are"),
        (["--engines", ","], "known engines are"),
        (["--seconds", "0"], "must be more than 0"),
        (["--seconds", "nan"], "must be more than 0"),
        (["--resume"], "there is no stopped run"),
        (["--json", "/no/such/folder/x.json"], "there is no directory"),
    ],
)
def test_careless_use_is_one_clear_error(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", *words]) == 2
    assert told in capsys.readouterr().err
