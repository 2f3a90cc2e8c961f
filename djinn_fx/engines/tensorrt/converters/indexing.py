"""Reading and writing at places that other tensors tell. Places are counted from the front here, as TensorRT does."""

from __future__ import annotations

from typing import Any

from djinn_fx.engines.tensorrt.call import Call, axis_of
from djinn_fx.engines.tensorrt.conversion import Formula
from djinn_fx.engines.tensorrt.converters.elementwise import operand
from djinn_fx.engines.tensorrt.converters.shapes import start_of
from djinn_fx.engines.tensorrt.emitter import Emitter, Value, broadcast_shapes
from djinn_fx.engines.tensorrt.support import INTEGERS, Refused, converts


def from_front(emitter: Emitter, index: Value, size: Formula) -> Value:
    """Places where negative ones were counted from behind."""
    if index.dtype not in INTEGERS:
        raise Refused(f"at places given as {index.dtype}")
    behind = emitter.binary("sum", index, emitter.number(size, index.dtype, index.rank))
    return emitter.select(emitter.with_number("less", index, 0), behind, index)


def _whole(given: Any) -> Value:
    index: Value = given
    if index.dtype not in INTEGERS:
        raise Refused(f"at places given as {index.dtype}")
    return index


@converts("embedding.default")
def _embedding(emitter: Emitter, call: Call) -> Value:
    return emitter.gather(call["weight"], _whole(call["indices"]), 0)


@converts("index_select.default")
def _index_select(emitter: Emitter, call: Call) -> Value:
    value, index = call.tensor("self"), _whole(call["index"])
    if value.rank == 0:
        return value
    return emitter.gather(value, emitter.reshape(index, [index.shape[0]]) if index.rank else emitter.unsqueeze(
        index, [0]), axis_of(call["dim"], value.rank))  # fmt: skip


@converts("gather.default")
def _gather(emitter: Emitter, call: Call) -> Value:
    value, index = call.tensor("self"), _whole(call["index"])
    if value.rank == 0 or index.rank == 0:
        raise Refused("of single numbers")
    axis = axis_of(call["dim"], value.rank)
    # TensorRT wants the other sizes equal; torch lets them be smaller.
    sizes = [
        own if place == axis else wanted
        for place, (own, wanted) in enumerate(zip(value.shape, index.shape, strict=True))
    ]
    if list(value.shape) != sizes:
        value = emitter.slice(value, [0] * value.rank, sizes, [1] * value.rank)
    return emitter.layer("gather", [value, index], value.dtype, index.shape, mode="element", axis=axis, batch=0)


class _Places:
    """Index tensors, one for some of the dimensions: brought to one shape, and where they stand."""

    def __init__(self, emitter: Emitter, value: Value, indices: list[Value | None]) -> None:
        if any(index is not None and index.dtype not in INTEGERS for index in indices):
            raise Refused("with a mask: how many elements it chooses is not known when built")
        self.axes = [axis for axis, index in enumerate(indices) if index is not None]
        if not self.axes:
            raise Refused("without a place")
        given = [
            from_front(emitter, index, value.shape[axis]) for axis, index in enumerate(indices) if index is not None
        ]
        given = list(emitter.align(*(emitter.cast(one, "int64") for one in given)))
        self.shape = broadcast_shapes(*(one.shape for one in given))
        self.given = given
        self.rest = [axis for axis in range(value.rank) if axis not in self.axes]
        #: Where the places' dimensions go among the others: theirs if they stand together, else the front.
        together = self.axes == list(range(self.axes[0], self.axes[-1] + 1))
        self.front = self.axes[0] if together else 0

    def tuples(self, emitter: Emitter) -> Value:
        """The places, one tuple each, as the last dimension."""
        columns = [emitter.unsqueeze(emitter.broadcast(one, self.shape), [len(self.shape)]) for one in self.given]
        return emitter.concatenate(columns, len(self.shape), len(columns))


@converts("index.Tensor", "_unsafe_index.Tensor")
def _index(emitter: Emitter, call: Call) -> Value:
    value = call.tensor("self")
    indices = [*call["indices"], *([None] * (value.rank - len(call["indices"])))]
    places = _Places(emitter, value, indices)
    if len(places.axes) == 1:
        return emitter.gather(value, places.given[0], places.axes[0])
    moved = emitter.permute(value, [*places.axes, *places.rest])
    rest = moved.shape[len(places.axes) :]
    made = emitter.layer(
        "gather", [moved, places.tuples(emitter)], value.dtype, (*places.shape, *rest), mode="nd", axis=0, batch=0
    )
    count = len(places.shape)
    order = [*range(count, count + places.front), *range(count), *range(count + places.front, made.rank)]
    return emitter.permute(made, order)


@converts("index_put.default", "_unsafe_index_put.default")
def _index_put(emitter: Emitter, call: Call) -> Value:
    """Where two values go to one place torch does not say which stays, so either may."""
    value, indices = call.tensor("self"), list(call["indices"])
    if call["accumulate"]:
        raise Refused("with values added up")
    updates = emitter.cast(call["values"], value.dtype)
    if len(indices) == 1 and indices[0] is not None and indices[0].dtype == "bool":
        mask = indices[0]
        if updates.rank > 0 and set(updates.shape) != {1}:
            raise Refused("with a mask, and a value for each element it chooses")
        if updates.rank:
            updates = emitter.squeeze(updates, list(range(updates.rank)))
        mask = emitter.unsqueeze(mask, list(range(mask.rank, value.rank)))
        return emitter.select(mask, updates, value)
    places = _Places(emitter, value, [*indices, *([None] * (value.rank - len(indices)))])
    order = [*places.axes, *places.rest]
    moved = emitter.permute(value, order)
    rest = [value.shape[axis] for axis in places.rest]
    count = len(places.shape)
    # The values have the places' dimensions where reading would put them; they go to the front.
    shape = [*rest[: places.front], *places.shape, *rest[places.front :]]
    updates = emitter.broadcast(updates, shape)
    to_front = [
        *range(places.front, places.front + count),
        *range(places.front),
        *range(places.front + count, len(shape)),
    ]
    updates = emitter.permute(updates, to_front)
    made = emitter.layer(
        "scatter", [moved, places.tuples(emitter), updates], value.dtype, moved.shape, mode="nd", axis=0
    )
    back = [order.index(axis) for axis in range(value.rank)]
    return emitter.permute(made, back)


def _scatter(emitter: Emitter, value: Value, index: Value, updates: Value, axis: int) -> Value:
    return emitter.layer("scatter", [value, index, updates], value.dtype, value.shape, mode="element", axis=axis)


@converts("index_copy.default", "index_fill.int_Scalar", "index_fill.int_Tensor")
def _index_copy(emitter: Emitter, call: Call) -> Value:
    value, index = call.tensor("self"), call["index"]
    if value.rank == 0:
        raise Refused("into a single number")
    axis = axis_of(call["dim"], value.rank)
    index = from_front(emitter, index if index.rank else emitter.unsqueeze(index, [0]), value.shape[axis])
    shape = [index.shape[0] if place == axis else size for place, size in enumerate(value.shape)]
    if call.has("source"):
        source = call["source"]
        updates = emitter.broadcast(emitter.with_rank(source, value.rank) if source.rank == 0 else source, shape)
    else:
        updates = emitter.broadcast(operand(emitter, call["value"], value.dtype, value.rank), shape)
    index = emitter.reshape(index, [index.shape[0] if place == axis else 1 for place in range(value.rank)])
    return _scatter(emitter, value, emitter.broadcast(index, shape), updates, axis)


@converts("scatter.src", "scatter.value")
def _scatter_elements(emitter: Emitter, call: Call) -> Value:
    value, index = call.tensor("self"), _whole(call["index"])
    if value.rank == 0 or index.rank == 0:
        raise Refused("into a single number")
    axis = axis_of(call["dim"], value.rank)
    if call.has("src"):
        updates = call["src"]
        if updates.shape != index.shape:
            updates = emitter.slice(updates, [0] * updates.rank, index.shape, [1] * updates.rank)
    else:
        updates = emitter.broadcast(operand(emitter, call["value"], value.dtype, value.rank), index.shape)
    return _scatter(emitter, value, index, updates, axis)


@converts("select_scatter.default")
def _select_scatter(emitter: Emitter, call: Call) -> Value:
    value = call.tensor("self")
    axis = axis_of(call["dim"], value.rank)
    source = emitter.unsqueeze(emitter.cast(call["src"], value.dtype), [axis])
    start = start_of(emitter, value, axis, call["index"], 1, False)
    place = emitter.binary("equal", emitter.iota(value.shape[axis]), emitter.number(start, "int64", 1))
    mask = emitter.reshape(place, [size if at == axis else 1 for at, size in enumerate(value.shape)])
    return emitter.select(mask, source, value)


@converts("slice_scatter.default")
def _slice_scatter(emitter: Emitter, call: Call) -> Value:
    value, source, step = call.tensor("self"), emitter.cast(call["src"], call.dtype), call["step"]
    axis = axis_of(call["dim"], value.rank)
    size, whole = source.shape[axis], value.shape[axis]
    if not isinstance(step, int):
        raise Refused("with a step that is not known when built")
    if size == whole:
        return emitter.broadcast(source, value.shape)
    start = start_of(emitter, value, axis, call["start"], size, False)
    if not isinstance(start, int):
        raise Refused("from a place that is not known when built")
    index = emitter.iota(size, "int64", start, step)
    index = emitter.reshape(index, [size if at == axis else 1 for at in range(value.rank)])
    shape = [size if at == axis else own for at, own in enumerate(value.shape)]
    return _scatter(emitter, value, emitter.broadcast(index, shape), emitter.broadcast(source, shape), axis)


@converts("one_hot.default", types=INTEGERS)
def _one_hot(emitter: Emitter, call: Call) -> Value:
    value, classes = call.tensor("self"), call.shape[-1]
    wanted: Any = emitter.reshape(emitter.iota(classes), [*([1] * value.rank), classes])
    return emitter.cast(emitter.binary("equal", emitter.unsqueeze(value, [value.rank]), wanted), "int64")
