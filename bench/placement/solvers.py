"""Placement of public graphs and of synthetic ones: the figure, the bound, and how soon.

Below ``--data`` every JSON file of the form of msr-fiddle/dnn-partitioning is a problem: throughput with and without
contiguity, or the latency of one call where a folder is called so. Figures are held against the best known of the
files that are known, against experts' splits, and, for siblings of every file with all numbers changed, against the
bound. Answers are validated. One thread.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.harness.harness import Report, parse, parser, table
from bench.placement.inputs import Named, disturbed, read_folder
from bench.placement.synthetic import transformer
from djinn_fx.errors import SolverError
from djinn_fx.solvers.placement.anytime import improvements
from djinn_fx.solvers.placement.cost import loads_of
from djinn_fx.solvers.placement.problem import Aim, Goal, Problem, Solution
from djinn_fx.solvers.placement.validator import check

#: Figures to be reached, from the data's README: exact DP of others, or a linearised one (inceptionv3); not contiguous.
KNOWN = {
    "bert24_inference": (17.790, 17.72),
    "bert24_training": (41.746, None),
    "gnmt_inference": (32.911, 31.69),
    "gnmt_training": (107.004, None),
    "resnet50_inference": (33.775, None),
    "resnet50_training": (78.632, None),
    "inceptionv3_inference": (51.552, None),
    "inceptionv3_training": (123.93, None),
}
#: Figures are given with three places.
PLACES = 0.0005
#: Operators up to which an answer may take a second, and 5 s for more.
SMALL = 800


@dataclass(frozen=True)
class Answer:
    """A placement, and when it and the first one were there."""

    solution: Solution
    first_s: float
    total_s: float


def main(argv: Sequence[str] | None = None) -> int:
    """Place, print, write. Returns the exit code."""
    arguments = parse(parser(__doc__ or "", runs=3), argv)
    default = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = arguments.data or Path(os.environ.get("DJINN_BENCH_DATA", default)) / "placement"
    named, wrong = read_folder(folder)
    for line in wrong:
        print(f"not read: {line}")
    if not named:
        print(f"no problems below {folder}: synthetic ones alone")
    report = Report("placement", arguments)
    report.fact("not read", wrong)
    _files(report, named, arguments)
    _siblings(report, named, 1 if arguments.quick else 3)
    _synthetic(report, arguments.quick)
    return report.finish()


def solve(problem: Problem, goal: Goal, seed: int = 0) -> Answer:
    """The best placement in the time that the solver takes by itself, validated."""
    start = time.perf_counter()
    found = [(one, time.perf_counter() - start) for one in improvements(problem, goal, seed=seed)]
    total_s = time.perf_counter() - start
    return Answer(check(problem, goal, found[-1][0]), found[0][1], total_s)


def _tried(name: str, problem: Problem, goal: Goal, seed: int = 0) -> Answer | None:
    try:
        return solve(problem, goal, seed)
    except SolverError as error:
        print(f"{name}: {error}")
        return None


def _limit_s(problem: Problem) -> float:
    return 1.0 if len(problem.operators) <= SMALL else 5.0


def _files(report: Report, named: list[Named], arguments: argparse.Namespace) -> None:
    rows = []
    for one in named:
        expert = None if one.expert is None else float(loads_of(one.problem, one.expert).max())
        for note in one.notes:
            print(f"{one.name}: {note}")
        for asked, goal in one.goals.items():
            label = f"{one.name}, {asked}"
            runs = range(arguments.runs if asked == "not contiguous" else 1)
            answers = [found for seed in runs if (found := _tried(label, one.problem, goal, seed)) is not None]
            if answers:
                _held(report, one, asked, answers, expert)
                rows.append([label, len(one.problem.operators), *_cells(answers), _number(expert)])
    if rows:
        print("\n" + table(["problem", "operators", *HEADS, "expert"], rows))


HEADS = ("figure", "bound", "gap", "s to first", "s", "found by")


def _cells(answers: Sequence[Answer]) -> list[str]:
    worst = max(answers, key=lambda one: one.solution.figure)
    found = worst.solution
    times = [f"{max(one.first_s for one in answers):.2f}", f"{max(one.total_s for one in answers):.2f}"]
    return [f"{found.figure:.4f}", f"{found.bound:.4f}", f"{found.gap:.2%}", *times, found.found_by]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _held(report: Report, one: Named, asked: str, answers: Sequence[Answer], expert: float | None) -> None:
    """Keep the samples; the worst of the runs is held against what is known."""
    label, figures = f"{one.name}, {asked}", [answer.solution.figure for answer in answers]
    report.measured(f"{label}: figure", figures, "ms")
    report.measured(f"{label}: bound", [answer.solution.bound for answer in answers], "ms")
    report.measured(f"{label}: s", [answer.total_s for answer in answers], "s")
    report.bar(f"{label}: s", max(answer.total_s for answer in answers), _limit_s(one.problem))
    known = KNOWN.get(one.name.rpartition("/")[2], (None, None)) if not one.latency else (None, None)
    bound = known[0] if asked == "contiguous" else known[1]
    if bound is not None and "LayerGraphs" in one.name:
        report.bar(f"{label}: figure", max(figures), bound + PLACES * (asked == "contiguous"))
    if expert is not None and not one.latency:
        report.bar(f"{label}: figure by the expert's", max(figures) / expert, 1.0)


def _siblings(report: Report, named: list[Named], count: int) -> None:
    """Gaps of problems that nobody has seen: the same graphs with all numbers changed, also with more devices."""
    gaps: dict[str, list[float]] = {}
    slowest = 0.0
    for problem_name, problem, goals in _changed(named, count):
        for asked, goal in goals.items():
            answer = _tried(problem_name, problem, goal)
            if answer is not None:
                gaps.setdefault(asked, []).append(answer.solution.gap)
                slowest = max(slowest, answer.total_s / _limit_s(problem))
    rows = []
    for asked, found in gaps.items():
        report.measured(f"siblings, {asked}: gap", found, "share of the bound")
        proved = sum(gap < 1e-9 for gap in found)
        rows.append([asked, len(found), proved, f"{statistics.median(found):.2%}", f"{max(found):.2%}"])
    if rows:
        report.bar("siblings: slowest, as a share of the time given", slowest, 1.0)
        print("\n" + table(["siblings", "problems", "proved best", "gap, median", "largest"], rows))


def _changed(named: list[Named], count: int) -> Iterator[tuple[str, Problem, dict[str, Goal]]]:
    for seed in range(count):
        for one in named:
            chance = random.Random(f"{one.name} {seed}")
            problem = disturbed(one.problem, chance)
            more = chance.choice((0, 0, 2, 8))
            problem = replace(problem, devices=problem.devices[:1] * more + problem.devices)
            yield f"{one.name}, sibling {seed}", problem, one.goals


#: Layers, heads, accelerators, whether a backward pass, memory as a share of what is needed: up to 2,000 operators.
MADE = ((3, 12, 6, False, None), (7, 12, 14, False, 1.5), (6, 12, 8, True, None), (9, 12, 14, True, 1.4))
ASKED = {"contiguous": Goal(), "not contiguous": Goal(contiguous=False), "latency": Goal(Aim.LATENCY)}


def _synthetic(report: Report, quick: bool) -> None:
    rows = []
    for layers, heads, devices, training, memory in MADE[:2] if quick else MADE:
        problem = transformer(layers, heads, devices, training=training, memory=memory)
        count = len(problem.operators)
        for asked, goal in ASKED.items():
            if training and asked == "latency":
                continue
            label = f"transformer of {count} operators on {devices} devices, {asked}"
            answer = _tried(label, problem, goal)
            if answer is not None:
                report.measured(f"{label}: gap", [answer.solution.gap], "share of the bound")
                report.bar(f"{label}: s", answer.total_s, _limit_s(problem))
                rows.append([label, *_cells([answer])])
    print("\n" + table(["problem", *HEADS], rows))


if __name__ == "__main__":
    raise SystemExit(main())
