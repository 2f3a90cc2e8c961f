"""How long planning takes: the whole pipeline of passes, on graphs of 1,000, 10,000 and 65,000 ops, and how that grows.

Graphs: a functional loop as make_fx makes it, without module paths; and a Llama as Dynamo captures it, with copies of a
layer put in where it is to be longer. Cold means that nothing is known of the graph; the process has planned others.
One thread; garbage is collected before and not during a run, as elsewhere in these benches.

Warm: torch's cache knows the graph by its hash and hands over what was stored of the plan; timed is the way from there
to what runs it, with the regions' artefacts in memory. The hash is torch's, from before any tracing, and not timed.

A device is lost: the graph was planned for three devices, and is placed on two of them, as the next call does it. Its
share is of the cold plan for the two; engines' builds are in neither.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch.fx import GraphModule

from bench.compiling.srg_speed import _llama_of, loop, op_count
from bench.harness.harness import Report, no_gc, parse, parser, table
from bench.placement.stretched import stretched
from djinn_fx.dispatch.memory import MEMORY, Loaded
from djinn_fx.engines.keys import Guards
from djinn_fx.hardware.device import this_machine
from djinn_fx.hardware.local import local_topology
from djinn_fx.passes.base import PassContext, run_passes
from djinn_fx.passes.pipeline import DEFAULT, at_place, plan_of
from djinn_fx.passes.placing.request import Placing
from djinn_fx.runtime.program import program_of
from djinn_fx.saved.torch_cache import DjinnGraph, kept_form
from djinn_fx.settings.devices import LocalDevice
from djinn_fx.settings.table import Settings
from djinn_fx.srg.lower import lower

#: Ops of a graph, and seconds in which it is to be planned.
SIZES = ((1_000, 0.05), (10_000, 1.0), (65_000, 5.0))
QUICK = SIZES[:2]
#: Layers of the Llama that is captured and stretched.
LAYERS = 4
#: Seconds in which a plan known by hash is at hand, at the median and in 99 of 100 cases; how often it is asked for.
WARM_P50_S, WARM_P99_S, WARM_RUNS = 0.2e-3, 1e-3, 500
#: Share of a cold plan that a plan without a lost device may take.
LOST_SHARE = 0.10


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write. Returns the exit code."""
    arguments = parse(parser(__doc__ or "", runs=5), argv)
    torch.set_num_threads(1)
    report = Report("planning", arguments)
    run_all(report, arguments, QUICK if arguments.quick else SIZES)
    return report.finish()


def run_all(report: Report, arguments: argparse.Namespace, sizes: Sequence[tuple[int, float]]) -> None:
    """Every graph at every size."""
    for name, make in {"llama": _llamas(), "loop": loop}.items():
        plan_once(make(sizes[0][0]))  # fills what is kept between graphs
        found: list[tuple[int, float]] = []
        for size, limit_s in sizes:
            gm = make(size)
            runs = arguments.runs if size < 50_000 else min(arguments.runs, 2)
            samples = [plan_once(gm) for _ in range(runs)]
            seconds = [sum(sample.values()) for sample in samples]
            label = f"{name}, {size:,} ops"
            median_s = report.measured(f"{label}: s", seconds, "s")
            report.bar(f"{label}: s", median_s, limit_s)
            report.fact(f"{label}: ops", op_count(gm))
            found.append((op_count(gm), median_s))
            print(f"\n{label} ({op_count(gm):,}): {median_s * 1e3:.1f} ms", flush=True)
            print(_by_pass(samples, op_count(gm)), flush=True)
            if size < 50_000:
                lost(report, label, gm, runs)
            if size == sizes[0][0]:
                warm(report, label, gm)
        power = growth(found)
        report.fact(f"{name}: seconds grow with ops to the power of", power)
        print(f"\n{name}: seconds grow with the number of ops to the power of {power:.2f}", flush=True)


def _llamas() -> Callable[[int], GraphModule]:
    """Makes Llamas of about so many ops."""
    captured = _llama_of(LAYERS)
    each = op_count(stretched(captured, 1)) - op_count(captured)
    return lambda ops: stretched(captured, max(0, round((ops - op_count(captured)) / each)))


def plan_once(gm: GraphModule) -> dict[str, float]:
    """Seconds of each pass, on a graph that was lowered anew."""
    srg = lower(gm)
    with no_gc():
        start = time.perf_counter()
        timings = run_passes(srg, DEFAULT, PassContext()).timings
        whole_s = time.perf_counter() - start
    passes = {one.name: one.seconds for one in timings}
    return {**passes, "between passes": whole_s - sum(passes.values())}


def warm(report: Report, label: str, gm: GraphModule) -> None:
    """How long it takes until a plan that torch's cache has found by its hash can be called."""
    srg = lower(gm)
    run_passes(srg, DEFAULT, PassContext())
    plan = plan_of(srg)
    keys = [region.structural_hash for region in plan.regions]
    for key in dict.fromkeys(keys):
        MEMORY.add(key, Loaded(key=key, run=lambda args: args, guards=Guards(expression=None), engine="none"))
    stored = kept_form(program_of(srg, plan)[0], keys, Settings())
    seconds = []
    with no_gc():
        for _ in range(WARM_RUNS):
            graph = DjinnGraph(lambda args: args, stored)
            graph.prepare_for_serialization()
            start = time.perf_counter()
            graph.post_compile((), None, {})
            seconds.append(time.perf_counter() - start)
    MEMORY.clear()
    seconds.sort()
    for name, share, limit_s in (("p50", 0.5, WARM_P50_S), ("p99", 0.99, WARM_P99_S)):
        found_s = seconds[int(share * (len(seconds) - 1))]
        report.bar(f"{label}, warm {name}: s", found_s, limit_s)
        print(f"warm, {name}: {found_s * 1e3:.3f} ms", flush=True)


def lost(report: Report, label: str, gm: GraphModule, runs: int) -> None:
    """What a plan without a device costs once there is one with it, as a share of a cold plan without it."""
    three, two = _placing(3), _placing(2)
    earlier, again = at_place(DEFAULT)
    cold, anew = [], []
    for _ in range(runs):
        whole, srg = lower(gm), lower(gm)
        run_passes(srg, DEFAULT, PassContext(placing=three))
        with no_gc():
            start = time.perf_counter()
            run_passes(whole, DEFAULT, PassContext(placing=two))
            planned = time.perf_counter()
            run_passes(srg, again, PassContext(placing=two), before=earlier)
            anew.append(time.perf_counter() - planned)
        cold.append(planned - start)
        assert plan_of(srg) == plan_of(whole), "the plan without the device is that of one who never had it"
    cold_s = report.measured(f"{label}, two devices: s", cold, "s")
    anew_s = report.measured(f"{label}, a device is lost: s", anew, "s")
    report.bar(f"{label}, a device is lost: share of cold", anew_s / cold_s, LOST_SHARE)
    print(f"a device is lost: {anew_s * 1e3:.1f} ms, {anew_s / cold_s:.1%} of cold ({cold_s * 1e3:.1f} ms)", flush=True)


def _placing(count: int) -> Placing:
    devices = tuple(LocalDevice(name=f"cpu:{place}", cores=(place,)) for place in range(count))
    topology = local_topology(devices, (), this_machine())
    return Placing(devices=devices, topology=topology, objective="throughput")


def _by_pass(samples: Sequence[dict[str, float]], ops: int) -> str:
    rows = []
    for name in samples[0]:
        median_s = statistics.median(sample[name] for sample in samples)
        rows.append([name, f"{median_s * 1e3:.2f}", f"{median_s / ops * 1e6:.2f}"])
    return table(["pass", "ms", "us an op"], rows)


def growth(points: Sequence[tuple[int, float]]) -> float:
    """The power of a straight line through logarithms: 1 is in proportion."""
    xs, ys = ([math.log(point[axis]) for point in points] for axis in (0, 1))
    mean_x, mean_y = statistics.mean(xs), statistics.mean(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread


if __name__ == "__main__":
    raise SystemExit(main())
