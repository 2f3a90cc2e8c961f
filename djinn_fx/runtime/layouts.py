"""Strides between regions: every value that passes from one to another has those that were traced.

A region is built for the strides of its inputs as the tracer saw them; where they are others, compiled code may
raise, and a view or ``as_strided`` of the region's own ops may read other elements. Not every producer keeps them: an
engine may make other ops of an op, which lay out their result differently; an op's rule for fake tensors may be wrong;
hooks on saved tensors may give back copies; and ``weight.data = ...`` is not seen by Dynamo's guards. Regions move
between engines while the program runs, so it is neither side's business alone: the executor looks at each value where
it is made or comes in, which takes a tenth of a microsecond, and copies the odd one.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch

from djinn_fx.engines.keys import symbol_places, symbolic_inputs
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.runtime.sizes import size_text, sizes_in, worked_out
from djinn_fx.srg.extract import input_value
from djinn_fx.srg.graph import SRG

log = logging.getLogger("djinn_fx.runtime")

#: Strides of one value: numbers; a text over sizes such as ``"(k0*64, 64, 1)"``; None where nothing was promised.
Strides = tuple[int, ...] | str | None

#: Sets of sizes whose strides are remembered.
_REMEMBERED = 64


@dataclass(frozen=True, kw_only=True)
class Layouts:
    """The strides that a program's values were traced with. Plain data: it can be stored.

    Attributes:
        strides: by slot.
        sizes: where the sizes ``k0``, ``k1``, ... in texts are read off: argument and dimension, None for the
            argument itself.
        written: arguments whose memory the program writes.
    """

    strides: tuple[Strides, ...]
    sizes: tuple[tuple[int, int | None], ...] = ()
    written: tuple[int, ...] = ()

    def to_json(self) -> list[Any]:
        """As a JSON value."""
        return [list(self.strides), list(self.sizes), list(self.written)]

    @staticmethod
    def from_json(form: Any) -> Layouts:
        """What :meth:`to_json` wrote."""
        strides, sizes, written = form
        return Layouts(
            strides=tuple(tuple(one) if isinstance(one, list) else one for one in strides),
            sizes=tuple((place, dim) for place, dim in sizes),
            written=tuple(written),
        )


def layouts_of(srg: SRG, slots: Mapping[str, int]) -> Layouts:
    """The strides of a graph's values.

    Args:
        srg: the graph.
        slots: the slot of each value that has one, by its node's name; the graph's arguments have the first ones.
    """
    arguments = [input_value(srg, node) for node in srg.inputs]
    names = {size.node.expr: sympy.Symbol(f"k{number}") for number, size in enumerate(symbolic_inputs(arguments))}
    strides: list[Strides] = [None] * len(slots)
    for name, slot in slots.items():
        strides[slot] = _strides(input_value(srg, srg.node(name)), names)
    return Layouts(strides=tuple(strides), sizes=symbol_places(arguments), written=_written(srg))


def _strides(value: Any, names: Mapping[Any, Any]) -> Strides:
    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
        return None
    if value.dim() == 1 and type(value.shape[0]) is int and value.shape[0] == 0:
        return (
            None  # it has but one layout; and AOTAutograd's tokens of effects look like that, which are None in a call
        )
    strides: tuple[Any, ...] = tuple(value.stride())
    if all(type(one) is int for one in strides):
        return strides
    texts = [size_text(one, names) for one in strides]
    if any(text is None for text in texts):
        return None
    return f"({', '.join(map(str, texts))},)"


def _written(srg: SRG) -> tuple[int, ...]:
    written = {
        meta.storage for node in srg.ops for name in srg.record(node).mutates
        for meta in srg.record(srg.node(name)).outputs
    }  # fmt: skip
    return tuple(
        place for place, node in enumerate(srg.inputs) if any(m.storage in written for m in srg.record(node).outputs)
    )


class Expected:
    """The strides by slot that one call's values must have.

    Args:
        layouts: of the program.
    """

    def __init__(self, layouts: Layouts) -> None:
        self._layouts = layouts
        self._symbolic = {slot: one for slot, one in enumerate(layouts.strides) if isinstance(one, str)}
        self._fixed = tuple(None if isinstance(one, str) else one for one in layouts.strides)
        self._known: dict[tuple[int, ...], tuple[Any, ...]] = {}

    def of(self, arguments: Sequence[Any]) -> tuple[tuple[int, ...] | None, ...]:
        """For a call with these arguments."""
        if not self._symbolic:
            return self._fixed
        sizes = sizes_in(self._layouts.sizes, arguments)
        found = self._known.get(sizes)
        if found is None:
            names = {f"k{number}": size for number, size in enumerate(sizes)}
            strides: list[Any] = list(self._fixed)
            for slot, text in self._symbolic.items():
                strides[slot] = worked_out(text, names)
            found = tuple(strides)
            if len(self._known) < _REMEMBERED:
                self._known[sizes] = found
        return found


class Strays:
    """Gives values that have other strides than were traced these, and says so once for each slot.

    Attributes:
        reasons: by slot.
    """

    def __init__(self) -> None:
        self.reasons: dict[int, Reason] = {}

    def argument(self, place: int, slots: list[Any], strides: tuple[int, ...], written: Collection[int]) -> list[Any]:
        """Put an argument into order; what was copied, if the program writes into it: see :func:`write_back`.

        Args:
            place: its slot.
            slots: of the call.
            strides: those it must have.
            written: arguments that the program writes into.
        """
        given = slots[place]
        slots[place] = self.settled(place, given, strides)
        return [(given, slots[place])] if place in written and slots[place] is not given else []

    def settled(self, slot: int, value: Any, strides: tuple[int, ...]) -> Any:
        """The value itself, if its strides say the same as these, else a copy that has them.

        Args:
            slot: where it is.
            value: its strides are not equal to these, perhaps only where a dimension has one element.
            strides: those it must have.
        """
        if not isinstance(value, torch.Tensor) or value.layout is not torch.strided or not value.numel():
            return value
        given = tuple(value.stride())
        if len(given) != len(strides) or all(
            a == b or n == 1 for a, b, n in zip(given, strides, value.shape, strict=True)
        ):
            return value
        if slot not in self.reasons:
            detail = f"a value of shape {tuple(value.shape)} came with strides {given} instead of {strides}: copied"
            self.reasons[slot] = Reason(kind=ReasonKind.RELAID, detail=detail, node=f"value {slot}")
            log.info("%s", self.reasons[slot])
        return laid_out(value, strides)


def write_back(copied: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Write what a program wrote into copies of its arguments into these."""
    with torch.no_grad():
        for original, copy in copied:
            original.copy_(copy)


def laid_out(value: torch.Tensor, strides: tuple[int, ...]) -> torch.Tensor:
    """A copy with these strides; the value itself, if elements would share memory in it otherwise than by expansion."""
    source = value
    for dim, (size, stride) in enumerate(zip(value.shape, strides, strict=True)):
        if size > 1 and stride == 0:
            source = source.narrow(dim, 0, 1)
    if _overlap(source.shape, strides):
        return value
    with torch.no_grad():
        made = torch.empty_strided(source.shape, strides, dtype=value.dtype, device=value.device)
        return made.copy_(source).expand(value.shape)


def _overlap(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether elements might share memory."""
    reach = 0
    for stride, size in sorted((stride, size) for stride, size in zip(strides, shape, strict=True) if size > 1):
        if stride <= reach:
            return True
        reach += stride * (size - 1)
    return False
