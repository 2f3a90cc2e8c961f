"""How long planning takes: the whole pipeline of passes, on graphs of 1,000, 10,000 and 65,000 ops, and how that grows.

Graphs: a functional loop as make_fx makes it, without module paths; and a Llama as Dynamo captures it, with copies of a
layer put in where it is to be longer. Cold means that nothing is known of the graph; the process has planned others.
One thread; garbage is collected before and not during a run, as elsewhere in these benches.
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
from djinn_fx.passes.base import PassContext, run_passes
from djinn_fx.passes.pipeline import DEFAULT
from djinn_fx.srg.lower import lower

#: Ops of a graph, and seconds in which it is to be planned.
SIZES = ((1_000, 0.05), (10_000, 1.0), (65_000, 5.0))
QUICK = SIZES[:2]
#: Layers of the Llama that is captured and stretched.
LAYERS = 4


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
