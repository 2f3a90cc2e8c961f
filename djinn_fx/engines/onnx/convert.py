"""From a region to an ONNX model: what is computed, what it is fed, and what becomes of its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node

from djinn_fx.engines.base import RegionGraph
from djinn_fx.engines.bound.signature import Fed, Signature
from djinn_fx.engines.lowering.decompose import parts_of
from djinn_fx.engines.lowering.effects import Effects
from djinn_fx.engines.lowering.formulas import Formulas, expression_of
from djinn_fx.engines.lowering.narrowed import MOST, narrowed
from djinn_fx.engines.onnx import for_tensorrt, patterns, registry, stamps
from djinn_fx.engines.onnx.conditions.integers import Conditions
from djinn_fx.engines.onnx.graph import GraphBuilder, Refused, Value
from djinn_fx.engines.onnx.results import Results
from djinn_fx.engines.onnx.sizes import Symbols
from djinn_fx.engines.onnx.values import RefusedWhole
from djinn_fx.engines.ranges.analysis import Ranges
from djinn_fx.srg.graph import attribute, fake_value, tensors_of
from djinn_fx.srg.lower import source_of, target_name

#: Part of the engines' fingerprints: a new number makes every kept model stale.
CONVERTER_VERSION = "17"

#: By runtime that has no float64: how many operations with a single number of it are done in float32 (``narrowed``).
_ON_NARROWED = {"openvino": 0, "tensorrt": MOST}

_SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)
_CHECKS = (
    "aten._assert_scalar.default",
    "aten._assert_tensor_metadata.default",
    "aten.sym_constrain_range_for_size.default",
)


@dataclass(frozen=True, kw_only=True)
class OnnxRegion:
    """A region as an ONNX model.

    Attributes:
        model: its bytes; every argument that is read is an input, weights too.
        signature: how it hangs on the region.
        outputs: the element type and the sizes of each of the model's outputs; told of models for TensorRT.
        sizes: by the name that the model's inputs have for it, every size of theirs that differs from call to call.
        sources: of each of the model's nodes, which node of the region it comes from.
    """

    model: bytes
    signature: Signature
    outputs: tuple[for_tensorrt.Given, ...]
    sizes: Mapping[str, torch.SymInt]
    sources: tuple[str, ...]


def convert(region: RegionGraph, flavour: str) -> OnnxRegion:
    """A region as an ONNX model.

    Args:
        region: to convert; it is left as it is.
        flavour: ``"onnxruntime"``, ``"openvino"`` or ``"tensorrt"``.

    Raises:
        Refused: it cannot be converted exactly; the text names the op and the user's line.
    """
    conversion = _Conversion(region, flavour)
    try:
        return conversion.run()
    except Refused as refused:
        located = Refused(_located(conversion.node, str(refused)))
        located.node = conversion.node.name if conversion.node is not None else ""
        raise located from refused


def _located(node: Node | None, detail: str) -> str:
    if node is None:
        return detail
    line = source_of(node)
    op = target_name(node.target) if node.op == "call_function" else f"{node.op} {node.name}"
    return f"{op}: {detail}" + (f" (at {line})" if line else "")


#: Ops that leave out what has no elements.
_JOINS = frozenset({"aten.cat.default", "aten.concatenate.default"})


class _Conversion:
    def __init__(self, region: RegionGraph, flavour: str) -> None:
        operations = _ON_NARROWED.get(flavour)
        self._graph = region.gm.graph if operations is None else narrowed(region.gm.graph, operations)
        self._table = registry.load()
        self._places = {node: place for place, node in enumerate(self._graph.find_nodes(op="placeholder"))}
        self._examples, self._weights = region.example_inputs, region.weights
        arguments = [self._fake(node) for node in self._places]
        self._formulas = Formulas(arguments, tensors_only=flavour == "tensorrt")
        self._symbols = Symbols(self._read_symbol)
        self._builder = GraphBuilder(flavour)
        self._builder.reckon = lambda size, sources: self._symbols.reckon(self._builder, size, sources)
        self._builder.value_of = self._value_of
        self._builder.calls = len([node for node in self._graph.nodes if node.op == "call_function"])
        self._builder.given = frozenset(f"p{place}" for place in self._places.values() if place not in region.weights)
        self._values: dict[Node, Any] = {}
        self._ranges = Ranges(self._places, self._formulas)
        reckon = self._builder.reckon
        self._conditions = Conditions(self._builder, self._ranges, self._values, lambda size: reckon(size, ()))
        self._fed: dict[str, Fed] = {}
        #: What the conversion is at, for messages.
        self.node: Node | None = None

    def run(self) -> OnnxRegion:
        self._check_targets()
        if self._builder.flavour == "tensorrt":
            for_tensorrt.check_devices(self._graph, self._fake)
        effects = Effects(self._graph, self._places)
        self.node = effects.culprit
        effects.check()
        self.node = None
        for node in self._live(effects):
            self.node, self._builder.source = node, node.name
            if node.op == "placeholder":
                self._take(node)
            elif node.op == "get_attr":
                self._values[node] = self._constant(node)
            elif not isinstance(self._fake(node), _SYMBOLIC):
                for source in node.all_input_nodes:
                    effects.check_read(source, node)
                self._check_elements(node)
                self._values[node] = self._convert(node, effects)
        self.node = self._graph.output_node()
        self._check_elements(self.node)
        for source in self.node.all_input_nodes:
            self._conditions.give(source)
        self.node = None
        results = Results(self._builder, self._formulas, self._places, self._values, self._fake)
        returned = results.of(self._graph.output_node().args[0], effects)
        mutated = tuple(
            (self._places[written], self._builder.output(self._values[written])) for written in effects.written
        )
        flag = self._builder.flag()
        outputs: tuple[for_tensorrt.Given, ...] = ()
        if self._builder.flavour == "tensorrt":
            outputs = for_tensorrt.outputs_of(self._graph, self._fake, self._builder.given_back, self._formulas)
        model, names = self._builder.finish()
        nodes = list(self._places)
        signature = Signature(
            fed=tuple(self._fed[name] for name in names),
            results=returned,
            mutated=mutated,
            outputs=self._builder.outputs,
            symbols=dict(sorted(self._formulas.used.items())),
            flag=flag,
            writes_first=self._builder.writes_first,
            program=self._ranges.program(),
        )
        return OnnxRegion(
            model=model,
            signature=signature,
            outputs=outputs,
            sizes=for_tensorrt.varying([self._fake(nodes[self._fed[name].place]) for name in names]),
            sources=self._builder.sources,
        )

    # The graph

    def _fake(self, node: Node) -> Any:
        value = fake_value(node)
        if value is None and node in self._places:
            return self._examples[self._places[node]]
        return value

    def _check_targets(self) -> None:
        for node in self._graph.nodes:
            if any(fake.layout is not torch.strided for fake in tensors_of(self._fake(node))):
                self.node = node
                raise Refused("a tensor that is not strided")
            if node.op != "call_function":
                continue
            schema = getattr(node.target, "_schema", None)
            if schema is not None and schema.is_mutable and target_name(node.target) != "aten.copy_.default":
                self.node = node
                raise Refused("it has effects besides its value")

    def _live(self, effects: Effects) -> list[Node]:
        """The nodes whose values are needed, in the order of the graph."""
        output = self._graph.output_node()
        wanted = [node for node in output.all_input_nodes if effects.shown(node) is None] + effects.writers
        live: set[Node] = set()
        while wanted:
            node = wanted.pop()
            if node in live:
                continue
            live.add(node)
            if not isinstance(self._fake(node), _SYMBOLIC):  # else it is reckoned from the inputs' sizes
                wanted += node.all_input_nodes
        for node in self._graph.nodes:
            impure = node.op == "call_function" and node not in live and node.is_impure()
            if impure and target_name(node.target) not in _CHECKS:
                self.node = node
                raise Refused("it has an effect besides its value")
        return [node for node in self._graph.nodes if node in live]

    # Inputs

    def _take(self, node: Node) -> None:
        fake = self._fake(node)
        if isinstance(fake, torch.Tensor) and stamps.is_empty(fake) and self._builder.flavour == "tensorrt":
            sizes = [size if isinstance(size, int) else 1 for size in fake.shape]  # only joins take it, for nothing
            self._values[node] = self._builder.constant(torch.empty(sizes, dtype=fake.dtype), fake.dtype)
            return
        if isinstance(fake, torch.Tensor):
            self._check_tensor(fake)
            if self._places[node] in self._weights and self._builder.flavour == "openvino":
                self._check_tensor(self._examples[self._places[node]])  # nobody rounds what is constant from now on
            self._values[node] = self._declare(self._places[node], fake)
            self._conditions.take(node)

    def _declare(self, place: int, fake: Any) -> Value:
        shape, symbols = (
            stamps.sizes_of(fake.shape) if isinstance(fake, torch.Tensor) else ((), (str(expression_of(fake)),))
        )
        dtype = fake.dtype if isinstance(fake, torch.Tensor) else torch.int64
        name = f"p{place}"
        self._fed[name] = Fed(name=name, place=place, dtype=str(dtype).removeprefix("torch."), sizes=shape)
        value = self._builder.input(name, dtype, shape, symbols)
        if isinstance(fake, torch.Tensor):
            for dim, symbol in enumerate(symbols):
                if symbol is not None:
                    self._symbols.places.setdefault(symbol, (value, dim))
        return value

    def _read_symbol(self, name: str) -> Value:
        """A symbol that no tensor fed so far tells: its argument is fed as well."""
        where = self._formulas.where(name)
        if where is None:
            raise Refused(f"the size {name} is in none of the region's arguments")
        place, dim = where
        node = next(one for one, other in self._places.items() if other == place)
        value = self._declare(place, self._fake(node))
        if dim is None:
            return value
        self._values.setdefault(node, value)
        size = self._builder.size(value, dim)
        assert isinstance(size, Value)
        return size

    def _constant(self, node: Node) -> Value:
        tensor = attribute(self._graph.owning_module, node.target)
        if not isinstance(tensor, torch.Tensor):
            raise Refused(f"it holds a {type(tensor).__name__}")
        if self._builder.flavour == "openvino" and tensor.dtype is torch.int64 and (tensor != tensor.int()).any():
            raise Refused("OpenVINO keeps int64 as int32, which does not hold this constant")
        return self._builder.constant(tensor, tensor.dtype)

    # Nodes

    def _convert(self, node: Node, effects: Effects | None, checked: bool = False) -> Any:
        """The value of a call.

        Args:
            node: the call.
            effects: of the region; None for a part of another call.
            checked: whether it is a part of a call whose own operands were made sure of.
        """
        name = target_name(node.target)
        if name == "operator.getitem":
            part = self._values[node.args[0]][node.args[1]]  # type: ignore[index]
            if part is None:
                raise Refused(f"output {node.args[1]} of the op before it is not computed")
            return part
        if name == "aten.copy_.default" and effects is not None:
            return self._write(node, effects)
        if not tensors_of(fake_value(node)):
            raise Refused("it gives no tensor")
        for fake in stamps.read_results(node):
            self._check_tensor(fake)
        held = self._conditions.before(node, checked)
        before = {source: self._values[source] for source in held}
        self._values.update(held)
        value = self._stamped(self._emit(name, node, checked), node)
        self._values.update(before)
        self._conditions.after(node, value)
        return value

    def _emit(self, name: str, node: Node, checked: bool) -> Any:
        """A call by its converter, or by way of its parts."""
        whole = patterns.found(self._builder, self._values, node)
        if whole is not None:
            return whole
        convert = self._table.get(name)
        refused = Refused("there is no converter for it")
        if convert is not None:
            try:
                value = convert(self._builder, node, *self._given(node.args), **self._given(node.kwargs))
                return self._stamped(value, node)
            except RefusedWhole:
                raise
            except Refused as error:
                refused = error
        parts = parts_of(node)
        if parts is None:
            raise refused
        return self._through(parts, node, checked or self._conditions.checks(node))

    def _through(self, parts: Graph, node: Node, checked: bool) -> Any:
        """A node's value by way of the ops it is made of."""
        self._conditions.within(parts, node.all_input_nodes)
        for source, placeholder in zip(node.all_input_nodes, parts.find_nodes(op="placeholder"), strict=True):
            self._values[placeholder] = self._values.get(source)
        for part in parts.nodes:
            if part.op == "call_function" and not isinstance(fake_value(part), _SYMBOLIC):
                try:
                    self._values[part] = self._convert(part, None, checked)
                except Refused as error:
                    raise Refused(f"{error} in {target_name(part.target)}, a part of it") from error
        return self._given(parts.output_node().args[0])

    def _write(self, node: Node, effects: Effects) -> Value:
        """``copy_`` into an argument: its new value, as all later readers see it."""
        target = effects.written_by(node)
        assert target is not None
        fake = self._fake(target)
        self._conditions.give(node.args[1])  # type: ignore[arg-type]
        value = self._values[node.args[1]]  # type: ignore[index]
        value = self._builder.cast(value, fake.dtype)
        if tuple(map(str, fake_value(node.args[1]).shape)) != tuple(map(str, fake.shape)):  # type: ignore[arg-type]
            value = self._builder.expand(value, [self._builder.reckon(size, ()) for size in fake.shape])
        for shown in effects.same_as(target):
            self._values[shown] = value
        return value

    def _given(self, given: Any) -> Any:
        """Arguments with nodes replaced by their values."""
        if isinstance(given, Node):
            fake = self._fake(given)
            if isinstance(fake, torch.SymInt):
                return self._builder.reckon(fake, ())
            if isinstance(fake, _SYMBOLIC):
                raise Refused(f"{given.name} is a symbolic {type(fake).__name__[3:].lower()}")
            if given in self._values and self._values[given] is not None:
                return self._values[given]
            if fake is None or isinstance(fake, (bool, int, float)):
                return fake
            raise Refused(f"{given.name} has no value in ONNX")
        if isinstance(given, (list, tuple)):
            return [self._given(one) for one in given]
        if isinstance(given, Mapping):
            return {name: self._given(one) for name, one in given.items()}
        return given

    def _value_of(self, node: Any) -> Any:
        return self._values.get(node)

    def _check_tensor(self, fake: torch.Tensor) -> None:
        if self._builder.flavour == "tensorrt":
            for_tensorrt.check(fake)
        elif fake.device.type != "cpu":
            raise Refused(f"it is on {fake.device.type}")
        if fake.layout is not torch.strided or fake.is_conj() or fake.is_neg():
            raise Refused(f"its layout is {fake.layout}, or it is a lazy conjugate or negative")
        if fake.dtype is torch.float64 and self._builder.flavour == "openvino":
            raise Refused("OpenVINO computes float64 as float32")

    def _check_elements(self, node: Node) -> None:
        """OpenVINO was seen to die (SIGFPE) on tensors without elements, TensorRT has none; joins leave them out."""
        if self._builder.flavour == "onnxruntime" or target_name(node.target) in (*_JOINS, stamps.PART):
            return
        if node.op == "call_function" and all(map(stamps.is_empty, tensors_of(self._fake(node)))):
            return  # who reads the result is asked
        given = (tensor for source in node.all_input_nodes for tensor in tensors_of(self._fake(source)))
        if any(map(stamps.is_empty, given)):
            raise Refused("the runtime is given no tensors without elements")

    def _stamped(self, value: Any, node: Node) -> Any:
        return stamps.stamp(value, fake_value(node))


__all__ = ["CONVERTER_VERSION", "OnnxRegion", "convert"]
