"""explain --topology: the placement in words."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from djinn_fx.explain.command import main
from djinn_fx.explain.forms.placement import spans

REPEATED = str(Path(__file__).parent / "models" / "repeated.py")
SMALL = """
topology:
  name: lab
  hosts:
    alpha: {devices: {gpu0: {row: l4, memory: 1.2MB}, gpu1: {row: l4, memory: 1.2MB}}}
  links:
    - {between: [alpha/gpu0, alpha], class: pcie4-x16}
    - {between: [alpha/gpu1, alpha], class: pcie4-x16}
"""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJINN_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


def test_one_device_is_enough_and_the_report_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([REPEATED, "--topology", "dgx-h100"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "over dgx-h100 (8 devices, not here), for one call" in text
    assert "one device is enough: gpu0" in text
    assert "gpu0 (h100-sxm):" in text
    assert "of 80.0 GB" in text
    assert "next best: gpu0, gpu1" in text


def test_parts_memory_links_and_bound_are_printed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(SMALL)
    cut = ["--option", "regions=auto:1", "--option", "expected_calls=1"]
    assert main([REPEATED, "--topology", str(file), *cut]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "alpha/gpu0 (l4): layers.0" in text
    assert "of 1.2 MB" in text
    assert "alpha/gpu0 → alpha → alpha/gpu1" in text
    assert "no placement is below" in text
    assert "one device is enough" not in text


def test_json_has_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([REPEATED, "--topology", "four-l4", "--json", "-"]) == 0
    (graph,) = json.loads(capsys.readouterr().out)["scenarios"][0]["graphs"]
    placement = graph["placement"]
    assert placement["topology"] == "four-l4"
    assert [share["device"] for share in placement["shares"]] == ["gpu0"]
    assert 0 < placement["bound_s"] <= placement["figure_s"]
    assert graph["transfers"] == placement["passages"] == []


def test_an_unknown_name_is_one_line_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([REPEATED, "--topology", "dgx-h10"]) == 2
    told = capsys.readouterr().err.strip()
    assert "no preset 'dgx-h10'" in told
    assert "dgx-h100" in told
    assert "\n" not in told


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        (["prologue", "layers.0", "layers.1", "layers.2", "head"], "prologue, layers.0-2, head"),
        (["layers.0", "layers.2", "layers.3"], "layers.0, layers.2-3"),
        (["a.1", "b.2"], "a.1, b.2"),
        ([], ""),
    ],
)
def test_labels_that_count_on_are_one_range(labels: list[str], text: str) -> None:
    assert spans(labels) == text


def test_too_little_memory_is_one_line_with_what_would_do(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(SMALL.replace("1.2MB", "100kB"))
    assert main([REPEATED, "--topology", str(file)]) == 5
    told = capsys.readouterr().err.strip()
    assert "topology lab: their memory cannot hold the graph" in told
    assert "on each of 2 is the least that would do" in told
    assert "\n" not in told


def test_workers_are_devices_without_a_ray_being_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # whoever asks for it gets an error
    monkeypatch.setenv("DJINN_WORKERS", "local:2")
    cut = ["--option", 'pin={layers.0-1: "worker:0", layers.2-3: "worker:1"}', "--option", "regions=auto:1"]
    assert main([REPEATED, *cut]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "2 of 2 are used: worker:0, worker:1" in text
    assert "worker:0 → worker:1" in text
    assert "no worker was started or asked: 1.0 ms and 1.0 GB/s between workers are assumed" in text


def test_of_workers_elsewhere_those_are_planned_for_that_something_is_pinned_to(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("DJINN_WORKERS", "10.0.0.1:6379")
    assert main([REPEATED, "--option", 'pin={layers.0: "worker:2"}']) == 0
    assert "3 workers, each like this machine, and" in " ".join(capsys.readouterr().out.split())
