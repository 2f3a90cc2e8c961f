"""What is in memory while a graph runs: a table of half-open intervals, and the peak of it. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate


class Holds(str, Enum):
    """What a piece of memory is for."""

    INPUT = "input"
    WEIGHT = "weight"
    STATE = "state"
    ACTIVATION = "activation"
    OUTPUT = "output"
    SAVED = "saved"
    WORKSPACE = "workspace"
    COPY = "packed copy"


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryRow:
    """One piece of memory: what views and aliases share is one row.

    Attributes:
        name: the node that makes it; of a workspace, the op that needs it.
        holds: what it is for.
        nbytes: its size in bytes.
        start: the first step during which it is there.
        end: the first step during which it is not.
        device: where it lies.
        given: whether it is there before the first step.
    """

    name: str
    holds: Holds
    nbytes: int
    start: int
    end: int
    device: str
    given: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryStep:
    """One step of a schedule: the op that runs, and the user's file:line it came from, if known."""

    name: str
    op: str
    source: str | None = None


@dataclass(frozen=True, kw_only=True)
class MemoryPeak:
    """The moment at which most is in memory on one device.

    Attributes:
        device: on which.
        nbytes: of all rows that are there, in bytes.
        step: position in the schedule; the first one, if several are equal.
        at: what runs then; None for a graph without steps.
        biggest: the largest rows that are there, the largest first.
    """

    device: str
    nbytes: int
    step: int
    at: MemoryStep | None
    biggest: tuple[MemoryRow, ...]


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Who lives when, in one phase.

    Attributes:
        phase: of the graph: its phase where it is one, else its kind (``inference``, ``forward``, ``backward``).
        rows: every piece of memory.
        steps: the schedule: what runs at each position.
    """

    phase: str
    rows: tuple[MemoryRow, ...]
    steps: tuple[MemoryStep, ...]

    @property
    def devices(self) -> tuple[str, ...]:
        """The devices that hold something, in the order of their names."""
        return tuple(sorted({row.device for row in self.rows}))

    def profile(self, device: str) -> list[int]:
        """Bytes that are in memory during each step; of a graph without steps, at once."""
        change = [0] * (max(1, len(self.steps)) + 1)
        for row in self.rows:
            if row.device == device:
                change[row.start] += row.nbytes
                change[row.end] -= row.nbytes
        return list(accumulate(change))[:-1]

    def during(self, step: int, device: str) -> Iterator[MemoryRow]:
        """The rows that are there during a step."""
        return (row for row in self.rows if row.device == device and row.start <= step < row.end)

    def peak(self, device: str, biggest: int = 5) -> MemoryPeak:
        """The largest sum, and what makes it up.

        Args:
            device: which device's memory.
            biggest: how many of the largest rows are named.
        """
        profile = self.profile(device)
        step = max(range(len(profile)), key=profile.__getitem__)
        rows = sorted(self.during(step, device), key=lambda row: -row.nbytes)
        return MemoryPeak(
            device=device,
            nbytes=profile[step],
            step=step,
            at=self.steps[step] if self.steps else None,
            biggest=tuple(row for row in rows[:biggest] if row.nbytes),
        )

    def peaks(self) -> tuple[MemoryPeak, ...]:
        """The peak of each device."""
        return tuple(map(self.peak, self.devices))
