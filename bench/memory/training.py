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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.harness.harness import ChildFailedError, Journal, Report, call_child, fresh_caches, parse, parser, table
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
    found: list[Found] = []
    failed: dict[str, str] = {}
    for name in works(arguments):
        done = journal.once(name, _in_child(name, QUICK_TURNS if arguments.quick else TURNS))
        if "failed" in done:
            failed[name] = done["failed"]
            print(f"{name}: {done['failed']}", flush=True)
        else:
            found.append(done)
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


def _in_child(name: str, turns: int) -> Callable[[], Found]:
    def step() -> Found:
        with fresh_caches() as caches:
            given = {"name": name, "turns": turns}
            try:
                return call_child("bench.memory.training_child:measure", given, caches, timeout_s=1200)
            except ChildFailedError as error:
                return {"failed": str(error).strip().splitlines()[-1][:300]}

    return step


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
