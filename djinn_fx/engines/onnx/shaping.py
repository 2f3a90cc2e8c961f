"""Operators on element types and shapes that converters use, written so that runtimes see as many sizes as can be."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from djinn_fx.engines.onnx.values import Value, onnx_type

#: Operators of our own, which the OpenVINO engine teaches OpenVINO's ONNX reader.
DJINN = "djinn"

Sizes = Sequence["int | Value"]


class Shaping(ABC):
    """The part of a builder that casts, reshapes and joins, by way of its nodes and constants.

    Attributes:
        flavour: the runtime the model is for.
    """

    flavour: str
    #: By name, what was transposed and into which order.
    _transposed: dict[str, tuple[Value, list[int]]]
    #: The operands of what has their elements in another order or under other sizes.
    _moved: dict[str, Value]
    #: What was rounded or cast, by the name of what came of it.
    rounded: dict[str, Value]

    @abstractmethod
    def op(
        self,
        kind: str,
        inputs: Sequence[Value | None],
        dtype: torch.dtype | None = None,
        shape: Sequence[int | None] | None = None,
        domain: str = "",
        symbols: tuple[str | None, ...] = (),
        **attributes: Any,
    ) -> Value:
        """A node with one output."""

    @abstractmethod
    def constant(self, data: object, dtype: torch.dtype) -> Value:
        """A constant."""

    @abstractmethod
    def ints(self, numbers: Sequence[int | Value]) -> Value:
        """A 1-D int64 value of these numbers."""

    @abstractmethod
    def array_of(self, value: Value) -> np.ndarray | None:
        """The numbers of a value that is a constant."""

    def cast(self, value: Value, dtype: torch.dtype) -> Value:
        """The value as another element type, as ``Tensor.to`` does it for numbers that the type can hold.

        From floats to integers ONNX leaves NaN and what is out of range undefined, as C and torch do.
        """
        if value.dtype is dtype:
            return value
        array = self.array_of(value)
        if array is not None and array.size <= 16:
            return self.constant(torch.from_numpy(array.copy()).to(dtype), dtype)
        if dtype is torch.bool and value.is_float:
            # OpenVINO's Cast takes NaN for False.
            wide = self.cast(value, torch.float32) if value.dtype in (torch.float16, torch.bfloat16) else value
            zero = self.constant(0.0, wide.dtype)
            return self.opposite(self.op("Equal", [wide, zero], dtype))
        if dtype is torch.float16 and value.is_float and self.flavour == "openvino":
            return self.rounded_for_certain(self.cast(value, torch.float32), dtype)  # else 70000 stays what it is
        made = self.op("Cast", [value], dtype, to=onnx_type(dtype))
        self.rounded[made.name] = value
        return made

    def rounded_for_certain(self, value: Value, dtype: torch.dtype) -> Value:
        """A float32 value as a half type, where OpenVINO would leave the conversion out: it computes in float32."""
        made = self.op("Rounded", [value], dtype, domain=DJINN, half=int(dtype is torch.float16))
        self.rounded[made.name] = value
        return made

    def shape_of(self, value: Value) -> Value:
        """The sizes as a 1-D int64 value; a constant if all are known."""
        if all(size is not None for size in value.shape):
            return self.ints([size for size in value.shape if size is not None])
        return self.op("Shape", [value], torch.int64, (value.rank,))

    def size(self, value: Value, dim: int) -> int | Value:
        """One size: a number if it is known, else a 0-d int64 value."""
        dim %= max(value.rank, 1)
        known = value.shape[dim]
        if known is not None:
            return known
        shape = self.op("Shape", [value], torch.int64, (value.rank,))
        return self.op(
            "Gather", [shape, self.constant(dim, torch.int64)], torch.int64, (), symbols=(value.symbol(dim),)
        )

    def sizes(self, value: Value) -> list[int | Value]:
        """All sizes."""
        return [self.size(value, dim) for dim in range(value.rank)]

    def known(self, size: int | Value) -> int | None:
        """A size as an entry of ``Value.shape``: the number, or None."""
        return size if isinstance(size, int) else None

    def reshape(self, value: Value, sizes: Sizes) -> Value:
        """The elements in order under other sizes: numbers (no -1) and 0-d int64 values.

        The sizes are written so that the runtimes see as many numbers as can be: a size that the input has at the
        same place is copied, and one that is not known is left to be inferred.
        """
        shape = tuple(self.known(size) for size in sizes)
        symbols = tuple(size.formula if isinstance(size, Value) else None for size in sizes)
        if shape == value.shape and None not in shape:
            return value
        wanted: list[int | Value] = list(sizes)
        unknown = [place for place, size in enumerate(sizes) if isinstance(size, Value)]
        if unknown and 0 not in shape and 0 not in value.shape:
            for place in list(unknown):
                same = place < value.rank and value.shape[place] is None and value.symbol(place) is not None
                if same and value.symbol(place) == symbols[place]:
                    if len(unknown) == 1 and -1 not in wanted:
                        break
                    wanted[place] = 0
                    unknown.remove(place)
            if len(unknown) == 1:
                wanted[unknown[0]] = -1
            return self.op("Reshape", [value, self.ints(wanted)], None, shape, symbols=symbols)
        return self.op("Reshape", [value, self.ints(wanted)], None, shape, symbols=symbols, allowzero=1)

    def transpose(self, value: Value, order: Sequence[int]) -> Value:
        """The dimensions in another order; each is counted from the front."""
        source, before = self._transposed.get(value.name, (value, None))
        if before is not None:  # two in a row are one
            order, value = [before[dim] for dim in order], source
        if list(order) == list(range(value.rank)):
            return value
        symbols = tuple(value.symbol(dim) for dim in order)
        shape = [value.shape[dim] for dim in order]
        made = self.op("Transpose", [value], None, shape, symbols=symbols, perm=list(order))
        self._transposed[made.name] = (value, list(order))
        return made

    def before_transpose(self, value: Value) -> Value:
        """What a value was before its dimensions were put into another order; itself, if they were not."""
        return self._transposed[value.name][0] if value.name in self._transposed else value

    def before_moved(self, value: Value) -> Value:
        """The value whose elements these are, in another order or under other sizes; itself, if it is none."""
        return self._moved.get(value.name, value)

    def is_transposed(self, value: Value, order: Sequence[int]) -> bool:
        """Whether a value was made by putting dimensions into this order."""
        return value.name in self._transposed and self._transposed[value.name][1] == list(order)

    def unsqueeze(self, value: Value, dims: Sequence[int]) -> Value:
        """Dimensions of size 1 put in, at these places of the result, counted from the front."""
        places = sorted(dims)
        shape, symbols = list(value.shape), [value.symbol(dim) for dim in range(value.rank)]
        for place in places:
            shape.insert(place, 1)
            symbols.insert(place, None)
        if not value.shape and value.symbols:
            symbols = [None] * len(shape)
        return (
            self.op("Unsqueeze", [value, self.ints(places)], None, shape, symbols=tuple(symbols)) if places else value
        )

    def squeeze(self, value: Value, dims: Sequence[int]) -> Value:
        """Dimensions of size 1 taken away, at these places, counted from the front."""
        if not dims:
            return value
        kept = [dim for dim in range(value.rank) if dim not in dims]
        symbols = tuple(value.symbol(dim) for dim in kept)
        return self.op(
            "Squeeze", [value, self.ints(sorted(dims))], None, [value.shape[dim] for dim in kept], symbols=symbols
        )

    def expand(self, value: Value, sizes: Sizes) -> Value:
        """Broadcast to these sizes: numbers (no -1) and 0-d int64 values; dimensions may be added in front."""
        shape = tuple(self.known(size) for size in sizes)
        if shape == value.shape and None not in shape:
            return value
        symbols = tuple(size.formula if isinstance(size, Value) else None for size in sizes)
        return self.op("Expand", [value, self.ints(sizes)], None, shape, symbols=symbols)

    def slice(
        self,
        value: Value,
        dim: int,
        start: int | Value,
        end: int | Value,
        step: int | Value = 1,
        size: int | None = None,
    ) -> Value:
        """``value[..., start:end:step, ...]`` as ONNX has it: ends are clamped, negative ones are from the end."""
        shape = [size if place == dim else one for place, one in enumerate(value.shape)]
        symbols = tuple(None if place == dim else value.symbol(place) for place in range(value.rank))
        bounds = [self.ints([one]) for one in (start, end, dim, step)]
        return self.op("Slice", [value, *bounds], None, shape, symbols=symbols)

    def concat(self, values: Sequence[Value], dim: int) -> Value:
        """Joined along a dimension, counted from the front."""
        parts = [one.shape[dim] for one in values]
        whole = None if None in parts else sum(part for part in parts if part is not None)
        shape = [whole if place == dim else one for place, one in enumerate(values[0].shape)]
        symbols = tuple(None if place == dim else values[0].symbol(place) for place in range(len(shape)))
        # The last one as -1: OpenVINO knows a rotary embedding by that.
        return self.op("Concat", values, None, shape, symbols=symbols, axis=-1 if dim == len(shape) - 1 else dim)

    def opposite(self, condition: Value) -> Value:
        """The other truth value.

        Not by ONNX Runtime's Not: its optimizer exchanges a Where's operands for it, and Where loses the first's -0.
        """
        if self.flavour == "onnxruntime":
            return self.op("Xor", [condition, self.constant(True, torch.bool)])
        return self.op("Not", [condition])

    def where(self, condition: Value, yes: Value, no: Value, shape: Sequence[int | None] | None = None) -> Value:
        """Elements of one or the other, all three broadcast together. Give the shape where it is not ``yes``'s."""
        return self.op("Where", [condition, yes, no], yes.dtype, yes.shape if shape is None else shape)
