"""From a region's ATen graph to a network description.

Only the nodes that an output or a written input needs are converted. Every result's type and sizes are compared with
what torch says they are, so that a converter's mistake ends in a Reason and not in another network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from djinn_fx.engines.base import RegionGraph
from djinn_fx.engines.tensorrt import converters  # noqa: F401 (fills the support table)
from djinn_fx.engines.tensorrt.call import Call
from djinn_fx.engines.tensorrt.conversion import (
    Constant,
    Conversion,
    Copy,
    FromInput,
    FromNetwork,
    FromSizes,
    Options,
    Output,
    SameAs,
    ViewOfInput,
)
from djinn_fx.engines.tensorrt.decompose import decomposed
from djinn_fx.engines.tensorrt.effects import Effects
from djinn_fx.engines.tensorrt.emitter import UNKNOWN, Bug, Emitter, Value
from djinn_fx.engines.tensorrt.network import NetworkWriter, Tensor
from djinn_fx.engines.tensorrt.prune import pruned
from djinn_fx.engines.tensorrt.scalars import numbers_to_narrow
from djinn_fx.engines.tensorrt.sizes import Sizes
from djinn_fx.engines.tensorrt.support import (
    ALL,
    Refused,
    check_tensor,
    dtype_name,
    is_empty,
    is_known,
    look_up,
    refusal,
)
from djinn_fx.reasons import Reason
from djinn_fx.srg.graph import fake_value, tensors_of
from djinn_fx.srg.lower import target_name

#: Raised when the network of a region changes though the region does not; part of the engine's fingerprint.
CONVERTER_VERSION = 1

_SYMBOLIC = (torch.SymInt, torch.SymFloat, torch.SymBool)

#: Ops that check and compute nothing.
_CHECKS = ("aten._assert_tensor_metadata.default",)


def convert(region: RegionGraph, *, options: Options | None = None) -> Conversion | Reason:
    """The region as a network, or why not.

    Args:
        region: its example inputs are fake; nothing is computed.
        options: what may be chosen.
    """
    conversion = _Conversion(region, options or Options())
    try:
        return conversion.run()
    except Refused as error:
        return refusal(conversion.node, str(error), label=region.label)
    except Exception as error:  # noqa: BLE001 (recorded: a mistake of ours costs this engine only)
        return refusal(
            conversion.node, f"the converter failed: {type(error).__name__}: {error}", "convert", region.label
        )


class _Conversion:
    """One region on its way."""

    def __init__(self, region: RegionGraph, options: Options) -> None:
        self.node: Node | None = None
        self._options = options
        self._graph = region.gm.graph
        self._examples = region.example_inputs
        self._values: dict[Node, Any] = {}
        self._writer = NetworkWriter()
        self._sizes = Sizes(options)
        self._emitter = Emitter(self._writer, self._sizes, options)
        self._placeholders: dict[Node, int] = {}
        #: Network outputs: values by number, and for each region input written, its new value.
        self._outputs: list[int] = []
        self._narrowed: frozenset[Node] = frozenset()

    def run(self) -> Conversion:
        """Convert.

        Raises:
            Refused: with ``self.node`` the node it is about.
        """
        self._graph = decomposed(self._graph, is_known)
        for index, node in enumerate(self._graph.find_nodes(op="placeholder")):
            self._placeholders[node] = index
        self._narrowed = numbers_to_narrow(self._graph)
        self._check_placeholders()
        effects = Effects(self._graph, self._placeholders)
        self.node = effects.culprit
        effects.check()
        live = self._live(effects)
        inputs = self._take_inputs(live)
        for node in self._graph.nodes:
            if node in live and node.op == "call_function":
                self._convert(node, effects)
        self.node = None
        outputs = self._region_outputs(effects)
        copies = [
            Copy(output=self._network_output(self._values[node]), input=self._placeholders[node])
            for node in effects.written
        ]
        if not self._outputs:
            raise Refused("it computes no tensor")
        network = pruned(self._writer.network(self._outputs, self._sizes.ranges()))
        return Conversion(
            network=network,
            inputs=inputs,
            outputs=tuple(outputs),
            copies=tuple(copies),
            symbols=dict(self._sizes.places),
        )

    def _check_placeholders(self) -> None:
        """Memory can be spoken of, and all of it is on one kind of device: TensorRT has one."""
        for node in self._graph.nodes:
            if any(tensor.layout is not torch.strided for tensor in tensors_of(self._fake(node))):
                self.node = node
                raise Refused("a tensor that is not strided")
        kinds = {
            tensor.device.type
            for node in self._graph.nodes
            if node not in self._narrowed
            for tensor in tensors_of(self._fake(node))
        } - {"meta"}
        if len(kinds) > 1:
            raise Refused(f"it works on several devices: {', '.join(sorted(kinds))}")

    def _fake(self, node: Node) -> Any:
        value = fake_value(node)
        if value is None and node in self._placeholders:
            return self._examples[self._placeholders[node]]
        return value

    def _live(self, effects: Effects) -> set[Node]:
        """The nodes whose values are needed."""
        output = self._graph.output_node()
        wanted = [node for node in output.all_input_nodes if effects.shown(node) is None]
        wanted += effects.writers
        live: set[Node] = set()
        while wanted:
            node = wanted.pop()
            if node in live:
                continue
            live.add(node)
            if isinstance(self._fake(node), _SYMBOLIC):
                continue  # reckoned from the inputs' sizes, however the graph does it
            wanted += node.all_input_nodes
        for node in self._graph.nodes:
            if node.op != "call_function" or node in live or not node.is_impure():
                continue
            if target_name(node.target) not in _CHECKS:
                self.node = node
                raise Refused("it has an effect besides its value")
        return live

    def _take_inputs(self, live: set[Node]) -> tuple[int, ...]:
        """Declare the network's inputs: the live tensors, and those whose sizes tell a symbol that no live one does."""
        taken = [node for node in self._placeholders if node in live and self._is_tensor(node)]
        told = {str(size.node.expr) for node in taken for size in _symbolic_sizes(self._fake(node))}
        needed = {
            str(symbol)
            for node in self._graph.nodes
            if node in live or node.op == "output"
            for size in _symbols_of(node, self._fake)
            for symbol in size.node.expr.free_symbols
        }
        for node in self._placeholders:
            if node not in taken and self._is_tensor(node):
                new = {str(size.node.expr) for size in _symbolic_sizes(self._fake(node))} & (needed - told)
                if new:
                    taken.append(node)
                    told |= new
        for node in [one for one in taken if is_empty(self._fake(one))]:
            taken.remove(node)
            self._values[node] = None  # only joins take it, for nothing
        taken.sort(key=lambda node: self._placeholders[node])
        for number, node in enumerate(taken):
            self.node = node
            fake = self._fake(node)
            if node in self._narrowed:
                dtype = "float32"
            else:
                check_tensor(fake, ALL, "this input")
                dtype = dtype_name(fake.dtype)
            shape = self._sizes.declare(number, fake.shape)
            self._writer.input(Tensor(dtype=dtype, shape=shape))
            self._values[node] = Value(number, dtype, shape)
            self._emitter.inputs.append(self._values[node])
        self.node = None
        if not taken:
            raise Refused("it takes no tensor")
        return tuple(self._placeholders[node] for node in taken)

    def _is_tensor(self, node: Node) -> bool:
        return isinstance(self._fake(node), torch.Tensor)

    def _convert(self, node: Node, effects: Effects) -> None:
        self.node = node
        self._writer.node = node.name
        if isinstance(self._fake(node), _SYMBOLIC):
            return
        name = target_name(node.target)
        if name == "operator.getitem":
            part = self._values[node.args[0]][node.args[1]]  # type: ignore[index]
            if part is None:
                raise Refused("this output of the op is not computed")
            self._values[node] = part
            return
        if is_empty(fake_value(node)) and effects.written_by(node) is None:
            self._values[node] = None
            return
        for source in node.all_input_nodes:
            effects.check_read(source, node)
        support = look_up(node, self._narrowed)
        value = support.convert(self._emitter, Call(node, self._emitter, self._values))
        target = effects.written_by(node)
        if target is not None and isinstance(value, Value):
            written = self._values[target]
            value = self._emitter.broadcast(self._emitter.cast(value, written.dtype), written.shape)
        value = self._checked(value, fake_value(node), node in self._narrowed)
        for shown in effects.same_as(target) if target is not None else ():
            self._values[shown] = value
        self._values[node] = value

    def _checked(self, value: Any, fake: Any, narrowed: bool = False) -> Any:
        """The value with the sizes torch says it has.

        Raises:
            Bug: it is of another type or size.
        """
        if isinstance(fake, (tuple, list)):
            return [None if one is None else self._checked(one, other) for one, other in zip(value, fake, strict=True)]
        if not isinstance(value, Value) or not isinstance(fake, torch.Tensor):
            raise Bug(f"gave {value!r}")
        shape = self._sizes.formulas(fake.shape)
        dtype = "float32" if narrowed else dtype_name(fake.dtype)
        if value.dtype != dtype or value.rank != len(shape):
            raise Bug(f"gave {value.dtype} {list(value.shape)} for {dtype} {list(shape)}")
        for mine, wanted in zip(value.shape, shape, strict=True):
            if isinstance(mine, int) and isinstance(wanted, int) and mine != wanted:
                raise Bug(f"gave sizes {list(value.shape)} for {list(shape)}")
        return Value(value.number, value.dtype, shape)

    def _network_output(self, value: Value) -> int:
        """The index of a new network output of this value: no input itself, none twice, so each has its own memory."""
        if value.number < len(self._writer.inputs) or value.number in self._outputs or self._is_constant(value):
            value = self._emitter.identity(value)
        self._outputs.append(value.number)
        return len(self._outputs) - 1

    def _is_constant(self, value: Value) -> bool:
        before = len(self._writer.inputs)
        for layer in self._writer.layers:
            if before == value.number:
                return layer.kind == "constant"
            before += len(layer.outputs)
        return False

    def _region_outputs(self, effects: Effects) -> list[Output]:
        outputs: list[Output] = []
        seen: dict[Node, int] = {}
        results: Sequence[Any] = self._graph.output_node().args[0]  # type: ignore[assignment]
        for index, result in enumerate(results):
            if isinstance(result, Node) and result in seen:
                outputs.append(SameAs(output=seen[result]))
            else:
                outputs.append(self._region_output(result, effects))
            if isinstance(result, Node):
                seen.setdefault(result, index)
        return outputs

    def _region_output(self, result: Any, effects: Effects) -> Output:
        if not isinstance(result, Node):
            if result is None or isinstance(result, (bool, int, float)):
                return Constant(value=result)
            raise Refused(f"it returns {result!r}")
        self.node = result
        fake = self._fake(result)
        if isinstance(fake, _SYMBOLIC):
            return FromSizes(value=self._sizes.formula(fake))
        if not isinstance(fake, torch.Tensor):
            if fake is None or isinstance(fake, (bool, int, float)):
                return Constant(value=fake)
            raise Refused(f"it returns a {type(fake).__name__}")
        shape, strides = self._sizes.formulas(fake.shape), self._sizes.formulas(fake.stride())
        source = effects.shown(result)
        if source is not None:
            index, own = self._placeholders[source], self._fake(source)
            if effects.is_whole(result):
                return FromInput(input=index)
            offset = self._sizes.formula(fake.storage_offset() - own.storage_offset())
            return ViewOfInput(input=index, shape=shape, strides=strides, offset=offset)
        value = self._values[result]
        if value is None:
            raise Refused("what it gives has no elements")
        return FromNetwork(output=self._network_output(value), dtype=value.dtype, shape=shape, strides=strides)


def _symbolic_sizes(value: Any) -> list[torch.SymInt]:
    sizes: list[Any] = [size for tensor in tensors_of(value) for size in tensor.shape]
    return [size for size in sizes if isinstance(size, torch.SymInt) and not size.node.expr.is_number]


def _symbols_of(node: Node, fake: Any) -> list[torch.SymInt]:
    """The symbolic sizes a node's conversion may need: its own, and those it is given."""
    found: list[torch.SymInt] = []
    for one in (node, *node.all_input_nodes):
        value = fake(one)
        if isinstance(value, torch.SymInt) and not value.node.expr.is_number:
            found.append(value)
        found += _symbolic_sizes(value)
    return found


__all__ = ["CONVERTER_VERSION", "UNKNOWN", "convert"]
