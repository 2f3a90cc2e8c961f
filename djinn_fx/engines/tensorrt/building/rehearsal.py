"""Runs a model that is meant for TensorRT on the CPU, in ONNX Runtime, to compare it with torch.

ONNX Runtime has few kernels for halves. Each operator is computed in float32 and its result rounded to the half, as a
kernel that adds up in float32 does it: the model says no more about roundings than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from djinn_fx.engines.optional import optional

onnx = optional("onnx")

_FLOAT, _HALVES = 1, (10, 16)


class Rehearsal:
    """A model opened by ONNX Runtime.

    Args:
        data: the model, as TensorRT's parser takes it.

    Raises:
        Exception: ONNX Runtime's own, where it does not take the model; ImportError if it is not installed.
    """

    def __init__(self, data: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        # As it stands: what is looked at is the model, not ONNX Runtime's own rewriting of it.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        model = onnx.load_from_string(data)
        self._types = [one.type.tensor_type.elem_type for one in model.graph.output]
        plain = in_float32(model).SerializeToString()
        self._session = onnxruntime.InferenceSession(plain, options, providers=["CPUExecutionProvider"])
        self._names = [one.name for one in self._session.get_inputs()]

    def __call__(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The model's outputs.

        Args:
            tensors: one per input, on the CPU.
        """
        wide = [one.detach().float() if one.dtype.is_floating_point else one for one in tensors]
        fed = {name: one.contiguous().numpy() for name, one in zip(self._names, wide, strict=True)}
        found: Any = self._session.run(None, fed)
        return [_typed(torch.from_numpy(one.copy()), kind) for one, kind in zip(found, self._types, strict=True)]


def _typed(tensor: torch.Tensor, kind: int) -> torch.Tensor:
    return tensor.to({10: torch.float16, 16: torch.bfloat16}[kind]) if kind in _HALVES else tensor


def in_float32(model: Any) -> Any:
    """The model with halves in float32 between its operators, rounded to halves after each; without TensorRT's own
    attributes.
    """
    _strip(model)
    kinds = _kinds(model)
    graph = model.graph
    nodes: list[Any] = []
    for node in graph.node:
        halves = {name: kinds[name] for name in node.output if kinds.get(name) in _HALVES}
        plain = onnx.NodeProto()
        plain.CopyFrom(node)
        if node.op_type == "Cast" and halves:
            del plain.attribute[:]
            plain.attribute.append(onnx.helper.make_attribute("to", _FLOAT))
        plain.output[:] = [f"{name}/wide" if name in halves else name for name in node.output]
        nodes.append(plain)
        for name, kind in halves.items():
            nodes.append(onnx.helper.make_node("Cast", [f"{name}/wide"], [f"{name}/half"], to=kind))
            nodes.append(onnx.helper.make_node("Cast", [f"{name}/half"], [name], to=_FLOAT))
    del graph.node[:]
    graph.node.extend(nodes)
    for constant in graph.initializer:
        if constant.data_type in _HALVES:
            numbers = onnx.numpy_helper.to_array(constant).astype("float32")
            constant.CopyFrom(onnx.numpy_helper.from_array(numbers, constant.name))
    for one in (*graph.input, *graph.output):
        if one.type.tensor_type.elem_type in _HALVES:
            one.type.tensor_type.elem_type = _FLOAT
    return model


def _strip(model: Any) -> None:
    for node in model.graph.node:
        kept = [onnx.AttributeProto.FromString(one.SerializeToString()) for one in node.attribute]
        del node.attribute[:]
        node.attribute.extend(one for one in kept if not one.name.startswith("TRT_"))


def _kinds(model: Any) -> dict[str, int]:
    """The element type of every value, by name."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.input, *inferred.output, *inferred.value_info)
    kinds = {one.name: one.type.tensor_type.elem_type for one in values}
    kinds.update({one.name: one.data_type for one in inferred.initializer})
    return kinds


__all__ = ["Rehearsal", "in_float32"]
