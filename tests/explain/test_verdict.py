"""What is said first: true figures, and bad news too."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from djinn_fx.explain.command import main
from djinn_fx.explain.report import Check, ReasonGroup, Report
from djinn_fx.explain.verdict import verdict
from tests.explain.test_report import graph, report, report_on, scenario

__all__ = ["report"]


def of(report: Report, check: Check | None = None) -> dict[str, str]:
    """The verdict on the only scenario."""
    (scenario,), (run,) = report.scenarios, report.run.scenarios
    return verdict(report.model, scenario, replace(run, check=check))


def timed(call_s: float, eager_s: float) -> Check:
    return Check(equal=True, max_difference=0.0, rtol=0.0, atol=0.0, call_s=call_s, eager_s=eager_s)


@pytest.mark.parametrize(
    ("call_s", "says"),
    [
        (0.5e-3, "500.0 us a call, eager 1.0 ms, measured: 2 x as fast"),
        (0.98e-3, "980.0 us a call, eager 1.0 ms, measured: no faster than eager"),
        (1.5e-3, "1.5 ms a call, eager 1.0 ms, measured: 1.5 x as long as eager: compiling does not pay here"),
    ],
)
def test_what_was_measured_is_said_also_where_it_is_bad(report: Report, call_s: float, says: str) -> None:
    assert of(report, timed(call_s, 1e-3))["speed"] == says


def test_an_estimate_is_called_one(report: Report) -> None:
    assert "by estimate" in of(report)["speed"]


def test_what_is_wrong_comes_with_its_cause() -> None:
    bad = ReasonGroup(kind="infeasible", detail="too large", count=1, nodes=())
    broken = graph(reasons=(bad,))
    found = of(report_on(scenario(broken), reasons=(replace(bad, kind="fallback", detail="other"),)))
    assert found["wrong"] == "infeasible: too large (+1 more)"
    assert "wrong" not in of(report_on(scenario(graph(reasons=()))))


def test_the_next_command_can_be_copied(report: Report) -> None:
    model = report.model
    assert of(report)["next"] == f"python -m djinn_fx.explain {model.file}:{model.attr} --real"
    assert of(report, timed(1.0, 1.0))["next"] == 'torch.compile(model, backend="djinn")'


def test_a_real_run_is_timed_and_its_engine_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, target = tmp_path / "net.py", tmp_path / "report.json"
    file.write_text("import torch\nmodel = torch.nn.Linear(8, 8)\nx = torch.ones(2, 8)\n")
    assert main([str(file), "--real", "--option", "engine=eager", "--json", str(target)]) == 0
    check = json.loads(target.read_text())["run"]["scenarios"][0]["check"]
    assert check["call_s"] > 0
    assert check["eager_s"] > 0
    text = capsys.readouterr().out
    assert "cpu: 1 of 1 regions by eager" in text
    assert ", measured: " in text
    assert text.index("Verdict") < text.index("Graph 1 of 1")
