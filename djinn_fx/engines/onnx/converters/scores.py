"""What OpenVINO's softmax needs: of a row with a NaN or an infinity above it makes zeros.

In attention the scores are many, and a look at them would keep OpenVINO from doing products and softmax as one. So the
operands of the product that they come from are looked at, and what is added to it: from these no NaN arises.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from djinn_fx.engines.onnx.conditions.floats import at_most, calm_where_cheap, is_cheap
from djinn_fx.engines.onnx.graph import GraphBuilder, Value
from djinn_fx.srg.lower import op_name

_PRODUCTS = frozenset({"aten.bmm.default", "aten.mm.default", "aten.matmul.default"})
#: Their first operand is added (Bloom's alibi).
_SUMS = frozenset({"aten.baddbmm.default", "aten.addmm.default"})
_PASSING = frozenset(
    f"aten.{name}"
    for name in """
    mul.Tensor mul.Scalar div.Tensor div.Scalar add.Tensor sub.Tensor view.default _unsafe_view.default
    reshape.default expand.default _to_copy.default clone.default squeeze.dim unsqueeze.default where.self
    masked_fill.Scalar transpose.int permute.default
    """.split()
)
#: Numbers above this are no scores.
_TOP = 1e30


def need_numbers(b: GraphBuilder, node: Node, value: Value) -> bool:
    """Require of what scores are made of that it is calm; False if they come from no product that is seen.

    Args:
        b: the builder.
        node: a softmax.
        value: its operand.
    """
    found: tuple[list[Node], list[Node]] = ([], [])
    first = node.args[0]
    if not isinstance(first, Node) or not _behind(first, *found):
        return False
    operands, added = ([b.value_of(one) for one in nodes] for nodes in found)
    if any(not isinstance(one, Value) for one in (*operands, *added)):
        return False
    calm_where_cheap(b, *(b.before_transpose(one) for one in operands))
    for one in added:
        if one.is_float and is_cheap(b, one):
            at_most(b, one, _TOP)
    return True


def _behind(node: Node, operands: list[Node], added: list[Node], depth: int = 12) -> bool:
    """Collect the operands of the products that a value is made of, and what is added to or chosen beside it."""
    name = op_name(node)
    tensors = [one for one in node.all_input_nodes if isinstance(one.meta.get("val"), torch.Tensor)]
    if name in _PRODUCTS:
        operands += tensors
        return True
    if name in _SUMS and len(tensors) == 3:
        operands += tensors[1:]
        added += tensors[:1]
        return True
    if name not in _PASSING or not depth:
        return False
    for place, one in enumerate(tensors):
        if _behind(one, operands, added, depth - 1):
            added += tensors[:place] + tensors[place + 1 :]
            return True
    return False


def need_top(b: GraphBuilder, value: Value) -> None:
    """Require of each element that it is neither NaN nor infinite; -inf may be."""
    at_most(b, value, _TOP)


def need_whole_rows(b: GraphBuilder, result: Value, dim: int, *, logarithms: bool = False) -> None:
    """Require of a softmax that its rows add up to one; of its logarithms that not all of a row are -inf.

    That is one more pass over the result, which took three: however large it is, for of a NaN nothing else is seen.
    """
    shape: tuple[Any, ...] = tuple(1 if place == dim else size for place, size in enumerate(result.shape))
    kind, least = ("ReduceMax", -_TOP) if logarithms else ("ReduceSum", 0.5)
    whole = b.op(kind, [result, b.ints([dim])], None, shape, symbols=(None,) * len(shape), keepdims=1)
    b.require(b.op("Less", [b.constant(least, result.dtype), whole], torch.bool, shape), of_floats=True)
