"""Ops that move elements: turned, shifted, cut to a triangle, taken from a diagonal or in windows."""

from __future__ import annotations

import torch
from torch.fx import Node

from djinn_fx.engines.onnx.converters.parts import along, at_most, axes, axis, binary, iota, select
from djinn_fx.engines.onnx.graph import GraphBuilder, Value
from djinn_fx.engines.onnx.registry import Refused, converts, sizes_of

#: Before the first element, for a slice that runs backwards.
_BEGIN = -(2**63) + 1


@converts("aten.flip.default")
def _flip(b: GraphBuilder, node: Node, x: Value, dims: list[int]) -> Value:
    over = axes(dims, x.rank) if dims else []
    if not over:
        return x
    bounds = [b.ints(one) for one in ([-1] * len(over), [_BEGIN] * len(over), over, [-1] * len(over))]
    return b.op("Slice", [x, *bounds], None, x.shape, symbols=x.symbols)


@converts("aten.roll.default")
def _roll(b: GraphBuilder, node: Node, x: Value, shifts: list[int] | int, dims: list[int] | int = ()) -> Value:  # type: ignore[assignment]
    by = [shifts] if isinstance(shifts, (int, Value)) else list(shifts)
    over = [dims] if isinstance(dims, int) else list(dims)
    if 0 in x.shape or not x.rank:
        return x
    if not over:
        raise Refused("over all elements in order")
    for shift, dim in zip(by, over, strict=True):
        at = axis(dim, x.rank)
        size = x.shape[at]
        if size is None or not isinstance(shift, int):
            raise Refused("along a dimension whose size is not known before the call")
        cut = size - shift % size
        if cut != size:
            x = b.concat([b.slice(x, at, cut, size, size=size - cut), b.slice(x, at, 0, cut, size=cut)], at)
    return x


@converts("aten.tril.default", "aten.triu.default")
def _triangle(b: GraphBuilder, node: Node, x: Value, diagonal: int | Value = 0) -> Value:
    """Zeros elsewhere, also where NaN stands."""
    row = b.unsqueeze(iota(b, b.size(x, x.rank - 2)), [1])
    column = b.unsqueeze(iota(b, b.size(x, x.rank - 1)), [0])
    edge = binary(b, "Add", row, b.tensor(diagonal, torch.int64))
    kept = at_most(b, column, edge) if "tril" in str(node.target) else at_most(b, edge, column)
    return select(b, kept, x, b.constant(0, x.dtype))


@converts("aten.diagonal.default", "aten.diagonal_copy.default")
def _diagonal(b: GraphBuilder, node: Node, x: Value, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Value:
    first, second = axis(dim1, x.rank), axis(dim2, x.rank)
    rows, columns = x.shape[first], x.shape[second]
    if rows is None or columns is None:
        raise Refused("of sizes that are not known before the call")
    rest = [place for place in range(x.rank) if place not in (first, second)]
    moved = b.transpose(x, [*rest, first, second])
    sizes = b.sizes(moved)
    whole = b.reshape(moved, [*sizes[:-2], rows * columns])
    long = max(0, min(rows + min(offset, 0), columns - max(offset, 0)))
    start = max(0, offset) + max(0, -offset) * columns
    places = start + torch.arange(long) * (columns + 1)
    shape = (*whole.shape[:-1], long)
    return b.op("Gather", [whole, b.constant(places, torch.int64)], None, shape, axis=len(rest))


@converts("aten.unfold.default", "aten.unfold_copy.default")
def _unfold(b: GraphBuilder, node: Node, x: Value, dimension: int, size: int, step: int) -> Value:
    """Windows along a dimension; their elements become the last one."""
    if not x.rank:
        raise Refused("of a single number")
    at = axis(dimension, x.rank)
    whole = x.shape[at]
    if whole is None or not isinstance(size, int) or not isinstance(step, int):
        raise Refused("along a dimension whose size is not known before the call")
    starts = torch.arange(0, whole - size + 1, step)
    places = starts.unsqueeze(1) + torch.arange(size)
    shape = (*x.shape[:at], len(starts), size, *x.shape[at + 1 :])
    made = b.op("Gather", [x, b.constant(places, torch.int64)], None, shape, axis=at)
    return b.transpose(made, [*(place for place in range(made.rank) if place != at + 1), at + 1])


@converts("aten.pixel_shuffle.default", "aten.pixel_unshuffle.default")
def _pixels(b: GraphBuilder, node: Node, x: Value, factor: int) -> Value:
    """Channels to places and back, by a view, an exchange of dimensions, and a view."""
    *front, channels, height, width = b.sizes(x)
    if not all(isinstance(one, int) for one in (channels, height, width)):
        raise Refused("of sizes that are not known before the call")
    lead, many = len(front), factor * factor
    if "unshuffle" in str(node.target):
        sizes = [*front, channels, height // factor, factor, width // factor, factor]  # type: ignore[operator]
        order = [*range(lead), lead, lead + 2, lead + 4, lead + 1, lead + 3]
    else:
        sizes = [*front, channels // many, factor, factor, height, width]  # type: ignore[operator]
        order = [*range(lead), lead, lead + 3, lead + 1, lead + 4, lead + 2]
    return b.reshape(b.transpose(b.reshape(x, sizes), order), sizes_of(b, node, x))


@converts("aten.channel_shuffle.default", "aten.native_channel_shuffle.default")
def _channel_shuffle(b: GraphBuilder, node: Node, x: Value, groups: int) -> Value:
    batch, channels, *rest = b.sizes(x)
    if not isinstance(channels, int):
        raise Refused("of channels whose number is not known before the call")
    parts = b.reshape(x, [batch, groups, channels // groups, *rest])
    return b.reshape(b.transpose(parts, [0, 2, 1, *range(3, parts.rank)]), b.sizes(x))


# Made of places


@converts("aten.diag_embed.default")
def _diag_embed(b: GraphBuilder, node: Node, x: Value, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Value:
    rank = x.rank + 1
    first, second = axis(dim1, rank), axis(dim2, rank)
    whole = sizes_of(b, node, x)
    row = along(b, iota(b, whole[first]), first, rank)
    column = along(b, iota(b, whole[second]), second, rank)
    hit = binary(b, "Equal", binary(b, "Add", row, offset), column, torch.bool)
    if offset:
        amounts = [0] * (2 * x.rank)
        amounts[2 * x.rank - 1 if offset > 0 else x.rank - 1] = abs(offset)
        shape = (*x.shape[:-1], b.known(whole[first]))
        x = b.op("Pad", [x, b.ints(amounts), b.constant(0, x.dtype)], None, shape, mode="constant")
    spread = along_last(b, x, first, second)
    return select(b, hit, spread, b.constant(0, x.dtype))


def along_last(b: GraphBuilder, x: Value, first: int, second: int) -> Value:
    """The last dimension laid along ``first``, with a new one of size 1 at ``second``."""
    order = list(range(x.rank - 1))
    low, high = min(first, second), max(first, second)
    order.insert(first if first == low else high - 1, x.rank - 1)
    return b.unsqueeze(b.transpose(x, order), [second])
