"""A model under construction: nodes, constants, and the little vocabulary that every converter uses.

The bytes depend on the graph alone: values are named by their place (``v12``, ``c3``), constants are kept once each,
and a node that computes what an earlier one does is not written twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from djinn_fx.engines.onnx import for_tensorrt
from djinn_fx.engines.onnx.proto import declare, key_of, named_by_place, set_attribute, without_copies
from djinn_fx.engines.onnx.values import Refused, Value, onnx_type, raw_bytes
from djinn_fx.engines.optional import optional

onnx = optional("onnx")

#: The version of the standard operators; what onnxruntime 1.2x and OpenVINO 2026 both read, and for TensorRT the first
#: that has attention.
OPSETS = {"onnxruntime": 21, "openvino": 21, "tensorrt": 23}
MICROSOFT = "com.microsoft"
#: Operators of our own, which the OpenVINO engine teaches OpenVINO's ONNX reader.
DJINN = "djinn"

#: What takes halves in ONNX Runtime as they are. Elsewhere it casts them to float32 by itself, and then leaves out the
#: rounding to a half that came before.
_CARRYING = frozenset(
    """
    Cast Identity Reshape Transpose Squeeze Unsqueeze Slice Concat Gather GatherElements GatherND Expand Shape Tile
    Split ScatterElements ScatterND Pad
    """.split()
)
_HALVES = (torch.float16, torch.bfloat16)

Number = int | float | bool
Tensorlike = Value | Number
Sizes = Sequence["int | Value"]


class GraphBuilder:
    """Makes one ONNX graph.

    Attributes:
        flavour: the runtime the model is for: ``"onnxruntime"``, ``"openvino"`` or ``"tensorrt"``. A converter may emit
            operators of the domain :data:`MICROSOFT` for the first and of :data:`DJINN` for the second.
    """

    def __init__(self, flavour: str) -> None:
        if flavour not in OPSETS:
            raise ValueError(f"unknown flavour {flavour!r}")
        self.flavour = flavour
        self._model = onnx.ModelProto(ir_version=10)
        self._graph = self._model.graph
        self._graph.name = "region"
        self._nodes: list[Any] = []
        #: What the nodes that are written now come from: for messages.
        self.source = ""
        self._sources: list[str] = []
        self._inputs: list[Value] = []
        self._count = 0
        self._constants: dict[Any, Value] = {}
        self._numbers: dict[tuple[torch.dtype, str], Value] = {}
        self._vectors: dict[tuple[int, ...], Value] = {}
        self._transposed: dict[str, tuple[Value, list[int]]] = {}
        #: The operands of what has their elements in another order or under other sizes.
        self._moved: dict[str, Value] = {}
        self._arrays: dict[str, np.ndarray] = {}
        self._made: dict[Any, tuple[Value, ...]] = {}
        #: What each node of the finished model comes from.
        self.sources: tuple[str, ...] = ()
        #: What the model gives, in order.
        self.given_back: list[Value] = []
        self._required: list[Value] = []
        #: Looks at small tensors so far (``conditions/floats.py``).
        self.looks = 0
        #: What was rounded or cast, by the name of what came of it.
        self.rounded: dict[str, Value] = {}
        #: Whether a run may write before the conditions are read: torch then writes the same places again.
        self.writes_first = True
        #: Reckons a symbolic size: set by ``convert.py``, read by ``registry.sizes_of``.
        self.reckon: Callable[[int | torch.SymInt, Sequence[Value]], int | Value] = _no_symbols
        #: Names of the inputs that are no weights: of their numbers nothing is known.
        self.given: frozenset[str] = frozenset()
        #: The value of another node of the graph, for converters that look behind their arguments; set likewise.
        self.value_of: Callable[[Any], Any] = lambda node: None

    # Nodes

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
        """A node with one output.

        Args:
            kind: the operator's name.
            inputs: None for an optional input that is left out.
            dtype: of the output; that of the first input if not given.
            shape: of the output; that of the first input (with its symbols) if not given. What a converter returns is
                given the sizes that torch says it has, so only the rank of an intermediate value must be right.
            domain: of the operator.
            symbols: of the output's shape.
            attributes: int, float, str, bool (as int), or a list of ints or floats, or a numpy array (a tensor); None
                leaves it out.
        """
        first = next((one for one in inputs if one is not None), None)
        if shape is None and first is not None:
            shape, symbols = first.shape, symbols or first.symbols
        dtype = dtype or (first.dtype if first is not None else None)
        if shape is None or dtype is None:
            raise ValueError(f"{kind} without inputs needs a dtype and a shape")
        if self.flavour == "onnxruntime" and kind not in _CARRYING and any(map(_is_half, inputs)):
            singles = [self.cast(one, torch.float32) if one and _is_half(one) else one for one in inputs]
            inner = torch.float32 if dtype in _HALVES else dtype
            return self.cast(self.op(kind, singles, inner, shape, domain, symbols, **attributes), dtype)
        (value,) = self._node(kind, inputs, [(dtype, tuple(shape), symbols)], domain, attributes)
        if kind in ("Reshape", "Transpose", "Squeeze", "Unsqueeze") and first is not None:
            self._moved[value.name] = self.before_moved(first)
        return value

    def ops(
        self,
        kind: str,
        inputs: Sequence[Value | None],
        outputs: Sequence[tuple[torch.dtype, Sequence[int | None]] | None],
        domain: str = "",
        **attributes: Any,
    ) -> tuple[Value, ...]:
        """A node with several outputs: the dtype and the shape of each.

        None stands for one that is left out; in the result it is a value without a name.
        """
        wanted = [(one[0], tuple(one[1]), ()) if one is not None else None for one in outputs]
        return self._node(kind, inputs, wanted, domain, attributes)

    def _node(
        self,
        kind: str,
        inputs: Sequence[Value | None],
        outputs: Sequence[tuple[torch.dtype, tuple[int | None, ...], tuple[str | None, ...]] | None],
        domain: str,
        attributes: dict[str, Any],
    ) -> tuple[Value, ...]:
        if self.flavour == "tensorrt":
            for_tensorrt.check_operator(kind, attributes)
        names = ["" if one is None else one.name for one in inputs]
        while names and not names[-1]:
            names.pop()
        key = key_of(kind, domain, names, attributes, len(outputs))
        if key is not None and key in self._made:
            return self._made[key]
        node = onnx.NodeProto(op_type=kind, domain=domain, input=names)
        self._append(node)
        values: list[Value] = []
        for output in outputs:
            if output is None:
                node.output.append("")
                values.append(Value("", torch.float32, ()))
                continue
            value = Value(f"v{self._count}", *output)
            self._count += 1
            node.output.append(value.name)
            values.append(value)
        for name, given in attributes.items():
            if given is not None:
                set_attribute(node, name, given)
        made = tuple(values)
        if key is not None:
            self._made[key] = made
        return made

    def _append(self, node: Any) -> None:
        self._nodes.append(node)
        self._sources.append(self.source)

    @property
    def outputs(self) -> int:
        """How many model outputs there are so far."""
        return len(self.given_back)

    # Constants

    def constant(self, data: object, dtype: torch.dtype) -> Value:
        """A constant: a number, nested lists, an array, or a tensor with real memory (a small one: it is copied).

        Raises:
            Refused: ONNX has no such type.
        """
        if isinstance(data, (bool, int, float)):
            # repr tells 0.0 from -0.0, and gives NaN an equal.
            plain = (dtype, repr(data))
            if plain not in self._numbers:
                self._numbers[plain] = self._constant(data, dtype)
            return self._numbers[plain]
        return self._constant(data, dtype)

    def _constant(self, data: object, dtype: torch.dtype) -> Value:
        raw, shape, array = raw_bytes(data, dtype)
        key = (dtype, shape, raw)
        found = self._constants.get(key)
        if found is not None:
            return found
        value = Value(f"c{len(self._constants)}", dtype, shape)
        self._constants[key] = value
        if array is not None:
            self._arrays[value.name] = array
        return value

    def array_of(self, value: Value) -> np.ndarray | None:
        """The numbers of a value that is a constant; None for any other value (and for bfloat16)."""
        return self._arrays.get(value.name)

    def tensor(self, given: Tensorlike, dtype: torch.dtype) -> Value:
        """A value or a Python number as a value of this type: cast, or a 0-d constant.

        Raises:
            Refused: an integer that OpenVINO, which keeps int64 as int32, does not hold.
        """
        if self.flavour == "openvino" and isinstance(given, int) and not -(2**31) <= given < 2**31:
            raise Refused(f"OpenVINO keeps int64 as int32, which does not hold {given}")
        return self.cast(given, dtype) if isinstance(given, Value) else self.constant(given, dtype)

    def ints(self, numbers: Sequence[int | Value]) -> Value:
        """A 1-D int64 value of these numbers; each Value among them is 0-d and int64."""
        if not any(isinstance(one, Value) for one in numbers):
            vector = tuple(int(one) for one in numbers)  # type: ignore[arg-type]
            if vector not in self._vectors:
                self._vectors[vector] = self._constant(np.array(vector, dtype=np.int64), torch.int64)
            return self._vectors[vector]
        parts: list[Value] = []
        known: list[int] = []
        for one in numbers:
            if isinstance(one, Value):
                if known:
                    parts.append(self.ints(known))
                    known = []
                parts.append(self.unsqueeze(self.cast(one, torch.int64), [0]))
            else:
                known.append(one)
        if known:
            parts.append(self.ints(known))
        return parts[0] if len(parts) == 1 else self.concat(parts, 0)

    # Shapes

    def cast(self, value: Value, dtype: torch.dtype) -> Value:
        """The value as another element type, as ``Tensor.to`` does it for numbers that the type can hold.

        From floats to integers ONNX leaves NaN and what is out of range undefined, as C and torch do.
        """
        if value.dtype is dtype:
            return value
        array = self.array_of(value)
        if array is not None and array.size <= 16:
            return self._constant(torch.from_numpy(array.copy()).to(dtype), dtype)
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

    # The model's ends

    def input(
        self, name: str, dtype: torch.dtype, shape: Sequence[int | None], symbols: tuple[str | None, ...]
    ) -> Value:
        """A model input; each symbolic size gets a dimension parameter of its own name. Unread inputs are left out."""
        onnx_type(dtype)
        self._inputs.append(Value(name, dtype, tuple(shape), symbols))
        return self._inputs[-1]

    def output(self, value: Value) -> int:
        """A new model output with this value; returns its index. Each has a name, and so memory, of its own."""
        name = f"out{len(self.given_back)}"
        self.given_back.append(value)
        self._append(onnx.NodeProto(op_type="Identity", input=[value.name], output=[name]))
        symbols = () if self.flavour == "tensorrt" else value.symbols
        declare(self._graph.output.add(), Value(name, value.dtype, value.shape, symbols))
        return len(self.given_back) - 1

    # Conditions

    def require(self, holds: Value, *, of_floats: bool = False) -> None:
        """Let a call be answered by the region's own ops unless all elements of this boolean value are true.

        For what the runtime would compute otherwise than torch (``engines.base.Declined``). Nothing that
        the region writes is written before the conditions are read, so they may be computed from anything. All of them
        leave the model as one more output.

        Args:
            holds: of any shape; one without elements holds.
            of_floats: it is about floating-point numbers, so that torch raises nothing where it does not hold, and
                writes where the run would have written.
        """
        self.writes_first = self.writes_first and of_floats
        if holds.rank:
            # Booleans have no minimum in every runtime; a NaN was decided by whoever compared.
            numbers = self.cast(holds, torch.int32)
            least = self.op("ReduceMin", [numbers], None, (), keepdims=0)
            holds = self.op("Greater", [least, self.constant(0, torch.int32)], torch.bool)
        if holds.name not in {one.name for one in self._required}:
            self._required.append(holds)

    def require_within(self, value: Value, least: int | Value, most: int | Value) -> None:
        """Require that whole numbers lie in an interval, both ends included."""
        low, high = value, value
        if value.rank:
            low = self.op("ReduceMin", [value], None, (), keepdims=0)
            high = self.op("ReduceMax", [value], None, (), keepdims=0)
        above = self.op("GreaterOrEqual", [low, self.tensor(least, value.dtype)], torch.bool)
        below = self.op("LessOrEqual", [high, self.tensor(most, value.dtype)], torch.bool)
        self.require(self.op("And", [above, below], torch.bool, ()))

    def flag(self) -> int | None:
        """The model output that says whether all conditions hold; None if there are none. Call it last."""
        if not self._required:
            return None
        holds = self._required[0]
        for other in self._required[1:]:
            holds = self.op("And", [holds, other], torch.bool, ())
        return self.output(holds)

    def finish(self) -> tuple[bytes, tuple[str, ...]]:
        """The model's bytes, and the names of the inputs it reads, in order. What nothing reads is left out."""
        read = {output.name for output in self._graph.output}
        kept = []
        for place in reversed(range(len(self._nodes))):
            node = self._nodes[place]
            if any(name in read for name in node.output):
                kept.append(place)
                read.update(node.input)
        kept.reverse()
        self.sources = tuple(self._sources[place] for place in kept)
        nodes = [self._nodes[place] for place in kept]
        if self.flavour == "tensorrt":
            nodes, self.sources = without_copies(nodes, self.sources)
        self._graph.node.extend(nodes)
        inputs = [one for one in self._inputs if one.name in read]
        for one in named_by_place(inputs) if self.flavour == "tensorrt" else inputs:
            declare(self._graph.input.add(), one)
        for (dtype, shape, raw), value in self._constants.items():
            if value.name in read:
                self._graph.initializer.add(name=value.name, data_type=onnx_type(dtype), dims=shape, raw_data=raw)
        for domain in sorted({node.domain for node in nodes} | {""}):
            self._model.opset_import.add(domain=domain, version=OPSETS[self.flavour] if domain == "" else 1)
        return bytes(self._model.SerializeToString(deterministic=True)), tuple(one.name for one in inputs)


def _is_half(value: Value | None) -> bool:
    return value is not None and value.dtype in _HALVES


def _no_symbols(size: int | torch.SymInt, sources: Sequence[Value]) -> int | Value:
    if isinstance(size, int):
        return size
    raise Refused(f"the size {size} is not known")


__all__ = ["DJINN", "MICROSOFT", "OPSETS", "GraphBuilder", "Number", "Refused", "Sizes", "Tensorlike", "Value"]
