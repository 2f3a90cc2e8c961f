"""What the model that TensorRT's parser is given may hold, and what is done to a graph before it becomes one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import Graph, Node

from djinn_fx.engines.lowering.formulas import Formula, Formulas, expression_of
from djinn_fx.engines.onnx.values import Refused, Value
from djinn_fx.srg.graph import fake_value, tensors_of
from djinn_fx.srg.lower import target_name

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


_CONVERSIONS = ("prims.convert_element_type.default", "aten._to_copy.default")
#: None of them lets an error of half a unit in the last place grow to more than two.
_STEADY = (
    "aten.mul.Tensor",
    "aten.mul.Scalar",
    "aten.div.Tensor",
    "aten.div.Scalar",
    "aten.true_divide.Tensor",
    "aten.sqrt.default",
    "aten.rsqrt.default",
    "aten.reciprocal.default",
    "aten.neg.default",
    "aten.scalar_tensor.default",
)
#: How many of them may come one after the other.
_MOST = 4


def narrowed(graph: Graph) -> Graph:
    """The graph with single float64 numbers as float32 ones where they, or what is made of them, end as float32.

    Dynamo hands over a Python number that may differ from call to call as such a tensor. Who calls rounds it.
    """
    numbers = _numbers_to_narrow(graph)
    if not numbers:
        return graph
    made = Graph(graph.owning_module)
    copies: dict[Node, Node] = {}
    made.output(made.graph_copy(graph, copies))
    for node in numbers:
        fake = fake_value(node)
        with fake.fake_mode:
            copies[node].meta = {**node.meta, "val": fake.to(torch.float32)}
    return made


def _numbers_to_narrow(graph: Graph) -> frozenset[Node]:
    """The nodes that are one float64 number and may be a float32 one."""
    found: set[Node] = set()
    depth: dict[Node, int] = {}
    for node in graph.nodes:
        if not _is_number(node):
            continue
        name = target_name(node.target) if node.op == "call_function" else ""
        if node.op == "placeholder":
            depth[node] = 0
        elif name in (*_CONVERSIONS, *_STEADY):
            before = [depth.get(source, _MOST) if _is_number(source) else 0 for source in node.all_input_nodes]
            depth[node] = max(before, default=0) + (name in _STEADY)
        if depth.get(node, _MOST + 1) <= _MOST:
            found.add(node)
    # Whatever is read as something else than float32 stays float64, with all it is made of and that is made of it.
    changed = True
    while changed:
        changed = False
        for node in list(found):
            sources = [one for one in node.all_input_nodes if _is_number(one)]
            if any(source not in found for source in sources) or not all(_fits(user, found) for user in node.users):
                found.discard(node)
                changed = True
    return frozenset(found)


def _is_number(node: Node) -> bool:
    value = fake_value(node)
    return isinstance(value, torch.Tensor) and value.dtype is torch.float64 and value.dim() == 0


def _fits(user: Node, found: set[Node]) -> bool:
    if user in found:
        return True
    value = fake_value(user)
    return (
        user.op == "call_function"
        and target_name(user.target) in _CONVERSIONS
        and isinstance(value, torch.Tensor)
        and value.dtype is torch.float32
    )


__all__ = [
    "MOST_DIMENSIONS",
    "TYPES",
    "Given",
    "check",
    "check_devices",
    "check_operator",
    "narrowed",
    "outputs_of",
    "varying",
]
