"""Who takes part in a contest (``dispatch/contests/contest.py``), and how it stands."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from djinn_fx.dispatch.lazy import CHANGED
from djinn_fx.dispatch.refusals import cannot_serve
from djinn_fx.engines.base import RegionCallable, as_runner
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.settings.engines import EAGER
from djinn_fx.units import format_seconds

#: A caller waits for an engine to be built no longer than this, in seconds.
_PATIENCE_S = 300.0


class Standing(str, Enum):
    """How an entrant stands."""

    WAITING = "waiting"
    PREPARING = "preparing"
    TRIAL = "trial"
    SERVING = "serving"
    BEATEN = "beaten"
    OUT = "out"


@dataclass(frozen=True, kw_only=True)
class EntrantStatus:
    """An entrant now. ``median_s``: seconds of an answer; ``memory_bytes``: of its copies of weights."""

    engine: str
    standing: Standing
    median_s: float | None
    answers: int
    memory_bytes: int
    reason: Reason | None


class Entrant:
    """One engine in a contest.

    Args:
        engine: its name.
        run: answers.
        arrived: whether it can take part yet; None: from the start.
        summon: has it built although nobody asked for it yet; None: nothing to build.
        building: whether it is being built.

    Attributes:
        standing: see :class:`Standing`.
        seconds: of its timed answers.
        reason: why it is out.
        declined: how many calls it left to eager for their values, and why it did the latest; None if none.
    """

    def __init__(
        self,
        engine: str,
        run: RegionCallable,
        *,
        arrived: Callable[[], bool] | None = None,
        summon: Callable[[], None] | None = None,
        building: Callable[[], bool] | None = None,
    ) -> None:
        self.engine = engine
        self.use(run)
        self.arrived, self.summon, self._building = arrived, summon, building
        self.standing = Standing.WAITING
        self.seconds: list[float] = []
        self.answers = 0
        self.reason: Reason | None = None
        self.declined: Reason | None = None
        self._declined = 0

    def leave_to_eager(self, why: str, label: str) -> None:
        """Put down that it declined a call (``engines.base.Declined``)."""
        self._declined += 1
        calls = "a call was" if self._declined == 1 else f"{self._declined} calls were"
        self.declined = Reason(
            kind=ReasonKind.DECLINED, detail=f"{self.engine}: {calls} left to eager: {why}", node=label
        )

    def use(self, run: RegionCallable) -> None:
        """Answer by this callable."""
        self.run = as_runner(run)

    def unwrap(self) -> None:
        """Go straight to the engine where none of its answers is ever compared (``guard/``)."""
        self.run = self.run.trusted or self.run

    def release(self) -> None:
        """Let go of the copies of weights that the engine holds."""
        self.run.release()

    @property
    def building(self) -> bool:
        """Whether it is being built."""
        return self._building is not None and self._building()

    @property
    def median_s(self) -> float | None:
        """Median seconds of an answer; None before the first that was timed."""
        return statistics.median(self.seconds) if self.seconds else None

    @property
    def memory_bytes(self) -> int:
        """Bytes of the copies of weights it holds."""
        return self.run.memory_bytes

    def status(self) -> EntrantStatus:
        """A snapshot."""
        return EntrantStatus(
            engine=self.engine,
            standing=self.standing,
            median_s=self.median_s,
            answers=self.answers,
            memory_bytes=self.memory_bytes,
            reason=self.reason or self.declined,
        )


def wait_for(entrants: Sequence[Entrant]) -> None:
    """Wait while one of them is being built."""
    until = time.monotonic() + _PATIENCE_S
    with CHANGED:
        while any(one.building for one in entrants) and time.monotonic() < until:
            CHANGED.wait(1.0)


def engines_left(entrants: Sequence[Entrant]) -> bool:
    """Whether an engine other than own ops is still in the contest, or will come by itself."""
    return any(one.standing is not Standing.OUT and one.summon is None and one.engine != EAGER for one in entrants)


def refused(entrants: Sequence[Entrant], label: str) -> str | None:
    """What to tell where no engine that was asked for is left; None while there is one."""
    out = [(one.engine, one.reason.detail) for one in entrants if one.standing is Standing.OUT and one.reason]
    others = [one for one in entrants if one.standing is not Standing.OUT and one.engine != EAGER]
    if not out or any(one.arrived is None for one in others):
        return None
    instead = next((one.engine for one in others if one.building or (one.arrived and one.arrived())), None)
    return cannot_serve(out, instead, label)


def why_chosen(best: Entrant, entrants: Sequence[Entrant], label: str) -> Reason:
    """That an engine is the fastest, and the second."""
    others = sorted((one for one in entrants if one is not best and one.seconds), key=lambda o: o.median_s or 0.0)
    second = others[0] if others else None
    own = f"{format_seconds(best.median_s)} a call" if best.median_s is not None else "the only one there is"
    return Reason(
        kind=ReasonKind.ENGINE_CHOSEN,
        detail=f"{best.engine}: {own}",
        node=label,
        runner_up=second.engine if second is not None else None,
        runner_up_cost=f"{format_seconds(second.median_s)} a call" if second and second.median_s else None,
    )


@dataclass(frozen=True, kw_only=True)
class ContestStatus:
    """A contest now.

    Attributes:
        label: what is computed.
        engine: the one that gave the latest answer.
        decided: whether the trial is over.
        entrants: the engines.
        reason: why the one that serves was chosen, with the runner-up.
        refused: a sentence, if no engine that was asked for serves: what it said, and what answers in its place.
    """

    label: str
    engine: str
    decided: bool
    entrants: tuple[EntrantStatus, ...]
    reason: Reason | None
    refused: str | None = None
