"""Measure the road to a TensorRT plan by our ONNX model and TensorRT's own parser, on layers of eleven families.

    python tools/onnx_road.py [--json FILE] [FAMILY …]

Seconds of CPU, bytes of the plan, whether weights are inputs, whether each attention stayed one node, and how far the
model's numbers, by ONNX Runtime, are from eager's. What operators are taken, `tools/tensorrt_table.py` says. In
``bench/results/onnx_road.json`` the figures of both stand beside those of the network descriptions that were there
before (``direct``, measured by this tool at commit 2dc5420).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch._dynamo.backends.common import aot_autograd
from torch.fx.experimental.proxy_tensor import make_fx

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]  # how models are run is the other tool's, the families the tests'

from tensorrt_table import region_of, run  # noqa: E402

from djinn_fx.engines.base import Declined, RegionGraph  # noqa: E402
from djinn_fx.engines.onnx.convert import OnnxRegion, convert  # noqa: E402
from djinn_fx.engines.onnx.values import Refused  # noqa: E402
from djinn_fx.engines.tensorrt.building import worker  # noqa: E402
from djinn_fx.engines.tensorrt.mapping import GROWTH, ranges_of  # noqa: E402
from djinn_fx.pool.jobs import BuildError  # noqa: E402
from tests.engines.tensorrt import test_convert_families as families  # noqa: E402

FLAVOUR, TARGET = "tensorrt_rtx", "sm89"


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


def plan(region: RegionGraph) -> tuple[dict[str, Any], OnnxRegion]:
    """Figures of a region's plan."""
    start = time.process_time()
    found = convert(region, "tensorrt")
    ranges = ranges_of(found.sizes, GROWTH)
    converted = time.process_time()
    asked = {"ranges": {name: [one.least, one.usual, one.most] for name, one in ranges.items()}}
    header, made = worker.build({**asked, "flavour": FLAVOUR, "target": TARGET}, (found.model,))
    kinds = Counter(node.op_type for node in onnx.load_from_string(found.model).graph.node)
    return {
        "convert_s": round(converted - start, 4),
        "build_s": round(time.process_time() - converted, 3),
        "plan_bytes": len(made),
        "model_bytes": len(found.model),
        "inputs": len(header["inputs"]),
        "attention": kinds["Attention"],
        "sizes": len(ranges),
        "flag": found.signature.flag is not None,
    }, found


def apart(actual: Sequence[Any], expected: Sequence[Any]) -> float:
    """The largest difference of a result, as a share of its largest element."""
    pairs = [(a, b) for a, b in zip(actual, expected, strict=True) if isinstance(b, torch.Tensor)]
    return max((float((a.float() - b.float()).abs().max() / b.float().abs().max().clamp(min=1e-9)) for a, b in pairs),
               default=0.0)  # fmt: skip


def family(name: str, dtype: torch.dtype, dynamic: bool) -> dict[str, Any]:
    """The figures of a family's layer."""
    module, *calls = families.FAMILIES[name]()
    function = families.function_of(name, module.to(dtype))  # type: ignore[attr-defined]
    calls = [
        tuple(one.to(dtype) if isinstance(one, torch.Tensor) and one.is_floating_point() else one for one in call)
        for call in calls
    ]
    ((region, seen),) = captured(function, calls[: 1 + dynamic], dynamic)
    try:
        figures, found = plan(region)
        figures["apart"] = float(f"{max(apart(run(found, given), results) for given, results in seen):.2g}")
    except (Refused, BuildError, Declined) as error:
        figures = {"refused": str(error)}
    return figures


def measure_families(names: Sequence[str]) -> dict[str, Any]:
    """All of them: types, and sizes that are fixed or change."""
    found: dict[str, Any] = {}
    plan(region_of(make_fx(lambda x: (x + 1,), tracing_mode="fake")(torch.ones(3))))  # what is loaded once
    for name in names:
        for dtype in families.DTYPES:
            for dynamic in (False, True):
                key = f"{name} {str(dtype).removeprefix('torch.')} {'dynamic' if dynamic else 'static'}"
                found[key] = family(name, dtype, dynamic)
                print(key, found[key], flush=True)
    return found


def main(arguments: list[str]) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("families", nargs="*")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = measure_families(given.families or list(families.FAMILIES))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return int(any("refused" in one for one in found.values()))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
