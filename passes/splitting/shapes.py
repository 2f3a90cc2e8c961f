"""Rules of ops that move numbers about: views, joins, look-ups."""

from __future__ import annotations

from math import prod

import torch
from torch.fx import Node

from djinn_fx.passes.splitting.call import OpCall, Same, Samples, rank_of, shape_of, value_of
from djinn_fx.passes.splitting.table import Found, Rules, into

RULES: Rules = {}
rule = into(RULES)

_SAME = "aten.alias.default", "aten.detach.default", "aten._to_copy.default", "aten.lift_fresh_copy.default"
_LIKE = "aten.zeros_like.default", "aten.ones_like.default", "aten.full_like.default"


@rule(*_SAME, *_LIKE, "aten.contiguous.default", "prims.convert_element_type.default")
def keeps_shape(call: OpCall) -> Found:
    """The result has its samples where the argument has them."""
    return call.only("self" if call["self"] is not None else "a")[1]


@rule("aten.new_zeros.default", "aten.new_ones.default", "aten.new_full.default")
def makes_constant(call: OpCall) -> Found:
    """Takes nothing but type and device from its argument."""
    return Same(frozenset(range(len(call.shape))))


@rule("aten.view.default", "aten._unsafe_view.default", "aten.reshape.default")
def view(call: OpCall) -> Found:
    """Samples stay the outermost part of one dimension."""
    source, at = call.only("self")
    before, after = shape_of(source), call.shape
    lead = prod(before[: at.dim])
    for dim, size in enumerate(after):
        if prod(after[:dim]) == lead and size and size % call.count == 0:
            call.edits.sizes.append(("size" if call["size"] is not None else "shape", dim, size // call.count))
            return Samples(dim, size // call.count)
    return call.refuse("samples end up across several dimensions, or within one")


@rule("aten.expand.default")
def expand(call: OpCall) -> Found:
    """Dimensions are put before, and those of size 1 widened."""
    source, at = call.only("self")
    dim = at.dim + len(call.shape) - rank_of(source)
    call.edits.sizes.append(("size", dim, at.each))
    return Samples(dim, at.each)


@rule("aten.permute.default", "aten.transpose.int", "aten.t.default", "aten.unsqueeze.default")
def turned(call: OpCall) -> Found:
    """Dimensions are numbered otherwise."""
    source, at = call.only("self")
    rank, order = rank_of(source), list(range(rank_of(source)))
    if call["dims"] is not None:
        order = list(call.dims("dims", rank))
    elif call["dim0"] is not None:
        one, other = call["dim0"] % rank, call["dim1"] % rank
        order[one], order[other] = order[other], order[one]
    elif call["dim"] is not None:
        order.insert(call["dim"] % (rank + 1), rank)
    else:
        order.reverse()
    return Samples(order.index(at.dim), at.each)


@rule("aten.squeeze.dim", "aten.squeeze.dims", "aten.select.int", "aten.unbind.int")
def taken_out(call: OpCall) -> Found:
    """Dimensions go."""
    source, at = call.only("self")
    gone = [
        one for one in call.dims("dim", rank_of(source)) if "squeeze" not in str(call.node.target) or _one(source, one)
    ]
    if at.dim in call.dims("dim", rank_of(source)):
        call.refuse("it picks from among samples")
    return Samples(at.dim - sum(one < at.dim for one in gone), at.each)


def _one(source: Node, dim: int) -> bool:
    return shape_of(source)[dim] == 1


@rule("aten.slice.Tensor")
def sliced(call: OpCall) -> Found:
    """A part of one dimension."""
    source, at = call.only("self")
    if at.dim == call["dim"] % rank_of(source) and call.shape != shape_of(source):
        call.refuse("it picks from among samples")
    return at


@rule(
    "aten.split.Tensor", "aten.split_with_sizes.default", "aten.chunk.default", "aten.flip.default", "aten.roll.default"
)
@rule("aten.unfold.default", "aten.glu.default")
def along_others(call: OpCall) -> Found:
    """Works along named dimensions, none of which may be that of the samples."""
    source, at = call.only("self")
    names = [name for name in ("dim", "dims", "dimension") if call[name] is not None]
    dims = [one for name in names for one in call.dims(name, rank_of(source))]
    if at.dim in dims or not dims:
        call.refuse("it works across samples")
    return at


@rule("aten.cat.default")
def cat(call: OpCall) -> Found:
    """Values behind one another along another dimension."""
    tensors = call["tensors"]
    rank = len(call.shape)
    if any(rank_of(one) != rank for one in tensors):
        call.refuse("values of different ranks are put together")
    at = call.joined(tensors, rank)
    if at.dim == call["dim"] % rank:
        call.refuse("it puts samples behind one another")
    return at


@rule("aten.stack.default")
def stack(call: OpCall) -> Found:
    """A new dimension."""
    at = call.joined(call["tensors"], len(call.shape) - 1)
    return Samples(at.dim + (call["dim"] % len(call.shape) <= at.dim), at.each)


@rule("aten.repeat.default")
def repeat(call: OpCall) -> Found:
    """Not along samples."""
    source, at = call.only("self")
    dim = at.dim + len(call.shape) - rank_of(source)
    if call["repeats"][dim] != 1:
        call.refuse("it repeats samples")
    return Samples(dim, at.each)


@rule("aten.constant_pad_nd.default", "aten.reflection_pad1d.default", "aten.reflection_pad2d.default")
@rule("aten.replication_pad1d.default", "aten.replication_pad2d.default")
def padded(call: OpCall) -> Found:
    """The last dimensions grow."""
    name = "self" if call["self"] is not None else "input"
    source, at = call.only(name)
    pad = call["pad"] if call["pad"] is not None else call["padding"]
    behind = rank_of(source) - 1 - at.dim
    if any(pad[2 * behind : 2 * behind + 2]):
        call.refuse("it puts something before or after the samples")
    return at


@rule("aten.embedding.default")
def embedding(call: OpCall) -> Found:
    """Rows of a table that has no samples."""
    return call.only("indices")[1]


@rule("aten.index_select.default")
def index_select(call: OpCall) -> Found:
    """Places along one dimension."""
    dim = call["dim"] % max(1, rank_of(call["self"]))
    at, picks = call.at(call["self"]), call.at(call["index"])
    if picks is not None and at is None:
        return Samples(dim, picks.each)
    if at is None or picks is not None or at.dim == dim:
        call.refuse("it picks from among samples")
    return at


@rule(
    "aten.gather.default",
    "aten.scatter.src",
    "aten.scatter.value",
    "aten.scatter_add.default",
    "aten.slice_scatter.default",
)
def beside(call: OpCall) -> Found:
    """Values of one rank, sample by sample, along another dimension."""
    tensors = [one for one in (call["self"], call["index"], call["src"]) if isinstance(one, Node)]
    at = call.joined(tensors, len(call.shape))
    wide = call.count * at.each
    if at.dim == call["dim"] % len(call.shape) or any(shape_of(one)[at.dim] != wide for one in tensors):
        call.refuse("it works across samples")
    return at


@rule("aten.copy.default")
def copied(call: OpCall) -> Found:
    """The second value in place of the first, broadcast to it."""
    at = call.joined([call["self"], call["src"]], len(call.shape))
    if call.shape[at.dim] != call.count * at.each:
        call.refuse("it works across samples")
    return at


@rule("aten.copy_.default")
def written(call: OpCall) -> Found:
    """Into an input: each sample into its own part of it."""
    if call.at(call["self"]) is None:
        call.refuse("samples are written into what is the same for all")
    return copied(call)


@rule("aten.index_copy.default")
def index_copy(call: OpCall) -> Found:
    """Places along another dimension, which are the same for all samples."""
    if call.at(call["index"]) is not None:
        call.refuse("samples are picked by samples")
    at = call.joined([call["self"], call["source"]], len(call.shape))
    if at.dim == call["dim"] % len(call.shape) or shape_of(call["source"])[at.dim] != call.count * at.each:
        call.refuse("it works across samples")
    return at


@rule("aten.index.Tensor")
def index(call: OpCall) -> Found:
    """Places told by tensors that are broadcast; samples may be told by 0, 1, 2 and so on."""
    source, told = call["self"], {dim: one for dim, one in enumerate(call["indices"]) if one is not None}
    if any(value_of(one).dtype in (torch.bool, torch.uint8) for one in told.values()):
        call.refuse("how much it picks depends on numbers")
    rank = max(rank_of(one) for one in told.values())
    first, last = min(told), max(told)
    together = last - first + 1 == len(told)
    at = call.at(source)
    if at is not None and at.dim not in told:
        if any(call.at(one) for one in told.values()):
            call.refuse("samples are picked by samples")
        left = sum(dim not in told for dim in range(at.dim))
        return Samples(left + (rank if at.dim > first or not together else 0), at.each)
    found = _picked(call, told, rank) if at is None else _by_number(call, at, told, rank)
    return Samples(found.dim + (first if together else 0), found.each)


def _picked(call: OpCall, told: dict[int, Node], rank: int) -> Samples:
    return call.joined(list(told.values()), rank)


def _by_number(call: OpCall, at: Samples, told: dict[int, Node], rank: int) -> Samples:
    """Each sample is looked up by its own number."""
    numbers = told[at.dim]
    fact = call.fact(numbers)
    counts = fact.counts if isinstance(fact, Same) else None
    if counts is None or at.each != 1 or shape_of(numbers)[counts] != call.count:
        call.refuse("it picks from among samples")
    wanted = Samples(counts + rank - rank_of(numbers))
    for dim, one in told.items():
        if dim != at.dim:
            call.meets(one, Samples(wanted.dim - rank + rank_of(one)))
    call.edits.cuts.append((numbers, counts, 1))
    return wanted
