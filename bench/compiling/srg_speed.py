"""What planning costs: lowering, hashing, each pass and the whole pipeline, on graphs of 1,000 and 10,000 ops.

Two kinds of graph: a Llama as Dynamo captures it (with module paths), and a functional loop as make_fx makes it
(without). Nothing is compiled.

    python bench/compiling/srg_speed.py --json bench/results/srg_speed.json
    python bench/compiling/srg_speed.py --quick
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from bench.harness.harness import Report, no_gc, parse, parser, successive, table
from bench.harness.models import build
from djinn_fx.backend import capture
from djinn_fx.passes.base import PassContext, run_passes
from djinn_fx.passes.pipeline import DEFAULT
from djinn_fx.settings.table import Settings
from djinn_fx.srg.form.hashing import canonical_form, structural_hash
from djinn_fx.srg.lower import lower

LOWER_1000_OPS_MS = 100.0
HASH_1000_OPS_MS = 50.0
SIZES = (1_000, 10_000)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write. Returns the exit code."""
    arguments = parse(parser(__doc__ or "", runs=9), argv)
    report = Report("srg_speed", arguments)
    repeats = 3 if arguments.quick else arguments.runs
    worst = {"lower": 0.0, "hash": 0.0}
    for size in SIZES[:1] if arguments.quick else SIZES:
        for name, make in {"llama": llama, "loop": loop}.items():
            start = time.perf_counter()
            gm = make(size)
            ops = op_count(gm)
            print(f"\n{name}, {ops:,} ops (captured in {time.perf_counter() - start:.1f} s)", flush=True)
            medians = show(f"{name} {size}", ops, measure(gm, repeats), report)
            if size == SIZES[0]:
                worst = {step: max(worst[step], medians[step] / ops * 1_000) for step in worst}
    report.bar("lower_1000_ops_ms", worst["lower"], LOWER_1000_OPS_MS)
    report.bar("hash_1000_ops_ms", worst["hash"], HASH_1000_OPS_MS)
    return report.finish()


# -- graphs -------------------------------------------------------------------------------------------------------


def llama(ops: int) -> GraphModule:
    """A Llama of about so many ops, as AOTAutograd gives it to a backend's compiler."""
    one, two = (op_count(_llama_of(layers)) for layers in (1, 2))
    return _llama_of(max(1, round((ops - one) / (two - one)) + 1))


def _llama_of(layers: int) -> GraphModule:
    model, inputs, _ = build(f"llama-{layers}", quick=True)
    with torch.no_grad():
        (graph,) = capture(model, (), inputs, settings=Settings()).graphs
    return graph.srg.gm


def loop(ops: int) -> GraphModule:
    """A functional model written as a loop, traced by make_fx: no module paths, eight ops a turn."""
    weights = [torch.randn(32, 32) for _ in range(ops // 8)]

    def run(x: torch.Tensor, weights: list[torch.Tensor]) -> torch.Tensor:
        for weight in weights:
            y = torch.mm(x, weight)
            y = torch.sigmoid(y) * y
            y = y - y.mean(dim=-1, keepdim=True)
            x = torch.tanh(x + y) * 0.5
        return x

    return make_fx(run, tracing_mode="fake")(torch.randn(4, 32), weights)


def op_count(gm: GraphModule) -> int:
    """How many ops a graph has."""
    return sum(node.op == "call_function" for node in gm.graph.nodes)


# -- measuring ----------------------------------------------------------------------------------------------------


def measure(gm: GraphModule, repeats: int) -> dict[str, list[float]]:
    """Seconds of every step, one figure a repeat: ``lower``, ``hash``, each pass, ``pipeline`` for all passes."""
    found: dict[str, list[float]] = {}
    for turn in range(repeats + 1):  # the first fills caches and is not counted
        with no_gc():
            for step, seconds in _once(gm).items():
                if turn:
                    found.setdefault(step, []).append(seconds)
    return found


def _once(gm: GraphModule) -> dict[str, float]:
    clock = time.perf_counter
    start = clock()
    srg = lower(gm)
    lowered = clock()
    ops = [node for node in srg.nodes if node.op == "call_function"]
    results = [node for node in srg.output.all_input_nodes if node.op == "call_function"]
    sources = [node for node in srg.nodes if node.op in ("placeholder", "get_attr")]
    hashing = clock()
    structural_hash(canonical_form(ops, sources, results))
    hashed = clock()
    timings = run_passes(srg, DEFAULT, PassContext()).timings
    end = clock()
    passes = {f"pass {one.name}": one.seconds for one in timings}
    return {"lower": lowered - start, "hash": hashed - hashing, **passes, "pipeline": end - hashed}


def show(name: str, ops: int, samples: dict[str, list[float]], report: Report) -> dict[str, float]:
    """Print one graph's figures and put them into the report. Returns the median of each step in ms."""
    medians, rows = {}, []
    for step, seconds in samples.items():
        medians[step] = report.measured(f"{name} {step}", [s * 1e3 for s in seconds], "ms")
        noise = successive(seconds)
        spread = "" if noise is None else f"{noise.low:.2f}-{noise.high:.2f}"
        smallest = f"{min(seconds) * 1e3:.2f}"
        rows.append([step, f"{medians[step]:.2f}", smallest, f"{medians[step] / ops * 1e3:.2f}", spread])
    report.fact(f"{name} ops", ops)
    print(table(["step", "ms", "smallest", "us an op", "noise"], rows), flush=True)
    return medians


if __name__ == "__main__":
    sys.exit(main())
