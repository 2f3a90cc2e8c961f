"""What bench/compiling/compile_time.py runs in processes of its own. Every function takes and gives JSON values."""

from __future__ import annotations

import os
import statistics
import time
import types
from collections.abc import Callable
from typing import Any

import torch

import djinn_fx.backend
from bench.engines.watch import COMPILES, Watch, phases
from bench.harness.measuring import rotated, time_block, time_calls
from bench.harness.models import backend_of, build, result, twin

# This bench is about what Inductor compiles; bench/engines/engines.py is about the choice between engines.
os.environ.setdefault("DJINN_ENGINE", "inductor")

#: An answer is wrong if it differs from eager's by more than this share of eager's largest value.
TOLERANCE = 1e-4


def first_call(backend: str, model: str, quick: bool) -> dict[str, Any]:
    """Compile a model and call it once.

    The clock starts after the imports and the making of the model, just before ``torch.compile``. What torch or a
    backend imports from there on counts.
    """
    net, inputs, others = build(model, quick)
    chosen = backend_of(backend)
    with Watch() as watch, torch.no_grad():
        start = time.perf_counter()
        compiled = torch.compile(net, backend=chosen)
        first = compiled(**inputs)
        seconds = time.perf_counter() - start
    found: dict[str, Any] = {
        "seconds": seconds,
        "phases": phases(backend, seconds, watch),
        "imports_s": round(watch.imports_s, 4),
        "threads": torch.get_num_threads(),
        **_difference(net, inputs, first),
    }
    if backend == "djinn":
        found |= _regions(watch)
    with torch.no_grad():
        again = _difference(net, others, compiled(**others))
    return found | {"wrong": found["wrong"] or again["wrong"], "error": max(found["error"], again["error"])}


@torch.no_grad()
def _difference(net: torch.nn.Module, inputs: dict[str, Any], output: Any) -> dict[str, Any]:
    """How far an answer is from eager's: the largest difference, as a share of eager's largest value too."""
    expected, got = result(net(**inputs)).double(), result(output).double()
    if got.shape != expected.shape or not torch.equal(got.isfinite(), expected.isfinite()):
        return {"error": float(expected.abs().max()), "relative_error": 1.0, "wrong": True}
    error = float((got - expected).abs().max())
    relative = error / max(float(expected.abs().max()), 1e-30)
    return {"error": error, "relative_error": relative, "wrong": relative > TOLERANCE}


def _regions(watch: Watch) -> dict[str, Any]:
    """How djinn cut the model up, and what it compiled."""
    graphs = djinn_fx.backend.compilations()
    regions = [region for graph in graphs for region in graph.plan.regions]
    hashes = [region.structural_hash for region in regions]
    builds = [
        {
            "label": region.label,
            "ops": len(region.nodes),
            "outcome": built.outcome,
            "engine": built.engine,
            "seconds": round(built.seconds, 4),
        }
        for graph in graphs
        for region, built in zip(graph.plan.regions, graph.builds, strict=True)
        if built.seconds > 0
    ]
    made = sum(one["outcome"] == "built" for one in builds)
    return {
        "graphs": len(graphs),
        "ops": sum(len(region.nodes) for region in regions),
        "regions": len(regions),
        "distinct": len({digest for digest in hashes if digest}) + hashes.count(""),
        "compiles": made if COMPILES in watch.missing else watch.calls[COMPILES],
        "fallbacks": sum(built.outcome == "fallback" for graph in graphs for built in graph.builds),
        "builds": builds,
        "passes": {one.name: round(one.seconds, 5) for graph in graphs for one in graph.pass_timings},
        "unwatched": watch.missing,
    }


def steady(model: str, quick: bool, rounds: int, block_s: float) -> dict[str, Any]:
    """Calls of both compiled models in one process, in blocks that take turns.

    Each backend has a copy of the model with the same weights. ``inductor again`` is the same callable as
    ``inductor``: their ratio is the noise floor.

    Returns:
        Seconds a call by case, one figure a block (the median of its calls), and how far the answers are from eager's.
    """
    net, inputs, others = build(model, quick)
    nets = {"djinn": torch.compile(twin(net), backend=backend_of("djinn"))}
    nets["inductor"] = torch.compile(twin(net), backend="inductor")
    with torch.no_grad():
        calls: dict[str, Callable[[], Any]] = {}
        for name, compiled in nets.items():
            compiled(**inputs)
            calls[name] = lambda compiled=compiled: compiled(**inputs)  # type: ignore[misc]
        calls["inductor again"] = calls["inductor"]
        calls["eager"] = lambda: net(**inputs)
        warm_up = {name: statistics.median(time_calls(call, 5)) for name, call in calls.items()}
        number = max(5, int(block_s / max(warm_up.values())))
        samples: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(rounds):
            for name in rotated(list(calls), turn):
                samples[name].append(statistics.median(time_calls(calls[name], number)))
        checks = {name: _difference(net, others, compiled(**others)) for name, compiled in nets.items()}
    return {"samples": samples, "calls_a_block": number, "checks": checks}


def _one_op(x: torch.Tensor) -> torch.Tensor:
    return x + 1


def _three_ops(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x * 2 + 1)


OVERHEAD_GRAPHS = {"x + 1": _one_op, "relu(x * 2 + 1)": _three_ops}
OVERHEAD_BACKENDS = ("eager", "eager again", "aot_eager", "inductor", "djinn")


def overhead(rounds: int, calls: int, quick: bool = False) -> dict[str, Any]:
    """What a call of a tiny compiled graph costs; with ``quick`` of the first graph only.

    Returns:
        Microseconds a call by graph and backend, one figure a block; ``eager again`` is compiled like ``eager``.
    """
    found: dict[str, Any] = {}
    x = torch.arange(4.0)
    for graph, function in list(OVERHEAD_GRAPHS.items())[: 1 if quick else None]:
        cases: dict[str, Callable[[], Any]] = {}
        for backend in OVERHEAD_BACKENDS:
            # Each has a code object of its own: Dynamo keeps what it compiled with the code object.
            copy = types.FunctionType(function.__code__.replace(), function.__globals__, function.__name__)
            compiled = torch.compile(copy, backend=backend_of(backend.partition(" ")[0]))
            assert torch.equal(compiled(x), function(x)), f"{backend} answers {graph} wrongly"
            cases[backend] = lambda compiled=compiled: compiled(x)  # type: ignore[misc]
        for case in cases.values():
            time_block(case, calls // 4)
        samples: dict[str, list[float]] = {name: [] for name in cases}
        for turn in range(rounds):
            for name in rotated(list(cases), turn):
                samples[name].append(time_block(cases[name], calls) * 1e6)
        found[graph] = samples
    return found
