"""Which ops take memory beside their results, and how much: what costmodels/data/workspace.yaml was written from.

    python bench/memory/survey.py                    # every family, called and trained: ten minutes
    python bench/memory/survey.py --quick

Prints a line for each op and sizes at which it took something: measured, foretold, its arguments.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch._ops import OpOverload

from bench.cost.models import FAMILIES
from bench.harness.harness import Report, parse, parser, table
from bench.memory.graphs import Built
from bench.memory.measure import graphs_of, works
from djinn_fx.calibrate.live_memory import Truth, measured
from djinn_fx.costmodels.memory.workspace import Workspaces
from djinn_fx.costmodels.work.work_of import sizes_of

#: Less than this is a number or two.
SMALL = 64

Row = tuple[str, int, int, str]


def main(argv: Sequence[str] | None = None) -> int:
    """Survey and print. Returns the exit code."""
    arguments = parse(parser(__doc__ or "", runs=1), argv)
    report = Report("memory_survey", arguments)
    names = tuple(FAMILIES)[:2] if arguments.quick else tuple(FAMILIES)
    rows: dict[Row, None] = {}
    for work in (*works(names, "eager", training=False), *works(names[-1:] or names, "eager", training=True)):
        for graph in graphs_of(work):
            with torch.no_grad():
                truth = measured(graph.run, graph.args, graph.given_away)
            rows.update(dict.fromkeys(_rows(graph, truth)))
    print(table(["op", "measured", "foretold", "arguments"], sorted(rows)), flush=True)
    report.fact("ops", [list(row) for row in sorted(rows)])
    return report.finish()


def _rows(graph: Built, truth: Truth) -> Iterator[Row]:
    """The ops of a graph that took something, or were expected to."""
    srg = graph.captured.srg
    steps = [srg.node(step.name) for step in graph.plan.steps]
    ops = [
        node for node in steps if isinstance(node.target, OpOverload) and not node.target.name().startswith("aten::sym")
    ]
    rules = Workspaces(sizes_of(srg), torch.get_num_threads())
    for number, (name, taken) in own_bytes(truth).items():
        node = ops[number] if number < len(ops) else None
        if node is None or name != node.target.name().partition(".")[0]:  # type: ignore[union-attr]
            continue
        foretold = rules.of(node)
        if max(taken, foretold) > SMALL:
            given = ", ".join(str(meta) for one in node.all_input_nodes for meta in srg.record(one).outputs)
            yield name, taken, foretold, given[:120]


def own_bytes(truth: Truth) -> dict[int, tuple[str, int]]:
    """For each op by its number: its name, and the most it held above what it left."""
    now: dict[int, int] = {}
    most: dict[int, int] = {}
    names: dict[int, str] = {}
    for event in truth.events:
        if event.inside:
            now[event.op] = now.get(event.op, 0) + event.nbytes
            most[event.op] = max(most.get(event.op, 0), now[event.op])
            names[event.op] = event.name
    return {number: (names[number], most[number] - left) for number, left in now.items()}


if __name__ == "__main__":
    sys.exit(main())
