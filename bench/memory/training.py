"""Training under an activation budget, against torch.utils.checkpoint on every layer, at equal memory.

    python bench/memory/training.py --json bench/results/memory_training.json      # about a quarter of an hour
    python bench/memory/training.py --quick

Models of Transformers of 8 layers, trained on their graphs' own ops. What checkpointing's graphs take is the budget;
then the measured peak of activations must stay below it, gradients must be eager's, and a step must take no longer.
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
from bench.memory.training_child import MODELS, WAYS
from djinn_fx.units import format_bytes, format_seconds

QUICK = ("gpt2 of 3 layers",)
WHOLE = tuple(name for name in MODELS if name not in QUICK)
TURNS, QUICK_TURNS = 15, 3
#: As a share of the largest value of a gradient.
CLOSE = 1e-5

Found = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, compare, report. Returns the exit code."""
    made = parser(__doc__ or "", runs=1)
    made.add_argument("--models", default=",".join(WHOLE), metavar="A,B", help=f"of {', '.join(MODELS)}")
    arguments = parse(made, argv)
    report, journal = Report("memory_training", arguments), Journal(arguments)
    failed: dict[str, str] = {}
    turns = QUICK_TURNS if arguments.quick else TURNS
    steps = {name: {"name": name, "turns": turns} for name in works(arguments)}
    found = [*in_children(steps, "bench.memory.training_child:measure", journal, failed, timeout_s=1200)]
    _show(found)
    report.fact("models", found)
    report.fact("failed", failed)
    _bars(report, found, len(failed))
    code = report.finish()
    journal.done()
    return code


def works(arguments: argparse.Namespace) -> Sequence[str]:
    """The models to train."""
    return QUICK if arguments.quick else arguments.models.split(",")


def ratio(one: Found) -> float:
    """A step under the budget, in steps with checkpoints: the middle one of neighbours' ratios."""
    _, checkpointed, ours = one["times_s"]
    return statistics.median(mine / other for mine, other in zip(ours, checkpointed, strict=True))


def _show(found: Sequence[Found]) -> None:
    rows = [
        [
            one["model"],
            *(format_bytes(one["activations"][way]) for way in WAYS),
            format_bytes(one["budget"]),
            *(format_seconds(statistics.median(times)) for times in one["times_s"]),
            f"{ratio(one):.3f}",
            f"{one['furthest_gradient']:.1e}",
        ]
        for one in found
    ]
    heads = ["model", *WAYS, "allowed", *(f"s {way}" for way in WAYS), "ratio", "gradients"]
    print("\n" + table(heads, rows), flush=True)


def _bars(report: Report, found: Sequence[Found], failed: int) -> None:
    over = [one["activations"]["budget"] / one["budget"] for one in found]
    report.bar("models that failed", failed, 0)
    report.bar("largest peak, in budgets", max(over) if over else None, 1.0)
    far = [one["furthest_gradient"] for one in found]
    report.bar("furthest gradient", max(far) if far else None, CLOSE)
    ratios = [ratio(one) for one in found]
    report.bar("time in times of checkpointing, median model", statistics.median(ratios) if ratios else None, 1.0)


if __name__ == "__main__":
    sys.exit(main())
