"""What policies make of agents' sessions in a pool that is too small, on a virtual clock, beside who knows the future.

Every cell plays sessions of the open trace (or of a generator fitted to it) on a server whose pool the living sessions
exceed so many times, over a link of so many GB/s, under each policy, and once with room for everything. What a turn's
first token is later than there is its stall.

    python bench/sessions/simulate.py --data ../shared/data/agent --json bench/results/sessions_simulate.json
    python bench/sessions/simulate.py --quick
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.harness.harness import Report, parse, parser, positive, table
from bench.sessions.cells import CELLS, CUT, MADE, QUICK, SATURATED, WHOLE, Cell
from bench.sessions.judging import Result, interval
from bench.sessions.runs import best_baseline, others, run_cell, sessions_of
from bench.sessions.traces import found as found_in
from bench.sessions.tuning import best, scores

GENERATED = 400
Runs = Sequence[Mapping[str, Result | float]]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write. Returns the exit code."""
    made = parser(__doc__ or "", runs=5)
    made.add_argument("--full", action="store_true", help="20 seeds")
    made.add_argument("--sessions", type=positive, default=40, help="sessions of a run (default 40)")
    made.add_argument("--limit", type=float, default=3600.0, metavar="S", help="begin no further cell after so long")
    made.add_argument("--made", action="store_true", help="made sessions with steps and bursty starts, in two cells")
    made.add_argument("--processes", type=positive, default=min(2, os.cpu_count() or 1))
    arguments = parse(made, argv)
    seeds = 20 if arguments.full else arguments.runs if not arguments.quick else 2
    count = 20 if arguments.quick else arguments.sessions
    data = arguments.data or default_data()
    report = Report("sessions_simulate", arguments)
    if arguments.made or (data is not None and not found_in(data, "calls")):
        data = None
    source = "the open trace" if data is not None else "a generator (no trace found: --data)"
    print(f"{len(sessions_of(data, GENERATED))} sessions of {source}; {count} of them a run, {seeds} seeds")
    cells = MADE if arguments.made else QUICK if arguments.quick else CELLS
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        options = _tuned(pool, cells, data, count, report, arguments)
        start, found = time.perf_counter(), dict[Cell, list[Mapping[str, Result | float]]]()
        spent: list[float] = []
        for cell in cells:
            if time.perf_counter() - start > arguments.limit:
                print(f"not run, for time: {cell.name}")
                continue
            futures = [pool.submit(run_cell, cell, data, GENERATED, count, seed, options) for seed in range(seeds)]
            found[cell] = [future.result() for future in futures]
            spent += [float(one["seconds"]) / len(one) for one in found[cell]]  # type: ignore[arg-type]
            _print_cell(cell, found[cell], report)
        report.bar("seconds of a run, mean", sum(spent) / len(spent), 2.0)
    _judge(found, report)
    return report.finish()


def default_data() -> Path | None:
    """Where open data usually lies, if it does."""
    given = os.environ.get("DJINN_BENCH_DATA")
    folder = Path(given) if given else Path(__file__).resolve().parents[3] / "shared" / "data"
    return folder / "agent" if (folder / "agent").is_dir() else None


def _tuned(
    pool: ProcessPoolExecutor,
    cells: Sequence[Cell],
    data: Path | None,
    count: int,
    report: Report,
    arguments: argparse.Namespace,
) -> dict[str, dict[str, Any]]:
    """The best setting of each baseline, on seeds of their own and some of the cells."""
    some = cells[:1] if arguments.quick or arguments.made else (WHOLE[1], WHOLE[6], CUT[1], CUT[6])
    sessions = sessions_of(data, GENERATED)
    futures = [pool.submit(scores, cell, sessions, count, place) for place, cell in enumerate(some)]
    options = best([one for future in futures for one in future.result()])
    report.fact("tuned", options)
    print("tuned: " + "; ".join(f"{name} {given}" for name, given in options.items()), flush=True)
    return options


# -- cells -----------------------------------------------------------------------------------------------------------


def _of(runs: Runs, name: str, figure: str = "stall_s") -> list[float]:
    return [float(getattr(one[name], figure)) for one in runs]


def _over(runs: Runs) -> float:
    return statistics.fmean(_of(runs, "lru-host", "over"))


def _print_cell(cell: Cell, runs: Runs, report: Report) -> None:
    busy = sum(_of(runs, "lru-host", "busy_s"))
    names = [name for name in runs[0] if isinstance(runs[0][name], Result)]
    rows = []
    for name in names:
        stall = sum(_of(runs, name))
        loaded, again = sum(_of(runs, name, "loaded")) / 1e12, sum(_of(runs, name, "computed")) / 1e6
        first, job = max(_of(runs, name, "p99_first_s")), max(_of(runs, name, "p99_job_s"))
        rows.append(
            [name, f"{100 * stall / busy:.2f} %", f"{loaded:.1f}", f"{again:.2f}", f"{first:.1f}", f"{job:.0f}"]
        )
    print(f"\n{cell.name}: oversubscribed {_over(runs):.2f} times as measured (asked for {cell.over:g})")
    print(table(["policy", "stall", "TB loaded", "M tokens anew", "P99 first s", "P99 job s"], rows), flush=True)
    report.fact(
        cell.name,
        {
            name: [one[name].to_json() if isinstance(one[name], Result) else one[name] for one in runs]
            for name in runs[0]
        },
    )


def counts(runs: Runs) -> bool:
    """Whether it does: LRU with a host stalls 1 % of busy time, and the clairvoyant policy does not fill the link."""
    return (
        sum(_of(runs, "lru-host")) >= 0.01 * sum(_of(runs, "lru-host", "busy_s"))
        and max(_of(runs, "clairvoyant", "link_busy")) < SATURATED
    )


# -- bars ------------------------------------------------------------------------------------------------------------


def _judge(found: Mapping[Cell, Runs], report: Report) -> None:
    # Played time is not the trace's: a server that is quicker or slower than the recorded one has less or more alive.
    off = max(abs(_over(runs) / cell.over - 1) for cell, runs in found.items())
    report.bar("oversubscription, as measured against as asked for, farthest cell", off, 0.2)
    cells = {cell: runs for cell, runs in found.items() if counts(runs)}
    report.fact("cells that count", [cell.name for cell in cells])
    print(f"\n{len(cells)} of {len(found)} cells count")
    if not cells:
        return
    for said, bound in (("exact", 0.5), ("tools", 0.25), ("noisy", None), ("none", None)):
        gap = gained = 0.0
        for runs in cells.values():
            base = sum(_of(runs, best_baseline(runs, "stall_s")))
            gap += base - sum(_of(runs, "clairvoyant"))
            gained += base - sum(_of(runs, f"djinn/{said}"))
        share = gained / gap if gap > 0 else 0.0
        if bound is None:
            report.fact(f"share of the gap closed, hints {said}", share)
            print(f"share of the gap closed, hints {said}: {share:.2f}")
        else:
            report.bar(f"share of the gap closed, hints {said}", share, bound, ">=")
    for said in ("none", "noisy"):
        worst = max(_excess(runs, f"djinn/{said}", "stall_s") for runs in cells.values())
        report.bar(f"hints {said}: stall over the best baseline's, interval and 3 %, worst cell", worst, 0.0)
        for cell, runs in cells.items():
            if _excess(runs, f"djinn/{said}", "stall_s") > 0:
                print(f"hints {said}: worse than {best_baseline(runs, 'stall_s')} at {cell.name}")
    for figure, what in (("p99_job_s", "P99 of jobs' times"), ("p99_first_s", "P99 of first turns' queueing")):
        for said in ("exact", "none"):
            worst = max(_excess(runs, f"djinn/{said}", figure) for runs in cells.values())
            report.bar(f"hints {said}: {what} over the best baseline's, interval and 3 %, worst cell", worst, 0.0)
    for name, result in (("djinn/exact", "exact"), ("djinn/none", "none")):
        loaded = sum(sum(_of(runs, name, "loaded")) for runs in cells.values())
        for other in ("clairvoyant", "lru-host"):
            ratio = loaded / sum(sum(_of(runs, other, "loaded")) for runs in cells.values())
            report.fact(f"bytes loaded, hints {result}, beside {other}", ratio)
            print(f"bytes loaded, hints {result}, beside {other}: {ratio:.2f}")
    parts = {cell.name: _harm(runs) for cell, runs in cells.items()}
    harm = sum(added for added, _ in parts.values()) / sum(whole for _, whole in parts.values())
    report.bar("what a tenant's lies cost others, of their busy time and stall, all cells", harm, 0.05)
    name, (added, whole) = max(parts.items(), key=lambda one: one[1][0] / one[1][1])
    report.fact("what a tenant's lies cost others, worst cell", added / whole)
    print(f"what a tenant's lies cost others, worst cell: {added / whole:.3f}, at {name}")


def _excess(runs: Runs, name: str, figure: str) -> float:
    """By how much ours is over the best baseline beyond the paired interval and 3 %; as a part of the baseline."""
    base = best_baseline(runs, figure)
    before = _of(runs, base, figure)
    mean, half = interval([a - b for a, b in zip(_of(runs, name, figure), before, strict=True)])
    level = max(0.1, sum(before) / len(before))
    return (mean - half) / level - 0.03 if half < float("inf") else mean / level - 0.03


def _harm(runs: Runs) -> tuple[float, float]:
    """What others' turns take longer for a tenant's lies than if it said nothing, and what they take."""
    silent = sum(others(one["djinn/silent"]) for one in runs)  # type: ignore[arg-type]
    lied = sum(others(one["djinn/liar"]) for one in runs)  # type: ignore[arg-type]
    return lied - silent, 0.75 * sum(_of(runs, "lru-host", "busy_s")) + silent


if __name__ == "__main__":
    sys.exit(main())
