"""The graph of a region with conditions in it: what Inductor's kernels need of an operand, and torch's own check.

An index that may be out of range is brought into it and a divisor that may be 0 becomes 1, so that no kernel reads or
writes where it must not, and none ends the process; a flag, the graph's last result, says whether anything had to be
changed. See :mod:`~djinn_fx.engines.inductor.safe`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from djinn_fx.engines.base import RegionGraph
from djinn_fx.engines.inductor.safe import OUT_OF_RANGE, Needs
from djinn_fx.engines.lowering.formulas import Formulas
from djinn_fx.engines.ranges.analysis import Ranges, limits
from djinn_fx.engines.ranges.demands import CLASSES, Size, divides_whole, indices
from djinn_fx.errors import EngineError
from djinn_fx.srg.effects import draws_random_numbers, written_places
from djinn_fx.srg.graph import fake_value, fakes_of
from djinn_fx.srg.lower import target_name

aten = torch.ops.aten


def copied(gm: GraphModule) -> GraphModule:
    """A copy of a region's graph that may be changed."""
    graph = Graph()
    result = graph.graph_copy(gm.graph, {})
    graph.output(result)
    return GraphModule(gm, graph, class_name="SafeRegion")


def made_safe(region: RegionGraph, gm: GraphModule) -> Needs:
    """Put conditions into a copy of a region's graph.

    Args:
        region: on a CPU. Elsewhere kernels assert as torch's do, and reading a flag would wait for the device.
        gm: the copy; changed.

    Returns:
        What is to be done in each call; falsy if nothing, and then the graph is as it was.
    """
    return _Conditions(region, gm).made()


def refusal(region: RegionGraph) -> str | None:
    """Why no condition makes a region safe; None if one does. Looks closer only at divisions and empty sizes."""
    if not any(node.op == "call_function" and _may_refuse(node) for node in region.gm.graph.nodes):
        return None
    try:
        made_safe(region, copied(region.gm))
    except EngineError as error:
        return str(error)
    return None


def _may_refuse(node: Node) -> bool:
    name = target_name(node.target).rpartition(".")[0]
    if divides_whole(name, node):
        return True
    return any(type(size.symbolic) is int and not size.symbolic for _, size, _ in indices(name, node))


class _Conditions:
    def __init__(self, region: RegionGraph, gm: GraphModule) -> None:
        self._region, self._gm, self._graph = region, gm, gm.graph
        placeholders = gm.graph.find_nodes(op="placeholder")
        places = {node: place for place, node in enumerate(placeholders)}
        self._places = places
        self._formulas = Formulas([node.meta.get("val") for node in placeholders])
        self._ranges = Ranges(places, self._formulas)
        self._flags: list[Node] = []
        self._safe: dict[tuple[Any, ...], Node] = {}

    def made(self) -> Needs:
        for node in list(self._graph.nodes):
            if node.op != "call_function":
                continue
            name = target_name(node.target).rpartition(".")[0]
            for index, size, negative in indices(name, node):
                self._index(node, index, size, negative)
            self._classes(name, node)
            self._divisor(name, node)
        program = self._ranges.program()
        if not self._flags:
            return Needs(program=program, symbols=dict(sorted(self._formulas.used.items())))
        results, written = self._outputs()
        self._gm.recompile()
        return Needs(
            program=program,
            symbols=dict(sorted(self._formulas.used.items())),
            results=results,
            written=written,
            random=draws_random_numbers(self._region.gm),
        )

    def _outputs(self) -> tuple[int, tuple[tuple[int, int], ...]]:
        """The flag becomes the last result; what is written is written after it was read."""
        output = self._graph.output_node()
        values = list(output.args[0])  # type: ignore[arg-type]
        count, written = len(values), []
        for node in list(self._graph.nodes):
            if node.target is aten.copy_.default and node.args[0] in self._places and not node.users:
                written.append((self._places[node.args[0]], len(values)))
                values.append(node.args[1])
                self._graph.erase_node(node)
        if written_places(self._gm.graph):
            raise EngineError(f"inductor: {self._region.label}: it writes before its indices are known to be good")
        with self._graph.inserting_before(output):
            flag = self._flags[0]
            for other in self._flags[1:]:
                flag = self._call(aten.logical_and.default, flag, other)
        output.args = ((*values, flag),)
        return count, tuple(written)

    def _call(self, target: Any, *args: Any) -> Node:
        node = self._graph.call_function(target, args)
        fakes = fakes_of(args)
        with next(one.fake_mode for one in fakes if isinstance(one, torch._subclasses.FakeTensor)):
            node.meta["val"] = target(*fakes)
        return node

    # Conditions

    def _index(self, node: Node, index: Node, size: Size, negative: bool) -> None:
        known = size.symbolic
        least = -known if negative else 0
        if self._ranges.demand(index, least, known - 1, OUT_OF_RANGE):
            return
        if type(known) is int and not known:
            raise EngineError(f"inductor: {self._region.label}: an index into nothing")
        if size.source is node and type(known) is not int:
            raise EngineError(f"inductor: {self._region.label}: an index into a size known only after the call")
        key = (index, size.key, negative)
        if key not in self._safe:
            with self._graph.inserting_before(node):
                count = self._count(size)
                low = self._reckon(operator.mul, count, -1) if negative else 0
                self._safe[key] = self._bounded(index, low, self._reckon(operator.sub, count, 1))
        node.replace_input_with(index, self._safe[key])

    def _reckon(self, function: Callable[[Any, Any], Any], one: Any, other: Any) -> Any:
        """A number from two; a node if one of them is a symbolic size."""
        if not isinstance(one, Node) and not isinstance(other, Node):
            return function(one, other)
        made = self._graph.call_function(function, (one, other))
        made.meta["val"] = function(*(n.meta["val"] if isinstance(n, Node) else n for n in (one, other)))
        return made

    def _count(self, size: Size) -> Any:
        """A size as a number, or a node."""
        count: Any = 1
        for dim in size.dims:
            one = fake_value(size.source).shape[dim]
            if isinstance(one, torch.SymInt):
                node = self._graph.call_function(aten.sym_size.int, (size.source, dim))
                node.meta["val"] = one
                one = node
            count = self._reckon(operator.mul, count, one)
        return count

    def _bounded(self, index: Node, low: Any, high: Any) -> Node:
        """An index brought into range; the flag says whether it was."""
        bounded = self._clamped(index, low, high)
        self._flags.append(self._call(aten.all.default, self._call(aten.eq.Tensor, bounded, index)))
        return bounded

    def _clamped(self, index: Node, low: Any, high: Any) -> Node:
        node = self._graph.call_function(aten.clamp.default, (index, low, high))
        ends = [one.meta["val"] if isinstance(one, Node) else one for one in (low, high)]
        fake = fake_value(index)
        with fake.fake_mode:
            node.meta["val"] = aten.clamp.default(fake, *ends)
        return node

    def _classes(self, name: str, node: Node) -> None:
        """The classes of a negative log-likelihood: one of them means that the row is left out."""
        if name not in CLASSES:
            return
        scores: Any = node.args[0]
        target: Any = node.args[1]
        ignored = node.args[4] if len(node.args) > 4 else -100
        size = Size(scores, 0 if fake_value(scores).dim() == 1 else 1)
        known = self._ranges.of(target)
        count = size.symbolic
        if known is not None and type(count) is int and known[0] >= 0 and known[1] < count:
            return
        with self._graph.inserting_before(node):
            left_out = self._call(aten.eq.Scalar, target, ignored)
            classes = self._call(aten.masked_fill.Scalar, target, left_out, 0)
            bounded = self._bounded(classes, 0, self._reckon(operator.sub, self._count(size), 1))
            safe = self._call(aten.where.self, left_out, target, bounded)
        node.replace_input_with(target, safe)

    def _divisor(self, name: str, node: Node) -> None:
        """Torch raises where whole numbers are divided by 0; the least number by -1 ends the process."""
        if not divides_whole(name, node):
            return
        dividend, divisor = node.args[0], node.args[1]
        known = self._ranges.of(divisor)
        if known is None or known == (0, 0):
            raise EngineError(f"inductor: {self._region.label}: whole numbers are divided by zero")
        least, _ = limits(fake_value(node).dtype)
        if not isinstance(divisor, Node):
            if known[0] == -1 and isinstance(dividend, Node):
                self._never(node, dividend, least)
            return
        with self._graph.inserting_before(node):
            safe = divisor
            if known[0] <= 0 <= known[1]:
                zero = self._call(aten.eq.Scalar, divisor, 0)
                self._flags.append(self._call(aten.logical_not.default, self._call(aten.any.default, zero)))
                safe = self._call(aten.masked_fill.Scalar, divisor, zero, 1)
            ends = self._ranges.of(dividend)
            if known[0] <= -1 <= known[1] and (ends is None or ends[0] <= least):
                odd = self._call(aten.eq.Scalar, safe, -1)
                if isinstance(dividend, Node):
                    odd = self._call(aten.logical_and.default, odd, self._call(aten.eq.Scalar, dividend, least))
                self._flags.append(self._call(aten.logical_not.default, self._call(aten.any.default, odd)))
                minus = self._call(aten.eq.Scalar, safe, -1)
                # Which of the two it is does not matter once the flag is down; a quotient by 1 is safe.
                both = self._call(aten.any.default, odd)
                safe = self._call(aten.masked_fill.Scalar, safe, self._call(aten.logical_and.default, minus, both), 1)
        if safe is not divisor:
            node.replace_input_with(divisor, safe)

    def _never(self, node: Node, dividend: Node, least: int) -> None:
        if self._ranges.demand(dividend, least + 1, limits(fake_value(node).dtype)[1], "the least number by -1"):
            return
        with self._graph.inserting_before(node):
            low = self._call(aten.eq.Scalar, dividend, least)
            self._flags.append(self._call(aten.logical_not.default, self._call(aten.any.default, low)))
            safe = self._call(aten.masked_fill.Scalar, dividend, low, 0)
        node.replace_input_with(dividend, safe)
