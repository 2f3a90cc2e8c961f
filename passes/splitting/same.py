"""What is known of values that no sample takes part in: along which dimensions they are alike, and which count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch._ops import OpOverload
from torch.fx import Node

from djinn_fx.passes.splitting import maths, shapes
from djinn_fx.passes.splitting.call import Fact, OpCall, Refused, Same, Samples, bound, rank_of, shape_of, value_of

RULES = {**maths.RULES, **shapes.RULES}
_CONSTANT = frozenset(
    f"aten.{name}" for name in ("full.default", "zeros.default", "ones.default", "scalar_tensor.default")
)
_COUNTS = frozenset({"aten.arange.default", "aten.arange.start", "aten.arange.start_step"})
_KEEPS = frozenset({"aten.clone.default", "aten._to_copy.default", "aten.alias.default", "aten.detach.default"})
_KEEPS |= {"prims.convert_element_type.default", "aten.lift_fresh_copy.default"}
#: Types in which 0, 1, 2 and so on are what they are, however many.
_WHOLE = (torch.int32, torch.int64)
_VIEWS = frozenset({"aten.view.default", "aten._unsafe_view.default", "aten.reshape.default"})


def same(node: Node, facts: Mapping[Node, Sequence[Fact]], count: int) -> Same:
    """What is known of the result of an op none of whose arguments has samples; nothing where it is not a tensor.

    Args:
        node: the op.
        facts: of the nodes before it.
        count: of samples: what is alike that many times in an argument, is so in what an op makes that treats samples
            one by one.
    """
    if not isinstance(node.target, OpOverload) or not isinstance(value_of(node), torch.Tensor):
        return Same()
    name, rank = str(node.target), rank_of(node)
    if name in _CONSTANT:
        return Same(frozenset(range(rank)))
    if name in _COUNTS:
        given = bound(node)
        whole = value_of(node).dtype in _WHOLE and given.get("start", 0) == 0 and given.get("step", 1) == 1
        return Same(counts=0 if whole else None)
    sources = [one for one in node.all_input_nodes if isinstance(value_of(one), torch.Tensor)]
    if torch.Tag.pointwise in node.target.tags and name not in _KEEPS:
        return Same(_alike_in_all(sources, facts, rank))
    known = facts[sources[0]][0] if len(sources) == 1 else None
    moved = _moved(name, node, sources[0]) if isinstance(known, Same) else None
    if moved is None or not isinstance(known, Same):
        return _one_by_one(node, sources, facts, count)
    widened = {dim for dim in range(rank) if dim not in moved.values() and shape_of(node)[dim] != 1}
    widened |= {to for of, to in moved.items() if shape_of(sources[0])[of] == 1 != shape_of(node)[to]}
    alike = frozenset({to for of, to in moved.items() if of in known.alike} | widened)
    at = moved.get(known.counts) if known.counts is not None else None
    exact = value_of(node).dtype in _WHOLE
    return Same(alike, at if exact and at not in widened else None)


def _one_by_one(node: Node, sources: Sequence[Node], facts: Mapping[Node, Sequence[Fact]], count: int) -> Same:
    """By the rule for samples, with values that are alike so often taken for samples."""
    taken: dict[Node, Sequence[Fact]] = dict(facts)
    for one in sources:
        fact, shape = facts[one][0], shape_of(one)
        dims = [dim for dim in sorted(fact.alike) if shape[dim] == count] if isinstance(fact, Same) else []
        if dims:
            taken[one] = [Samples(dims[0])]
    known = RULES.get(str(node.target))
    if known is None or not any(isinstance(taken[one][0], Samples) for one in sources):
        return Same()
    try:
        found = known(OpCall(node, taken, count))
    except Refused:
        return Same()
    return Same(frozenset({found.dim})) if isinstance(found, Samples) and found.each == 1 else Same()


def _alike_in_all(sources: Sequence[Node], facts: Mapping[Node, Sequence[Fact]], rank: int) -> frozenset[int]:
    found = set(range(rank))
    for one in sources:
        fact, shift = facts[one][0], rank - rank_of(one)
        alike = fact.alike if isinstance(fact, Same) else frozenset()
        found -= {dim + shift for dim, size in enumerate(shape_of(one)) if size != 1 and dim not in alike}
    return frozenset(found)


def _moved(name: str, node: Node, source: Node) -> dict[int, int] | None:
    """Where an op puts each dimension of its argument; None if it does more than move and widen dimensions."""
    before, after = shape_of(source), shape_of(node)
    if name in _KEEPS:
        return {dim: dim for dim in range(len(before))}
    if name == "aten.expand.default":
        return {dim: dim + len(after) - len(before) for dim in range(len(before))}
    if name == "aten.unsqueeze.default":
        new = bound(node)["dim"] % len(after)
        return {dim: dim + (dim >= new) for dim in range(len(before))}
    if name in _VIEWS:  # that only put in or leave out dimensions of size 1
        wide, place = (
            [dim for dim, size in enumerate(after) if size != 1],
            [dim for dim, size in enumerate(before) if size != 1],
        )
        same_sizes = [before[dim] for dim in place] == [after[dim] for dim in wide]
        return dict(zip(place, wide, strict=True)) if same_sizes else None
    return None
