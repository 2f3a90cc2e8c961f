"""What it costs a call to be sure of its values: indices in range, numbers that the runtime computes as torch does.

Each model of the engines' bench is converted twice for each runtime, with the conditions and without, and called in
turn in one process: with, without, without, with, so that each is as often called after itself, which finds its
weights in the processor's cache. Two sessions of one model differ by up to a tenth of a call, by where their weights
happen to lie: where the two models are the same, and only arguments are looked at, one session is called both ways;
else both are opened several times. Bar: at most 1 % of a call.

    python bench/engines/conditions.py --json bench/results/conditions.json
    python bench/engines/conditions.py --models bert,t5
    python bench/engines/conditions.py --quick
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch.fx import GraphModule

from bench.engines.models import CASES, QUICK_CASES, workload
from bench.harness.harness import Report, no_gc, parse, parser, table
from djinn_fx.engines.base import RegionGraph
from djinn_fx.engines.onnx import convert
from djinn_fx.engines.onnx.conditions import integers as conditions
from djinn_fx.engines.onnx.graph import GraphBuilder
from djinn_fx.engines.onnxruntime.engine import OnnxRuntimeEngine
from djinn_fx.engines.openvino.engine import OpenVinoEngine
from djinn_fx.engines.ranges.program import Checked, CheckProgram
from djinn_fx.reasons import Reason
from djinn_fx.srg.effects import written_places

SHARE = 0.01
#: Turns of four calls.
TURNS, QUICK_TURNS = 200, 20
#: How often both sides are opened anew.
OPENINGS = 4
ENGINES = {"onnxruntime": OnnxRuntimeEngine, "openvino": OpenVinoEngine}


class NoConditions(conditions.Conditions):
    """A converter's conditions, none of which is made."""

    def before(self, node: Any, checked: bool) -> dict[Any, Any]:
        return {}

    def after(self, node: Any, value: Any) -> None: ...

    def take(self, node: Any) -> None: ...

    def give(self, node: Any) -> None: ...


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write. Returns the exit code."""
    made = parser(__doc__ or "")
    made.add_argument("--models", default=None, help="names of bench/engines/engines.py, with commas between")
    arguments = parse(made, argv)
    cases = [case for case in (QUICK_CASES if arguments.quick else CASES) if _wanted(case, arguments.models)]
    report, rows, shares = Report("conditions", arguments), [], []
    for case in cases:
        for graph, given, weights in graphs(case, arguments.quick):
            for name in ENGINES:
                found = compare(name, graph, given, weights, QUICK_TURNS if arguments.quick else TURNS)
                if isinstance(found, str):
                    rows.append([case, name, found, "", "", ""])
                    continue
                call, added, noise, checks = found
                share = report.measured(f"{case}/{name}/share", [one / call for one in added], "1")
                shares.append(share)
                micro = 1e6 * statistics.median(added)
                rows.append(
                    [case, name, f"{1e3 * call:.2f}", f"{micro:.1f}", f"{100 * share:.2f} %", f"{1e6 * noise:.1f}"]
                )
                report.fact(f"{case}/{name}", {"call_s": call, "added_us": micro, "noise_us": 1e6 * noise, **checks})
    print(table(["case", "engine", "call, ms", "added, us", "share", "noise, us"], rows))
    report.bar("added_share_worst", max(shares, default=None), SHARE)
    report.bar("added_share_median", statistics.median(shares) if shares else None, SHARE)
    return report.finish()


def _wanted(case: str, models: str | None) -> bool:
    return models is None or case.partition("/")[0] in models.split(",")


def graphs(case: str, quick: bool) -> list[tuple[GraphModule, list[Any], tuple[int, ...]]]:
    """The case's graphs, what each is called with, and which of that are the module's own weights."""
    torch._dynamo.reset()
    work = workload(case, 1, quick)
    work.reset()
    own = {one.data_ptr() for one in (*work.module.parameters(), *work.module.buffers())}
    found: list[tuple[GraphModule, list[Any], tuple[int, ...]]] = []

    def compiler(graph: GraphModule, _: Any) -> Any:
        written = written_places(graph.graph)

        def run(*given: Any) -> Any:
            tensors = [place for place, one in enumerate(given) if isinstance(one, torch.Tensor)]
            weights = tuple(place for place in tensors if given[place].data_ptr() in own and place not in written)
            values = [one.detach().clone() if isinstance(one, torch.Tensor) else one for one in given]
            found.append((graph, values, weights))
            return graph(*given)

        return make_boxed_func(run)

    backend = aot_autograd(fw_compiler=compiler, inference_compiler=compiler, keep_inference_input_mutations=True)
    with torch.no_grad():
        torch.compile(work.module, backend=backend)(*work.inputs)
    return found


def compare(
    name: str, graph: GraphModule, given: list[Any], weights: tuple[int, ...], turns: int
) -> tuple[float, list[float], float, dict[str, Any]] | str:
    """Seconds of a call, seconds added turn by turn, how far two halves of these are apart, and what is checked."""
    engine, region = ENGINES[name](), whole(graph, weights)
    refused = engine.supports(region)
    if isinstance(refused, Reason):
        return f"refused: {refused.detail[:60]}"
    made = engine.compile(region)
    with without_conditions():
        plain = ENGINES[name]().compile(region)  # the other one remembers what it made of this graph
    same = made.payload == plain.payload
    added: list[float] = []
    calls: list[float] = []
    for number in range(OPENINGS):
        run = engine.load(made)
        sides = [run, run if same else engine.load(plain)]
        in_turn(sides[:: -1 if number % 2 else 1], given, 2)  # opens them, now the one first, now the other
        for took_more, call in in_turn(sides, given, -(-turns // OPENINGS)):
            added.append(took_more)
            calls.append(call)
        del run, sides
    halves = [statistics.median(added[start::2]) for start in (0, 1)]
    signature = made.header["signature"]
    facts = {"checks": len(signature["program"]["checks"]), "flag": signature["flag"] is not None, "same_model": same}
    return statistics.median(calls), added, abs(halves[0] - halves[1]), facts


def in_turn(sides: Sequence[Callable[..., Any]], given: list[Any], turns: int) -> list[tuple[float, float]]:
    """By turn: seconds that the first side takes more than the second, and that the second takes."""
    found = []
    checked = Checked.__call__
    with no_gc():
        for _ in range(turns):
            seconds = []
            for side in (0, 1, 1, 0):
                Checked.__call__ = unchecked if side else checked  # type: ignore[method-assign]
                try:
                    seconds.append(timed(sides[side], given))
                finally:
                    Checked.__call__ = checked  # type: ignore[method-assign]
            found.append(((seconds[0] + seconds[3] - seconds[1] - seconds[2]) / 2, (seconds[1] + seconds[2]) / 2))
    return found


@contextmanager
def without_conditions() -> Iterator[None]:
    """Convert without them; what only they read is left out of the model."""
    with (
        patch.object(convert, "Conditions", NoConditions),
        patch.object(convert.Ranges, "program", lambda self: CheckProgram()),
        patch.object(GraphBuilder, "require", lambda *_, **__: None),
    ):
        yield


def unchecked(self: Checked, args: Sequence[Any]) -> None:
    """In the place of a look at arguments."""


def whole(graph: GraphModule, weights: tuple[int, ...]) -> RegionGraph:
    """A graph as one region."""
    nodes = graph.graph.find_nodes(op="placeholder")
    return RegionGraph(
        gm=graph,
        structural_hash="",
        canonical=None,
        example_inputs=tuple(node.meta["val"] for node in nodes),
        label="whole",
        kind="inference",
        weights=weights,
    )


def fresh(given: list[Any]) -> list[Any]:
    """Arguments for one call: a cache counts its tokens, and would be full after some."""
    counts = [isinstance(one, torch.Tensor) and not one.is_floating_point() and one.numel() <= 1 for one in given]
    return [one.clone() if count else one for one, count in zip(given, counts, strict=True)]


def timed(run: Callable[..., Any], given: list[Any]) -> float:
    """Seconds of a call."""
    args = fresh(given)
    start = time.perf_counter()
    run(args)
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(main())
