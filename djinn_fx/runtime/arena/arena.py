"""One allocation in which values between regions lie, at offsets that were solved for; used again by every call.

An engine that can is handed the memory for a result (:class:`~djinn_fx.engines.base.Arguments`); what others give back
stays where they made it, with a Reason. Nothing is copied on the way in. A value that lies in here unplanned, since an
engine gave back its argument where a new value was traced, is copied out: it might be read after that memory is
somebody else's.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.runtime.arena.pieces import ALIGNMENT, Piece, Pieces
from djinn_fx.runtime.layouts import laid_out
from djinn_fx.threads import new_lock
from djinn_fx.units import format_bytes

if TYPE_CHECKING:
    from djinn_fx.solvers.packing.problem import Solution

log = logging.getLogger("djinn_fx.runtime")

#: Seconds for finding offsets, once for each set of sizes, in the call that has them first.
SECONDS = 0.05
#: Sets of sizes whose offsets are remembered.
_REMEMBERED = 64


@dataclass(frozen=True, kw_only=True)
class ArenaStatus:
    """An arena now.

    Attributes:
        nbytes: of the allocation; 0 before the first call.
        bound: bytes below which no arena for the latest sizes can be.
        together: bytes of the values at the latest sizes, were each to have memory of its own.
        values: how many are planned to be in it.
        outside: why values are not in it, each told once.
        alone: how many calls took memory of their own, since another was using the arena.
    """

    nbytes: int
    bound: int
    together: int
    values: int
    outside: tuple[Reason, ...]
    alone: int

    def __str__(self) -> str:
        sizes = f"{format_bytes(self.nbytes)}, bound {format_bytes(self.bound)}, {format_bytes(self.together)} apart"
        return f"arena: {self.values} values in {sizes}; {len(self.outside)} outside, {self.alone} calls beside it"


class Arena:
    """See the module's text. One call at a time; what comes meanwhile does without.

    Args:
        pieces: what it is to hold.
        steps: of the program.
        reasons: why some values are not among the pieces.
    """

    def __init__(self, pieces: Pieces, steps: int, reasons: Sequence[Reason] = ()) -> None:
        self._pieces, self._steps = pieces, steps
        self._busy = new_lock()
        self._memory: torch.Tensor | None = None
        self._solved: OrderedDict[tuple[int, ...], tuple[Solution, tuple[int, ...]]] = OrderedDict()
        self._layouts: dict[tuple[int, ...], Layout] = {}
        self._outside: dict[int, Reason] = {}
        self._planned_outside = tuple(reasons)
        self._latest: tuple[int, ...] | None = None
        self._alone = 0

    def enter(self, arguments: Sequence[Any]) -> Layout | None:
        """Where this call's values lie, until :meth:`leave`; None while another call is in here."""
        if not self._busy.acquire(blocking=False):
            self._alone += 1
            return None
        try:
            sizes = self._pieces.sizes_of(arguments)
            self._latest = sizes
            return self._layouts.get(sizes) or self._laid(sizes)
        except BaseException:
            self._busy.release()
            raise

    def leave(self) -> None:
        """The call is over."""
        self._busy.release()

    def status(self) -> ArenaStatus:
        """A snapshot."""
        solved = self._solved.get(self._latest) if self._latest is not None else None
        return ArenaStatus(
            nbytes=self._memory.nbytes - ALIGNMENT if self._memory is not None else 0,
            bound=solved[0].bound if solved is not None else 0,
            together=sum(solved[1]) if solved is not None else 0,
            values=len(self._pieces.pieces),
            outside=(*self._planned_outside, *self._outside.values()),
            alone=self._alone,
        )

    def _laid(self, sizes: tuple[int, ...]) -> Layout:
        """Memory that is large enough, cut up for these sizes."""
        known = self._solved.get(sizes)
        if known is None:
            from djinn_fx.solvers.packing.anytime import pack  # most graphs have no arena

            problem = self._pieces.problem(sizes)
            known = pack(problem, seconds=SECONDS), tuple(one.size for one in problem.buffers)
            self._solved[sizes] = known
            if len(self._solved) > _REMEMBERED:
                self._layouts.pop(self._solved.popitem(last=False)[0], None)
        solution, nbytes = known
        with torch.inference_mode(False), torch.no_grad():  # it outlives the mode of this call
            if self._memory is None or self._memory.nbytes - ALIGNMENT < solution.height:
                self._layouts.clear()
                self._memory = None  # before the new one is there
                self._memory = torch.empty(solution.height + ALIGNMENT, dtype=torch.uint8)
            made = Layout(self._memory, self._pieces.pieces, solution.offsets, nbytes, self._steps, self._outside)
        self._layouts[sizes] = made
        return made


class Layout:
    """An arena cut up for one set of sizes.

    Args:
        memory: of the arena.
        pieces: in it.
        offsets: of these, in bytes.
        nbytes: of these.
        steps: of the program.
        outside: takes note of values that are elsewhere, by slot.

    Attributes:
        offers: for each step the memory of its results, by place; None where there is none.
    """

    def __init__(
        self,
        memory: torch.Tensor,
        pieces: Sequence[Piece],
        offsets: Sequence[int],
        nbytes: Sequence[int],
        steps: int,
        outside: dict[int, Reason],
    ) -> None:
        self._outside = outside
        begin = -(-memory.data_ptr() // ALIGNMENT) * ALIGNMENT
        self._low, self._high = memory.data_ptr(), memory.data_ptr() + memory.nbytes
        self._ranges: dict[int, tuple[int, int]] = {}
        offers: list[dict[int, torch.Tensor]] = [{} for _ in range(steps)]
        for piece, offset, size in zip(pieces, offsets, nbytes, strict=True):
            if size:
                first = begin + offset
                self._ranges.update(dict.fromkeys(piece.slots, (first, first + size)))
                offers[piece.step][piece.output] = _cut(memory, first - memory.data_ptr(), size, piece.dtype)
        self.offers = tuple(one or None for one in offers)

    def settled(self, slot: int, value: Any) -> Any:
        """A value as it may be kept in a slot: itself, unless it lies in memory that will be somebody else's."""
        at = value.data_ptr() if isinstance(value, torch.Tensor) else 0
        planned = self._ranges.get(slot)
        if not self._low <= at < self._high:
            if planned is not None and at and slot not in self._outside:
                self._note(slot, "its engine gives back memory of its own")
            return value
        if planned is not None and planned[0] <= at < planned[1]:
            if self._outside:  # as of the latest call
                self._outside.pop(slot, None)
            return value
        if slot not in self._outside:
            self._note(slot, "it was given back in another value's memory: copied")
        return _copied(value)

    def returned(self, value: Any) -> Any:
        """A result as the caller may keep it: never in here."""
        inside = isinstance(value, torch.Tensor) and self._low <= value.data_ptr() < self._high
        return _copied(value) if inside else value

    def _note(self, slot: int, why: str) -> None:
        self._outside[slot] = Reason(
            kind=ReasonKind.OUTSIDE_ARENA, detail=f"not in the arena: {why}", node=f"value {slot}"
        )
        log.info("%s", self._outside[slot])


def _cut(memory: torch.Tensor, offset: int, nbytes: int, dtype: str) -> torch.Tensor:
    """A tensor without elements whose storage is a part of the memory: whoever writes a result gives it its shape.

    A storage of its own, so that nobody takes two values for views of one.
    """
    part = torch.frombuffer(memory.numpy(), dtype=torch.uint8, count=nbytes, offset=offset)
    made = torch.empty(0, dtype=getattr(torch, dtype))
    return made.set_(part.untyped_storage(), 0, (0,), (1,))


def _copied(value: torch.Tensor) -> torch.Tensor:
    made = laid_out(value, tuple(value.stride()))
    return made if made is not value else value.clone()
