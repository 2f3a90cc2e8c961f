"""How much lower the peak of live tensors is when ops run in a better order, with the same results in the same time.

    python bench/memory/order.py --json bench/results/memory_order.json      # about half an hour
    python bench/memory/order.py --quick

Training graphs of models of Transformers with random weights, run op by op: forward and backward, an optimizer's step
by itself, and whole steps in one graph. Each in the order as traced and in the order of the pass order-ops; the peak is
what torch's own allocator tells, weights and what comes in included. Beside it stands a bound that no order of this
graph is below: where it leaves less than 1 %, there is nothing to gain, and the graph does not count for the bar.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.harness.harness import Journal, Report, parse, parser, table
from bench.harness.steps import in_children
from bench.memory.order_child import KINDS, median_ratio
from djinn_fx.units import format_bytes

FAMILIES = (
    "gpt2", "llama", "qwen2", "opt", "gpt_neox", "bert", "distilbert", "t5", "bart", "vit", "clip_text", "resnet",
    "convnext", "roberta",
)  # fmt: skip
QUICK = {"vit": ("forward and backward", "step with sgd"), "gpt2": ("forward and backward", "momentum")}
#: A bound that is not below the peak by more than this share leaves nothing to gain.
NOTHING = 0.01

Found = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, compare, report. Returns the exit code."""
    arguments = arguments_of(argv)
    report, journal = Report("memory_order", arguments), Journal(arguments)
    failed: dict[str, str] = {}
    steps = {f"{family}/{kind}": {"family": family, "kind": kind} for family, kind in works(arguments)}
    made = in_children(steps, "bench.memory.order_child:measure", journal, failed, timeout_s=900)
    found = [one for graphs in made for one in graphs]
    _show(found)
    report.fact("graphs", found)
    report.fact("failed", failed)
    _bars(report, found)
    code = report.finish()
    journal.done()
    return code


def arguments_of(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    made = parser(__doc__ or "", runs=1)
    made.add_argument("--families", default=",".join(FAMILIES), metavar="A,B", help="which models")
    made.add_argument("--kinds", default=",".join(KINDS), metavar="A,B", help=f"of {', '.join(KINDS)}")
    return parse(made, argv)


def works(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """Families and kinds of graphs, one child process each."""
    if arguments.quick:
        return [(family, kind) for family, kinds in QUICK.items() for kind in kinds]
    return [(family, kind) for family in arguments.families.split(",") for kind in arguments.kinds.split(",")]


def gain(one: Found) -> float:
    """Share of the peak that is gained; negative if it is lost."""
    return float(1 - one["ours"] / one["as_traced"])


def room(one: Found) -> float:
    """Share of the peak that could be gained at most."""
    return float(1 - one["bound"] / one["as_traced"])


def _show(found: Sequence[Found]) -> None:
    rows = [
        [
            one["graph"],
            one["ops"],
            *(format_bytes(one[name]) for name in ("as_traced", "ours", "bound")),
            f"{gain(one):.1%}",
            f"{room(one):.1%}",
            f"{median_ratio(one['times_s']):.3f}",
            "moved" if one["moved"] else "at its bound" if room(one) <= NOTHING else "as it was",
        ]
        for one in found
    ]
    print("\n" + table(["graph", "ops", "as traced", "ours", "bound", "gain", "room", "time", ""], rows), flush=True)


def _bars(report: Report, found: Sequence[Found]) -> None:
    able = [one for one in found if room(one) > NOTHING]
    moved = [one for one in found if one["moved"]]
    report.fact("graphs with room", len(able))
    report.fact("graphs without room", len(found) - len(able))
    report.bar("mean gain where there is room", statistics.mean(map(gain, able)) if able else None, 0.20, ">=")
    report.bar("worst gain", min(map(gain, found)) if found else None, -0.001, ">=")
    report.bar("results that differ", sum(not one["equal"] for one in found), 0)
    ratios = [median_ratio(one["times_s"]) for one in moved]
    report.bar("time of moved graphs, median ratio", statistics.median(ratios) if ratios else None, 1.02)
    shares = [one["pass_s"] / one["planning_s"] for one in found if not one["moved"]]
    report.bar("share of planning where nothing moves", statistics.median(shares) if shares else None, 0.05)


if __name__ == "__main__":
    sys.exit(main())
