"""The engines' bench: its figures, its JSON, its processes and its cases. Nothing is compiled, and no time asserted."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.engines import engines
from bench.engines import report as engines_report
from bench.engines.child import Contender, distance
from bench.engines.models import CASES, QUICK_CASES, SPECS, doubled, workload
from bench.harness.children import ChildFailedError, fresh_caches
from bench.harness.harness import Report, parse, parser
from bench.harness.standing import Standing


def side(ms: float, cold: float = 1.0, **more: Any) -> dict[str, Any]:
    """A contender's figures: two blocks."""
    check = {"wrong": False, "to_float64": 1e-7, "to_eager": 1e-7, "eagers": 1e-7}
    return {"samples": [ms / 1e3, ms / 1e3], "cold": cold, "check": check, "holds": {"rss": 1, "engines": {}}, **more}


def run(**sides: dict[str, Any]) -> dict[str, Any]:
    return {"facts": {"parameters": 51_000_000}, "sides": sides}


def found() -> dict[str, list[dict[str, Any]]]:
    """Two cases; the fastest peer is ONNX Runtime in the one, OpenVINO in the other, where ONNX Runtime failed."""
    ready = {"ready": {"seconds": 5.0}, "saved": {"load": 0.5, "first": 0.3}}
    one = run(eager=side(40, cold=0.2), inductor=side(40, cold=20.0), openvino=side(25), onnxruntime=side(16),
              djinn=side(10, **ready))  # fmt: skip
    two = run(eager=side(30, cold=0.1), inductor=side(40, cold=10.0), openvino=side(18), onnxruntime={"failed": "no"},
              djinn=side(20, **ready))  # fmt: skip
    return {"opt/prefill x1": [one], "bert/encode x1": [two]}


def bars(cases: dict[str, list[dict[str, Any]]], dispatch: dict[str, Any] | None = None) -> dict[str, Any]:
    report = Report("engines", parse(parser("A bench."), []))
    engines_report.tell(cases, report)
    engines_report.bars(cases, dispatch, report, whole=False)
    content: dict[str, Any] = json.loads(json.dumps(report.content()))
    return dict(content["bars"])


class TestFigures:
    def test_each_bar(self) -> None:
        made = bars(found())
        assert made["auto_over_inductor_geomean"]["value"] == pytest.approx(8**0.5)
        assert made["auto_over_inductor_geomean"]["holds"] is True
        assert made["auto_over_best_peer_smallest"]["value"] == pytest.approx(0.9)
        assert made["auto_over_best_peer_smallest"]["holds"] is False
        assert made["auto_over_best_peer_geomean"]["value"] == pytest.approx((1.6 * 0.9) ** 0.5)
        assert made["best_serves_of_inductor_cold_largest"]["value"] == pytest.approx(0.5)
        assert made["saved_first_call_of_eager_largest"]["value"] == pytest.approx(3.0)
        assert made["wrong"] == {"value": 0, "bound": 0, "holds": True, "rule": "=="}
        assert made["dispatch_us_a_region"]["holds"] is None
        assert made["models"]["holds"] is None

    def test_the_best_peer_is_a_single_engine_that_ran(self) -> None:
        cases = found()
        assert engines_report.best_peer(cases["opt/prefill x1"]) == "onnxruntime"
        assert engines_report.best_peer(cases["bert/encode x1"]) == "openvino"
        assert engines_report.failures(cases["bert/encode x1"]) == {"onnxruntime": "no"}

    def test_a_wrong_answer_and_a_djinn_that_fails_are_counted(self) -> None:
        cases = found()
        cases["opt/prefill x1"][0]["sides"]["djinn"]["check"]["wrong"] = True
        cases["bert/encode x1"][0]["sides"]["djinn"] = {"failed": "it raised"}
        made = bars(cases)
        assert (made["wrong"]["value"], made["djinn_failed"]["value"]) == (1, 1)
        assert made["auto_over_best_peer_smallest"]["value"] == pytest.approx(1.6)

    def test_a_peers_wrong_answer_is_not_djinns(self) -> None:
        cases = found()
        cases["opt/prefill x1"][0]["sides"]["openvino"]["check"]["wrong"] = True
        assert bars(cases)["wrong"]["value"] == 0

    def test_who_may_round_is_held_against_float32(self) -> None:
        cases = found()
        for runs, ms in zip(cases.values(), (10, 20), strict=True):
            ones = {engines_report.BLOCKING: side(20), engines_report.BF16: side(ms), engines_report.INT8: side(5)}
            runs[0]["sides"].update(ones)
        cases["opt/prefill x1"][0]["sides"][engines_report.INT8]["check"]["wrong"] = True
        made = bars(cases)
        assert made["bf16_over_f32_smallest"]["value"] == pytest.approx(1.0)
        assert made["bf16_wrong"]["holds"] is True
        assert made["int8_wrong"] == {"value": 1, "bound": 0, "holds": False, "rule": "=="}
        assert not [name for name in bars(found()) if name.startswith(("bf16", "int8"))]

    def test_nothing_measured_holds_nothing(self) -> None:
        assert {one["holds"] for name, one in bars({}).items() if name != "djinn_failed"} == {None}

    def test_dispatch_is_the_difference_of_neighbours(self) -> None:
        samples = {"auto": [12.0, 20.0], "named": [10.0, 17.0], "named again": [10.0, 17.0], "engine": "packed"}
        assert bars({}, samples)["dispatch_us_a_region"]["value"] == pytest.approx(2.5)
        assert bars({}, {"failed": "it raised"})["dispatch_us_a_region"]["value"] is None


class TestCommand:
    def test_models_cases_and_batches(self) -> None:
        made = engines._arguments(["--models", "opt,bert", "--batch", "4"])
        assert made.cases == ("opt/prefill", "opt/decode", "bert/encode")
        assert made.batch == (4,)
        assert engines._arguments(["--models", "opt/decode"]).cases == ("opt/decode",)
        assert engines._arguments([]).cases == CASES
        quick = engines._arguments(["--quick"])
        assert (quick.cases, quick.batch) == (QUICK_CASES, (1,))

    def test_enough_models_for_the_bar(self) -> None:
        assert len(SPECS) >= engines_report.MODELS

    def test_an_unknown_model_is_refused(self) -> None:
        with pytest.raises(SystemExit):
            engines._arguments(["--models", "gpt5"])

    def test_writes_its_bars(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        one = found()["opt/prefill x1"][0]
        monkeypatch.setattr(engines, "measure", lambda *_: one)
        file = tmp_path / "out.json"
        assert engines.main(["--quick", "--no-dispatch", "--json", str(file)]) == 0
        written = json.loads(file.read_text())
        assert written["bars"]["auto_over_inductor_geomean"]["value"] == pytest.approx(4.0)
        assert written["facts"]["gpt2/prefill x1"] == [one]
        assert "gpt2/prefill x1 steady djinn" in written["measurements"]
        assert [one.name for one in tmp_path.iterdir()] == ["out.json"]


class TestStanding:
    def test_keeps_its_object(self) -> None:
        with fresh_caches() as caches, Standing("collections:Counter", {"a": 2}, caches) as child:
            assert child.ask("total") == 2
            child.ask("update", b=3)
            assert child.ask("total") == 5
            with pytest.raises(ChildFailedError, match="AttributeError"):
                child.ask("nothing")
            assert child.ask("total") == 5

    def test_one_that_hangs_is_killed(self) -> None:
        with fresh_caches() as caches, Standing("threading:Event", {}, caches) as child:
            with pytest.raises(ChildFailedError, match="longer than"):
                child.ask("wait", timeout_s=0.5, timeout=60)
            with pytest.raises(ChildFailedError, match="ended with"):
                child.ask("set")


class TestCases:
    @pytest.mark.parametrize("case", ["opt/decode", "llama/decode", "bert/encode", "t5/encode", "resnet/encode"])
    def test_the_form_for_exporters_gives_the_same(self, case: str) -> None:
        work = workload(case, 2, quick=True)
        with torch.no_grad():
            for _ in range(2):  # a reset brings the state back
                work.reset()
                expected = (work.module(*work.others), *work.written())
                made = work.functional(*work.others, *work.state)
                answer = (made[0], *made[2:]) if work.state else (made,)
                assert [distance(a, b) for a, b in zip(answer, expected, strict=True)] == [0.0] * len(expected)

    def test_unknown_cases_are_refused(self) -> None:
        with pytest.raises(ValueError):
            workload("bert/decode", 1, quick=True)

    def test_every_process_has_the_same_weights_and_inputs(self) -> None:
        first, second = (workload("gpt2/decode", 1, quick=True) for _ in range(2))
        assert torch.equal(first.others[0], second.others[0])
        assert all(torch.equal(a, b) for a, b in zip(first.state, second.state, strict=True))
        assert doubled(second).state[1].dtype is torch.float64


class TestAnswers:
    @pytest.fixture(autouse=True)
    def _gradients_stay_on(self, monkeypatch: pytest.MonkeyPatch) -> Any:
        yield
        torch.set_grad_enabled(True)

    def test_held_against_float64(self, tmp_path: Path) -> None:
        file = str(tmp_path / "answers.pt")
        Contender("eager", "opt/decode", 1, True).judge(file)
        right = Contender("eager again", "opt/decode", 1, True)
        assert len(right.run(2)) == 2
        assert right.check(file)["wrong"] is False
        with torch.no_grad():
            for parameter in right._work.module.parameters():
                parameter.mul_(1.01)
        assert right.check(file)["wrong"] is True

    def test_distance(self) -> None:
        one = torch.tensor([1.0, -4.0])
        assert distance(one, one) == 0.0
        assert distance(torch.tensor([1.0, -3.0]), one) == pytest.approx(0.25)
        assert distance(torch.tensor([1.0, float("nan")]), one) == 1.0
        assert distance(torch.zeros(3), one) == 1.0
