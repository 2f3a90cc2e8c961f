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
from djinn_fx.engines.onnx.shaping import DJINN, Shaping, Sizes
from djinn_fx.engines.onnx.values import Refused, Value, onnx_type, raw_bytes
from djinn_fx.engines.optional import optional

onnx = optional("onnx")

#: The version of the standard operators; what onnxruntime 1.2x and OpenVINO 2026 both read, and for TensorRT the first
#: that has attention.
OPSETS = {"onnxruntime": 21, "openvino": 21, "tensorrt": 23}
MICROSOFT = "com.microsoft"

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


class GraphBuilder(Shaping):
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
        #: How many calls the region has, and looks at small tensors so far (``conditions/floats.py``).
        self.calls = self.looks = 0
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
        """The model output that says whether all conditions hold; None if there are none. Call it last.

        Those of weights alone come first: together they are one constant, which no call computes.
        """
        if not self._required:
            return None
        varying = set(self.given)
        for node in self._nodes:
            if not varying.isdisjoint(node.input):
                varying.update(node.output)
        holds, *others = sorted(self._required, key=lambda one: one.name in varying)
        for other in others:
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
        if self.flavour == "tensorrt":  # which has to be told the device, of what is made of numbers alone
            inputs = inputs or self._inputs[:1]
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
