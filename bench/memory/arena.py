"""How close an arena for a graph's own values comes to the bound below which none can be.

    python bench/memory/arena.py --json bench/results/arena.json      # about twenty minutes
    python bench/memory/arena.py --quick

Models of Transformers with random weights, called and trained. Of ops: everything that a graph's ops make, by the
lifetimes of its memory plan, results and the ops' own workspaces included. Of regions: what passes from one region to
another where the graph is cut at repeated layers, as the setting ``arena`` lays it out. ``--problems DIR`` writes
each there as a CSV file, as ``packing.py`` reads them. Answers are validated. A family's graphs share a process.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from bench.cost.models import FAMILIES, called, make_model
from bench.harness.harness import Journal, Report, parse, parser, table
from bench.harness.steps import in_children
from bench.memory.measure import Work, graphs_of, works
from bench.memory.peak import QUICK, TRAINED
from djinn_fx.backend import capture
from djinn_fx.passes.find_regions import FindRegions
from djinn_fx.passes.pipeline import DEFAULT
from djinn_fx.runtime.arena.arena import SECONDS
from djinn_fx.runtime.arena.pieces import ALIGNMENT
from djinn_fx.runtime.program import program_of, with_arena
from djinn_fx.settings.table import Settings
from djinn_fx.solvers.packing.anytime import pack
from djinn_fx.solvers.packing.problem import Buffer, Problem
from djinn_fx.solvers.packing.validator import check
from djinn_fx.srg.memory import MemoryPlan

Found = dict[str, Any]
Row = tuple[int, int, int, int]

#: Seconds for one graph's packing: of ops, and in a first call (of regions).
OPS_S, REGIONS_S = 1.0, SECONDS


def main(argv: Sequence[str] | None = None) -> int:
    """Pack, print, write. Returns the exit code."""
    made = parser(__doc__ or "", runs=1)
    made.add_argument("--problems", type=Path, metavar="DIR", help="write each problem there as a CSV file")
    arguments = parse(made, argv)
    report, journal = Report("arena", arguments), Journal(arguments)
    names: Sequence[str] = QUICK[:2] if arguments.quick else tuple(FAMILIES)
    trained = QUICK[1:2] if arguments.quick else TRAINED
    every = [*works(names, "eager", training=False), *works(trained, "eager", training=True)]
    failed: dict[str, str] = {}
    steps = {str(work): asdict(work) for work in every}
    found = [*in_children(steps, "bench.memory.arena:problems", journal, failed, timeout_s=600)]
    report.fact("failed", failed)
    packed = [_packed(one, arguments) for of_work in found for one in of_work]
    _show(report, packed)
    code = report.finish()
    journal.done()
    return code


def problems(family: str, call: int, training: bool, engine: str) -> list[Found]:
    """The problems of one call of one model, as rows of lower, upper, bytes and alignment. Runs in a child process."""
    work = Work(family, call, training, engine)
    found = [
        {"graph": f"{work} {one.captured.srg.kind.value}", "of": "ops", "rows": rows_of(one.plan)}
        for one in graphs_of(work)
    ]
    return found if training else [*found, *({**one, "graph": str(work)} for one in _of_regions(work))]


def rows_of(plan: MemoryPlan) -> list[Row]:
    """What a graph's ops make on the CPU, and what they take beside it."""
    rows = (one for one in plan.rows if not one.given and one.nbytes and one.device == "cpu")
    return [(one.start, one.end, one.nbytes, ALIGNMENT) for one in rows]


def _of_regions(work: Work) -> Iterator[Found]:
    known = FAMILIES[work.family]
    with torch.no_grad():
        module, inputs = called(make_model(work.family), known, known.calls[work.call])
        at_repeats = FindRegions(min_ops=3, max_boundary_share=1e9)
        passes = tuple(at_repeats if one.name == FindRegions.name else one for one in DEFAULT)
        settings = Settings.load(None, {"engine": "eager", "passes": passes, "expected_calls": 1, "cache_limit": 0})
        captured = capture(module, inputs, settings=settings)
    for one in captured.graphs:
        planned, _ = with_arena(program_of(one.srg, one.plan)[0], one.srg, one.plan)
        if planned.arena is not None and not planned.arena.sizes:
            buffers = planned.arena.problem(()).buffers
            yield {"of": "regions", "rows": [(b.lower, b.upper, b.size, b.alignment) for b in buffers]}


def _packed(one: Found, arguments: argparse.Namespace) -> Found:
    problem = Problem(tuple(Buffer(*row) for row in one["rows"]))
    if arguments.problems is not None:
        _write(arguments.problems / f"{one['graph']} {one['of']}.csv".replace("/", " "), problem)
    start = time.perf_counter()
    found = check(problem, pack(problem, seconds=OPS_S if one["of"] == "ops" else REGIONS_S))
    return {
        "graph": one["graph"],
        "of": one["of"],
        "buffers": len(problem.buffers),
        "apart": sum(buffer.size for buffer in problem.buffers),
        "height": found.height,
        "bound": found.bound,
        "found_by": found.found_by,
        "seconds": time.perf_counter() - start,
    }


def _write(path: Path, problem: Problem) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{place},{one.lower},{one.upper},{one.size}" for place, one in enumerate(problem.buffers)]
    path.write_text("\n".join(["id,lower,upper,size", *rows]) + "\n")


def _show(report: Report, packed: Sequence[Found]) -> None:
    rows = [
        [f"{one['graph']}, {one['of']}", one["buffers"], one["apart"], one["height"], one["bound"],
         f"{one['height'] / one['bound'] - 1:.3%}" if one["bound"] else "", f"{one['seconds']:.2f}"]
        for one in packed
    ]  # fmt: skip
    print("\n" + table(["graph", "buffers", "bytes apart", "arena", "bound", "above it", "s"], rows), flush=True)
    report.fact("graphs", list(packed))
    report.bar("graphs", len([one for one in packed if one["of"] == "ops" and one["bound"]]), 60, ">=")
    for kind in ("ops", "regions"):
        mine = [one for one in packed if one["of"] == kind and one["bound"]]
        if mine:
            reached = sum(one["height"] == one["bound"] for one in mine) / len(mine)
            report.bar(f"of {kind}: share of graphs whose arena is the bound", reached, 0.95, ">=")


if __name__ == "__main__":
    sys.exit(main())
