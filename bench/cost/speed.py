"""How long it takes to price a graph: uncached per op, a cached graph again, and whether it stays linear.

Uncached: every op of the graph is different (no two have the same sizes), nothing is kept from an earlier turn, and
the price includes the roofline. Cached: the whole graph once more. Formulas: the work at other sizes.

    python bench/cost/speed.py --json bench/results/cost_speed.json
    python bench/cost/speed.py --quick
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from bench.harness.harness import Report, no_gc, parse, parser, table
from djinn_fx.costmodels.laws.roofline import RooflineModel
from djinn_fx.costmodels.symbolic import symbolic_total
from djinn_fx.costmodels.work.sizes import Sizes
from djinn_fx.costmodels.work.work_of import work_at, work_graph
from djinn_fx.hardware.catalogue import find_device
from djinn_fx.srg import SRG, lower

UNCACHED_OP_US = 10.0
CACHED_1000_OPS_MS = 1.0
LINEAR_RATIO = 1.5
SIZES = (1_000, 8_000, 65_000)
QUICK = (1_000, 8_000)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write. Returns the exit code."""
    arguments = parse(parser(__doc__ or "", runs=9), argv)
    report = Report("cost_speed", arguments)
    repeats = 3 if arguments.quick else arguments.runs
    rows, per_op, again = [], [], []
    for size in QUICK if arguments.quick else SIZES:
        srg = lower(graph(size))
        ops = sum(1 for _ in srg.ops)
        uncached = [seconds(lambda srg=srg: price_uncached(srg)) / ops * 1e6 for _ in range(repeats)]
        work_graph(srg)
        model, device = RooflineModel(), find_device("a100-80gb")
        model.region(work_graph(srg), device, "inductor")
        cached = [
            seconds(lambda srg=srg, m=model, d=device: m.region(work_graph(srg), d, "inductor")) * 1e3
            for _ in range(repeats)
        ]
        per_op.append(report.measured(f"uncached_op_us_{size}", uncached, "us"))
        again.append(report.measured(f"cached_graph_ms_{size}", cached, "ms"))
        rows.append((f"{ops:,}", f"{per_op[-1]:.2f}", f"{again[-1]:.3f}"))
    print(table(("ops", "uncached, us an op", "cached graph, ms"), rows))
    report.fact("formulas", formulas())
    report.bar("uncached_op_us", max(per_op), UNCACHED_OP_US)
    report.bar("cached_1000_ops_ms", again[0], CACHED_1000_OPS_MS)
    report.bar("linear_ratio", per_op[-1] / per_op[0], LINEAR_RATIO)
    return report.finish()


DEVICE = find_device("a100-80gb")


def price_uncached(srg: SRG) -> float:
    """Every op's work and its roofline, with nothing kept."""
    sizes, model, device = Sizes(srg), RooflineModel(), DEVICE
    return sum(model.op(work_at(sizes, node), device).time_s for node in srg.ops)


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    with no_gc():
        start = time.perf_counter()
        work()
        return time.perf_counter() - start


def graph(ops: int) -> GraphModule:
    """A functional model of about so many ops, in turns of eight kinds; the sizes differ from turn to turn."""

    def run(x: torch.Tensor, turns: int) -> torch.Tensor:
        for turn in range(turns):
            width = 32 + turn % 997
            y = torch.mm(x, x.new_empty(x.shape[1], width))
            y = torch.sigmoid(y) * y
            y = torch.softmax(y - y.mean(dim=-1, keepdim=True), -1)
            x = torch.tanh(y.transpose(0, 1).contiguous().transpose(0, 1))
        return x

    return make_fx(lambda x: run(x, ops // 11), tracing_mode="fake")(torch.randn(4, 32))


def formulas() -> dict[str, float]:
    """Milliseconds to write the formulas of a small symbolic graph, and to work them out at other sizes."""
    gm = make_fx(lambda x, w: torch.softmax(torch.mm(x, w), -1).sum(), tracing_mode="symbolic")(
        torch.ones(6, 8), torch.ones(8, 10)
    )
    srg = lower(gm)
    start = time.perf_counter()
    total = symbolic_total(srg)
    written = time.perf_counter()
    total.at(dict.fromkeys(total.symbols, 64))
    first = time.perf_counter()
    total.at(dict.fromkeys(total.symbols, 65))
    end = time.perf_counter()
    return {"write_ms": (written - start) * 1e3, "at_ms": (end - first) * 1e3}


if __name__ == "__main__":
    sys.exit(main())
