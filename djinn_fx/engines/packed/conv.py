"""Two-dimensional convolutions for the packed engine: batch norms folded into them, what follows fused, channels last.

oneDNN's convolutions give their results with the channels last in memory, and are at their best when they find them so.
What follows keeps to that order as long as it reads elements and not memory; in front of anything else, and of what the
region returns, the values are put into the order that eager has.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, Node

from djinn_fx.engines.packed import ops as packed_ops
from djinn_fx.engines.packed.alias import is_dense, is_empty, same_layout
from djinn_fx.srg.graph import fake_value, fakes_of, only_user

aten = torch.ops.aten

_NORM = aten._native_batch_norm_legit_no_training.default
#: Ops that mean the same in whatever order their arguments lie in memory, and take that order over.
_ANY_ORDER = frozenset(
    {
        packed_ops.convolution,
        operator.getitem,
        aten.relu.default,
        aten.silu.default,
        aten.gelu.default,
        aten.sigmoid.default,
        aten.tanh.default,
        aten.hardswish.default,
        aten.hardsigmoid.default,
        aten.hardtanh.default,
        aten.leaky_relu.default,
        aten.add.Tensor,
        aten.sub.Tensor,
        aten.mul.Tensor,
        aten.div.Tensor,
        aten.cat.default,
        aten.mean.dim,
        aten.max_pool2d_with_indices.default,
        aten.avg_pool2d.default,
        aten._adaptive_avg_pool2d.default,
        aten.convolution.default,
        _NORM,
    }
)
_AFTER = {aten.relu.default: "relu", aten.silu.default: "silu", aten.sigmoid.default: "sigmoid"}


@dataclass(frozen=True, kw_only=True)
class ConvShape:
    """A convolution as it is measured: the sizes of its input and weight, its steps, and what follows it."""

    x: tuple[int, ...]
    weight: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    dtype: torch.dtype
    after: str = "none"

    def measured(self) -> ConvShape:
        """The convolution that stands for this one: itself."""
        return self

    def text(self) -> str:
        """A name in the file."""
        lists = (self.x, self.weight, self.stride, self.padding, self.dilation)
        sizes = " ".join("x".join(map(str, one)) for one in lists)
        return f"conv {sizes} {self.groups} {str(self.dtype).removeprefix('torch.')} {self.after}"


def conv_shape(node: Node) -> ConvShape:
    """What is to be measured for a convolution, in the sizes the region was traced with. Guards nothing."""
    x, weight, _, stride, padding, dilation, groups, after = (*_fields(node), "none")[:8]
    return ConvShape(
        x=tuple(_number(size) for size in fake_value(x).shape),
        weight=tuple(fake_value(weight).shape),
        stride=tuple(stride),
        padding=tuple(padding),
        dilation=tuple(dilation),
        groups=groups,
        dtype=fake_value(x).dtype,
        after=after,
    )


def _fields(node: Node) -> tuple[Any, ...]:
    return tuple(node.args)


def _number(size: Any) -> int:
    return int(size.node.hint) if isinstance(size, torch.SymInt) else int(size)


# -- rewriting ----------------------------------------------------------------------------------------------------


def find_convolutions(graph: Graph, kept: frozenset[Node]) -> bool:
    """Put calls of :func:`packed_ops.convolution` in the place of convolutions with constant weights.

    Args:
        graph: the region's.
        kept: values that stay from call to call.

    Returns:
        Whether there were any.
    """
    found = [
        _as_convolution(node, kept)
        for node in list(graph.find_nodes(op="call_function", target=aten.convolution.default))
    ]
    if not any(found):
        return False
    for node in list(graph.find_nodes(op="call_function", target=packed_ops.convolution)):
        _fuse_after(node)
    _settle(graph)
    return True


def _as_convolution(node: Node, kept: frozenset[Node]) -> bool:
    if node.kwargs or len(node.args) != 9:
        return False
    x, weight, bias, stride, padding, dilation, transposed, _, groups = _fields(node)
    value = fake_value(node)
    if weight not in kept or x in kept or transposed or value.dim() != 4 or not is_dense(value):
        return False
    one_type = all(fake_value(one).dtype is value.dtype for one in (x, weight, *([bias] if bias is not None else [])))
    fixed = all(type(size) is int for size in (*stride, *padding, *dilation)) and not is_empty(fake_value(weight))
    if (
        (bias is not None and bias not in kept)
        or value.dtype not in packed_ops.ONEDNN_TYPES
        or not (one_type and fixed)
    ):
        return False
    last, norm = node, _norm_after(node, kept)
    with node.graph.inserting_before(node):
        if norm is not None:
            weight, bias = _folded(node.graph, weight, bias, norm)
            last = next(iter(norm.users))
    with node.graph.inserting_before(node):
        spread = [list(one) * (2 // len(one)) for one in (stride, padding, dilation)]
        made = node.graph.call_function(packed_ops.convolution, (x, weight, bias, *spread, groups))
    made.meta = dict(last.meta)
    last.replace_all_uses_with(made)
    for old in dict.fromkeys((last, *([norm] if norm is not None else []), node)):
        node.graph.erase_node(old)
    return True


def _norm_after(node: Node, kept: frozenset[Node]) -> Node | None:
    """The batch norm that alone reads a convolution, and of which only the first result is read."""
    user = only_user(node)
    if user is None or user.target is not _NORM or user.args[0] is not node:
        return None
    if any(isinstance(one, Node) and one not in kept for one in user.args[1:]):
        return None
    if any(isinstance(one, Node) and fake_value(one).dtype is not fake_value(node).dtype for one in user.args[1:]):
        return None
    readers = list(user.users)
    first = len(readers) == 1 and readers[0].target is operator.getitem and readers[0].args[1] == 0
    return user if first else None


def _folded(graph: Graph, weight: Node, bias: Node | None, norm: Node) -> tuple[Node, Node]:
    """The weight and bias of a convolution with its batch norm in them; made of constants alone."""
    _, scale, shift, mean, variance, _, epsilon = norm.args

    def op(target: Any, *args: Any) -> Node:
        node = graph.call_function(target, args)
        values = fakes_of(args)
        with fake_value(weight).fake_mode:
            node.meta = {"val": target(*values)}
        return node

    factor = op(aten.rsqrt.default, op(aten.add.Tensor, variance, epsilon))
    if scale is not None:
        factor = op(aten.mul.Tensor, factor, scale)
    middle = op(aten.neg.default, mean) if bias is None else op(aten.sub.Tensor, bias, mean)
    moved = op(aten.mul.Tensor, middle, factor)
    if shift is not None:
        moved = op(aten.add.Tensor, moved, shift)
    return op(aten.mul.Tensor, weight, op(aten.view.default, factor, [-1, 1, 1, 1])), moved


def _fuse_after(node: Node) -> None:
    """Take a pointwise op, or the sum with another tensor and a relu after it, into a convolution."""
    after, other, last = "none", None, node
    user = _only_reader(node)
    if user is not None and user.target in _AFTER and not user.kwargs:
        after, last = _AFTER[user.target], user
    elif user is not None and user.target is aten.add.Tensor and not user.kwargs:
        second = user.args[1] if user.args[0] is node else user.args[0]
        if isinstance(second, Node) and second is not node and same_layout(fake_value(second), fake_value(node)):
            after, other, last = "add", second, user
            relu = _only_reader(user)
            if relu is not None and relu.target is aten.relu.default:
                after, last = "add_relu", relu
    if last is node:
        return
    graph = node.graph
    with graph.inserting_before(last):
        made = graph.call_function(packed_ops.convolution, (*node.args[:7], after, other))
    made.meta = dict(last.meta)
    last.replace_all_uses_with(made)
    for old in dict.fromkeys((last, *([user] if user is not None else []), node)):
        graph.erase_node(old)


def _only_reader(node: Node) -> Node | None:
    """The one op that reads a value, if it gives a value of the same layout."""
    user = only_user(node)
    if user is None or user.op != "call_function" or not same_layout(fake_value(user), fake_value(node)):
        return None
    return user


def _settle(graph: Graph) -> None:
    """In front of what depends on how values lie in memory, put them into eager's order."""
    loose: set[Node] = set()
    for node in list(graph.nodes):
        sources = [one for one in node.all_input_nodes if one in loose]
        if node.target is packed_ops.convolution or (sources and node.target in _ANY_ORDER and _orderly(node)):
            loose.add(node)
            continue
        for source in sources:
            if not isinstance(fake_value(source), torch.Tensor):
                continue
            with graph.inserting_before(node):
                settled = graph.call_function(packed_ops.settled, (source,))
            settled.meta = dict(source.meta)
            node.replace_input_with(source, settled)


def _orderly(node: Node) -> bool:
    """Whether the op's results are contiguous in eager, which is the order that values are put back into."""
    value = fake_value(node)
    tensors = value if isinstance(value, (tuple, list)) else [value]
    return all(isinstance(one, Tensor) and is_dense(one) for one in tensors)


# -- measuring ----------------------------------------------------------------------------------------------------


def conv_ways(shape: ConvShape) -> dict[str, Any]:
    """Each way of doing a convolution as a function of a number, on values with the channels last."""
    last = torch.channels_last
    x = torch.full(shape.x, 0.5, dtype=shape.dtype).to(memory_format=last)
    weight = torch.full(shape.weight, 0.01, dtype=shape.dtype)
    bias = torch.full(shape.weight[:1], 0.1, dtype=shape.dtype)
    steps = (list(shape.stride), list(shape.padding), list(shape.dilation), shape.groups)
    plain = packed_ops.convolution
    other = plain(x, weight, bias, *steps) if shape.after.startswith("add") else None
    ways: dict[str, Any] = {"aten": lambda turn: plain(x, weight, bias, *steps, shape.after, other)}
    if packed_ops.has_onednn(shape.dtype):
        packed = packed_ops.pack_convolution(weight, *steps, list(shape.x))
        call, rest = packed_ops.fused_convolution(shape.after)
        order = (steps[1], steps[0], steps[2], steps[3])
        inputs = (x, other) if other is not None else (x,)
        ways["onednn"] = lambda turn: call(*inputs, packed, bias, *order, *rest)
    return ways
