"""What it costs a call to be sure of its values: indices in range, numbers that the runtime computes as torch does.

Each model of the engines' bench is converted twice for each runtime, with the conditions and without; both are called
in turn, pair by pair, in one process. Bar: at most 1 % of a call.

    python bench/engines/conditions.py --json bench/results/conditions.json
    python bench/engines/conditions.py --models bert,t5
    python bench/engines/conditions.py --quick
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
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
from djinn_fx.engines.ranges.program import CheckProgram
from djinn_fx.reasons import Reason
from djinn_fx.srg.effects import written_places

SHARE = 0.01
PAIRS, QUICK_PAIRS = 200, 20
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
                found = compare(name, graph, given, weights, QUICK_PAIRS if arguments.quick else PAIRS)
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
    name: str, graph: GraphModule, given: list[Any], weights: tuple[int, ...], pairs: int
) -> tuple[float, list[float], float, dict[str, Any]] | str:
    """Seconds of a call, seconds added pair by pair, the same of a side against itself, and what is checked."""
    with_them = opened(name, graph, given, weights)
    with (
        patch.object(convert, "Conditions", NoConditions),
        patch.object(convert.Ranges, "program", lambda self: CheckProgram()),
        patch.object(GraphBuilder, "require", lambda *_, **__: None),  # what only it reads is left out of the model
    ):
        without = opened(name, graph, given, weights)
    if isinstance(with_them, str) or isinstance(without, str):
        return with_them if isinstance(with_them, str) else "refused without conditions"
    added, noise, calls = [], [], []
    with no_gc():
        for turn in range(pairs):
            sides = [with_them[0], without[0], without[0]]
            order = [0, 1, 2] if turn % 2 else [2, 1, 0]
            seconds = {side: timed(sides[side], given) for side in order}
            added.append(seconds[0] - seconds[1])
            noise.append(seconds[2] - seconds[1])
            calls.append(seconds[1])
    return statistics.median(calls), added, abs(statistics.median(noise)), with_them[1]


def opened(
    name: str, graph: GraphModule, given: list[Any], weights: tuple[int, ...]
) -> tuple[Callable[..., Any], dict[str, Any]] | str:
    """A graph on an engine, opened; or why not."""
    nodes = graph.graph.find_nodes(op="placeholder")
    region = RegionGraph(
        gm=graph,
        structural_hash="",
        canonical=None,
        example_inputs=tuple(node.meta["val"] for node in nodes),
        label="whole",
        kind="inference",
        weights=weights,
    )
    engine = ENGINES[name]()
    refused = engine.supports(region)
    if isinstance(refused, Reason):
        return f"refused: {refused.detail[:60]}"
    artefact = engine.compile(region)
    run = engine.load(artefact)
    for _ in range(3):
        run(fresh(given))
    signature = artefact.header["signature"]
    return run, {"checks": len(signature["program"]["checks"]), "flag": signature["flag"] is not None}


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
