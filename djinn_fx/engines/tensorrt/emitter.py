"""Writing layers: the steps every converter is made of, with sizes and types kept track of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from djinn_fx.engines.tensorrt.constants import encode, flat, shape_of
from djinn_fx.engines.tensorrt.conversion import Formula, Options
from djinn_fx.engines.tensorrt.network import NetworkWriter, Tensor
from djinn_fx.engines.tensorrt.sizes import Sizes, text_of

#: A size that nothing is known of.
UNKNOWN = "?"

HALVES = frozenset({"float16", "bfloat16"})

_COMPARISONS = ("equal", "greater", "less")

#: Longer vectors are written as layers rather than as bytes.
MAX_CONSTANT = 65536


@dataclass(frozen=True)
class Value:
    """A value of the network.

    Attributes:
        number: its number.
        dtype: its element type.
        shape: its sizes; :data:`UNKNOWN` where nothing is known.
    """

    number: int
    dtype: str
    shape: tuple[Formula, ...]

    @property
    def rank(self) -> int:
        """How many dimensions."""
        return len(self.shape)


class Bug(Exception):
    """A converter wrote something that cannot be right."""


def broadcast_shapes(*shapes: Sequence[Formula]) -> tuple[Formula, ...]:
    """The sizes of what is combined element by element; shapes of equal rank."""
    return tuple(_joined(sizes) for sizes in zip(*shapes, strict=True))


def _joined(sizes: Sequence[Formula]) -> Formula:
    distinct = [size for size in sizes if size != 1]
    if not distinct:
        return 1
    number = next((size for size in distinct if isinstance(size, int)), None)
    if number is not None:
        return number
    return distinct[0] if all(size == distinct[0] for size in distinct) else UNKNOWN


class Emitter:
    """Writes a network."""

    def __init__(self, writer: NetworkWriter, sizes: Sizes, options: Options) -> None:
        self.writer, self.sizes, self.options = writer, sizes, options
        #: Network inputs by number, for reading sizes off them.
        self.inputs: list[Value] = []
        self._vectors: dict[str, Value] = {}
        #: Values that are another with its last two dimensions exchanged: a product reads the other.
        self.exchanged: dict[int, Value] = {}

    # Layers

    def layer(
        self, kind: str, inputs: Sequence[Value | None], dtype: str, shape: Sequence[Formula], /, **attrs: Any
    ) -> Value:
        """One layer with one output."""
        tensor = Tensor(dtype=dtype, shape=tuple(text_of(size) for size in shape))
        numbers = [None if value is None else value.number for value in inputs]
        while numbers and numbers[-1] is None:
            numbers.pop()
        return Value(self.writer.one(kind, numbers, tensor, **attrs), dtype, tuple(shape))

    def layers(
        self, kind: str, inputs: Sequence[Value], outputs: Sequence[tuple[str, Sequence[Formula]]], /, **attrs: Any
    ) -> tuple[Value, ...]:
        """One layer with several outputs, given as their types and sizes."""
        tensors = [Tensor(dtype=dtype, shape=tuple(text_of(size) for size in shape)) for dtype, shape in outputs]
        numbers = self.writer.add(kind, [value.number for value in inputs], tensors, **attrs)
        return tuple(
            Value(number, dtype, tuple(shape)) for number, (dtype, shape) in zip(numbers, outputs, strict=True)
        )

    def constant(self, values: Any, dtype: str, shape: Sequence[int] | None = None) -> Value:
        """A constant: nested lists or a number; of this shape, else its own."""
        sizes = shape_of(values) if shape is None else tuple(shape)
        return Value(self.writer.constant(dtype, sizes, encode(list(flat(values)), dtype)), dtype, sizes)

    def scalar(self, value: float | bool, dtype: str, rank: int = 0) -> Value:
        """A constant of one element and so many dimensions."""
        return self.constant(value, dtype, (1,) * rank)

    def cast(self, value: Value, dtype: str) -> Value:
        """A value in another type, as torch converts it."""
        if value.dtype == dtype:
            return value
        return self.layer("cast", [value], dtype, value.shape, dtype=dtype)

    def identity(self, value: Value) -> Value:
        """A value of its own with the same elements."""
        return self.layer("identity", [value], value.dtype, value.shape)

    def with_rank(self, value: Value, rank: int) -> Value:
        """A value with sizes of 1 put in front until it has this rank."""
        missing = rank - value.rank
        return self.unsqueeze(value, tuple(range(missing))) if missing > 0 else value

    def align(self, *values: Value) -> tuple[Value, ...]:
        """Values of equal rank."""
        rank = max(value.rank for value in values)
        return tuple(self.with_rank(value, rank) for value in values)

    def binary(self, op: str, first: Value, second: Value) -> Value:
        """An elementwise layer, with torch's broadcasting."""
        first, second = self.align(first, second)
        if first.dtype != second.dtype:
            raise Bug(f"{op} of {first.dtype} and {second.dtype}")
        dtype = "bool" if op in _COMPARISONS else first.dtype
        return self.layer("elementwise", [first, second], dtype, broadcast_shapes(first.shape, second.shape), op=op)

    def with_number(self, op: str, value: Value, number: float) -> Value:
        """An elementwise layer with a number of the value's own type on the right."""
        return self.binary(op, value, self.scalar(number, value.dtype, value.rank))

    def unary(self, op: str, value: Value) -> Value:
        """A unary layer."""
        return self.layer("unary", [value], "bool" if op in ("isinf", "isnan") else value.dtype, value.shape, op=op)

    def activation(self, op: str, value: Value, **attributes: float) -> Value:
        """An activation layer."""
        return self.layer("activation", [value], value.dtype, value.shape, op=op, **attributes)

    def invert(self, value: Value) -> Value:
        """Not, of a bool."""
        return self.unary("not", value)

    def select(self, condition: Value, first: Value, second: Value) -> Value:
        """The first where the condition holds, else the second."""
        condition, first, second = self.align(condition, first, second)
        shape = broadcast_shapes(condition.shape, first.shape, second.shape)
        return self.layer("select", [condition, first, second], first.dtype, shape)

    def reduce(self, op: str, value: Value, axes: Sequence[int], keep: bool) -> Value:
        """A reduce layer; the value itself if there is no axis."""
        if not axes:
            return value
        gone = set(axes)
        shape = [1 if axis in gone else size for axis, size in enumerate(value.shape) if keep or axis not in gone]
        return self.layer("reduce", [value], value.dtype, shape, op=op, axes=sorted(gone), keep=keep)

    # Shapes

    def unsqueeze(self, value: Value, axes: Sequence[int]) -> Value:
        """New dimensions of size 1 at these places of the result."""
        if not axes:
            return value
        rest = iter(value.shape)
        shape = [1 if axis in axes else next(rest) for axis in range(value.rank + len(axes))]
        return self.layer("unsqueeze", [value], value.dtype, shape, axes=sorted(axes))

    def squeeze(self, value: Value, axes: Sequence[int]) -> Value:
        """Without these dimensions, which are of size 1."""
        if not axes:
            return value
        shape = [size for axis, size in enumerate(value.shape) if axis not in axes]
        return self.layer("squeeze", [value], value.dtype, shape, axes=sorted(axes))

    def permute(self, value: Value, order: Sequence[int]) -> Value:
        """Dimensions in another order."""
        order = [axis % max(1, value.rank) for axis in order]
        if order == list(range(value.rank)):
            return value
        shape = [value.shape[axis] for axis in order]
        made = self.layer("shuffle", [value], value.dtype, shape, first=order)
        last = value.rank - 1
        if last >= 1 and order == [*range(last - 1), last, last - 1]:
            self.exchanged[made.number] = value
        return made

    def reshape(self, value: Value, shape: Sequence[Formula]) -> Value:
        """The same elements in other sizes."""
        if tuple(shape) == value.shape:
            return value
        open_ends = [axis for axis, size in enumerate(shape) if not isinstance(size, int)]
        if len(open_ends) <= 1:
            sizes = [size if isinstance(size, int) else -1 for size in shape]
            return self.layer("shuffle", [value], value.dtype, shape, reshape=sizes)
        return self.layer("shuffle", [value, self.vector(shape)], value.dtype, shape)

    def slice(
        self, value: Value, start: Sequence[Formula], size: Sequence[Formula], stride: Sequence[Formula]
    ) -> Value:
        """A slice layer."""
        inputs: list[Value | None] = [value]
        attributes: dict[str, Any] = {}
        for name, numbers in (("start", start), ("size", size), ("stride", stride)):
            known = all(isinstance(number, int) for number in numbers)
            attributes[name] = list(numbers) if known else None
            inputs.append(None if known else self.vector(numbers))
        return self.layer("slice", inputs, value.dtype, size, **attributes)

    def filled_slice(self, value: Value, start: Sequence[int], size: Sequence[Formula], fill: float | bool) -> Value:
        """A slice that may reach outside, where it reads a number."""
        known = all(isinstance(number, int) for number in size)
        sizes = None if known else self.vector(size)
        inputs = [value, None, sizes, None, self.scalar(fill, value.dtype)]
        stride = [1] * value.rank
        told = list(size) if known else None
        return self.layer("slice", inputs, value.dtype, size, start=list(start), size=told, stride=stride, mode="fill")

    def slice_axis(self, value: Value, axis: int, start: Formula, size: Formula, step: int = 1) -> Value:
        """A slice along one dimension."""
        starts: list[Formula] = [0] * value.rank
        strides: list[Formula] = [1] * value.rank
        starts[axis], strides[axis] = start, step
        sizes = list(value.shape)
        sizes[axis] = size
        if UNKNOWN in sizes:
            raise Bug("a slice of a value of unknown sizes")
        return self.slice(value, starts, sizes, strides)

    def broadcast(self, value: Value, shape: Sequence[Formula]) -> Value:
        """Repeated along dimensions of size 1, and along new ones in front."""
        value = self.with_rank(value, len(shape))
        if value.shape == tuple(shape):
            return value
        strides = [0 if own == 1 and size != 1 else 1 for own, size in zip(value.shape, shape, strict=True)]
        return (
            self.slice(value, [0] * value.rank, shape, strides) if 0 in strides else replace(value, shape=tuple(shape))
        )

    def concatenate(self, values: Sequence[Value], axis: int, size: Formula) -> Value:
        """One after another along a dimension, whose size is then ``size``."""
        if len(values) == 1:
            return values[0]
        shape = list(values[0].shape)
        shape[axis] = size
        return self.layer("concatenation", list(values), values[0].dtype, shape, axis=axis)

    def gather(self, value: Value, indices: Value, axis: int) -> Value:
        """Slices of a value along a dimension; indices of any rank take the dimension's place."""
        shape = (*value.shape[:axis], *indices.shape, *value.shape[axis + 1 :])
        return self.layer("gather", [value, indices], value.dtype, shape, mode="default", axis=axis, batch=0)

    # Sizes as values

    def size(self, formula: Formula) -> Value:
        """An int64 vector of one element: a size."""
        if isinstance(formula, int):
            return self.constant([formula], "int64")
        known = self._vectors.get(repr(formula))
        if known is None:
            known = self._vectors[repr(formula)] = self._size(formula)
        return known

    def _size(self, formula: Formula) -> Value:
        if isinstance(formula, str):
            if formula == UNKNOWN:
                raise Bug("a size that is not known")
            number, axis = self.sizes.places[formula]
            given = self.inputs[number]
            shape = self.layer("shape", [given], "int64", (given.rank,))
            return self.slice(shape, [axis], [1], [1])
        assert isinstance(formula, list)
        operator, *operands = formula
        values = [self.size(one) for one in operands]
        if operator in ("+", "*"):
            made = values[0]
            for other in values[1:]:
                made = self.binary("sum" if operator == "+" else "prod", made, other)
            return made
        first, second = values
        if operator == "%":
            whole = self.binary("floor_div", first, second)
            return self.binary("sub", first, self.binary("prod", whole, second))
        return self.binary({"-": "sub", "//": "floor_div", "min": "min", "max": "max"}[operator], first, second)

    def vector(self, formulas: Sequence[Formula]) -> Value:
        """An int64 vector of sizes."""
        if all(isinstance(one, int) for one in formulas):
            return self.constant(list(formulas), "int64", (len(formulas),))
        return self.concatenate([self.size(one) for one in formulas], 0, len(formulas))

    def number(self, formula: Formula, dtype: str, rank: int = 0) -> Value:
        """A size as a number to compute with, one element of so many dimensions."""
        if isinstance(formula, int):
            return self.scalar(formula, dtype, rank)
        value = self.cast(self.size(formula), dtype)
        return self.reshape(value, (1,) * rank) if rank != 1 else value

    def full(self, number: float | bool, dtype: str, shape: Sequence[Formula]) -> Value:
        """One number everywhere."""
        return self.broadcast(self.scalar(number, dtype, len(shape)), shape)

    def iota(self, size: Formula, dtype: str = "int64", start: float = 0, step: float = 1) -> Value:
        """``start + step * index``, a vector of int64, int32 or float32."""
        if isinstance(size, int) and size <= MAX_CONSTANT:
            return self.constant([start + step * index for index in range(size)], dtype)
        known = isinstance(size, int)
        given = {"op": "linspace", "shape": [size] if known else None, "alpha": start, "beta": step, "dtype": dtype}
        return self.layer("fill", [] if known else [self.vector([size])], dtype, [size], **given)
