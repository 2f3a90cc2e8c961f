"""What a boundary between two regions costs: within a device's thread, between two devices, and one call in all.

The regions do nothing, so that what is left is the handing over. Chains of one length on one device and to and fro
between two take turns; a boundary is the difference of a call's time, divided by the boundaries that differ.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from bench.harness.harness import Report, interleave, no_gc, parse, parser, table
from djinn_fx.runtime.devices.executor import Spread
from djinn_fx.runtime.devices.stretches import stretches_of
from djinn_fx.runtime.devices.thread import thread_of
from djinn_fx.runtime.program import Program, Step
from djinn_fx.settings.devices import LocalDevice

#: Regions of a chain, and calls of each chain a round.
REGIONS, CALLS = 33, 100
#: Seconds that a boundary may cost within a thread, and between two.
WITHIN_S, BETWEEN_S = 10e-6, 40e-6


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write. Returns the exit code."""
    arguments = parse(parser(__doc__ or "", runs=20), argv)
    report = Report("placement-boundary", arguments)
    _boundaries(report, arguments)
    return report.finish()


def chain(regions: int, devices: Sequence[int]) -> Spread:
    """So many regions that pass one value on, on these devices in turn."""
    known = [LocalDevice(name=f"cpu:{place}", cores=(place,)) for place in (0, 1)]
    steps = tuple(Step(region=n, inputs=(n,), outputs=(n + 1,), frees=(n,)) for n in range(regions))
    program = Program(arguments=1, slots=regions + 1, steps=steps, results=(regions,))
    names = [known[devices[n % len(devices)]].name for n in range(regions)]
    needs = {n: {n - 1} if n else set[int]() for n in range(regions)}
    stretches, slots = stretches_of(program, names, needs)
    threads = {one.name: thread_of(one) for one in known if one.name in names}
    return Spread(program, stretches, slots, [_nothing] * regions, [str(n) for n in range(regions)], threads, {}, {})


def _nothing(args: list[Any]) -> list[Any]:
    return [args[0]]


def seconds_of(run: Spread) -> list[float]:
    """Of some calls."""
    value, found = torch.zeros(1), []
    for _ in range(CALLS):
        begun = time.perf_counter()
        run([value])
        found.append(time.perf_counter() - begun)
    return found


def _boundaries(report: Report, arguments: argparse.Namespace) -> None:
    runs = {"one region": chain(1, [0]), "one device": chain(REGIONS, [0]), "two devices": chain(REGIONS, [0, 1])}
    for run in runs.values():
        seconds_of(run)
    with torch.no_grad(), no_gc():
        found = interleave({name: lambda run=run: seconds_of(run) for name, run in runs.items()}, arguments.runs)
    calls = {name: [second for some in rounds for second in some] for name, rounds in found.items()}
    medians = {name: report.measured(name, seconds, "s") for name, seconds in calls.items()}
    within = (medians["one device"] - medians["one region"]) / (REGIONS - 1)
    between = (medians["two devices"] - medians["one device"]) / (REGIONS - 1) + within
    tail = statistics.quantiles(calls["two devices"], n=100)[98] / (REGIONS - 1)
    rows = [
        ["a call of one region", f"{medians['one region'] * 1e6:.1f}"],
        ["a boundary within a thread", f"{within * 1e6:.2f}"],
        ["a boundary between two", f"{between * 1e6:.1f}"],
        ["a boundary between two, p99 of calls", f"{tail * 1e6:.1f}"],
    ]
    print(table(["what", "us"], rows))
    report.bar("boundary within a thread, us", within * 1e6, WITHIN_S * 1e6)
    report.bar("boundary between two threads, us", between * 1e6, BETWEEN_S * 1e6)


if __name__ == "__main__":
    raise SystemExit(main())
