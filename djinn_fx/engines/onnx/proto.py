"""The protobuf side of the builder: attributes, declarations, and what tells one node from another."""

from __future__ import annotations

from collections.abc import Sequence
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


def size_name(place: int) -> str:
    """What the size that is the so-manyeth to be met among a model's inputs is called, for TensorRT."""
    return f"k{place}"


def node_name(place: int) -> str:
    """What the node at this place of a model for TensorRT is called: its messages say so."""
    return f"node{place}"


def named_by_place(inputs: Sequence[Value]) -> list[Value]:
    """Inputs with their sizes named in the order in which they are met: identical layers are the same bytes."""
    names: dict[str, str] = {}
    for text in (text for one in inputs for text in one.symbols if text):
        names.setdefault(text, size_name(len(names)))
    return [
        Value(one.name, one.dtype, one.shape, tuple(names[text] if text else None for text in one.symbols))
        for one in inputs
    ]


def without_copies(nodes: Sequence[Any], sources: Sequence[str]) -> tuple[list[Any], tuple[str, ...]]:
    """Nodes, named, with outputs given by whoever makes them: a copy at the end is a kernel of its own in TensorRT.

    Args:
        nodes: of a model, in order; each output of it is made by a node of its own that copies. They are changed.
        sources: what each comes from.

    Returns:
        The nodes that are left, and what these come from.
    """
    made = {name for node in nodes for name in node.output}
    names: dict[str, str] = {}
    kept = []
    for place, node in enumerate(nodes):
        source = node.input[0] if node.input else ""
        if node.op_type == "Identity" and source in made and source not in names:
            names[source] = node.output[0]
        else:
            kept.append(place)
    for number, place in enumerate(kept):
        node = nodes[place]
        node.name = node_name(number)
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    return [nodes[place] for place in kept], tuple(sources[place] for place in kept)
