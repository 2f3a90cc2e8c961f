"""What an operator needs of its whole numbers so that the runtime computes what torch does: see ``engines/ranges``.

Torch raises where an index is out of range or a divisor is 0; the runtimes answer, or fail. OpenVINO keeps int64 in 32
bits, and computes much of it in float32, which is exact to 24. What can be proved is proved; what follows from
arguments is checked before the call; the rest is a condition in the model (``GraphBuilder.require``). An operand that
may be out of range is brought into it, so that no kernel reads or writes where it must not before the flag is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Graph, Node

from djinn_fx.engines.onnx.graph import GraphBuilder, Refused, Value
from djinn_fx.engines.onnx.kernels import broadcast, negate
from djinn_fx.engines.ranges.analysis import Ranges, is_whole, limits
from djinn_fx.engines.ranges.demands import CLASSES, DIVISIONS, Size, divides_whole, indices
from djinn_fx.srg.graph import fake_value, tensors_of
from djinn_fx.srg.lower import target_name

#: What OpenVINO's integers hold, and what its float32 kernels hold of them.
_BITS_32 = (-(2**31), 2**31 - 1)
_BITS_24 = (-(2**24), 2**24)
#: Its remainders are wrong for some numbers of 24 bits.
_BITS_23 = (-(2**23), 2**23)
#: OpenVINO computes these of whole numbers in whole numbers (2026.4; each was tried).
_EXACT = frozenset(f"aten.{name}" for name in "add sub rsub mul neg abs sign cumsum bitwise_and bitwise_or".split())
_EXACT |= frozenset(f"aten.{name}" for name in "bitwise_xor bitwise_not __and__ __or__ __xor__".split())
#: Of these, rounding a large operand does no harm where the result is not large.
_BOUNDED = frozenset(f"aten.{name}" for name in "minimum maximum clamp clamp_min clamp_max".split())
#: These take numbers as they are, or look only whether they are 0.
_MOVES = frozenset(
    f"aten.{name}"
    for name in """
    view reshape _unsafe_view expand permute transpose t squeeze unsqueeze slice select clone alias detach contiguous
    lift_fresh lift_fresh_copy flip roll repeat unfold diagonal narrow gather index _unsafe_index index_select take
    embedding copy fill cat stack where masked_fill index_fill slice_scatter select_scatter scatter index_copy
    index_put constant_pad_nd tril triu split split_with_sizes chunk unbind _to_copy arange full new_full full_like
    zeros new_zeros
    zeros_like ones new_ones ones_like scalar_tensor empty logical_not logical_and logical_or logical_xor any all
    count_nonzero movedim rot90 copy_ to lift empty_like new_empty
    """.split()
)
#: Called by nobody but torch's own decompositions, for which that makes no difference.
_OTHERWISE = frozenset({"aten._unsafe_masked_index", "aten._unsafe_masked_index_put_accumulate"})
#: Of what these are given they take the sizes.
_UNREAD = frozenset(f"aten.{name}" for name in "full_like zeros_like ones_like empty_like new_full new_zeros".split())
#: Of those, the ones whose numbers may be new.
_MADE = frozenset(f"aten.{name}" for name in "arange full new_full full_like index_put scatter".split())
#: ONNX Runtime's results of these are wrong beyond a number.
_INEXACT = {f"aten.{name}": 2**53 for name in ("sum", "nansum", "_trilinear", "prod", "cumprod", "pow")}

#: An operand, the ends between which its numbers must lie, and whether counting from the end is meant by negative ones.
Place = tuple[Node, Any, Any]


class Conditions:
    """The conditions of one conversion.

    Args:
        builder: of the model.
        ranges: of the region's graph; may be extended by the graphs of an operator's parts.
        values: of the nodes converted so far; kept up by the caller.
        reckon: a symbolic size as a value.
    """

    def __init__(
        self,
        builder: GraphBuilder,
        ranges: Ranges,
        values: Mapping[Node, Any],
        reckon: Callable[[Any], int | Value],
    ) -> None:
        self._builder, self._ranges, self._values, self._reckon = builder, ranges, values, reckon
        self._narrow = builder.flavour == "openvino"
        #: Where a number was no whole number of 32 bits before it became one (OpenVINO's int64).
        self._lost: dict[Node, Value] = {}

    def within(self, parts: Graph, sources: Sequence[Node]) -> None:
        """An operator is converted by way of others: their placeholders stand for these."""
        placeholders = parts.find_nodes(op="placeholder")
        for placeholder, source in zip(placeholders, sources, strict=True):
            self._ranges.stands_for(placeholder, source)
            if source in self._lost:
                self._lost[placeholder] = self._lost[source]

    def take(self, node: Node) -> None:
        """An argument is read: OpenVINO's 32 bits must hold its numbers."""
        fake = fake_value(node)
        if self._narrow and isinstance(fake, torch.Tensor) and fake.dtype in (torch.int64, torch.uint32, torch.uint64):
            self._ranges.demand(node, *_BITS_32, "an argument holds numbers beyond OpenVINO's 32 bits")

    def checks(self, node: Node) -> bool:
        """Whether the operands of a call are made sure of as a whole, so that its parts' need not be."""
        name = target_name(node.target).rpartition(".")[0]
        return name in CLASSES or next(places_of(name, node), None) is not None

    # Before an operator is converted

    def before(self, node: Node, checked: bool) -> dict[Node, Value]:
        """Make sure of a node's operands.

        Args:
            node: about to be converted.
            checked: whether it is a part of an operator whose own operands were made sure of.

        Returns:
            Operands to be taken in the place of its own.

        Raises:
            Refused: what it needs can be found out neither before nor in a call.
        """
        name = target_name(node.target).rpartition(".")[0]
        held: dict[Node, Value] = {}
        if name in _OTHERWISE and self._builder.flavour == "tensorrt":
            for index in node.args[2]:  # type: ignore[union-attr]
                if isinstance(index, Node):
                    self._place(held, index, 0, limits(torch.int64)[1])
        elif name in _OTHERWISE:
            raise Refused("torch's decomposition of it counts negative indices otherwise than its kernel")
        if not checked:
            for index, least, most in places_of(name, node):
                self._place(held, index, least, most)
            self._divisor(held, name, node)
            self._classes(held, name, node)
        if self._narrow:
            self._operands(name, node)
            self._no_loss(name, node)
        return held

    def _place(self, held: dict[Node, Value], index: Node, least: Any, most: Any) -> None:
        if self._ranges.demand(index, least, most, "an index is out of range"):
            return
        value = self._builder.cast(held.get(index, self._values[index]), torch.int64)
        held[index] = self._bounded(value, least, most)

    def _bounded(self, value: Value, least: Any, most: Any) -> Value:
        """Whole numbers that must lie between two ends, brought there."""
        b, low, high = self._builder, self._end(least), self._end(most)
        b.require_within(value, low, high)
        bounded = b.op("Max", [value, b.tensor(low, torch.int64)], shape=value.shape, symbols=value.symbols)
        return b.op("Min", [bounded, b.tensor(high, torch.int64)], shape=value.shape, symbols=value.symbols)

    def _end(self, size: Any) -> int | Value:
        end = self._reckon(size)
        if self._narrow and isinstance(end, int) and not _BITS_24[0] <= end <= _BITS_24[1]:
            raise Refused(f"OpenVINO compares whole numbers in 24 bits, which do not hold {end}")
        return end

    def _divisor(self, held: dict[Node, Value], name: str, node: Node) -> None:
        """Torch raises where whole numbers are divided by 0; the least number by -1 ends some processes."""
        if not divides_whole(name, node):
            return
        dividend, divisor = node.args[0], node.args[1]
        known = self._ranges.of(divisor)
        if known is None or known == (0, 0):
            raise Refused("whole numbers are divided by zero")
        least, most = limits(fake_value(node).dtype)
        if known[0] <= -1 <= known[1] and not self._ranges.demand(
            dividend, least + 1, most, "the least number may be divided by -1"
        ):
            raise Refused("the least number may be divided by -1")
        if known[0] > 0 or known[1] < 0 or not isinstance(divisor, Node):
            return
        if known[0] == 0 and self._ranges.demand(divisor, 1, most, "a divisor may be zero"):
            return
        b, value = self._builder, self._values[divisor]
        some = negate(b, b.op("Equal", [b.cast(value, torch.int64), b.constant(0, torch.int64)], torch.bool))
        b.require(some)
        wide = b.cast(value, torch.int64)
        held[divisor] = b.cast(b.where(some, wide, b.constant(1, torch.int64)), value.dtype)

    def _classes(self, held: dict[Node, Value], name: str, node: Node) -> None:
        """The classes of a negative log-likelihood: one of them means that the row is left out."""
        if name not in CLASSES:
            return
        scores, target = node.args[0], node.args[1]
        ignored = node.args[4] if len(node.args) > 4 else -100
        assert isinstance(scores, Node), "it is a tensor"
        assert isinstance(target, Node), "it is a tensor"
        count = Size(scores, 0 if fake_value(scores).dim() == 1 else 1).symbolic
        if self._proved(target, count):
            return
        b = self._builder
        value = b.cast(self._values[target], torch.int64)
        number, zero = b.tensor(int(ignored), torch.int64), b.constant(0, torch.int64)  # type: ignore[arg-type]
        left_out = b.op("Equal", [value, number], torch.bool)
        good = self._bounded(b.where(left_out, zero, value, value.shape), 0, count - 1)
        held[target] = b.where(left_out, value, good, value.shape)

    def _proved(self, node: Node, count: Any) -> bool:
        known = self._ranges.of(node)
        return known is not None and type(count) is int and known[0] >= 0 and known[1] < count

    # OpenVINO's whole numbers

    def _operands(self, name: str, node: Node) -> None:
        """Much is computed in float32: of numbers beyond 24 bits it would be another number's result."""
        results = tensors_of(fake_value(node))
        if name in _EXACT or name in _MOVES or name in _BOUNDED or all(one.dtype.is_floating_point for one in results):
            return
        ends = _BITS_23 if name in DIVISIONS or name == "aten.div" else _BITS_24
        for source in _whole_operands(node):
            if not self._ranges.demand(source, *ends, f"numbers beyond 24 bits in {name}, on OpenVINO"):
                raise Refused("OpenVINO computes it in float32, which holds whole numbers of 24 bits")

    def after(self, node: Node, value: Any) -> None:
        """Make sure of a result that was just converted.

        Raises:
            Refused: it may need more bits than the runtime gives it.
        """
        name = target_name(node.target).rpartition(".")[0]
        fake = fake_value(node)
        if not isinstance(fake, torch.Tensor) or not is_whole(fake.dtype) or fake.dtype is torch.bool:
            return
        if not self._narrow:
            most = _INEXACT.get(name) if self._builder.flavour == "onnxruntime" else None
            if most is not None and not self._ranges.demand(node, -most, most, f"a large {name}", unwrapped=True):
                raise Refused("ONNX Runtime's result may be beyond 53 bits")
            return
        if name in ("aten._to_copy", "prims.convert_element_type", "aten.to"):
            self._cast(node, fake.dtype)
            return
        self._carry(name, node, value)
        if name in _MOVES and name not in _MADE:
            return  # what it is given was made sure of
        ends = limits(fake.dtype) if fake.dtype.itemsize < 4 else _BITS_32
        if name not in _EXACT and name not in _MOVES:
            ends = (max(ends[0], _BITS_24[0]), min(ends[1], _BITS_24[1]))
        if not self._ranges.demand(node, *ends, f"numbers beyond 32 bits in {name}, on OpenVINO", unwrapped=True):
            raise Refused("OpenVINO computes whole numbers in 32 bits")

    def _cast(self, node: Node, dtype: torch.dtype) -> None:
        """OpenVINO's casts to whole numbers end at the type's ends; torch's wrap around, or give the least int64."""
        source = node.args[0]
        assert isinstance(source, Node), "it is cast"
        before = fake_value(source)
        ends = limits(dtype) if dtype.itemsize < 4 else _BITS_32
        if is_whole(before.dtype):
            if not self._ranges.demand(source, *ends, "a number that its new type does not hold"):
                raise Refused("OpenVINO's casts do not wrap around")
            if source in self._lost:
                self._lost[node] = self._lost[source]
            return
        b, value = self._builder, self._values[source]
        value = b.cast(value, torch.float32)
        # Large ones are left to eager, so that what is reckoned from the others stays within 24 bits.
        most = float(min(_BITS_23[1], ends[1]))
        low = b.op("Less", [b.constant(max(-most, float(ends[0])) - 1, torch.float32), value], torch.bool, value.shape)
        high = b.op("Less", [value, b.constant(most + 1, torch.float32)], torch.bool, value.shape)
        self._lost[node] = negate(b, b.op("And", [low, high], torch.bool, value.shape))
        self._ranges.assume(node, int(max(-most, ends[0])), int(most))

    def _carry(self, name: str, node: Node, value: Any) -> None:
        """Where something was lost, what is computed of it is lost too, unless it is not chosen."""
        if name not in _THROUGH or not any(source in self._lost for source in node.all_input_nodes):
            return
        b = self._builder
        if name == "aten.where":
            yes, no = (self._lost.get(one) if isinstance(one, Node) else None for one in node.args[1:])
            chosen = self._values[node.args[0]]  # type: ignore[index]
            parts = []
            if yes is not None:
                parts.append(b.op("And", [chosen, yes], torch.bool, broadcast(chosen, yes)))
            if no is not None:
                parts.append(b.op("And", [negate(b, chosen), no], torch.bool, broadcast(chosen, no)))
        else:
            parts = [self._lost[source] for source in node.all_input_nodes if source in self._lost]
        lost = parts[0]
        for other in parts[1:]:
            lost = b.op("Or", [lost, other], torch.bool, broadcast(lost, other))
        self._lost[node] = lost

    def _no_loss(self, name: str, node: Node) -> None:
        """What goes on with numbers in another way than element by element needs all of them."""
        if name in _THROUGH or name in ("aten._to_copy", "prims.convert_element_type"):
            dtype = getattr(fake_value(node), "dtype", torch.float32)
            if is_whole(dtype) and dtype is not torch.bool:
                return
        if name in _UNREAD:
            return
        for source in node.all_input_nodes:
            self.give(source)

    def give(self, node: Node) -> None:
        """A value leaves the region, or is used for good: nothing of it may be lost."""
        lost = self._lost.get(node)
        if lost is not None:
            self._builder.require(negate(self._builder, lost))


#: Element by element, so that what is lost stays where it is.
_THROUGH = frozenset(
    f"aten.{name}" for name in "add sub rsub mul neg abs minimum maximum clamp clamp_min clamp_max where".split()
)


def _whole_operands(node: Node) -> Iterator[Node]:
    for source in node.all_input_nodes:
        fake = fake_value(source)
        if isinstance(fake, torch.Tensor) and is_whole(fake.dtype) and fake.dtype is not torch.bool:
            yield source


def places_of(name: str, node: Node) -> Iterator[Place]:
    """The operands of a node that are indices, and between which ends torch takes them.

    Args:
        name: of the op, without its overload.
        node: a call of it.
    """
    for index, size, from_end in indices(name, node):
        yield index, -size.symbolic if from_end else 0, size.symbolic - 1


__all__ = ["Conditions", "Place", "places_of"]
