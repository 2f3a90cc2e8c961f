"""What the model that TensorRT's parser is given may hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import Graph, Node

from djinn_fx.engines.lowering.formulas import Formula, Formulas, expression_of
from djinn_fx.engines.onnx.values import Refused, Value
from djinn_fx.srg.graph import tensors_of

#: The element types that TensorRT has with torch's meaning.
TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool)
#: TensorRT's limit on dimensions.
MOST_DIMENSIONS = 8
#: Operators that its parser does not take (tensorrt_rtx 1.7).
_UNTAKEN = frozenset(
    "BitwiseAnd BitwiseOr BitwiseXor BitwiseNot BitShift NonZero Unique Compress Det RandomNormal RandomUniform".split()
)


def check(tensor: torch.Tensor) -> None:
    """A tensor that TensorRT can hold.

    Raises:
        Refused: it is not.
    """
    if tensor.dtype not in TYPES:
        raise Refused(f"TensorRT has no {str(tensor.dtype).removeprefix('torch.')} with torch's meaning")
    if tensor.dim() > MOST_DIMENSIONS:
        raise Refused(f"{tensor.dim()} dimensions, where TensorRT's limit is {MOST_DIMENSIONS}")


#: The element type and the sizes of something that a model gives.
Given = tuple[torch.dtype, tuple[Formula, ...]]


def check_devices(graph: Graph, fake: Callable[[Node], Any]) -> None:
    """TensorRT has one device; a single number may lie in the host's memory, from where it is brought.

    Raises:
        Refused: the graph works on several.
    """
    kinds = {
        tensor.device.type
        for node in graph.nodes
        for tensor in tensors_of(fake(node))
        if not (node.op == "placeholder" and tensor.dim() == 0)
    } - {"meta"}
    if len(kinds) > 1:
        raise Refused(f"it works on several devices: {', '.join(sorted(kinds))}")


def outputs_of(
    graph: Graph, fake: Callable[[Node], Any], given_back: Sequence[Value], formulas: Formulas
) -> tuple[Given, ...]:
    """What a model gives. Sizes that are no numbers are known by their formulas' texts.

    Args:
        graph: of the region.
        fake: what torch says of a node.
        given_back: the model's outputs.
        formulas: of the region's sizes.
    """
    found = {
        str(expression_of(size)): size
        for node in graph.nodes
        for tensor in tensors_of(fake(node))
        for size in tensor.shape
        if isinstance(size, torch.SymInt)
    }
    return tuple(
        (
            value.dtype,
            tuple(
                size if size is not None else formulas.of(found[str(value.symbol(dim))])
                for dim, size in enumerate(value.shape)
            ),
        )
        for value in given_back
    )


def varying(fakes: Sequence[Any]) -> dict[str, torch.SymInt]:
    """The sizes of a model's inputs that differ from call to call, by their formulas' texts, in order."""
    found: dict[str, torch.SymInt] = {}
    for fake in fakes:
        for size in fake.shape if isinstance(fake, torch.Tensor) else ():
            if isinstance(size, torch.SymInt) and not isinstance(expression_of(size), int):
                found.setdefault(str(expression_of(size)), size)
    return found


def check_operator(kind: str, attributes: dict[str, Any]) -> None:
    """An operator that TensorRT's parser takes.

    Raises:
        Refused: it is none.
    """
    if kind in _UNTAKEN:
        raise Refused(f"TensorRT has no {kind}")
