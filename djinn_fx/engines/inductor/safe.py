"""What Inductor needs of a region's values so that it computes what torch does, made sure of around its artefact.

Where torch raises, a kernel of Inductor's ends the process: an assert is thrown inside a loop that several threads run,
a division by 0 is one of the processor's. What can be proved is proved (``engines/ranges``), what follows from
arguments is checked before the call; for the rest the graph gets a safe operand, and one more result, a flag. Where it
is down nothing was written, and the region's own ops answer: they raise as torch raises.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import GraphModule

from djinn_fx.engines.base import Declined, RegionCallable, Runner
from djinn_fx.engines.randomness import Randomness
from djinn_fx.engines.ranges.program import Checked, CheckProgram
from djinn_fx.errors import EngineError
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.srg.form.replay import replay
from djinn_fx.srg.form.targets import CannotRebuild

log = logging.getLogger("djinn_fx.engines.inductor")

OUT_OF_RANGE = "an index is out of range"


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a compiled region needs of a call.

    Attributes:
        program: what must hold of the arguments' whole numbers.
        symbols: of the program: where each is read.
        results: how many the region has; 0: no flag and no written value follows them.
        written: places of arguments, and the results that are to be written there once the flag was read.
        random: whether a run draws random numbers, which the region's own ops must draw again.
    """

    program: CheckProgram = field(default_factory=CheckProgram)
    symbols: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)
    results: int = 0
    written: tuple[tuple[int, int], ...] = ()
    random: bool = False

    def __bool__(self) -> bool:
        return bool(self.program.checks or self.results)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "program": self.program.to_json(),
            "symbols": {name: list(where) for name, where in self.symbols.items()},
            "results": self.results,
            "written": [list(pair) for pair in self.written],
            "random": self.random,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Needs:
        """From :meth:`to_json`."""
        return Needs(
            program=CheckProgram.from_json(data["program"]),
            symbols={name: (place, dim) for name, (place, dim) in data["symbols"].items()},
            results=data["results"],
            written=tuple((place, result) for place, result in data["written"]),
            random=data["random"],
        )


class SafeCall(Runner):
    """A compiled region that leaves calls to the region's own ops whose values are not for it. A ``RegionCallable``.

    Args:
        run: what Inductor made.
        needs: of a call.
        own: the region's own ops; None: whoever calls has them, and is told by :class:`Declined`.

    Attributes:
        reason: why the latest such call was left to them; None if none was.
    """

    def __init__(self, run: RegionCallable, needs: Needs, own: Callable[[], RegionCallable] | None) -> None:
        self.reason: Reason | None = None
        self._run, self._needs, self._own = run, needs, own
        self._checked = Checked(needs.program, needs.symbols) if needs.program.checks else None

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        """Run; empties the list.

        Raises:
            Declined: nothing was written, and the list is as it was.
        """
        if self._checked is not None:
            try:
                self._checked(args)
            except Declined as declined:
                return self._left(args, declined)
        return self._flagged(args) if self._needs.results else self._run(args)

    def _flagged(self, args: list[Any]) -> Sequence[Any]:
        needs, kept = self._needs, list(args)
        chance = Randomness(kept) if needs.random else None
        results = self._run(args)
        if not results[-1].item():
            if chance is not None:
                chance.rewind()
            args[:] = kept
            return self._left(args, Declined(f"{OUT_OF_RANGE}, or a divisor is zero"))
        for place, result in needs.written:
            kept[place].copy_(results[result])
        return results[: needs.results]

    def _left(self, args: list[Any], declined: Declined) -> Sequence[Any]:
        self.reason = Reason(kind=ReasonKind.DECLINED, detail=f"inductor: a call was left to eager: {declined}")
        log.info("%s", self.reason)
        if self._own is None:
            raise declined
        return self._own()(args)


def from_form(form: Any) -> Callable[[], RegionCallable]:
    """The own ops of a stored region by its canonical form; made when they are asked for."""

    @functools.cache
    def own() -> RegionCallable:
        try:
            return from_graph(replay(form, {}))()
        except CannotRebuild as error:
            raise EngineError(f"inductor: the region's own ops cannot be made here: {error}") from error

    return own


def from_graph(gm: GraphModule) -> Callable[[], RegionCallable]:
    """The own ops of a region that was just compiled."""

    def run(args: list[Any]) -> Sequence[Any]:
        given = tuple(args)
        args.clear()
        with torch.no_grad():
            results: Sequence[Any] = gm(*given)
        return results

    return lambda: run
