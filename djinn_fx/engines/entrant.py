"""Who takes part in a contest (``engines/contest.py``), and how it stands."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from djinn_fx.engines.base import RegionCallable
from djinn_fx.reasons import Reason, ReasonKind


class Standing(str, Enum):
    """How an entrant stands."""

    WAITING = "waiting"
    PREPARING = "preparing"
    TRIAL = "trial"
    SERVING = "serving"
    BEATEN = "beaten"
    OUT = "out"


class Entrant:
    """One engine in a contest.

    Args:
        engine: its name.
        run: answers; may have ``attempt`` and ``prepare`` (``engines.base.Engine``).
        arrived: whether it can take part yet; None: from the start.
        summon: has it built although nobody asked for it yet; None: nothing to build.

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
    ) -> None:
        self.engine = engine
        self.use(run)
        self.arrived, self.summon = arrived, summon
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
        self.run = run
        self.attempt: Callable[[list[Any]], Sequence[Any] | None] | None = getattr(run, "attempt", None)
        self.prepare: Callable[[list[Any]], Callable[[], None] | None] | None = getattr(run, "prepare", None)

    def unwrap(self) -> None:
        """Go straight to the engine where none of its answers is ever compared (``engines/guard``)."""
        trusted = getattr(self.run, "trusted", None)
        if trusted is not None:
            self.use(trusted)

    def release(self) -> None:
        """Let go of the copies of weights that the engine holds."""
        release = getattr(self.run, "release", None)
        if release is not None:
            release()

    @property
    def median_s(self) -> float | None:
        """Median seconds of an answer; None before the first that was timed."""
        return statistics.median(self.seconds) if self.seconds else None

    @property
    def memory_bytes(self) -> int:
        """Bytes of the copies of weights it holds."""
        return int(getattr(self.run, "memory_bytes", 0))


@dataclass(frozen=True, kw_only=True)
class EntrantStatus:
    """An entrant now. ``median_s``: seconds of an answer; ``memory_bytes``: of its copies of weights."""

    engine: str
    standing: Standing
    median_s: float | None
    answers: int
    memory_bytes: int
    reason: Reason | None


@dataclass(frozen=True, kw_only=True)
class ContestStatus:
    """A contest now.

    Attributes:
        label: what is computed.
        engine: the one that gave the latest answer.
        decided: whether the trial is over.
        entrants: the engines.
        reason: why the one that serves was chosen, with the runner-up.
    """

    label: str
    engine: str
    decided: bool
    entrants: tuple[EntrantStatus, ...]
    reason: Reason | None
