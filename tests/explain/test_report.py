"""The report and its text form, from hand-built and captured graphs."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from djinn_fx.compiling.capture import buffers_kept
from djinn_fx.explain.check import compare, is_random, run_eager
from djinn_fx.explain.examine import examine
from djinn_fx.explain.finding.model import find_model
from djinn_fx.explain.forms.terminal import WIDTH, print_report
from djinn_fx.explain.forms.words import IMPORTANCE, check_text, group_label, group_regions, pricing_text
from djinn_fx.explain.gather import make_report
from djinn_fx.explain.graph import group_reasons
from djinn_fx.explain.report import (
    SCHEMA,
    BuildInfo,
    CacheInfo,
    Check,
    GraphInfo,
    GraphRun,
    ModelInfo,
    PricingInfo,
    ReasonGroup,
    RegionInfo,
    Report,
    RunInfo,
    Scenario,
    ScenarioRun,
)
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.settings.table import Settings
from djinn_fx.srg.memory import Holds, MemoryPeak, MemoryRow, MemoryStep
from djinn_fx.srg.plan import EngineTime
from djinn_fx.srg.record import Cost

MODELS = Path(__file__).parent / "models"
MODEL = ModelInfo(
    file="net.py", attr="net", rule="net", name="Net", mode="inference", parameter_count=1500, parameter_bytes=6000
)


def region(index: int, label: str, structural_hash: str) -> RegionInfo:
    return RegionInfo(
        index=index,
        label=label,
        ops=3,
        inputs=2,
        outputs=1,
        structural_hash=structural_hash,
        repeats=1,
        phase="forward",
        device="cpu",
        cost=Cost(flops=2000, read_bytes=10, write_bytes=10, time_s=1e-6),
    )


PEAK = MemoryPeak(
    device="cpu",
    nbytes=7000,
    step=4,
    at=MemoryStep(name="mm_1", op="aten.mm.default", source="model.py:12"),
    biggest=(MemoryRow(name="weight", holds=Holds.WEIGHT, nbytes=6000, start=0, end=12, device="cpu"),),
)


def graph(**changes: Any) -> GraphInfo:
    plain = GraphInfo(
        kind="inference",
        phase="forward",
        ops=12,
        distinct_regions=3,
        regions=(
            region(0, "embed", "aa"),
            *(region(i, f"model.layers.{i}", "bb") for i in range(1, 5)),
            region(5, "[head]", ""),
        ),
        phases={"forward": 12},
        residency_bytes={"parameter": 6000, "state": 0},
        peak_bytes=7000,
        memory=(PEAK,),
        cost=Cost(flops=2_000_000, read_bytes=10_000, write_bytes=2_000, time_s=2e-3, low_s=1.5e-3, high_s=3e-3),
        pricing=PricingInfo(model="roofline", device="this-machine", source="nominal"),
        times=(),
        provenances={"datasheet": 10, "unpriced": 2},
        unpriced={"aten.strange.default": 2},
        unpriced_share=2 / 12,
        transfers=(),
        passes=(),
        reasons=(),
    )
    return replace(plain, **changes)


def scenario(*graphs: GraphInfo, **changes: Any) -> Scenario:
    plain = Scenario(name="", model="Net", rule="net", inputs=(), rung=3, partial=None, graphs=graphs, graph_breaks=())
    return replace(plain, **changes)


def report_on(*scenarios: Scenario, check: Check | None = None, **measured: Any) -> Report:
    """A report; ``measured`` is what was, of every graph."""
    runs = (
        ScenarioRun(name=one.name, capture_s=1.0, graphs=(GraphRun(**measured),) * len(one.graphs), check=check)
        for one in scenarios
    )
    return Report(
        schema=SCHEMA,
        model=MODEL,
        versions={"torch": "2"},
        scenarios=scenarios,
        run=RunInfo(when="2026-11-21T10:00:00", machine={}, find_s=1.0, scenarios=tuple(runs)),
        cache=CacheInfo(),
    )


def text_of(*graphs: GraphInfo, measured: dict[str, Any] | None = None, **changes: Any) -> str:
    return printed(report_on(scenario(*graphs, **changes), **(measured or {})))


def printed(report: Report) -> str:
    buffer = io.StringIO()
    print_report(report, buffer)
    return buffer.getvalue()


def test_regions_with_one_artefact_are_one_row() -> None:
    labels = [group_label(group) for group in group_regions(graph().regions)]
    assert labels == ["embed", "model.layers.1 … 4 ×4", "[head]"]


def test_regions_without_a_hash_are_never_grouped() -> None:
    assert len(group_regions([region(0, "a", ""), region(1, "b", "")])) == 2


@pytest.mark.parametrize(
    ("labels", "shown"),
    [(["a", "a"], "a ×2"), (["a.b", "c.b"], "a.b … c.b ×2"), (["part 1", "part 2"], "part 1 … part 2 ×2")],
)
def test_labels_of_a_group(labels: list[str], shown: str) -> None:
    assert group_label([region(i, label, "h") for i, label in enumerate(labels)]) == shown


def test_text_has_every_section_and_fits_the_width() -> None:
    text = text_of(graph())
    for part in (
        "Net (inference)",
        "1.5 k in 6.0 kB",
        "Graph 1 of 1: inference, forward, 12 ops, 6 regions, 3 distinct to compile",
        "model.layers.1 … 4 ×4",
        "[head]",
        "forward 12 ops",
        "peak 7.0 kB; parameter 6.0 kB\n",
        "2.0 M flop, 12.0 kB moved, 2.0 ms (1.5 ms to 3.0 ms) estimated (datasheet)",
        "times by    roofline, for this-machine; not calibrated",
        "unpriced    2 of 12 ops (17%): aten.strange.default ×2",
    ):
        assert part in text, part
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "\x1b" not in text


def time_on(engine: str, time_s: float, provenance: str) -> EngineTime:
    return EngineTime(engine=engine, time_s=time_s, low_s=0.9 * time_s, high_s=1.2 * time_s, provenance=provenance)


def test_what_engines_are_expected_to_take_is_shown_with_intervals() -> None:
    times = (time_on("inductor", 1e-3, "calibrated"), time_on("eager", 2e-3, "measured"))
    text = text_of(graph(times=times))
    assert "expected    inductor 1.0 ms (900.0 us to 1.2 ms), eager 2.0 ms (1.8 ms to 2.4 ms)" in text


def test_datasheets_are_not_said_to_tell_engines_apart() -> None:
    assert "expected" not in text_of(graph(times=(time_on("inductor", 1e-3, "datasheet"),)))


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"profile": "2026-11-21T10:00:00", "noise": {"between": 0.021}}, "calibrated 2026-11-21, times repeat within"),
        ({"profile": "2026-11-21T10:00:00"}, "calibrated 2026-11-21"),
        ({"problem": "the profile of 2026-01-01 does not fit"}, "the profile of 2026-01-01 does not fit"),
        ({}, "not calibrated: `djinn calibrate`"),
    ],
)
def test_the_profile_and_its_state_are_shown(changes: dict[str, Any], shown: str) -> None:
    pricing = PricingInfo(**{"model": "m", "device": "this-machine", "source": "s", **changes})
    assert shown in pricing_text(pricing)


def test_text_is_coloured_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    print_report(make_report(MODEL, ()), terminal)
    assert "\x1b[" in terminal.getvalue()


def test_a_fallback_is_shown_before_faster_and_slower_builds() -> None:
    built = BuildInfo(region=0, engine="inductor", outcome="built", key="k", seconds=9.0)
    fallback = BuildInfo(region=1, engine="eager", outcome="fallback", key="", seconds=0.1)
    text = text_of(graph(regions=(region(0, "a", "h"), region(1, "b", "h"))), measured={"builds": (built, fallback)})
    assert "eager: fallback 100.0 ms" in text
    assert "1 eager fallback, for 2 regions; 9.1 s" in text


def test_important_reasons_come_first_and_no_kind_crowds_out_the_others() -> None:
    reasons = [Reason(kind=ReasonKind.PHASE, detail=f"phase {i}") for i in range(20)]
    reasons += [Reason(kind=ReasonKind.FALLBACK, detail="no compiler", node="region 3")]
    text = text_of(graph(reasons=group_reasons(reasons)))
    assert text.index("fallback: no compiler [region 3]") < text.index("phase: phase 0")
    assert "phase 3" not in text
    assert "+17 more, see --json" in text


def test_every_kind_has_its_rank() -> None:
    assert sorted(IMPORTANCE) == sorted(ReasonKind)


def test_reasons_are_grouped_and_counted_once() -> None:
    one = Reason(kind=ReasonKind.PHASE, detail="d", node="a", runner_up="r")
    assert group_reasons([one, one, replace(one, node="b")]) == (
        ReasonGroup(kind="phase", detail="d", count=2, nodes=("a", "b"), runner_up="r"),
    )


def test_graph_breaks_are_shown() -> None:
    assert "1 graph break\n  1           print at net.py:3\n" in text_of(graph_breaks=("print at net.py:3",))


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (Check(equal=True, max_difference=0.0, rtol=1e-3, atol=1e-4), "equal to eager: largest difference 0.00e+00"),
        (Check(equal=False, max_difference=2.5, rtol=1e-3, atol=1e-4), "NOT EQUAL to eager: largest difference 2.5"),
        (Check(equal=None, max_difference=0, rtol=0, atol=0, note="random"), "random"),
    ],
)
def test_check_text(check: Check, text: str) -> None:
    assert check_text(check).startswith(text)


@pytest.mark.parametrize(
    ("wanted", "got", "equal"),
    [
        (torch.ones(2), torch.ones(2) + 1e-6, True),
        (torch.ones(2), torch.ones(2) + 1e-2, False),
        (torch.tensor([1e4, 0.0]), torch.tensor([1e4, 0.5]), True),
        (torch.tensor([float("nan"), float("inf")]), torch.tensor([float("nan"), float("inf")]), True),
        (torch.tensor([float("nan")]), torch.tensor([1.0]), False),
        (torch.ones(2), torch.ones(2, dtype=torch.float64), False),
        (torch.ones(2), torch.ones(1, 2), False),
        (torch.ones(2, dtype=torch.bfloat16), torch.ones(2, dtype=torch.bfloat16) * 1.01, True),
        (torch.arange(2), torch.arange(2) + 1, False),
        ({"a": torch.ones(2), "n": 1}, {"a": torch.ones(2), "n": 2}, False),
        ((torch.ones(2), None), (torch.ones(2), None), True),
        ((torch.ones(2),), (torch.ones(2), torch.ones(2)), False),
    ],
)
def test_comparison(wanted: Any, got: Any, equal: bool) -> None:
    assert compare(wanted, got).equal is equal


def test_eager_runs_change_neither_inputs_nor_buffers() -> None:
    model, x = torch.nn.BatchNorm1d(2), torch.ones(3, 2)
    run_eager(lambda value: value.add_(1), (x,), {})
    assert torch.equal(x, torch.ones(3, 2))
    with buffers_kept(model):
        model(torch.randn(3, 2))
    assert int(model.num_batches_tracked) == 0  # type: ignore[arg-type]


def test_random_models_are_recognised() -> None:
    def noisy(x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand(2)

    assert is_random(noisy, (torch.ones(2),), {}, run_eager(noisy, (torch.ones(2),), {}))
    assert not is_random(torch.neg, (torch.ones(2),), {}, run_eager(torch.neg, (torch.ones(2),), {}))


def test_gradients_are_part_of_what_is_compared_in_training() -> None:
    model = torch.nn.Linear(2, 1, bias=False)
    _, (gradient,) = run_eager(model, (torch.ones(3, 2),), {})
    assert torch.equal(gradient, torch.full((1, 2), 3.0))
    with torch.no_grad():
        assert run_eager(model, (torch.ones(3, 2),), {})[1] == ()


def captured(**options: Any) -> Report:
    settings = Settings.load(None, {"regions": "auto:1", **options})
    with torch.no_grad():
        return examine([find_model(str(MODELS / "repeated.py"))], settings)


@pytest.fixture(scope="module")
def report() -> Report:
    return captured()


def test_repeated_layers_are_reported_as_one_region_many_times(report: Report) -> None:
    (only,) = report.graphs
    repeats = {found.structural_hash: found.repeats for found in only.regions}
    assert max(repeats.values()) >= 10
    assert len(repeats) == only.distinct_regions < len(only.regions)
    assert sum(found.ops for found in only.regions) == only.ops == sum(only.phases.values())


def test_sizes_are_those_of_the_model(report: Report) -> None:
    (only,) = report.graphs
    assert only.residency_bytes["parameter"] == report.model.parameter_bytes
    assert only.residency_bytes["input"] == 3 * 50 * 64 * 4
    assert only.peak_bytes >= report.model.parameter_bytes
    assert only.cost.flops > 2 * 150 * report.model.parameter_count * 0.9


def test_the_peak_is_told_with_its_op_its_line_and_the_biggest_values() -> None:
    text = " ".join(text_of(graph()).split())
    assert "peak 7.0 kB on cpu during mm_1 (aten.mm.default, model.py:12): weight 6.0 kB (weight)" in text
    nothing = MemoryPeak(device="cpu", nbytes=0, step=0, at=None, biggest=())
    assert "peak 0 B on cpu:" in " ".join(text_of(graph(memory=(nothing,))).split())


def test_the_peak_of_a_model_is_at_one_of_its_ops(report: Report) -> None:
    (only,) = report.graphs
    (peak,) = only.memory
    assert peak.nbytes == only.peak_bytes
    assert peak.at is not None
    assert (peak.at.source or "").partition(":")[0].endswith(".py")
    assert [row.nbytes for row in peak.biggest] == sorted((row.nbytes for row in peak.biggest), reverse=True)


def test_json_form(report: Report) -> None:
    data = json.loads(report.to_json())
    assert list(data) == ["schema", "model", "versions", "scenarios", "run", "cache"]
    assert data["schema"] == "djinn.explain/3"
    assert list(data["versions"]) == ["djinn_fx", "torch", "python"]
    (only,) = data["scenarios"]
    assert list(only) == [
        "name",
        "model",
        "rule",
        "inputs",
        "rung",
        "partial",
        "graphs",
        "graph_breaks",
        "failed",
        "expected_calls",
    ]
    assert only["inputs"] == ["x: float32[3, 50, 64]"]
    assert list(only["graphs"][0]) == [
        "kind",
        "phase",
        "ops",
        "distinct_regions",
        "regions",
        "phases",
        "residency_bytes",
        "peak_bytes",
        "memory",
        "cost",
        "pricing",
        "times",
        "provenances",
        "unpriced",
        "unpriced_share",
        "transfers",
        "passes",
        "reasons",
        "placement",
        "timeline",
        "curves",
        "edges",
        "spent",
        "values",
        "tokens",
        "forecast",
    ]
    assert only["graphs"][0]["placement"] is None
    assert {"split", "phase", "placed"} <= {reason["kind"] for reason in only["graphs"][0]["reasons"]}
    (measured,) = data["run"]["scenarios"]
    assert [one["name"] for one in measured["graphs"][0]["passes"]] == [
        one["name"] for one in only["graphs"][0]["passes"]
    ]
    assert measured["check"] is None


def test_several_scenarios_are_columns_and_each_has_its_details() -> None:
    prefill = scenario(graph(ops=12, phase="prefill", phases={"prefill": 12}), name="prefill", inputs=("x: int64[2]",))
    decode = scenario(graph(ops=9, phase="decode", phases={"decode": 9}), name="decode")
    text = printed(report_on(prefill, replace(decode, graph_breaks=("print at net.py:3",))))
    top = text[: text.index("Scenario prefill")]
    rows = {line.split()[0]: line.split()[1:] for line in top.splitlines() if line.startswith("  ")}
    assert rows["scenario"] == ["prefill", "decode"]
    assert rows["ops"] == ["12", "9"]
    assert rows["breaks"] == ["0", "1"]
    assert "model" not in rows
    assert text.index("Scenario prefill: x: int64[2]") < text.index("prefill, 12 ops") < text.index("Scenario decode")
    assert max(map(len, text.splitlines())) <= WIDTH


def test_the_costliest_modules_and_what_limits_them_are_rows(report: Report) -> None:
    buffer = io.StringIO()
    print_report(report, buffer)
    text = buffer.getvalue()
    assert re.search(r"^  limited by +\w.* \d+%", text, re.M)
    assert re.search(r"^  costliest +\S+ ×\d+ \d+% \((compute|memory|overhead)\)", text, re.M)
