"""What is said first: true figures, and bad news too."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from djinn_fx.explain.command import main
from djinn_fx.explain.forms.words import contest_texts, interval_text, rarely_called_text
from djinn_fx.explain.report import (
    BuildInfo,
    Check,
    ContestInfo,
    EntrantInfo,
    Forecast,
    GraphInfo,
    GraphRun,
    ReasonGroup,
    Report,
)
from djinn_fx.explain.verdict import verdict
from djinn_fx.srg.plan import EngineTime
from djinn_fx.srg.record import Cost
from tests.explain.test_report import MODELS, graph, report, report_on, scenario

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


def row(name: str, *graphs: GraphInfo, check: Check | None = None, **changes: Any) -> str | None:
    """One line of the verdict on a scenario with these graphs; ``changes``: of what was measured."""
    made = report_on(scenario(*graphs), check=check)
    (one,), (run,) = made.scenarios, made.run.scenarios
    return verdict(made.model, one, replace(run, **changes)).get(name)


def expecting(build_s: float, saving_s: float | None, engine: str = "inductor") -> GraphInfo:
    return graph(forecast=Forecast(engine=engine, plan_s=1.0, build_s=build_s, saving_s=saving_s))


def test_what_the_first_call_takes_is_estimated_and_said_so() -> None:
    told = "about 4.0 s where nothing is cached, 3.0 s of it to build for inductor, by estimate"
    assert row("first call", expecting(3.0, None)) == told
    assert row("first call", expecting(0.0, None, "eager")) == "about 1.0 s where nothing is cached, by estimate"
    built = BuildInfo(region=0, engine="inductor", outcome="store", key="k", seconds=1.0)
    run = GraphRun(builds=(built, replace(built, outcome="built"), replace(built, outcome="shared")))
    told = "2.0 s, measured; 1 of 2 artefacts were in the cache"
    assert row("first call", expecting(3.0, None), first_s=2.0, graphs=(run,)) == told


@pytest.mark.parametrize(
    ("saving_s", "says"),
    [
        (0.01, "after 400 calls, by estimate; called less often, eager is faster"),
        (
            0.002,
            "called less than 2,000 times this does not pay, by estimate, and 1,000 calls are expected (the setting",
        ),
        (-0.1, "never, by estimate: no engine is expected to be faster than eager"),
    ],
)
def test_from_how_many_calls_on_it_pays(saving_s: float, says: str) -> None:
    assert (row("pays", expecting(3.0, saving_s)) or "").startswith(says)
    assert row("pays", expecting(3.0, None)) is None


def test_what_was_measured_says_when_it_pays() -> None:
    # 2 s more than eager's for the first call, won back in steps of 0.5 s
    told = "after 5 calls, as measured; called less often, eager is faster"
    assert row("pays", graph(), check=timed(0.5, 1.0), first_s=3.0) == told
    assert row("pays", graph(), check=timed(1.0, 1.0), first_s=3.0) == "never here: a call is no faster than eager's"


def test_memory_is_told_beyond_the_weights_and_with_their_copies() -> None:
    assert row("memory", graph()) == "at most 7.0 kB on cpu, 1.0 kB of it beside the weights"
    times = (EngineTime(engine="openvino", time_s=1.0, low_s=1.0, high_s=1.0, provenance="datasheet"),)
    more = "; a copy of the weights more, 6.0 kB, if openvino serves"
    assert (row("memory", graph(times=times)) or "").endswith(more)
    entrant = EntrantInfo(engine="packed", state="serving", median_s=1.0, memory_bytes=5000, reason=None)
    contest = ContestInfo(label="whole graph", engine="packed", decided=True, entrants=(entrant,))
    kept = "; packed keeps 5.0 kB of copied weights beyond that"
    assert (row("memory", graph(times=times), check=timed(1.0, 1.0), contests=(contest,)) or "").endswith(kept)


def test_a_trial_tells_who_won_and_who_failed() -> None:
    entrants = (
        EntrantInfo(engine="openvino", state="beaten", median_s=2.0, memory_bytes=0, reason=None),
        EntrantInfo(engine="packed", state="failed", median_s=None, memory_bytes=0, reason="no such op"),
        EntrantInfo(engine="inductor", state="serving", median_s=1.0, memory_bytes=0, reason=None),
    )
    contest = ContestInfo(label="whole graph", engine="inductor", decided=True, entrants=entrants)
    assert contest_texts(contest) == [
        "inductor serves, 1.0 s an answer",
        "openvino beaten, 2.0 s an answer",
        "packed failed: no such op",
    ]
    assert contest_texts(replace(contest, decided=False))[-1].startswith("not decided yet")
    built = BuildInfo(region=0, engine="openvino", outcome="built", key="k", seconds=1.0)
    run = {"contests": (contest,), "graphs": (GraphRun(builds=(built,)),)}
    assert row("runs on", graph(), **run) == "cpu: 1 of 1 regions by inductor"
    assert row("wrong", graph(), **run) == "packed failed: no such op"


def test_one_device_of_several_is_said_to_be_enough(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(MODELS / "repeated.py"), "--topology", "dgx-h100"]) == 0
    assert "8 devices are not worth it here: gpu0 alone is at least as fast" in capsys.readouterr().out


def test_a_time_that_is_hardly_known_is_said_to_be_so() -> None:
    known = Cost(flops=1, read_bytes=1, write_bytes=1, time_s=2e-3, low_s=1e-3, high_s=4e-3)
    assert interval_text(known) == "2.0 ms (1.0 ms to 4.0 ms)"
    assert interval_text(replace(known, high_s=20e-3)) == "about 2.0 ms (it may be 10 x as long)"


def test_that_more_calls_are_needed_than_are_expected_is_said_with_what_follows() -> None:
    few, many = (replace(graph().regions[0], pays_after_calls=calls) for calls in (1000, 1001))
    assert rarely_called_text([few], 1000) == ""
    assert rarely_called_text([few, many], 1000).startswith(
        "1,000 calls are expected (expected_calls): with compile=lazy"
    )
    assert rarely_called_text([many], 1001) == ""


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
