"""One form of scaled dot product attention out of the several that a device's graph may hold.

ONNX (from opset 23) has one op for it. What torch's ops do and that op does not is said in so many ops before and
after it:

* a row of the mask that allows nothing gives zeros in torch, and NaN where softmax is taken literally;
* ``is_causal`` with queries and keys of different number: torch counts from the upper left corner, and other
  implementations from the lower right, so the mask is written out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Node

aten = torch.ops.aten

Call = Callable[..., Node]

#: Ops whose first result is the attention, with the name of their mask argument.
ATTENTION: dict[Any, str] = {
    getattr(aten, name).default: mask
    for name, mask in (
        ("_scaled_dot_product_flash_attention_for_cpu", "attn_mask"),
        ("_scaled_dot_product_flash_attention", ""),
        ("_scaled_dot_product_efficient_attention", "attn_bias"),
        ("_scaled_dot_product_cudnn_attention", "attn_bias"),
        ("_scaled_dot_product_fused_attention_overrideable", "attn_bias"),
        ("_scaled_dot_product_attention_math", "attn_mask"),
        ("scaled_dot_product_attention", "attn_mask"),
    )
    if hasattr(aten, name)
}


def one_attention(node: Node, call: Call) -> str | None:
    """Rewrite a node if it is one of the forms; anything else is left alone.

    Args:
        node: any call.
        call: inserts a call where the graph inserts now and gives it its fake value.

    Returns:
        why an attention cannot be written in the common form; None if all is well.
    """
    mask_name = ATTENTION.get(node.target)
    if mask_name is None:
        return None
    given = named_arguments(node)
    several = node.target is not aten.scaled_dot_product_attention.default
    if given.get("dropout_p", 0.0) != 0.0:
        return "attention with dropout"
    if given.get("dropout_mask") is not None:
        return "attention with a dropout mask"
    if several and any(user.op == "output" or (user.args[1] != 0 and user.users) for user in node.users):
        return "attention whose log-sum-exp is read"
    query, key, value = given["query"], given["key"], given["value"]
    shapes = [one.meta["val"].shape for one in (query, key, value)]
    if any(len(shape) != 4 for shape in shapes):
        return "attention over tensors that have not 4 dimensions"
    if any(type(shape[1]) is not int or type(shape[3]) is not int for shape in shapes):
        return "attention with a number of heads, or a width, that differs from call to call"
    with node.graph.inserting_before(node):
        problem_or_result = _rewritten(node, given, mask_name, call)
    if isinstance(problem_or_result, str):
        return problem_or_result
    for user in list(node.users) if several else [node]:
        if user.users:
            user.replace_all_uses_with(problem_or_result)
        node.graph.erase_node(user)
    if several:
        node.graph.erase_node(node)
    return None


def _rewritten(node: Node, given: dict[str, Any], mask_name: str, call: Call) -> Node | str:
    query, key, value = given["query"], given["key"], given["value"]
    mask = given.get(mask_name)
    causal = bool(given.get("is_causal", False))
    heads = query.meta["val"].shape[1]
    shared = key.meta["val"].shape[1]
    if value.meta["val"].shape[1] != shared or heads % shared:
        return f"attention of {heads} heads over {shared} and {value.meta['val'].shape[1]}"
    queries, keys = query.meta["val"].shape[2], key.meta["val"].shape[2]
    same = queries is keys or (type(queries) is int and queries == keys) or _one_symbol(queries, keys)
    if causal and (mask is not None or not same):
        if str(node.target) == "aten._scaled_dot_product_flash_attention.default":
            return "causal flash attention with other numbers of queries than of keys"
        if mask is not None:
            return "causal attention with a mask besides"
        mask, causal = _lower_triangle(query, key, call), False
    some = None
    if mask is not None:
        if mask.meta["val"].dim() not in (2, 4) or mask.meta["val"].shape[-1] != keys:
            return "attention with a mask that is broadcast over the keys, or of 3 dimensions"
        some, mask = _rows_with_some(mask, query, call)
    named: dict[str, Any] = {"scale": given.get("scale")}
    if heads != shared:
        named["enable_gqa"] = True
    result = call(aten.scaled_dot_product_attention.default, (query, key, value, mask, 0.0, causal), named)
    if some is not None:
        zero = call(aten.scalar_tensor.default, (0.0,), {"dtype": result.meta["val"].dtype})
        result = call(aten.where.self, (some, result, zero))
    return result


def _rows_with_some(mask: Node, query: Node, call: Call) -> tuple[Node, Node]:
    """Which rows of the mask allow anything, and the mask with the others allowing everything."""
    kind = mask.meta["val"].dtype
    if kind is torch.bool:
        allowed = mask
    else:
        if kind != query.meta["val"].dtype:
            mask = call(aten._to_copy.default, (mask,), {"dtype": query.meta["val"].dtype})
        allowed = call(aten.ne.Scalar, (mask, float("-inf")))
    some = call(aten.any.dim, (allowed, -1, True))
    if kind is torch.bool:
        return some, call(aten.logical_or.default, (mask, call(aten.logical_not.default, (some,))))
    zero = call(aten.scalar_tensor.default, (0.0,), {"dtype": mask.meta["val"].dtype})
    return some, call(aten.where.self, (some, mask, zero))


def _lower_triangle(query: Node, key: Node, call: Call) -> Node:
    """Query i sees keys 0 to i."""

    def places(node: Node, dim: int) -> Node:
        size = node.meta["val"].shape[2]
        count = size if type(size) is int else call(aten.sym_size.int, (node, 2))
        return call(aten.unsqueeze.default, (call(aten.arange.default, (count,)), dim))

    return call(aten.le.Tensor, (places(key, 0), places(query, 1)))


def _one_symbol(first: Any, second: Any) -> bool:
    return isinstance(first, torch.SymInt) and isinstance(second, torch.SymInt) and first.node.expr == second.node.expr


def named_arguments(node: Node) -> dict[str, Any]:
    """The node's arguments by their names in the schema; those it leaves out are left out."""
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}
