"""The third builder: torch_tensorrt's converters, where that library can be imported.

It needs CUDA to be imported at all, so this road is closed on a machine without a GPU, and it builds in the process
that compiles. It takes the region as it is, weights as inputs like everything else. Regions with sizes that differ from
call to call, or that write into their arguments, are left to the other builders: their mapping is not told by it.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from typing import Any

import torch

from djinn_fx.engines.base import Artefact, RegionGraph
from djinn_fx.engines.bound.signature import Given
from djinn_fx.engines.lowering.effects import Effects
from djinn_fx.engines.tensorrt.building.parse_onnx import TYPES
from djinn_fx.engines.tensorrt.run.calling import Calling, Made, Taken
from djinn_fx.srg.graph import fake_value


@functools.cache
def why_not() -> str | None:
    """Why torch_tensorrt cannot be used here; None if it can."""
    try:
        importlib.import_module("torch_tensorrt")
    except Exception as error:  # noqa: BLE001  (its import loads libraries and may raise anything; the cause is told)
        return f"torch_tensorrt cannot be imported ({type(error).__name__}: {error})"
    return None


def compile_region(region: RegionGraph, *, target: str | None, tf32: bool) -> Artefact | str:
    """A plan by torch_tensorrt's converters, or why not.

    Args:
        region: the region.
        target: what is asked for; only the GPU that is present can be built for.
        tf32: whether float32 products may be rounded first.
    """
    absent = why_not()
    if absent is not None:
        return absent
    if target is not None and target != _present():
        return f"torch_tensorrt builds for the GPU that is present ({_present()}) only"
    calling = _calling(region)
    if isinstance(calling, str):
        return f"torch_tensorrt: {calling}"
    try:
        plan, inputs, outputs, version = _interpreted(region, calling, tf32)
    except Exception as error:  # noqa: BLE001  (any converter of a foreign library; the cause goes into the error)
        return f"torch_tensorrt: {type(error).__name__}: {error}"
    named = _named(calling, inputs, outputs)
    if isinstance(named, str):
        return f"torch_tensorrt: {named}"
    header = {
        "engine": "tensorrt",
        "builder": "torch_tensorrt",
        "flavour": "tensorrt",
        "version": version,
        "target": _present(),
        "calling": named.to_json(),
    }
    return Artefact(header=header, payload=plan)


def _present() -> str:
    major, minor = torch.cuda.get_device_capability()
    return f"sm{major}{minor}"


def _calling(region: RegionGraph) -> Calling | str:
    """The mapping of a region of fixed sizes without writes, its tensors not named yet."""
    graph = region.gm.graph
    placeholders = {node: place for place, node in enumerate(graph.find_nodes(op="placeholder"))}
    if Effects(graph, placeholders).written:
        return "the region writes into its arguments"
    given, made = [], []
    for node, place in placeholders.items():
        form = _form(fake_value(node))
        if form is None:
            return f"argument {place} is no tensor of fixed sizes"
        given.append(Taken(name=node.name, argument=place, dtype=form[0], shape=form[1]))
    results: Sequence[Any] = graph.output_node().args[0]  # type: ignore[assignment]
    outputs = []
    for place, node in enumerate(results):
        value: Any = fake_value(node) if isinstance(node, torch.fx.Node) else None
        form = _form(value)
        if form is None or node in placeholders or node in results[:place]:
            return f"result {place} is no tensor of its own of fixed sizes"
        made.append(Made(name=f"output{place}", dtype=form[0], shape=form[1]))
        strides = tuple(value.stride())
        outputs.append(Given(output=place, dtype=form[0], sizes=form[1], strides=strides, dense=False))
    return Calling(
        arguments=len(placeholders), inputs=tuple(given), outputs=tuple(made), results=tuple(outputs)
    )  # fmt: skip


def _form(value: Any) -> tuple[str, tuple[int, ...]] | None:
    if not isinstance(value, torch.Tensor) or not all(type(size) is int for size in (*value.shape, *value.stride())):
        return None
    name = str(value.dtype).removeprefix("torch.")
    return (name, tuple(value.shape)) if name in TYPES else None


def _interpreted(
    region: RegionGraph, calling: Calling, tf32: bool
) -> tuple[bytes, Sequence[str], Sequence[str], str]:  # fmt: skip
    """The plan, its tensors' names, and TensorRT's version."""
    library: Any = importlib.import_module("torch_tensorrt")
    conversion: Any = importlib.import_module("torch_tensorrt.dynamo.conversion")
    settings: Any = importlib.import_module("torch_tensorrt.dynamo").CompilationSettings(
        disable_tf32=not tf32, use_explicit_typing=True, min_block_size=1
    )
    inputs = [
        library.Input(shape=one.shape, dtype=getattr(torch, one.dtype), name=one.name) for one in calling.inputs
    ]  # fmt: skip
    result = conversion.interpret_module_to_result(region.gm, inputs, settings)
    plan = bytes(result.serialized_engine)
    version = str(importlib.import_module("tensorrt").__version__)
    return plan, list(result.input_names), list(result.output_names), version


def _named(calling: Calling, inputs: Sequence[str], outputs: Sequence[str]) -> Calling | str:
    """The mapping with the plan's names of its tensors."""
    if set(inputs) != {one.name for one in calling.inputs}:
        return f"the plan takes {list(inputs)}"
    if len(outputs) != len(calling.outputs):
        return f"the plan gives {list(outputs)}"
    made = [
        Made(name=name, dtype=one.dtype, shape=one.shape) for name, one in zip(outputs, calling.outputs, strict=True)
    ]
    return Calling(
        arguments=calling.arguments, inputs=calling.inputs, outputs=tuple(made), results=calling.results
    )  # fmt: skip
