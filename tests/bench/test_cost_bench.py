"""bench/cost: accuracy.py and regret.py: what they compute, and that nothing is measured before it is foretold."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.cost import accuracy as cost_accuracy
from bench.cost import report as cost_report
from bench.cost.graphs import Folder, build, captured, measure, region_of, work_again
from bench.cost.models import DEV, HELD_OUT, call_of, family_of, graph_names
from bench.cost.predict import predict
from bench.cost.regret import engine_choices, pipelines, regret
from bench.cost.work import OutOfTimeError, Work, by_pair, dataset, time_of


class _Counting(torch.nn.Module):
    """Adds a product to a counter that it keeps: state that a call must find as it was."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(6, 5)
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count.add_(1)
        return torch.relu(self.linear(x)) + self.count


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A folder with one captured graph, as ``tiny/encode b1 t4``."""
    with torch.no_grad():
        facts, arguments = captured(_Counting().eval(), (torch.ones(4, 6),))
    folder = Folder.of(tmp_path, "tiny/encode b1 t4")
    folder.put("graph", {"graph": "tiny/encode b1 t4", "family": "tiny", **facts})
    torch.save(arguments, folder.path / "arguments.pt")
    return tmp_path


def test_no_family_is_both_looked_at_and_held_out() -> None:
    assert not DEV.keys() & HELD_OUT.keys()
    assert len(graph_names(HELD_OUT)) >= 60
    assert len({Folder.of("x", graph).path for graph in graph_names({**DEV, **HELD_OUT})}) == 99


def test_the_first_graph_of_each_family_comes_first() -> None:
    names = graph_names(HELD_OUT)
    assert [family_of(name) for name in names[: len(HELD_OUT)]] == list(HELD_OUT)
    assert call_of(names[0]).way == "prefill"


def test_an_unknown_graph_is_named() -> None:
    with pytest.raises(ValueError, match="no graph 'llama/encode'"):
        call_of("llama/encode")


def test_a_captured_graph_is_rebuilt_with_its_work_and_its_counter(kept: Path) -> None:
    facts = Folder.of(kept, "tiny/encode b1 t4").facts()
    region = region_of(facts)
    assert facts["hash"] == region.structural_hash
    assert [tuple(region.example_inputs[place].shape) for place in facts["counters"]] == [(1,)]
    assert sum(one.matmul_flops for one in work_again(facts)) == 2 * 4 * 6 * 5


def test_timing_leaves_the_counter_as_it_was(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, seen = "tiny/encode b1 t4", []
    build([graph], "eager", str(kept))
    arguments = Folder.of(kept, graph).arguments()
    place = Folder.of(kept, graph).facts()["counters"][0]
    monkeypatch.setattr(Folder, "arguments", lambda self: arguments)
    clone = torch.Tensor.clone
    monkeypatch.setattr(torch.Tensor, "clone", lambda self, **more: seen.append(self) or clone(self, **more))
    found = measure([graph], "eager", str(kept), seconds=0.0)
    assert any(one is arguments[place] for one in seen)
    assert float(arguments[place]) == 1.0  # once more than 0: the last call's
    assert found[graph]["time_s"] > 0
    assert len(found[graph]["blocks"]) == 5


def test_an_engine_that_fails_is_told_and_the_others_go_on(kept: Path) -> None:
    assert build(["tiny/encode b1 t4", "tiny/none"], "eager", str(kept)) == 2
    assert "failed" in Folder.of(kept, "tiny/none").built("eager")
    assert "header" in Folder.of(kept, "tiny/encode b1 t4").built("eager")


def test_predictions_know_the_baselines_without_a_profile(kept: Path, tmp_path: Path) -> None:
    found = predict(["tiny/encode b1 t4"], ["eager"], str(kept), str(tmp_path / "nothing"), threads=1)
    one = found["graphs"]["tiny/encode b1 t4"]
    assert "djinn calibrate" in found["profile"]["problem"]
    assert one["unpriced"] == []
    assert one["engines"]["eager"]["raw roofline"] > 0
    assert one["torch"].get("time_s", 1.0) > 0
    assert "model" not in one["engines"]["eager"]


def test_predictions_are_written_once(tmp_path: Path) -> None:
    work = Work(tmp_path)
    facts = work.predict("told", {"graphs": {"a": 1}})
    assert work.predicted("told") == ({"written": facts["written"], "graphs": {"a": 1}}, facts)
    with pytest.raises(FileExistsError, match="written once"):
        work.predict("told", {"graphs": {"a": 2}})
    assert work.predicted("other") == ({}, {})


def test_nothing_is_measured_before_it_is_foretold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cost_accuracy.main(["--quick", "--phase", "measure", "--work", str(tmp_path)]) == 2
    assert "--phase predict first" in capsys.readouterr().out
    assert not (tmp_path / "measured.jsonl").exists()


def test_out_of_time_keeps_what_is_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cost_accuracy.main(["--quick", "--phase", "prepare", "--work", str(tmp_path), "--limit", "0"]) == 3
    assert "out of time" in capsys.readouterr().out
    with pytest.raises(OutOfTimeError):
        Work(tmp_path, limit_s=0.0).capture(["electra/encode b1 t64"])


def _line(graph: str, engine: str, process: int, time_s: float, threads: int = 0) -> dict[str, Any]:
    return {
        "graph": graph, "engine": engine, "threads": threads, "process": process, "at": "2026-01-01T00:00:00+00:00",
        "time_s": time_s, "spread": 0.1,
    }  # fmt: skip


def test_measured_times_survive_a_line_cut_in_half(tmp_path: Path) -> None:
    lines = [json.dumps(_line("a/x", "eager", turn, time_s)) for turn, time_s in enumerate((3.0, 2.0))]
    (tmp_path / "measured.jsonl").write_text("\n".join([*lines, lines[0][:30]]))
    work = Work(tmp_path)
    assert by_pair(work.measured(), ["a/x"]) == {("a/x", "eager"): [3.0, 2.0]}
    assert by_pair(work.measured(), ["a/x"], threads=1) == {}
    assert dataset(work, ["a/x"], work.measured())[0]["time_s"] == 2.0


def test_the_report_compares_the_model_and_the_baselines(tmp_path: Path) -> None:
    told = {"time_s": 1.04, "low_s": 0.9, "high_s": 1.2, "provenance": "calibrated", "known": True}
    graphs = {
        name: {
            "ops": 3, "unpriced": [], "unpriced_share": 0.0, "torch": {"time_s": 0.5},
            "engines": {"eager": {"model": told, "raw roofline": 0.25, "calibrated roofline": 0.8}},
        }
        for name in ("electra/a", "deit/a")
    }  # fmt: skip
    Work(tmp_path).predict("predictions-held-out", {"graphs": graphs, "profile": {}, "threads": 2})
    lines = [
        _line(name, "eager", turn, seconds)
        for turn in (0, 1)
        for name, seconds in (("electra/a", 1.0), ("deit/a", 2.0))
    ]
    (tmp_path / "measured.jsonl").write_text("\n".join(map(json.dumps, lines)))
    out = tmp_path / "out.json"
    given = ["--phase", "report", "--work", str(tmp_path), "--json", str(out), "--engines", "eager", "--graphs", "1"]
    assert cost_accuracy.main(given) == 0
    content = json.loads(out.read_text())
    model = content["facts"]["scores"]["model"]["all"]
    assert (model["count"], model["within_5"], model["coverage"]) == (2, 0.5, 0.5)
    assert math.isclose(model["mape"], (0.04 + 0.48) / 2)
    assert content["facts"]["scores"]["torch's estimator"]["eager"]["worst"] == 0.75
    assert content["facts"]["noise"]["mean_error"] == 0.0
    assert content["bars"]["share within 10 %"]["holds"] is False
    assert len(content["facts"]["predictions"]["sha256"]) == 64


def test_accuracy_of_known_errors() -> None:
    found = cost_report.accuracy([1.04, 2.18, 2.7], [1.0, 2.0, 3.0], [(0.9, 1.1), (2.1, 2.3), (2.0, 4.0)])
    assert found.within_5 == 1 / 3
    assert found.spearman == pytest.approx(1.0)
    assert found.coverage == 2 / 3
    assert found.worst == pytest.approx(0.1)
    with pytest.raises(ValueError, match="0 predictions"):
        cost_report.accuracy([], [])


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 40], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 1, 2], [5, 5, 9], 1.0),
        ([1, 2], [1, 2], None),
        ([1, 1, 1], [1, 2, 3], None),
    ],
)
def test_rank_correlation(left: list[float], right: list[float], expected: float | None) -> None:
    found = cost_report.spearman(left, right)
    assert found == (pytest.approx(expected) if expected is not None else None)


def test_noise_is_one_process_told_by_the_others() -> None:
    times = {("a", "eager"): [1.0, 1.1], ("b", "eager"): [2.0]}
    assert cost_report.noise_floor(times) == pytest.approx((0.1 + (1 - 1 / 1.1)) / 2)
    assert cost_report.noise_within(times, bound=0.095) == 0.5
    assert cost_report.noise_floor({("b", "eager"): [2.0]}) is None
    assert time_of([3.0, 2.0]) == 2.0


def test_regret_is_the_time_lost() -> None:
    found = regret("x", {"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 2.0, "c": 1.5}, [{"a": 1.0, "b": 2.0, "c": 3.0}] * 2)
    assert (found.chosen, found.best, found.options) == ("a", "c", 3)
    assert found.loss == pytest.approx(1.0)
    assert found.noise == pytest.approx(1.0)
    with pytest.raises(ValueError, match="no option"):
        regret("x", {}, {"a": 1.0})


def test_engines_are_chosen_among_those_that_were_measured() -> None:
    told = {
        name: {"model": {"time_s": seconds}} for name, seconds in (("eager", 2.0), ("packed", 1.0), ("openvino", 0.1))
    }
    measured = [_line("g/x", "eager", 0, 1.0), _line("g/x", "packed", 0, 1.1)]
    (found,) = engine_choices({"graphs": {"g/x": {"engines": told}}}, measured)
    assert (found.chosen, found.best, found.options) == ("packed", "eager", 2)
    assert found.loss == pytest.approx(0.1)


def test_pipelines_are_enumerated_in_full() -> None:
    def one(device: str, measured_s: float, predicted_s: float) -> dict[str, Any]:
        return {"device": device, "model": "opt_13-x", "measured_s": measured_s, "predicted_s": predicted_s}

    (found,) = pipelines([one("A", 24.0, 24.0), one("B", 72.0, 24.0)])
    assert found.options == 25
    assert (found.best, found.chosen) == ("(18, 6)", "(12, 12)")
    assert found.loss == pytest.approx(1.0)
