"""How many sessions a server holds: the most that can live on it at a time while nobody waits for memory for long.

    python bench/sessions/capacity.py --json bench/results/sessions_capacity.json

Held means: the stall of turns is at most 1 s and a session's first turn waits for memory for at most 2 s, each at the
99th percentile. The load grows by a quarter from step to step, until it is too much.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.harness.harness import Report, parse, parser, positive, table
from bench.sessions.cells import GB, HINTS, Cell
from bench.sessions.judging import by_turn, play, unlimited
from bench.sessions.runs import sessions_of
from bench.sessions.simulate import GENERATED, default_data
from djinn_fx.sessions.policy.named import policy_named

STALL_S, FIRST_S, STEP, LEAST, MOST = 1.0, 2.0, 1.25, 0.1, 12.0
WHO = ("recompute", "lru-host", "ttl", "min-waste", "djinn/none", "djinn/tools", "djinn/exact")
#: As the grid search of simulate.py finds them.
TUNED: dict[str, dict[str, object]] = {"ttl": {"tool_s": 60.0, "programs": True}, "min-waste": {"eager": 64.0}}


def held(name: str, data: Path | None, count: int, seed: int, longest_gap: float) -> float:
    """The largest oversubscription at which a policy keeps both promises; 0 if it keeps them at none."""
    policy, _, said = name.partition("/")
    over, last = LEAST, 0.0
    while over <= MOST:
        cell = Cell(over, 25 * GB, longest_gap)
        load, server = cell.load(sessions_of(data, GENERATED), count, seed), cell.server()
        if name == "recompute":
            server = replace(server, host_bytes=0)
        made = policy_named(policy, **TUNED.get(policy, {}))
        one = play(load, made, server, by_turn(unlimited(load, server)), HINTS[said or "none"])
        if one.p99_stall_s > STALL_S or one.p99_first_s > FIRST_S:
            break
        last, over = over, over * STEP
    return last


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write. Returns the exit code."""
    made = parser(__doc__ or "", runs=3)
    made.add_argument("--sessions", type=positive, default=40)
    arguments = parse(made, argv)
    data = arguments.data or default_data()
    count = 20 if arguments.quick else arguments.sessions
    report = Report("sessions_capacity", arguments)
    rows, means = [], {}
    gaps = (600.0,) if arguments.quick else (1e9, 600.0)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        work = [(name, gap, seed) for gap in gaps for name in WHO for seed in range(arguments.runs)]
        futures = {one: pool.submit(held, one[0], data, count, one[2], one[1]) for one in work}
        for gap in gaps:
            for name in WHO:
                found = [futures[name, gap, seed].result() for seed in range(arguments.runs)]
                means[name, gap] = statistics.fmean(found)
                words = "whole gaps" if gap == 1e9 else f"gaps to {gap:g} s"
                rows.append([f"{name}, {words}", *(f"{one:.2f}" for one in found)])
                report.fact(f"oversubscription held: {name}, {words}", found)
    print("\n" + table(["oversubscription held", *("seed" for _ in range(arguments.runs))], rows))
    for gap in gaps:
        words = "whole gaps" if gap == 1e9 else f"gaps to {gap:g} s"
        ours = means["djinn/exact", gap]
        for other in ("recompute", "ttl", "min-waste", "lru-host"):
            # Who holds none at all holds fewer than the least that was tried.
            times = ours / max(means[other, gap], LEAST / STEP)
            if other == "recompute":
                report.bar(f"sessions held, times recompute's, {words}", times, 2.0, ">=")
            else:
                report.fact(f"sessions held, times {other}'s, {words}", times)
                print(f"sessions held, times {other}'s, {words}: {times:.2f} (goal 1.2)")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
