"""Models in slices of the batch, since a memory budget has no room for all samples at once: peak, time, answers.

    python bench/memory/slices.py --json bench/results/memory_slices.json      # about ten minutes
    python bench/memory/slices.py --quick

Models of Transformers with random weights, called with a batch of 8, op by op. The budget is half-way between what the
graph takes and the smallest that its error names. Beside what was foretold of slices stands what was measured: the peak
by torch's allocator, and the time against all samples at once, in turn. A model that may not be parted is listed with
the op that forbids it.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from bench.cost.models import FAMILIES, called, make_model
from bench.harness.harness import Journal, Report, parse, parser, table, time_calls
from bench.harness.steps import in_children
from bench.memory.graphs import Built, built
from djinn_fx.calibrate.live_memory import measured
from djinn_fx.runtime.slices import InSlices
from djinn_fx.srg.graph import tensors_of
from djinn_fx.units import format_bytes

#: Samples of each call, and turns in which either is timed.
BATCH, TURNS = 8, 5
QUICK = ("vit", "t5")

Found = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, compare, report. Returns the exit code."""
    made = parser(__doc__ or "", runs=1)
    made.add_argument("--families", default=",".join(FAMILIES), metavar="A,B", help="which models")
    arguments: argparse.Namespace = parse(made, argv)
    report, journal = Report("memory_slices", arguments), Journal(arguments)
    failed: dict[str, str] = {}
    steps = {name: {"family": name} for name in (QUICK if arguments.quick else arguments.families.split(","))}
    found = list(in_children(steps, "bench.memory.slices:measure", journal, failed, timeout_s=600))
    _show(found)
    report.fact("models", found)
    report.fact("failed", failed)
    _bars(report, [one for one in found if not one["forbidden"]])
    code = report.finish()
    journal.done()
    return code


def measure(family: str) -> Found:
    """One model, all samples at once and in slices. Runs in a child process."""
    known, model = FAMILIES[family], make_model(family)
    call = dataclasses.replace(next(one for one in known.calls if one.way != "decode"), batch=BATCH)
    with torch.no_grad():
        module, inputs = called(model, known, call)
    (whole,) = built(module, inputs, {}, "eager")
    least, told = _least(module, inputs)
    all_at_once = whole.plan.peak("cpu").nbytes
    budget = (all_at_once + least) // 2
    if "In slices of the batch it cannot run: as few as" not in told:
        return {"model": f"{family}/{call}", "forbidden": told.split("it cannot run: ")[-1].split(". Give")[0]}
    if least >= all_at_once:
        return {"model": f"{family}/{call}", "forbidden": "slices and all results together take no less"}
    (parts,) = built(module, inputs, {}, "eager", options={"memory_budget": {"cpu": f"{budget}B"}})
    return {
        "model": f"{family}/{call}",
        "forbidden": "",
        "budget": budget,
        "smallest": least,
        **_compared(whole, parts),
    }


def _least(module: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> tuple[int, str]:
    """The smallest budget, as an error names it, and the error."""
    try:
        built(module, inputs, {}, "eager", options={"memory_budget": {"cpu": "1B"}})
    except Exception as error:  # noqa: BLE001  (Dynamo's own, around ours)
        text = str(error)
        return int(text.split("the smallest budget is ")[1].split(" bytes")[0]), text
    raise AssertionError("a byte is never enough")


def _compared(whole: Built, parts: Built) -> Found:
    assert isinstance(parts.run, InSlices), "the budget is below what the graph takes"
    runs = len(parts.run.slices.starts)
    with torch.no_grad():
        first, second = (tensors_of(one.run(list(one.args))) for one in (whole, parts))
        off = [float((a - b).abs().max() / a.abs().max()) for a, b in zip(first, second, strict=True) if a.numel()]
        times: list[list[float]] = [[], []]
        for turn in range(TURNS + 1):
            for place, one in enumerate((whole, parts)):
                (seconds,) = time_calls(lambda one=one: one.run(list(one.args)), 1)
                if turn:
                    times[place].append(seconds)
        return {
            "slices": runs,
            "samples": parts.run.slices.size,
            "whole": measured(whole.run, whole.args).peak,
            "peak": {"foretold": parts.plan.peak("cpu").nbytes, "measured": measured(parts.run, parts.args).peak},
            "time": {
                "foretold": runs * parts.captured.plan.cost.time_s / whole.captured.plan.cost.time_s,
                "measured": statistics.median(b / a for a, b in zip(*times, strict=True)),
            },
            "off": max(off, default=0.0),
        }


def _show(found: Sequence[Found]) -> None:
    rows = [
        [
            one["model"],
            f"{one['slices']} of {one['samples']}",
            *(format_bytes(value) for value in (one["whole"], one["budget"], one["smallest"])),
            *(format_bytes(one["peak"][kind]) for kind in ("foretold", "measured")),
            *(f"{one['time'][kind]:.2f}" for kind in ("foretold", "measured")),
            f"{one['off']:.1e}",
        ]
        for one in found
        if not one["forbidden"]
    ]
    names = [
        "model",
        "slices",
        "at once",
        "budget",
        "smallest",
        "foretold",
        "measured",
        "time foretold",
        "measured",
        "off",
    ]
    print("\n" + table(names, rows), flush=True)
    for one in found:
        if one["forbidden"]:
            print(f"{one['model']}: {one['forbidden']}", flush=True)


def _bars(report: Report, found: Sequence[Found]) -> None:
    errors = [abs(one["peak"]["foretold"] / one["peak"]["measured"] - 1) for one in found]
    times = [abs(one["time"]["foretold"] / one["time"]["measured"] - 1) for one in found]
    report.bar("models in slices", len(found), 1, ">=")
    report.bar("over the budget", sum(one["peak"]["measured"] > one["budget"] for one in found), 0)
    report.bar("peak: largest error", max(errors, default=None), 0.01)
    report.bar("answers: furthest off", max((one["off"] for one in found), default=None), 1e-4)
    report.fact("time: median error", statistics.median(times) if times else None)
    report.fact("answers equal to the last bit", sum(not one["off"] for one in found))


if __name__ == "__main__":
    sys.exit(main())
