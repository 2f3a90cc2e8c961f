"""The protobuf side of the builder: attributes, declarations, and what tells one node from another."""

from __future__ import annotations

from typing import Any

import numpy as np

from djinn_fx.engines.onnx.values import Value, onnx_type
from djinn_fx.engines.optional import optional

onnx = optional("onnx")


def key_of(kind: str, domain: str, names: list[str], attributes: dict[str, Any], outputs: int) -> Any:
    """What tells a node's computation; None if an attribute is an array."""
    given: list[Any] = []
    for name, value in attributes.items():
        if isinstance(value, np.ndarray):
            return None
        given.append((name, tuple(value) if isinstance(value, (list, tuple)) else value, type(value)))
    return (kind, domain, tuple(names), tuple(given), outputs)


def set_attribute(node: Any, name: str, given: Any) -> None:
    """Give a node an attribute: an int, float, str, bool, array, or a list of ints or floats."""
    entry = node.attribute.add()
    entry.name = name
    if isinstance(given, (bool, int)):
        entry.type, entry.i = onnx.AttributeProto.INT, int(given)
    elif isinstance(given, float):
        entry.type, entry.f = onnx.AttributeProto.FLOAT, given
    elif isinstance(given, str):
        entry.type, entry.s = onnx.AttributeProto.STRING, given.encode()
    elif isinstance(given, np.ndarray):
        entry.type = onnx.AttributeProto.TENSOR
        entry.t.CopyFrom(onnx.numpy_helper.from_array(given))
    elif all(isinstance(one, int) for one in given):
        entry.type = onnx.AttributeProto.INTS
        entry.ints.extend(given)
    else:
        entry.type = onnx.AttributeProto.FLOATS
        entry.floats.extend(given)


def declare(info: Any, value: Value) -> None:
    """Write a value's name, type and sizes into a ``ValueInfoProto``."""
    info.name = value.name
    tensor = info.type.tensor_type
    tensor.elem_type = onnx_type(value.dtype)
    tensor.shape.SetInParent()
    for place, size in enumerate(value.shape):
        entry = tensor.shape.dim.add()
        if size is not None:
            entry.dim_value = size
        elif value.symbols and value.symbols[place]:
            entry.dim_param = value.symbols[place]
