"""Between which ends the whole numbers of an FX graph lie, and what is left to be checked before a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.fx import Node

from djinn_fx.engines.lowering.formulas import Formula, Formulas
from djinn_fx.engines.onnx.values import Refused
from djinn_fx.engines.ranges.intervals import RULES, Interval, within
from djinn_fx.engines.ranges.operators import TABLE, Numbers
from djinn_fx.engines.ranges.program import Check, CheckProgram, Step
from djinn_fx.srg.graph import attribute, fake_value
from djinn_fx.srg.lower import op_name

#: A constant of the graph with at most so many elements is looked at.
_MOST_CONSTANT = 1 << 20


def limits(dtype: torch.dtype) -> Interval:
    """The least and the greatest number of an element type of whole numbers, or of bool."""
    if dtype is torch.bool:
        return 0, 1
    info = torch.iinfo(dtype)
    return info.min, info.max


def is_whole(dtype: torch.dtype) -> bool:
    """Whether its elements are whole numbers or truth values."""
    return not dtype.is_floating_point and not dtype.is_complex


class Ranges:
    """Intervals of a graph's nodes.

    What follows from constants and sizes alone is proved. What follows from arguments too can be checked before each
    call, by a :class:`~djinn_fx.engines.ranges.program.CheckProgram` over their extremes. What comes out of
    floating-point numbers is known to nobody before it is computed.

    Nodes are looked at when they are asked for: what was assumed of one by then counts for those behind it.

    Args:
        places: the graph's placeholders and which argument each is.
        formulas: over the arguments' sizes; symbols that the program needs are put down in its ``used``.
    """

    def __init__(self, places: Mapping[Node, int], formulas: Formulas) -> None:
        self._places, self._formulas = places, formulas
        self._steps: list[Step] = []
        #: By slot: the interval as far as it is proved; the same if all arguments were 0; whether data decide it.
        self._proved: list[Interval] = []
        self._least: list[Interval] = []
        self._free: list[bool] = []
        self._slots: dict[Any, Any] = {}
        #: By slot: the argument whose extremes it is.
        self._inputs: dict[int, int] = {}
        self._checks: list[Check] = []
        self._raw: dict[Node, int] = {}

    def stands_for(self, placeholder: Node, source: Node) -> None:
        """A placeholder of another graph is a node of this one."""
        self._slots[placeholder] = self._slot(source)
        if source in self._raw:
            self._raw[placeholder] = self._raw[source]

    # Asking

    def of(self, node: Any) -> Interval | None:
        """The interval that is proved for a node (or a number); None for what holds no whole numbers."""
        slot = self._operand(node)
        return self._proved[slot] if isinstance(slot, int) else None

    def demand(self, node: Any, least: Any, most: Any, why: str, *, unwrapped: bool = False) -> bool:
        """See to it that a node's numbers lie between two ends, both included.

        Args:
            node: holds whole numbers.
            least: a number or a symbolic size.
            most: likewise.
            why: said when a call is declined for it.
            unwrapped: what is meant is the number before it is wrapped into its element type.

        Returns:
            Whether that is proved, or will be checked before the call; if not, check it where it is computed.
        """
        slot = self._operand(node)
        slot = self._raw.get(node, slot) if unwrapped else slot
        if not isinstance(slot, int):
            return False
        try:
            low, high = self._formulas.of(least), self._formulas.of(most)
        except Refused:
            return False
        if type(low) is int and type(high) is int and within(self._proved[slot], (low, high)):
            return True
        if self._free[slot]:
            known = type(low) is int and type(high) is int and within(self._least[slot], (low, high))
            if not known:
                return False
        check = Check(slot, low, high, why)
        if check not in self._checks:
            self._checks.append(check)
        return True

    def assume(self, node: Node, least: int, most: int) -> None:
        """Say what is checked where it is computed: from now on the node's numbers lie between these."""
        slot = self._slot(node)
        if isinstance(slot, int):
            low, high = max(self._proved[slot][0], least), min(self._proved[slot][1], most)
            self._slots[node] = self._number(low, high, free=True)
            self._raw.pop(node, None)

    def program(self) -> CheckProgram:
        """The checks to make before each call, and what leads to them."""
        wanted: set[int] = set()
        stack = [check.slot for check in self._checks]
        while stack:
            slot = stack.pop()
            if slot not in wanted:
                wanted.add(slot)
                stack += self._steps[slot].slots
        inputs = [slot for slot in sorted(wanted) if slot in self._inputs]
        others = [slot for slot in sorted(wanted) if slot not in self._inputs]
        places = list(dict.fromkeys(self._inputs[slot] for slot in inputs))
        renamed = {slot: places.index(self._inputs[slot]) for slot in inputs}
        renamed.update({slot: len(places) + place for place, slot in enumerate(others)})
        steps = [self._steps[slot] for slot in others]
        return CheckProgram(
            places=tuple(places),
            steps=tuple(Step(one.rule, tuple(renamed[s] for s in one.slots), one.numbers) for one in steps),
            checks=tuple(Check(renamed[one.slot], one.least, one.most, one.why) for one in self._checks),
        )

    # Slots

    def _add(self, rule: str, slots: Sequence[int], numbers: Sequence[Any]) -> int:
        """A new slot.

        Raises:
            Refused: a number is a symbolic size that is not reckoned from arguments.
        """
        formulas: list[Formula] = [self._formulas.of(one) for one in numbers]
        plain = all(type(one) is int for one in formulas)
        self._steps.append(Step(rule, tuple(slots), tuple(formulas)))
        for proved in (self._proved, self._least):
            # What hangs on a symbolic size is not proved; the program knows the size.
            proved.append(RULES[rule]([proved[one] for one in slots], formulas) if plain else _ENDLESS)  # type: ignore[arg-type]
        self._free.append(any(self._free[one] for one in slots))
        return len(self._steps) - 1

    def _number(self, least: int, most: int, free: bool = False) -> int:
        slot = self._add("number", (), (least, most))
        self._free[slot] = free
        return slot

    def _unknown(self, dtype: torch.dtype) -> int:
        least, most = limits(dtype)
        # Truth values are known well enough.
        return self._number(least, most, free=dtype is not torch.bool)

    def _wrapped(self, slot: int, dtype: torch.dtype) -> int:
        ends = limits(dtype)
        return slot if within(self._proved[slot], ends) else self._add("wrapped", (slot,), ends)

    # Nodes

    def _slot(self, node: Node) -> Any:
        """A node's slot (None: it holds no whole numbers), or those of its several results."""
        stack = [node]
        while stack:
            last = stack[-1]
            missing = [one for one in last.all_input_nodes if one not in self._slots]
            if last not in self._slots and not missing:
                self._slots[last] = self._node(last)
            if missing:
                stack += missing
            else:
                stack.pop()
        return self._slots[node]

    def _node(self, node: Node) -> Any:
        fake = fake_value(node)
        if node.op == "placeholder":
            return self._argument(node, fake)
        if isinstance(fake, torch.SymInt):
            return self._size(fake)
        if isinstance(fake, (tuple, list)):
            return self._several(node, fake)
        if not isinstance(fake, torch.Tensor) or not is_whole(fake.dtype):
            return None
        if node.op == "get_attr":
            return self._constant(node, fake.dtype)
        name = op_name(node)
        if name == "operator.getitem":
            parts = self._slot(node.args[0])  # type: ignore[arg-type]
            place: Any = node.args[1]
            return parts[place] if isinstance(parts, tuple) else self._unknown(fake.dtype)
        if fake.dtype is torch.bool:
            return self._number(0, 1)
        slot = self._applied(name, node, fake)
        if slot is None:
            return self._unknown(fake.dtype)
        self._raw[node] = slot
        return self._wrapped(slot, fake.dtype)

    def _several(self, node: Node, fakes: Sequence[Any]) -> Any:
        """The slots of an op with several results."""
        name = op_name(node)
        found: list[int | None] = []
        for place, fake in enumerate(fakes):
            if isinstance(fake, torch.SymInt):
                found.append(self._size(fake))
            elif not isinstance(fake, torch.Tensor) or not is_whole(fake.dtype):
                found.append(None)
            else:
                slot = self._applied(f"{name.rpartition('.')[0]}#{min(place, 1)}.", node, fake)
                found.append(self._unknown(fake.dtype) if slot is None else self._wrapped(slot, fake.dtype))
        return tuple(found)

    def _applied(self, name: str, node: Node, fake: torch.Tensor) -> int | None:
        rule: Callable[..., int | None] | None = TABLE.get(name.rpartition(".")[0])
        if rule is None:
            return None
        try:
            return rule(_Given(self, node, fake), *node.args, **node.kwargs)
        except (Refused, TypeError, IndexError, AttributeError):  # arguments that the rule does not foresee
            return None

    def _argument(self, node: Node, fake: Any) -> int | None:
        place = self._places.get(node)
        if isinstance(fake, torch.SymInt):
            return self._size(fake)
        if place is None or not isinstance(fake, torch.Tensor) or not is_whole(fake.dtype):
            return None
        if fake.dtype is torch.bool:
            return self._number(0, 1)
        slot = self._number(*limits(fake.dtype))
        self._least[slot] = (0, 0)
        self._inputs[slot] = place
        return slot

    def _size(self, fake: torch.SymInt) -> int | None:
        try:
            return self._add("number", (), (fake, fake))
        except Refused:
            return None

    def _constant(self, node: Node, dtype: torch.dtype) -> int:
        tensor = attribute(node.graph.owning_module, node.target)
        known = isinstance(tensor, torch.Tensor) and type(tensor) in (torch.Tensor, torch.nn.Parameter)
        if not known or tensor.device.type == "meta" or not 0 < tensor.numel() <= _MOST_CONSTANT:
            return self._unknown(dtype)
        whole = tensor.to(torch.int64)
        return self._number(int(whole.min()), int(whole.max()))

    def _operand(self, given: Any) -> Any:
        """The slot of what an op is given: a node, a number, a size; None for anything else."""
        if isinstance(given, Node):
            return self._slot(given)
        if isinstance(given, bool) or (isinstance(given, int) and not isinstance(given, torch.SymInt)):
            return self._number(int(given), int(given))
        if isinstance(given, torch.SymInt):
            return self._size(given)
        return None


#: What is proved of a number that hangs on a size nobody knows yet.
_ENDLESS: Interval = (-(1 << 80), 1 << 80)


class _Given(Numbers):
    """What a rule of ``operators.py`` may ask; see there."""

    def __init__(self, ranges: Ranges, node: Node, fake: torch.Tensor) -> None:
        self._ranges, self._node, self.fake = ranges, node, fake

    def slot(self, given: Any) -> int:
        found = self._ranges._operand(given)
        if isinstance(found, int):
            return found
        raise Refused("it holds no whole numbers")

    def add(self, rule: str, slots: Sequence[int], numbers: Sequence[Any] = ()) -> int:
        return self._ranges._add(rule, slots, numbers)

    def sizes(self, given: Any) -> Sequence[Any]:
        fake = fake_value(given)
        return tuple(fake.shape) if isinstance(fake, torch.Tensor) else ()


__all__ = ["Ranges", "is_whole", "limits"]
