"""Up to twelve sessions: policies that are told every wait exactly, beside the exact optimum.

python bench/sessions/optimum.py --json bench/results/sessions_optimum.json
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.harness.harness import Report, parse, parser, table
from bench.sessions.cells import SATURATED
from bench.sessions.exact import LOADING, compared
from djinn_fx.sessions.policy.baselines.clairvoyant import Clairvoyant
from djinn_fx.sessions.policy.baselines.lru import LRU
from djinn_fx.sessions.policy.value import ByValue

POLICIES = (("djinn", partial(ByValue, **LOADING)), ("clairvoyant", partial(Clairvoyant, **LOADING)), ("lru-host", LRU))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write. Returns the exit code."""
    arguments = parse(parser(__doc__ or "", runs=10), argv)
    report = Report("sessions_optimum", arguments)
    if importlib.util.find_spec("ortools") is None:
        print("no OR-Tools here: nothing to compare with (pip install ortools)")
        return report.finish()
    seeds = 2 if arguments.quick else arguments.runs
    found = [
        one | {"sessions": float(sessions)}
        for sessions in (4, 8, 12)
        for one in compared(POLICIES, seeds, sessions, turns=6)
    ]
    heads = ["sessions", "optimum, s of stall", *(name for name, _ in POLICIES), "waits, s", "link"]
    keys = ["sessions", "optimum", *(name for name, _ in POLICIES), "waits", "link"]
    print("\n" + table(heads, [[f"{one[key]:.2f}" for key in keys] for one in found]))
    report.fact("instances", found)
    # As in simulate.py: where even who knows the future fills the link there is no time left to decide about.
    counted = [one for one in found if one["link"] < SATURATED]
    print(f"{len(counted)} of {len(found)} count: the clairvoyant policy leaves the link room")
    for name, _ in POLICIES:
        over = [(one["waits"] + one[name]) / (one["waits"] + one["optimum"]) - 1 for one in counted]
        mean = statistics.fmean(over)
        print(f"{name}: jobs take {100 * mean:.2f} % longer than at the optimum, mean of {len(counted)}")
        report.fact(f"{name}: time of jobs over the optimum's, mean", mean)
    everywhere = [(one["waits"] + one["djinn"]) / (one["waits"] + one["optimum"]) - 1 for one in found]
    report.fact("time of jobs over the optimum's, mean, full links too", statistics.fmean(everywhere))
    over = [(one["waits"] + one["djinn"]) / (one["waits"] + one["optimum"]) - 1 for one in counted]
    report.bar("time of jobs over the optimum's, mean", statistics.fmean(over), 0.05)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
