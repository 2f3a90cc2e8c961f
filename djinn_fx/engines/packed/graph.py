"""Rewriting a region's ATen graph for the packed engine: products with weights found, what follows them fused.

Every rewrite leaves the graph meaning what it meant: results, their strides, which of them share memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from djinn_fx.engines.packed import ops as packed_ops
from djinn_fx.engines.packed.alias import (
    Roots,
    foldable,
    is_dense,
    is_empty,
    is_fresh,
    is_pure,
    same_layout,
    same_size,
    same_sizes,
)
from djinn_fx.engines.packed.caches import write_caches_in_place
from djinn_fx.engines.packed.conv import find_convolutions
from djinn_fx.srg.effects import writes
from djinn_fx.srg.graph import fake_value, only_user

aten = torch.ops.aten

_VIEWS = frozenset({aten.view.default, aten._unsafe_view.default, aten.reshape.default})
#: Ops that give back what they got when the layout stays the same.
_COPIES = frozenset({aten.clone.default, aten._to_copy.default, aten.contiguous.default})
_ALIASES = frozenset(
    {aten.alias.default, aten.detach.default, aten.expand.default, aten.slice.Tensor, aten.lift_fresh.default, *_VIEWS}
)
_AFTER: dict[Any, str] = {
    aten.relu.default: "relu",
    aten.silu.default: "silu",
    aten.sigmoid.default: "sigmoid",
    aten.tanh.default: "tanh",
}
_AFTER_BOTH: dict[Any, str] = {aten.add.Tensor: "add", aten.mul.Tensor: "mul"}


def rewritten(gm: GraphModule, weights: tuple[int, ...], *, compiled: bool = False) -> GraphModule:
    """A region's graph with its products with weights as calls of :func:`packed_ops.product`. The given one stays.

    Args:
        gm: placeholders → a tuple.
        weights: places of the inputs that keep their values from call to call.
        compiled: whether a compiler takes the result: then convolutions and caches are left to it.
    """
    graph = Graph()
    copies: dict[Node, Node] = {}
    result = graph.graph_copy(gm.graph, copies)
    graph.output(result)
    made = GraphModule(gm, graph, class_name="PackedRegion")
    _drop_copies(graph)
    _restore_gelu(graph)
    if not compiled and not any(map(writes, graph.nodes)):  # an op fused to a convolution moves: not across a write
        find_convolutions(graph, constants(graph, weights))
    _find_products(graph, weights)
    _drop_copies(graph)
    _fuse_after(graph)
    if not compiled:
        write_caches_in_place(graph)
    write_in_place(graph, constants(graph, weights))
    graph.lint()
    return made


def constants(graph: Graph, weights: tuple[int, ...]) -> frozenset[Node]:
    """The values that stay from call to call: the weights at these places, and what is made of them alone."""
    placeholders = graph.find_nodes(op="placeholder")
    given = [placeholders[place] for place in weights]
    return foldable(graph, given) | frozenset(given) | frozenset(graph.find_nodes(op="get_attr"))


def products(graph: Graph) -> list[Node]:
    """The calls of :func:`packed_ops.product`, in graph order."""
    return list(graph.find_nodes(op="call_function", target=packed_ops.product))


def product_fields(node: Node) -> tuple[Any, Any, Any, str, Any]:
    """What a call of :func:`packed_ops.product` is given: x, right, bias, after, other."""
    given: tuple[Any, ...] = tuple(node.args)
    x, right, bias = given[:3]
    return x, right, bias, given[3] if len(given) > 3 else "none", given[4] if len(given) > 4 else None


def convolutions(graph: Graph) -> list[Node]:
    """The calls of :func:`packed_ops.convolution`, in graph order."""
    return list(graph.find_nodes(op="call_function", target=packed_ops.convolution))


def _replace(node: Node, other: Node) -> None:
    node.replace_all_uses_with(other)
    node.graph.erase_node(node)


def _drop_dead(graph: Graph) -> None:
    for node in reversed(list(graph.nodes)):
        dead = not node.users and (node.op == "get_attr" or (node.op == "call_function" and is_pure(node)))
        if dead and not node.is_impure():
            graph.erase_node(node)


def _drop_copies(graph: Graph) -> None:
    """Remove views to the shape that is there, and copies that nobody could tell from what they copy."""
    for node in list(graph.nodes):
        if node.op != "call_function" or not node.args or not isinstance(node.args[0], Node):
            continue
        if any(user.op == "output" for user in node.users):
            continue  # who compares results by identity finds them as they were
        source = node.args[0]
        if not same_layout(fake_value(node), fake_value(source)):
            continue
        if node.target in _ALIASES:
            if same_size(fake_value(node).storage_offset(), fake_value(source).storage_offset()):
                _replace(node, source)
        elif node.target in _COPIES and _copy_is_needless(graph, node, source):
            _replace(node, source)
    _drop_dead(graph)


def _copy_is_needless(graph: Graph, node: Node, source: Node) -> bool:
    """Nobody writes to either, no two results come to share memory, and the source is the region's own."""
    roots = Roots(graph)
    ours = roots.of(source)
    if any(root.op != "call_function" or not is_fresh(root) for root in ours) or any(map(writes, graph.nodes)):
        return False
    return not ours & roots.returned or not roots.of(node) & roots.returned


def _restore_gelu(graph: Graph) -> None:
    """``0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))`` as the one op it is."""
    for node in list(graph.find_nodes(op="call_function", target=aten.tanh.default)):
        found = _gelu_around(node)
        if found is not None:
            last, x = found
            with graph.inserting_before(last):
                gelu = graph.call_function(aten.gelu.default, (x,), {"approximate": "tanh"})
            gelu.meta = dict(last.meta)
            if same_layout(fake_value(last), fake_value(x)):
                _replace(last, gelu)
            else:
                graph.erase_node(gelu)
    _drop_dead(graph)


def _gelu_around(tanh: Node) -> tuple[Node, Node] | None:
    """The last op of the formula around its tanh, and its argument."""
    inner = _scaled(tanh.args[0], math.sqrt(2.0 / math.pi))
    x = _cubic(inner) if inner is not None else None
    plus = _only_user(tanh, aten.add.Tensor)
    if x is None or plus is None or not _has_number(plus, 1.0):
        return None
    last = _only_user(plus, aten.mul.Tensor)
    if last is None:
        return None
    half = last.args[0] if last.args[1] is plus else last.args[1]
    return (last, x) if _scaled(half, 0.5) is x else None


def _cubic(node: Any) -> Node | None:
    """``x`` of ``x + 0.044715 * x**3``."""
    if not isinstance(node, Node) or node.target is not aten.add.Tensor or node.kwargs:
        return None
    for x, term in (node.args[:2], reversed(node.args[:2])):
        power = _scaled(term, 0.044715)
        if power is not None and power.target is aten.pow.Tensor_Scalar and power.args[0] is x and power.args[1] == 3:
            return x if isinstance(x, Node) else None
    return None


def _scaled(node: Any, factor: float) -> Node | None:
    """``x`` of ``factor * x``."""
    if not isinstance(node, Node) or node.target is not aten.mul.Tensor:
        return None
    if not _has_number(node, factor):
        return None
    return next(one for one in node.args if isinstance(one, Node))


def _has_number(node: Node, number: float) -> bool:
    plain = [one for one in node.args if isinstance(one, (int, float))]
    return not node.kwargs and len(node.args) == 2 and len(plain) == 1 and math.isclose(plain[0], number, rel_tol=1e-6)


def _only_user(node: Node, target: Any) -> Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].target is target else None


# -- products ---------------------------------------------------------------------------------------------------


def _find_products(graph: Graph, weights: tuple[int, ...]) -> None:
    kept = constants(graph, weights)
    for node in list(graph.nodes):
        if node in kept:
            continue
        if node.target is aten.mm.default:
            _as_product(node, node.args[0], node.args[1], None, kept)
        elif node.target is aten.addmm.default and not node.kwargs:
            bias, x, right = node.args
            if isinstance(bias, Node) and fake_value(bias).dim() == 1:
                _as_product(node, x, right, bias, kept)
    _drop_dead(graph)


def _as_product(node: Node, x: Any, right: Any, bias: Node | None, kept: frozenset[Node]) -> None:
    """Put a product in the place of a matrix product, over the views around it where they only fold dimensions."""
    if right not in kept or x in kept or (bias is not None and bias not in kept) or is_empty(fake_value(right)):
        return
    dtypes = {fake_value(one).dtype for one in (node, x, right, *([bias] if bias is not None else []))}
    dtype = dtypes.pop()
    n = fake_value(node).shape[1]
    if dtypes or dtype not in packed_ops.ONEDNN_TYPES or (bias is not None and fake_value(bias).shape[0] != n):
        return
    wide = x.args[0] if x.target in _VIEWS and isinstance(x.args[0], Node) else x
    lead = fake_value(wide).shape[:-1]
    views = [user for user in node.users if user.target in _VIEWS and _unfolds(user, lead, n)]
    folds = wide is not x and wide not in kept and same_size(fake_value(wide).shape[-1], fake_value(x).shape[1])
    if folds and views and len(views) == len(node.users):
        first = min(views, key=list(node.graph.nodes).index) if len(views) > 1 else views[0]
        with node.graph.inserting_before(node):
            made = node.graph.call_function(packed_ops.product, (wide, right, bias))
        made.meta = dict(first.meta)
        for view in views:
            _replace(view, made)
        return
    with node.graph.inserting_before(node):
        made = node.graph.call_function(packed_ops.product, (x, right, bias))
    made.meta = dict(node.meta)
    _replace(node, made)


def _unfolds(view: Node, lead: Any, n: Any) -> bool:
    return same_sizes(fake_value(view).shape, (*lead, n))


# -- what follows a product ---------------------------------------------------------------------------------------


def _fuse_after(graph: Graph) -> None:
    """Take one pointwise op into each product whose result nobody else reads."""
    if any(map(writes, list(graph.nodes)[:-1])) and _writes_early(graph):
        return  # a product is moved to where its second operand is: not across a write
    for node in products(graph):
        user = only_user(node)
        if user is None or not same_layout(fake_value(user), fake_value(node)) or not is_dense(fake_value(node)):
            continue
        after, other = _what_follows(user, node)
        if after is None:
            continue
        with graph.inserting_before(user):
            made = graph.call_function(packed_ops.product, (*node.args[:3], after, other))
        made.meta = dict(user.meta)
        _replace(user, made)
        graph.erase_node(node)


def _writes_early(graph: Graph) -> bool:
    """Whether something is computed after the first write."""
    seen = False
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if writes(node):
            seen = True
        elif seen:
            return True
    return False


def _what_follows(user: Node, node: Node) -> tuple[str | None, Node | None]:
    if user.target in _AFTER and not user.kwargs:
        return _AFTER[user.target], None
    if user.target is aten.gelu.default:
        return ("gelu_tanh" if user.kwargs.get("approximate", "none") == "tanh" else "gelu"), None
    if user.target in _AFTER_BOTH and not user.kwargs and len(user.args) == 2:
        other = user.args[1] if user.args[0] is node else user.args[0]
        if isinstance(other, Node) and other is not node and same_layout(fake_value(other), fake_value(node)):
            return _AFTER_BOTH[user.target], other
    return None, None


# -- writing over what nobody reads any more ----------------------------------------------------------------------

#: Pointwise op → the name of the tensor method that writes over its first argument.
OVER: dict[Any, str] = {
    aten.add.Tensor: "add_",
    aten.sub.Tensor: "sub_",
    aten.mul.Tensor: "mul_",
    aten.div.Tensor: "div_",
    aten.relu.default: "relu_",
    aten.neg.default: "neg_",
    aten.rsqrt.default: "rsqrt_",
    aten.sigmoid.default: "sigmoid_",
    aten.tanh.default: "tanh_",
    aten.exp.default: "exp_",
}
_EITHER_WAY = frozenset({aten.add.Tensor, aten.mul.Tensor})


def write_in_place(graph: Graph, kept: frozenset[Node]) -> None:
    """Mark pointwise ops that may write over an operand: the region's own memory, read by nobody after them.

    The mark is ``node.meta["over"]``, True; the operand is the first argument.

    Args:
        graph: the region's.
        kept: values that stay from call to call.
    """
    roots = Roots(graph)
    order = {node: number for number, node in enumerate(graph.nodes)}
    last: dict[Node, int] = {}
    for node in graph.nodes:
        for source in node.all_input_nodes:
            for root in roots.of(source):
                last[root] = max(last.get(root, 0), order[node])
    # Memory that was written over belongs to the op that wrote it.
    owner: dict[Node, frozenset[Node]] = {}

    def memory(node: Node) -> frozenset[Node]:
        return frozenset().union(*(owner.get(root, frozenset({root})) for root in roots.of(node)))

    for node in list(graph.nodes):
        if node.target not in OVER or node in kept:
            continue
        choices = node.args[:2] if node.target in _EITHER_WAY and not node.kwargs else node.args[:1]
        for place, operand in enumerate(choices):
            if not isinstance(operand, Node) or memory(operand) & kept:
                continue
            if not _may_be_overwritten(operand, node, roots, memory, last, order):
                continue
            others = [one for one in node.args if one is not operand]
            if any(isinstance(one, Node) and memory(one) & memory(operand) for one in others):
                continue
            if place == 1:
                node.args = (operand, node.args[0])
            node.meta = {**node.meta, "over": True}
            written = memory(operand)
            owner[node] = written
            for root in written:
                last[root] = max(last[root], last.get(node, 0))
            break


def _may_be_overwritten(
    operand: Node,
    node: Node,
    roots: Roots,
    memory: Callable[[Node], frozenset[Node]],
    last: dict[Node, int],
    order: dict[Node, int],
) -> bool:
    if not same_layout(fake_value(operand), fake_value(node)) or not is_dense(fake_value(operand)):
        return False
    held = memory(operand)
    if any(not is_fresh(root) or root.op != "call_function" for root in held):
        return False
    if (held | roots.of(operand)) & roots.returned:
        return False
    return all(last.get(root, 0) <= order[node] for root in held)
