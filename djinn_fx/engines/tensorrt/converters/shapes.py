"""Ops that move elements and change none: views, parts, joins, and conversions of type."""

from __future__ import annotations

from typing import Any

from djinn_fx.engines.tensorrt.call import Call, axis_of
from djinn_fx.engines.tensorrt.conversion import Formula
from djinn_fx.engines.tensorrt.emitter import Emitter, Value
from djinn_fx.engines.tensorrt.support import Refused, converts

#: What ATen writes for "to the end".
_END = 2**63 - 1


@converts(
    "view.default", "_unsafe_view.default", "reshape.default", "_reshape_alias.default", "_reshape_copy.default",
    "view_copy.default", "flatten.using_ints", "unflatten.int",
)  # fmt: skip
def _reshape(emitter: Emitter, call: Call) -> Value:
    return emitter.reshape(call.tensor("self"), call.shape)


@converts("unsqueeze.default", "unsqueeze_copy.default")
def _unsqueeze(emitter: Emitter, call: Call) -> Value:
    value = call.tensor("self")
    return emitter.unsqueeze(value, [axis_of(call["dim"], value.rank + 1)])


@converts("squeeze.default", "squeeze.dim", "squeeze.dims")
def _squeeze(emitter: Emitter, call: Call) -> Value:
    value = call.tensor("self")
    asked = call["dim"] if call.has("dim") else list(range(value.rank))
    places = {axis_of(one, value.rank) for one in ([asked] if isinstance(asked, int) else asked)}
    return emitter.squeeze(value, sorted(axis for axis in places if value.rank and value.shape[axis] == 1))


@converts("permute.default", "permute_copy.default")
def _permute(emitter: Emitter, call: Call) -> Value:
    return emitter.permute(call.tensor("self"), call["dims"])


@converts("transpose.int", "t.default", "transpose_copy.int", "t_copy.default", "swapaxes.default")
def _transpose(emitter: Emitter, call: Call) -> Value:
    value = call.tensor("self")
    if value.rank < 2:
        return value
    names = ("dim0", "dim1") if call.has("dim0") else ("axis0", "axis1")
    first, second = (axis_of(call[name], value.rank) if call.has(name) else place for place, name in enumerate(names))
    order = list(range(value.rank))
    order[first], order[second] = second, first
    return emitter.permute(value, order)


@converts("expand.default", "expand_copy.default", "broadcast_to.default")
def _expand(emitter: Emitter, call: Call) -> Value:
    return emitter.broadcast(call.tensor("self"), call.shape)


@converts("expand_as.default", "view_as.default", "reshape_as.default")
def _like(emitter: Emitter, call: Call) -> Value:
    if "expand" in call.name:
        return emitter.broadcast(call.tensor("self"), call.shape)
    return emitter.reshape(call.tensor("self"), call.shape)


@converts(
    "clone.default", "alias.default", "detach.default", "contiguous.default", "lift_fresh_copy.default",
    "lift_fresh.default", "lift.default", "positive.default",
)  # fmt: skip
def _same(emitter: Emitter, call: Call) -> Value:
    value: Value = call.tensor("self")
    return value


@converts(
    "_to_copy.default", "to.dtype", "to.dtype_layout", "_autocast_to_reduced_precision.default",
    "_autocast_to_full_precision.default", "prims.convert_element_type.default",
)  # fmt: skip
def _to(emitter: Emitter, call: Call) -> Value:
    return emitter.cast(call.tensor("a" if call.has("a") else "self"), call.dtype)


@converts("copy.default", "copy_.default")
def _copy(emitter: Emitter, call: Call) -> Value:
    return emitter.broadcast(emitter.cast(call["src"], call.dtype), call.shape)


# Parts


def start_of(emitter: Emitter, value: Value, axis: int, given: Any, size: Formula, to_end: bool) -> Formula:
    """Where a slice of step 1 starts, from behind too.

    Raises:
        Refused: it cannot be told when built from which end it is counted.
    """
    whole = value.shape[axis]
    if given is None or (isinstance(given, int) and given == 0):
        return 0
    never, always = emitter.sizes.signs(given)
    if never:
        return emitter.sizes.formula(given)
    if isinstance(whole, int) and isinstance(given, int):
        return max(0, whole + given)
    if to_end:  # the size that torch tells settles it
        return ["-", whole, size]
    if always:
        return ["+", whole, emitter.sizes.formula(given)]
    raise Refused("from a place that may be counted from either end")


@converts("slice.Tensor", "slice_copy.Tensor")
def _slice(emitter: Emitter, call: Call) -> Value:
    value, step = call.tensor("self"), call["step"]
    axis = axis_of(call["dim"], value.rank)
    size, whole = call.shape[axis], value.shape[axis]
    if not isinstance(step, int):
        raise Refused("with a step that is not known when built")
    if step == 1 and size == whole:
        return value
    end = call["end"]
    to_end = step == 1 and (end is None or (isinstance(end, int) and end == _END))
    start = start_of(emitter, value, axis, call["start"], size, to_end)
    if isinstance(start, int) and isinstance(size, int) and isinstance(whole, int):
        assert start + (size - 1) * step < whole
    return emitter.slice_axis(value, axis, start, size, step)


@converts("narrow.default")
def _narrow(emitter: Emitter, call: Call) -> Value:
    value = call.tensor("self")
    axis = axis_of(call["dim"], value.rank)
    size = call.shape[axis]
    return emitter.slice_axis(value, axis, start_of(emitter, value, axis, call["start"], size, False), size)


@converts("select.int", "select_copy.int")
def _select(emitter: Emitter, call: Call) -> Value:
    value = call.tensor("self")
    axis = axis_of(call["dim"], value.rank)
    start = start_of(emitter, value, axis, call["index"], 1, False)
    return emitter.squeeze(emitter.slice_axis(value, axis, start, 1), [axis])


def _parts(emitter: Emitter, value: Value, axis: int, sizes: list[Formula]) -> list[Value]:
    parts: list[Value] = []
    start: Formula = 0
    for size in sizes:
        parts.append(emitter.slice_axis(value, axis, start, size))
        if isinstance(start, int) and isinstance(size, int):
            start = start + size
        else:
            start = size if start == 0 else ["+", start, size]
    return parts


@converts(
    "split.Tensor", "split_with_sizes.default", "chunk.default", "unsafe_split.Tensor", "unsafe_chunk.default",
    "split_with_sizes_copy.default", "split_copy.Tensor", "tensor_split.sections",
)  # fmt: skip
def _split(emitter: Emitter, call: Call) -> Any:
    value = call.tensor("self")
    axis = axis_of(call["dim"], value.rank)
    sizes = [emitter.sizes.formula(part.shape[axis]) for part in call.results]
    return _parts(emitter, value, axis, sizes)


@converts("unbind.int", "unbind_copy.int")
def _unbind(emitter: Emitter, call: Call) -> Any:
    value = call.tensor("self")
    axis = axis_of(call["dim"], value.rank)
    parts = _parts(emitter, value, axis, [1] * len(call.results))
    return [emitter.squeeze(part, [axis]) for part in parts]


@converts("diagonal.default", "diagonal_copy.default")
def _diagonal(emitter: Emitter, call: Call) -> Value:
    """Of known sizes: elements one row and one column on from each other."""
    value = call.tensor("self")
    one, two = axis_of(call["dim1"], value.rank), axis_of(call["dim2"], value.rank)
    offset, length = call["offset"], call.shape[-1]
    rows, columns = value.shape[one], value.shape[two]
    if not all(isinstance(size, int) for size in (rows, columns, length)):
        raise Refused("of sizes that are not known when built")
    assert isinstance(rows, int)
    assert isinstance(columns, int)
    assert isinstance(length, int)
    rest = [axis for axis in range(value.rank) if axis not in (one, two)]
    moved = emitter.permute(value, [*rest, one, two])
    shape = [moved.shape[place] for place in range(len(rest))]
    flat = emitter.reshape(moved, [*shape, rows * columns])
    first = offset if offset >= 0 else -offset * columns
    return (
        emitter.slice_axis(flat, len(rest), first, length, columns + 1)
        if length > 1
        else emitter.slice_axis(flat, len(rest), first, 1)
    )


# Joins


@converts("cat.default", "concatenate.default")
def _cat(emitter: Emitter, call: Call) -> Value:
    """Of one type, to which torch promotes them; what has no elements is left out."""
    values = [emitter.cast(one, call.dtype) for one in call["tensors"] if one is not None]
    axis = axis_of(call["dim"], len(call.shape))
    return emitter.concatenate(values, axis, call.shape[axis])


@converts("stack.default")
def _stack(emitter: Emitter, call: Call) -> Value:
    axis = axis_of(call["dim"], len(call.shape))
    values = [emitter.unsqueeze(emitter.cast(one, call.dtype), [axis]) for one in call["tensors"]]
    return emitter.concatenate(values, axis, call.shape[axis])


@converts("repeat.default")
def _repeat(emitter: Emitter, call: Call) -> Value:
    """Each dimension as two, the first of them repeated."""
    value, shape = call.tensor("self"), call.shape
    value = emitter.with_rank(value, len(shape))
    if all(own == wanted or own == 1 for own, wanted in zip(value.shape, shape, strict=True)):
        return emitter.broadcast(value, shape)
    times = [emitter.sizes.formula(one) for one in call["repeats"]]
    if 2 * value.rank > 8:
        raise Refused("of more than four dimensions, of which one is larger than 1")
    apart = emitter.reshape(value, [size for own in value.shape for size in (1, own)])
    wider = emitter.broadcast(apart, [size for pair in zip(times, value.shape, strict=True) for size in pair])
    return emitter.reshape(wider, shape)


@converts("flip.default")
def _flip(emitter: Emitter, call: Call) -> Value:
    value = call.tensor("self")
    turned = {axis_of(axis, value.rank) for axis in call["dims"]}
    if not turned or value.rank == 0:
        return value
    starts: list[Formula] = [0] * value.rank
    for axis in turned:
        size = value.shape[axis]
        starts[axis] = size - 1 if isinstance(size, int) else ["+", size, -1]
    return emitter.slice(value, starts, value.shape, [-1 if axis in turned else 1 for axis in range(value.rank)])


@converts("roll.default")
def _roll(emitter: Emitter, call: Call) -> Value:
    value, shifts, dims = call.tensor("self"), call["shifts"], call["dims"]
    if not dims:
        raise Refused("over the flattened tensor")
    for shift, dim in zip(shifts, dims, strict=True):
        axis = axis_of(dim, value.rank)
        size = value.shape[axis]
        if not isinstance(shift, int) or not isinstance(size, int):
            raise Refused("by a number, or along a size, that is not known when built")
        if shift % size:
            last = emitter.slice_axis(value, axis, size - shift % size, shift % size)
            first = emitter.slice_axis(value, axis, 0, size - shift % size)
            value = emitter.concatenate([last, first], axis, size)
    return value


@converts("constant_pad_nd.default")
def _pad(emitter: Emitter, call: Call) -> Value:
    value, pads, fill = call.tensor("self"), call["pad"], call["value"]
    if not all(isinstance(one, int) for one in pads):
        raise Refused("by sizes that are not known when built")
    starts = [0] * value.rank
    for place in range(len(pads) // 2):
        starts[value.rank - 1 - place] = -pads[2 * place]
    if value.rank == 0:
        return value
    return emitter.filled_slice(value, starts, call.shape, 0 if fill is None else fill)


@converts("tril.default", "triu.default")
def _triangle(emitter: Emitter, call: Call) -> Value:
    value, diagonal = call.tensor("self"), call["diagonal"]
    rows, columns = value.shape[-2:]
    row = emitter.reshape(emitter.iota(rows), [rows, 1])
    column = emitter.reshape(emitter.iota(columns), [1, columns])
    limit = emitter.with_number("sum", row, diagonal) if isinstance(diagonal, int) else None
    if limit is None:
        raise Refused("from a diagonal that is not known when built")
    outside = emitter.binary("greater" if "tril" in call.name else "less", column, limit)
    return emitter.select(outside, emitter.scalar(0, value.dtype, value.rank), value)


@converts("pixel_shuffle.default", "pixel_unshuffle.default")
def _pixels(emitter: Emitter, call: Call) -> Value:
    value = call.tensor("self")
    lead = value.rank - 3
    channels, height, width = value.shape[-3:]
    new_channels, new_height, new_width = call.shape[-3:]
    before = list(value.shape[:lead])
    if "unshuffle" in call.name:
        factor = call["downscale_factor"]
        apart = emitter.reshape(value, [*before, channels, new_height, factor, new_width, factor])
        order = [0, 2, 4, 1, 3]
    else:
        factor = call["upscale_factor"]
        apart = emitter.reshape(value, [*before, new_channels, factor, factor, height, width])
        order = [0, 3, 1, 4, 2]
    moved = emitter.permute(apart, [*range(lead), *(lead + place for place in order)])
    return emitter.reshape(moved, call.shape)
