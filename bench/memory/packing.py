"""Packings of public problems: how soon the capacity is reached, how far above the bound an answer stays.

Below ``--data`` every CSV file with the columns id, lower, upper, size is a problem. One whose name ends in a number
(``A.1048576.csv``) names the capacity to be reached, as those of minimalloc do, and is tried once more in disguise:
time mirrored, rows shuffled, every tenth buffer cut in two, so that the same capacity is in reach. Of the others the
gap is taken. Beside them 60,000 buffers with random lifetimes. Answers are validated, save where tens of thousands
live at once. One thread.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.harness.harness import Report, parse, parser, table
from djinn_fx.solvers.packing.anytime import improvements, pack
from djinn_fx.solvers.packing.greedy import lowest_fit, orders
from djinn_fx.solvers.packing.problem import Problem
from djinn_fx.solvers.packing.sections import sections_of
from djinn_fx.solvers.packing.validator import check

LIMIT_S, QUICK_LIMIT_S = 60.0, 4.0
MANY, QUICK_MANY = 60_000, 6_000
#: Greedy orders beside the large problems; the others take as long and are worse there.
BESIDE = ("size", "area")


@dataclass(frozen=True)
class Named:
    """A problem from a file; the capacity is the bound where the name has none."""

    name: str
    problem: Problem
    capacity: int | None


def main(argv: Sequence[str] | None = None) -> int:
    """Pack, print, write. Returns the exit code."""
    arguments = parse(parser(__doc__ or "", runs=3), argv)
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = arguments.data or Path(os.environ.get("DJINN_BENCH_DATA", default)) / "memory"
    files = read_files(folder)
    if not files:
        print(f"no problems below {folder}: random ones alone")
    report = Report("packing", arguments)
    _capacities(report, [one for one in files if one.capacity is not None], arguments)
    _gaps(report, [one for one in files if one.capacity is None], arguments)
    _many(report, QUICK_MANY if arguments.quick else MANY)
    return report.finish()


def read_files(folder: Path) -> list[Named]:
    """The problems below a folder, by name."""
    return [found for path in sorted(folder.rglob("*.csv")) if (found := read_file(path)) is not None]


def read_file(path: Path) -> Named | None:
    """The problem in a file, if it has the columns of one."""
    head, *lines = path.read_text().split()
    if head.split(",")[:4] != ["id", "lower", "upper", "size"]:
        return None
    problem = Problem.of([tuple(map(int, line.split(",")[1:4])) for line in lines])
    number = path.stem.rpartition(".")[2]
    return Named(path.stem.partition(".")[0], problem, int(number) if number.isdecimal() else None)


def disguised(problem: Problem, seed: int) -> Problem:
    """The same mirrored in time, shuffled, every tenth buffer cut in two by time or by size: no harder to fit."""
    chance = random.Random(seed)
    rows = []
    for one in problem.buffers:
        lower, upper, size = -one.upper, -one.lower, one.size
        kind = chance.randrange(20)
        if kind == 0 and size > 1:
            part = chance.randrange(1, size)
            rows += [(lower, upper, part), (lower, upper, size - part)]
        elif kind == 1 and upper - lower > 1:
            middle = chance.randrange(lower + 1, upper)
            rows += [(lower, middle, size), (middle, upper, size)]
        else:
            rows.append((lower, upper, size))
    chance.shuffle(rows)
    return Problem.of(rows)


def seconds_to(problem: Problem, heights: Sequence[int], limit_s: float, seed: int) -> tuple[float, list[float | None]]:
    """Seconds to the first answer, and to one of each height or lower; None where the time was over before."""
    start, first_s = time.perf_counter(), None
    taken: list[float | None] = [None] * len(heights)
    for found in improvements(problem, seconds=limit_s, seed=seed):
        now = time.perf_counter() - start
        first_s = now if first_s is None else first_s
        check(problem, found)
        taken = [
            now if had is None and found.height <= height else had for had, height in zip(taken, heights, strict=True)
        ]
        if None not in taken:
            break
    assert first_s is not None
    return first_s, taken


def _capacities(report: Report, files: list[Named], arguments: argparse.Namespace) -> None:
    limit_s, rows, first = QUICK_LIMIT_S if arguments.quick else LIMIT_S, [], []
    medians = []
    for one in files:
        assert one.capacity is not None
        bound = sections_of(one.problem).bound
        for form, problem, runs in (("", one.problem, arguments.runs), (", disguised", disguised(one.problem, 1), 1)):
            samples = [seconds_to(problem, (one.capacity, bound), limit_s, seed) for seed in range(runs)]
            first += [sample[0] for sample in samples]
            reached, exact = ([sample[1][which] for sample in samples] for which in (0, 1))
            name = f"{one.name}{form}"
            slowest = report_seconds(report, f"{name}: s to its capacity", reached, limit_s)
            if not form and slowest is not None:
                medians.append(statistics.median(s for s in reached if s is not None))
            if bound < one.capacity:
                report_seconds(report, f"{name}: s to its bound", exact, limit_s)
            texts = [", ".join("over" if s is None else f"{s:.2f}" for s in part) for part in (reached, exact)]
            rows.append([name, len(problem.buffers), one.capacity, bound, *texts])
    if files:
        print("\n" + table(["problem", "buffers", "capacity", "bound", "s to capacity", "s to bound"], rows))
        report.bar("median file: s to its capacity", statistics.median(medians) if medians else None, 1.0)
        report.measured("first answer", first, "s")
        report.bar("slowest first answer, s", max(first), 0.05)


def report_seconds(report: Report, name: str, samples: list[float | None], limit_s: float) -> float | None:
    """Keep the samples, and hold the slowest against the limit; one that was over it counts as ten times the limit."""
    known = [limit_s * 10 if one is None else one for one in samples]
    report.measured(name, known, "s")
    report.bar(name, max(known), limit_s)
    return None if None in samples else max(known)


def _gaps(report: Report, files: list[Named], arguments: argparse.Namespace) -> None:
    rows = []
    for one in files:
        start = time.perf_counter()
        found = check(one.problem, pack(one.problem, seconds=2.0 if arguments.quick else 10.0))
        seconds, greedy = time.perf_counter() - start, _best_greedy(one.problem, None)
        report.measured(f"{one.name}: s", [seconds], "s")
        report.bar(f"{one.name}: gap", found.gap, 0.001 if one.name.startswith("resnet") else 0.0)
        best = f"{greedy / found.bound - 1:.3%}"
        rows.append([one.name, len(one.problem.buffers), found.bound, f"{found.gap:.3%}", best, f"{seconds:.2f}"])
    if files:
        print("\n" + table(["problem", "buffers", "bound", "above it", "best greedy", "s"], rows))


def _best_greedy(problem: Problem, names: tuple[str, ...] | None) -> int:
    """The lowest height of greedy orders."""
    cut = sections_of(problem)
    heights = []
    for name, order in orders(cut):
        if names is None or name in names:
            offsets = lowest_fit(cut, order)
            heights.append(max(at + size for at, size in zip(offsets, cut.sizes, strict=True)) * cut.unit)
    return min(heights)


def random_problem(count: int, lifetimes: str, seed: int = 0) -> Problem:
    """Sizes up to 1 MiB; lifetimes from one random time to another, or beginning anywhere and short (exponential)."""
    chance = np.random.default_rng(seed)
    one, other = chance.integers(0, 1_000_000, (2, count))
    if lifetimes == "short":
        other = one + chance.exponential(5000, count).astype(np.int64)
    sizes = chance.integers(1, 1 << 20, count)
    ends = zip(np.minimum(one, other).tolist(), (np.maximum(one, other) + 1).tolist(), sizes.tolist(), strict=True)
    return Problem.of(list(ends))


def _many(report: Report, count: int) -> None:
    rows = []
    for lifetimes in ("any", "short"):
        problem = random_problem(count, lifetimes)
        start = time.perf_counter()
        found = pack(problem, seconds=2.5)
        seconds = time.perf_counter() - start
        if lifetimes == "short":  # where thousands live at once, looking at every pair takes minutes
            check(problem, found)
        greedy = _best_greedy(problem, BESIDE) / found.bound - 1
        name = f"{count} buffers, {lifetimes} lifetimes"
        report.bar(f"{name}: s", seconds, 5.0)
        report.bar(f"{name}: gap", found.gap, 0.01)
        report.fact(f"{name}: best greedy's gap", greedy)
        rows.append([name, f"{found.gap:.2%}", f"{greedy:.2%}", f"{seconds:.2f}"])
    print("\n" + table(["problem", "above the bound", "best greedy", "s"], rows))


if __name__ == "__main__":
    raise SystemExit(main())
