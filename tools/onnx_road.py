"""Measure two roads to a TensorRT plan: our ONNX model through TensorRT's own parser, and our network description.

    python tools/onnx_road.py ops OUT.json [--part K/N] [OP …]     samples of torch's database of ops
    python tools/onnx_road.py families OUT.json [FAMILY …]         layers of eleven families
    python tools/onnx_road.py join OUT.json PART.json …            the figures of bench/results/onnx_road.json

Of ops it is counted which samples each road takes; of models, whether ONNX Runtime gives eager's numbers too. Of
families, seconds of CPU, bytes of the plan, whether weights are inputs, and whether each attention stayed one node.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import tensorrt_rtx as trt
import torch
from torch._dynamo.backends.common import aot_autograd
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing._internal.common_methods_invocations import op_db

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]  # the samples are the other tool's, the families the tests'

import tensorrt_table as table  # noqa: E402

from bench.harness import machine  # noqa: E402
from djinn_fx.engines.base import Declined, RegionGraph  # noqa: E402
from djinn_fx.engines.onnx.convert import OnnxRegion, convert  # noqa: E402
from djinn_fx.engines.onnx.values import Refused  # noqa: E402
from djinn_fx.engines.ranges.program import Checked  # noqa: E402
from djinn_fx.engines.tensorrt import builder, parse_onnx, worker  # noqa: E402
from djinn_fx.engines.tensorrt.convert import convert as direct  # noqa: E402
from djinn_fx.engines.tensorrt.flavour import logger  # noqa: E402
from djinn_fx.engines.tensorrt.mapping import ranges_of  # noqa: E402
from djinn_fx.engines.tensorrt.model_run import Rehearsal  # noqa: E402
from djinn_fx.pool.jobs import BuildError  # noqa: E402
from djinn_fx.reasons import Reason  # noqa: E402
from tests.engines.tensorrt import test_convert_families as families  # noqa: E402

#: The types of what was built of an op.
BUILT: set[str] = set()
FLAVOUR, TARGET, GROWTH = "tensorrt_rtx", "sm89", 8


# Ops


def region_of(graph: torch.fx.GraphModule) -> RegionGraph:
    """A traced graph as a region."""
    fakes = tuple(node.meta["val"] for node in graph.graph.find_nodes(op="placeholder"))
    return RegionGraph(
        gm=graph, structural_hash="", canonical=None, kind="inference", label="sample", example_inputs=fakes
    )


def by_onnx(region: RegionGraph, tensors: list[torch.Tensor], expected: list[torch.Tensor], defined: bool) -> str:
    """What becomes of a sample on the road through ONNX: ``right``, or why not."""
    try:
        found = convert(region, "tensorrt")
    except Refused as refused:
        return f"refused: {str(refused).split(' (at ')[0]}"
    try:
        parse_onnx.parse(trt, found.model, trt.Builder(logger(trt)))
    except BuildError as error:
        return f"parser: {error.detail[:160]}"
    try:
        actual = run(found, tensors)
    except Declined:
        return "right"  # torch answers such a call
    except Exception as error:  # noqa: BLE001 (recorded among the figures)
        return f"not run: {str(error).splitlines()[0][-160:]}"
    difference = table._difference(actual, expected, defined)
    if difference is not None:
        return f"wrong: {difference[1:]}"
    kind = str([(one.type.tensor_type.elem_type) for one in onnx.load_from_string(found.model).graph.input])
    if kind not in BUILT:  # one plan an op and type: a second a hundred
        BUILT.add(kind)
        try:
            worker.build({"onnx": True, "ranges": {}, "flavour": FLAVOUR, "target": TARGET}, (found.model,))
        except BuildError as error:
            return f"not built: {error.detail[:160]}"
    return "right"


def run(found: OnnxRegion, arguments: Sequence[Any]) -> list[Any]:
    """The region's results, its model run by ONNX Runtime.

    Raises:
        Declined: torch would answer.
    """
    signature, given = found.signature, list(arguments)
    Checked(signature.program, signature.symbols)(given)
    outputs = Rehearsal(found.model)([given[one.place] for one in signature.fed])
    signature.check(outputs)
    signature.write_back(outputs, given)
    return signature.assemble(outputs, given)


def attempt(function: Callable[..., Any], tensors: list[torch.Tensor], defined: bool) -> dict[str, str] | None:
    """What becomes of a sample on both roads; None if there is nothing to convert."""
    with torch.no_grad():
        torch.manual_seed(0)
        try:
            expected = function(*table._copies(tensors))
            graph = make_fx(torch.func.functionalize(function, remove="mutations"), tracing_mode="fake")(*tensors)
        except Exception:  # noqa: BLE001 (eager refuses it, or it cannot be traced: no road's business)
            return None
        region = region_of(graph)
        verdict = by_onnx(region, table._copies(tensors), expected, defined)
        if verdict.startswith("wrong") and any(one.dtype in table.HALVES for one in expected):
            actual = run(convert(region, "tensorrt"), table._copies(tensors))
            verdict = verdict if further(actual, expected, function, tensors) else "right"
        other = direct(region)
    return {"onnx": verdict, "direct": other.detail if isinstance(other, Reason) else "right"}


def further(
    actual: Sequence[Any], expected: Sequence[torch.Tensor], function: Callable[..., Any], tensors: list[torch.Tensor]
) -> bool:
    """Whether a result is further than eager's from what float32 gives: eager may add up in halves, or overflow."""
    torch.manual_seed(0)
    wide = function(*(one.float() if one.dtype in table.HALVES else one.clone() for one in tensors))
    for mine, other, exact in zip(actual, expected, wide, strict=True):
        errors = [float((one.float() - exact.float()).abs().nan_to_num().max()) for one in (mine, other)]
        finite = (exact.to(other.dtype).isfinite(), other.isfinite())
        if not any(torch.equal(mine.isfinite(), one) for one in finite) or errors[0] > 2 * errors[1] + 1e-6:
            return True
        if mine.dtype not in table.HALVES and not torch.equal(mine, other):
            return True
    return False


def ops(chosen: Sequence[Any]) -> dict[str, Any]:
    """Verdicts by op and type."""
    found: dict[str, Any] = {}
    for op in chosen:
        BUILT.clear()
        for dtype in table.DTYPES:
            if dtype not in op.supported_dtypes("cpu"):
                continue
            verdicts = []
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for function, tensors in table._samples(op, dtype):
                    verdict = attempt(function, tensors, op.name not in table.UNDEFINED)
                    if verdict is not None:
                        verdicts.append(verdict)
            if verdicts:
                found.setdefault(table.full_name(op), {})[str(dtype).removeprefix("torch.")] = {
                    road: dict(Counter(one[road] for one in verdicts)) for road in ("onnx", "direct")
                }
    return found


# Families


def captured(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], dynamic: bool) -> list[Any]:
    """The graphs of a function as regions, with the arguments of each of their calls and eager's results."""
    graphs: list[Any] = []

    def compiler(gm: torch.fx.GraphModule, _: Any) -> Any:
        seen: list[Any] = []
        graphs.append((gm, seen))

        def call(args: list[Any]) -> Any:
            given = [one.clone() if isinstance(one, torch.Tensor) else one for one in args]
            results = gm(*args)
            seen.append((given, results))
            return results

        call._boxed_call = True  # type: ignore[attr-defined]
        return call

    def backend(gm: torch.fx.GraphModule, inputs: Any) -> Any:
        how = {"fw_compiler": compiler, "inference_compiler": compiler, "keep_inference_input_mutations": True}
        return aot_autograd(**how)(gm, inputs)

    torch._dynamo.reset()
    compiled = torch.compile(function, backend=backend, dynamic=dynamic, fullgraph=True)
    with torch.no_grad():
        for args in calls:
            compiled(*args)
    torch._dynamo.reset()
    return [(region_of(gm), seen) for gm, seen in graphs]


def plan_by_onnx(region: RegionGraph) -> tuple[dict[str, Any], OnnxRegion]:
    """Figures of a region's plan through ONNX."""
    start = time.process_time()
    found = convert(region, "tensorrt")
    ranges = ranges_of(found.sizes, GROWTH)
    converted = time.process_time()
    asked = {"onnx": True, "ranges": {name: [one.least, one.usual, one.most] for name, one in ranges.items()}}
    header, plan = worker.build({**asked, "flavour": FLAVOUR, "target": TARGET}, (found.model,))
    kinds = Counter(node.op_type for node in onnx.load_from_string(found.model).graph.node)
    return {
        "convert_s": round(converted - start, 4),
        "build_s": round(time.process_time() - converted, 3),
        "plan_bytes": len(plan),
        "model_bytes": len(found.model),
        "inputs": len(header["inputs"]),
        "attention": kinds["Attention"],
        "sizes": len(ranges),
        "flag": found.signature.flag is not None,
    }, found


def plan_by_description(region: RegionGraph) -> dict[str, Any]:
    """Figures of a region's plan by our network description."""
    start = time.process_time()
    found = direct(region)
    if isinstance(found, Reason):
        return {"refused": found.detail}
    asked = {"network": found.network.to_json(), "flavour": FLAVOUR, "target": TARGET}
    asked["calling"] = builder.calling_of(found, len(region.example_inputs)).to_json()
    converted = time.process_time()
    header, plan = builder.build(asked, found.network.blobs)
    return {
        "convert_s": round(converted - start, 4),
        "build_s": round(time.process_time() - converted, 3),
        "plan_bytes": len(plan),
        "inputs": len(header["inputs"]),
        "attention": sum(layer.kind == "attention" for layer in found.network.layers),
        "sizes": len(found.network.symbols),
    }


def apart(actual: Sequence[Any], expected: Sequence[Any]) -> float:
    """The largest difference of a result, as a share of its largest element."""
    pairs = [(a, b) for a, b in zip(actual, expected, strict=True) if isinstance(b, torch.Tensor)]
    return max((float((a.float() - b.float()).abs().max() / b.float().abs().max().clamp(min=1e-9)) for a, b in pairs),
               default=0.0)  # fmt: skip


def family(name: str, dtype: torch.dtype, dynamic: bool) -> dict[str, Any]:
    """Both roads' figures of a family's layer."""
    module, *calls = families.FAMILIES[name]()
    function = families.function_of(name, module.to(dtype))  # type: ignore[attr-defined]
    calls = [
        tuple(one.to(dtype) if isinstance(one, torch.Tensor) and one.is_floating_point() else one for one in call)
        for call in calls
    ]
    ((region, seen),) = captured(function, calls[: 1 + dynamic], dynamic)
    try:
        figures, found = plan_by_onnx(region)
        figures["apart"] = float(f"{max(apart(run(found, given), results) for given, results in seen):.2g}")
    except (Refused, BuildError, Declined) as error:
        figures = {"refused": str(error)}
    return {"onnx": figures, "direct": plan_by_description(region)}


def measure_families(names: Sequence[str]) -> dict[str, Any]:
    """All of them: types, and sizes that are fixed or change."""
    found: dict[str, Any] = {}
    plan_by_onnx(region_of(make_fx(lambda x: (x + 1,), tracing_mode="fake")(torch.ones(3))))  # what is loaded once
    for name in names:
        for dtype in families.DTYPES:
            for dynamic in (False, True):
                key = f"{name} {str(dtype).removeprefix('torch.')} {'dynamic' if dynamic else 'static'}"
                found[key] = family(name, dtype, dynamic)
                print(key, found[key]["onnx"], flush=True)
    return found


# The figures


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Ops taken whole, in part and refused by each road, and what only one of them takes."""
    counts: dict[str, Counter[str]] = {"onnx": Counter(), "direct": Counter()}
    only: dict[str, dict[str, int]] = {"onnx": {}, "direct": {}}
    wrong: dict[str, Any] = {}
    for op, types in found.items():
        for road in counts:
            taken = sum(one[road].get("right", 0) for one in types.values())
            every = sum(sum(one[road].values()) for one in types.values())
            counts[road]["whole" if taken == every else "part" if taken else "refused"] += 1
            counts[road]["samples"] += taken
        for dtype, one in types.items():
            difference = one["onnx"].get("right", 0) - one["direct"].get("right", 0)
            if difference:
                only["onnx" if difference > 0 else "direct"][f"{op} {dtype}"] = abs(difference)
            bad = {text: count for text, count in one["onnx"].items() if text.startswith(("wrong", "not "))}
            if bad:
                wrong[f"{op} {dtype}"] = bad
    return {
        "ops": len(found),
        "taken": {road: dict(sorted(one.items())) for road, one in counts.items()},
        "more samples through ONNX, by op and type": len(only["onnx"]),
        "more samples by description": only["direct"],
        "wrong, not run or not built": wrong,
    }


def main(arguments: list[str]) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("ops", "families", "join"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--part", default="0/1")
    parser.add_argument("names", nargs="*")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    if given.what == "ops":
        place, parts = (int(number) for number in given.part.split("/"))
        chosen = [op for op in op_db if not given.names or {op.name, table.full_name(op)} & set(given.names)]
        found: dict[str, Any] = ops(chosen[place::parts])
        print(json.dumps(summary(found), indent=1))
    elif given.what == "families":
        found = measure_families(given.names or list(families.FAMILIES))
    else:
        parts_found = [json.loads(Path(name).read_text("utf-8")) for name in given.names]
        tried = {op: one for part in parts_found for op, one in part.items() if " static" not in op + " "}
        layers = {key: one for part in parts_found for key, one in part.items() if "onnx" in one}
        tried = {op: one for op, one in tried.items() if op not in layers}
        found = {"device": machine.device(), "ops": summary(tried), "layers": layers}
    given.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
