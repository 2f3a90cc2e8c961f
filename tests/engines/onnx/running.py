"""A function through our ONNX converter and a runtime, without the engines around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch._functorch.aot_autograd import aot_function

from djinn_fx.engines.base import RegionGraph
from djinn_fx.engines.onnx.convert import convert
from djinn_fx.engines.ranges.program import Checked

FLAVOURS = ("onnxruntime", "openvino")


def region_of(function: Callable[..., Any], tensors: Sequence[torch.Tensor], dynamic: bool = False) -> RegionGraph:
    """The function's ATen graph, as AOTAutograd gives it to a backend; its sizes may be symbols."""
    caught: list[Any] = []

    def compiler(graph: Any, _: Any) -> Any:
        caught.append(graph)
        return graph

    with torch.no_grad():
        traced = aot_function(function, fw_compiler=compiler, keep_inference_input_mutations=True, dynamic=dynamic)
        traced(*(one.clone() for one in tensors))
    graph = caught[0]
    fakes = tuple(node.meta["val"] for node in graph.graph.find_nodes(op="placeholder"))
    return RegionGraph(
        gm=graph, structural_hash="", canonical=None, kind="inference", label="sample", example_inputs=fakes
    )


def opened(model: bytes, flavour: str) -> Callable[[Sequence[str], Sequence[torch.Tensor]], list[torch.Tensor]]:
    """A model as a function of named tensors."""
    if flavour == "onnxruntime":
        onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

        def run(names: Sequence[str], tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
            make = onnxruntime.OrtValue.ortvalue_from_numpy
            fed = {name: make(one.detach().numpy()) for name, one in zip(names, tensors, strict=True)}
            found = session.run_with_ort_values([one.name for one in session.get_outputs()], fed)
            return [_torch_of(one) for one in found]

        return run
    from djinn_fx.engines.openvino.exact import keep_exact
    from djinn_fx.engines.openvino.extensions import core

    how = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    graph = core().read_model(model)
    keep_exact(graph)
    compiled = core().compile_model(graph, "CPU", how)

    def infer(names: Sequence[str], tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        found = compiled({name: one.detach().numpy() for name, one in zip(names, tensors, strict=True)})
        made = [torch.from_numpy(found[place].copy()) for place in range(len(compiled.outputs))]
        kinds = [one.get_element_type().get_type_name() for one in compiled.outputs]
        return [one.view(torch.bfloat16) if kind == "bf16" else one for one, kind in zip(made, kinds, strict=True)]

    return infer


def _torch_of(value: Any) -> torch.Tensor:
    """A value of onnxruntime; of bfloat16 by another road, as numpy has none."""
    if value.data_type() == "tensor(bfloat16)":
        return torch.from_dlpack(value).clone()
    return torch.from_numpy(value.numpy().copy())


class Converted:
    """A function as a runtime runs it."""

    def __init__(self, region: RegionGraph, flavour: str) -> None:
        self.region = convert(region, flavour)
        self._run = opened(self.region.model, flavour)

    def __call__(self, *given: Any) -> list[Any]:
        """The results; the arguments are written to as the function does.

        Raises:
            Declined: as a session would.
        """
        signature = self.region.signature
        Checked(signature.program, signature.symbols)(given)
        fed = [torch.as_tensor(given[one.place]).contiguous() for one in signature.fed]
        outputs = self._run([one.name for one in signature.fed], fed)
        signature.check(outputs)
        signature.write_back(outputs, given)
        return signature.assemble(outputs, given)


def check(
    function: Callable[..., Any], *tensors: torch.Tensor, flavours: Sequence[str] = FLAVOURS, **limits: Any
) -> None:
    """The function's results in each runtime are eager's: numbers, types, sizes, strides."""
    region = region_of(function, tensors)
    for flavour in flavours:
        _same(Converted(region, flavour), function, tensors, limits)


def check_sizes(
    function: Callable[..., Any], *calls: Sequence[torch.Tensor], flavours: Sequence[str] = FLAVOURS, **limits: Any
) -> None:
    """One conversion, its sizes symbols traced from the first call, serves all calls."""
    region = region_of(function, calls[0], dynamic=True)
    assert any(isinstance(size, torch.SymInt) for one in region.example_inputs for size in one.shape)
    for flavour in flavours:
        converted = Converted(region, flavour)
        for tensors in calls:
            _same(converted, function, tensors, limits)


def _same(run: Converted, function: Any, tensors: Sequence[torch.Tensor], limits: Any) -> None:
    found = run(*(one.clone() for one in tensors))
    expected = function(*(one.clone() for one in tensors))
    expected = list(expected) if isinstance(expected, (list, tuple)) else [expected]
    assert len(found) == len(expected)
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, equal_nan=True, **limits)
        assert mine.stride() == other.stride() or mine.numel() < 2
