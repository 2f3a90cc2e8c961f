"""When regions run, what is in memory over time, what flows, and what costs most: of a model over two devices."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import pytest
import torch
from torch import nn

from djinn_fx.backend import capture
from djinn_fx.compiling.captured import CapturedGraph
from djinn_fx.costmodels.measured import Timing
from djinn_fx.costmodels.work.work import Work
from djinn_fx.dispatch.region import RegionBuild
from djinn_fx.explain.detail.flow import edges
from djinn_fx.explain.detail.measured import RegionTime, measured
from djinn_fx.explain.detail.memory import MOST_POINTS, curves, memory_of
from djinn_fx.explain.detail.spent import limit, spent
from djinn_fx.explain.detail.timeline import Timeline, timeline
from djinn_fx.explain.detail.values import tokens, values
from djinn_fx.hardware.device import Device
from djinn_fx.passes.order import dependencies
from djinn_fx.settings.engines import EAGER
from djinn_fx.settings.table import Settings
from djinn_fx.srg.memory import Holds, MemoryPlan, MemoryRow, MemoryStep

WIDTH, BATCH, FLOAT = 64, 8, 4


class Layers(nn.Module):
    """Four layers; the first result is read once more at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = x = self.layers[0](x).relu()
        for layer in self.layers[1:]:
            x = layer(x).relu()
        return x + first


class Decoder(nn.Module):
    """Tokens, their positions, and one attention that looks back."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(10, WIDTH)
        self.positions = nn.Embedding(32, WIDTH)
        self.project = nn.Linear(WIDTH, WIDTH)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        x = self.project(x)
        return nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)


def captured(model: nn.Module, argument: torch.Tensor, options: Mapping[str, object]) -> CapturedGraph:
    with torch.no_grad():
        found = capture(model, (argument,), {}, settings=Settings.load(None, dict(options)))
    (graph,) = found.graphs
    return graph


def planned(options: Mapping[str, object]) -> CapturedGraph:
    return captured(Layers(), torch.zeros(BATCH, WIDTH), options)


@pytest.fixture(scope="module")
def here() -> CapturedGraph:
    """On this machine."""
    return planned({})


@pytest.fixture(scope="module")
def spread() -> CapturedGraph:
    """Two layers on each of two devices that are not here."""
    return planned({"topology": "four-l4", "pin": {"layers.0-1": "gpu0", "layers.2-3": "gpu1"}})


def check_timeline(graph: CapturedGraph) -> Timeline:
    """What holds of every timeline; it is returned."""
    found = timeline(graph.srg, graph.plan)
    starts = {span.region: span.start_s for span in found.spans}
    ends = {span.region: span.start_s + span.duration_s for span in found.spans}
    assert sorted(starts) == list(range(len(graph.plan.regions)))
    for region, needed in dependencies(graph.srg).items():
        assert all(ends[one] <= starts[region] for one in needed)
    for device in {span.device for span in found.spans}:
        on_it = sorted((span.start_s, ends[span.region]) for span in found.spans if span.device == device)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(on_it))
    assert found.end_s == max(ends.values())
    return found


def test_on_one_device_regions_run_one_after_the_other(here: CapturedGraph) -> None:
    found = check_timeline(here)
    assert found.moves == ()
    assert found.end_s == pytest.approx(sum(region.cost.time_s for region in here.plan.regions))


def test_a_region_waits_for_what_comes_over_a_link(spread: CapturedGraph) -> None:
    found = check_timeline(spread)
    assert {span.device for span in found.spans} == {"gpu0", "gpu1"}
    assert found.moves
    free_s = 0.0
    for move in found.moves:
        assert (move.source, move.target, move.nbytes) == ("gpu0", "gpu1", BATCH * WIDTH * FLOAT)
        assert move.duration_s is not None
        assert move.duration_s > 0
        assert move.start_s >= free_s
        free_s = move.start_s + move.duration_s
        (reader,) = (span for span in found.spans if span.region == move.before_region)
        assert reader.start_s >= free_s


def test_what_is_in_memory_adds_up_to_the_plan(here: CapturedGraph) -> None:
    plan = memory_of(here.srg, here.plan)
    assert plan is here.plan.memory is not None
    (curve,) = curves(plan)
    assert [curve.total(point) for point in range(len(curve.steps))] == plan.profile("cpu")
    assert curve.total(curve.peak) == here.plan.peak_bytes
    assert curve.holds["weight"][0] == 4 * (WIDTH * WIDTH + WIDTH) * FLOAT


def test_memory_of_devices_that_are_not_here_is_where_the_plan_has_it(spread: CapturedGraph) -> None:
    plan = memory_of(spread.srg, spread.plan)
    assert plan is not None
    weights = {curve.device: curve.holds["weight"][0] for curve in curves(plan)}
    assert weights == dict.fromkeys(("gpu0", "gpu1"), 2 * (WIDTH * WIDTH + WIDTH) * FLOAT)


def test_a_long_schedule_keeps_its_peak_in_few_points() -> None:
    count = 100 * MOST_POINTS + 7
    rows = [MemoryRow(name="w", holds=Holds.WEIGHT, nbytes=100, start=0, end=count, device="cpu")]
    rows.append(MemoryRow(name="x", holds=Holds.ACTIVATION, nbytes=11, start=12345, end=12346, device="cpu"))
    steps = tuple(MemoryStep(name=f"op_{place}", op="op") for place in range(count))
    (curve,) = curves(MemoryPlan(phase="inference", rows=tuple(rows), steps=steps))
    assert len(curve.steps) == MOST_POINTS
    assert curve.total_steps == count
    assert (curve.steps[curve.peak], curve.at[curve.peak], curve.total(curve.peak)) == (12345, "op_12345", 111)
    assert curve.holds["activation"].count(11) == 1


def test_edges_are_what_regions_read_of_each_other(spread: CapturedGraph) -> None:
    found = {(edge.source, edge.target): (edge.values, edge.nbytes) for edge in edges(spread.srg, spread.plan)}
    made = {name: region.index for region in spread.plan.regions for name in region.outputs}
    read = [(made[name], region.index) for region in spread.plan.regions for name in region.inputs if name in made]
    assert set(found) == set(read)
    assert found == {pair: (read.count(pair), read.count(pair) * BATCH * WIDTH * FLOAT) for pair in read}


def test_time_is_told_by_module_and_by_what_limits_it(here: CapturedGraph) -> None:
    found = spent(here.srg, here.pricing)
    costs = [here.srg.record(node).cost for node in here.srg.ops]
    assert found.time_s == pytest.approx(sum(cost.time_s for cost in costs if cost is not None))
    limits = found.limits
    assert limits.compute_s + limits.memory_s + limits.overhead_s == pytest.approx(found.time_s)
    (layers,) = (one for one in found.modules if one.name == "layers.*")
    assert (layers.kind, layers.places) == ("Linear", 4)
    assert layers.flops >= 4 * 2 * BATCH * WIDTH * WIDTH
    assert sum(one.share for one in found.operators) == pytest.approx(1)


def test_values_are_told_by_the_users_names(here: CapturedGraph) -> None:
    weights = [
        node.name for node in here.srg.inputs if node.name in {name for r in here.plan.regions for name in r.inputs}
    ]
    found = values(here.srg, weights)
    told = sorted((one.module, one.tensor) for one in found.values())
    wanted = [
        (f"layers.{place}", f"float32[{sizes}]") for place in range(4) for sizes in (f"{WIDTH}", f"{WIDTH}, {WIDTH}")
    ]
    assert told == sorted([*wanted, ("layers.0", f"float32[{BATCH}, {WIDTH}]")])


def test_tokens_of_prefill_are_those_of_all_samples(here: CapturedGraph) -> None:
    assert tokens(captured(Decoder(), torch.zeros(3, 16, dtype=torch.int64), {}).srg) == 3 * 16
    assert tokens(here.srg) is None


class Known:
    """Times of one engine."""

    def time(self, structural_hash: str, engine: str) -> Timing | None:
        return Timing.of([1.0, 2.0, 3.0], "today") if engine == EAGER else None


def test_measured_times_are_those_of_the_engine_that_runs_a_region(here: CapturedGraph, spread: CapturedGraph) -> None:
    def told(graph: CapturedGraph, engine: str) -> tuple[RegionTime, ...]:
        build = RegionBuild(region=0, engine=engine, outcome="built", seconds=1.0)
        return measured(replace(graph, builds=(build,), pricing=replace(graph.pricing, times=Known())))

    (one,) = told(here, EAGER)
    assert (one.region, one.time_s, one.calls, one.made) == (0, 2.0, 3, "today")
    assert told(here, "another") == ()
    assert told(spread, EAGER) == ()  # its devices are not here


def test_what_limits_an_op_is_what_takes_longest_on_the_roofline() -> None:
    device = Device(
        name="toy",
        kind="cpu",
        peak_flops=MappingProxyType({"float32": 1e9}),
        bandwidth_bytes_s=1e9,
        memory_bytes=10**9,
        launch_overhead_s=1e-6,
        source="made up",
    )
    found = [
        limit(Work(op="mm", kind="matmul", matmul_flops=flops, read_bytes=nbytes), device)
        for flops, nbytes in ((10_000, 9_000), (9_000, 10_000), (900, 900))
    ]
    assert found == ["compute", "memory", "overhead"]
