"""Whether a build may start now, and which idle children must go for it. No torch, no state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from djinn_fx.engines.pool.limits import PoolLimits


class IdleChild(Protocol):
    """What is asked of a child that waits for work."""

    kind: str
    resident: int
    idle_since: float


C = TypeVar("C", bound=IdleChild)


@dataclass(frozen=True)
class Room(Generic[C]):
    """There is room.

    Attributes:
        use: the idle child to build in; None to start one.
        leave: idle children to kill before.
    """

    use: C | None
    leave: tuple[C, ...]


@dataclass(frozen=True)
class NoRoom:
    """There is none now.

    Attributes:
        free_bytes: what there is.
        ever: whether the end of a running build can make room; else nothing of ours stands in the way.
    """

    free_bytes: int
    ever: bool


def room_for(
    need_bytes: int,
    kind: str,
    *,
    held_bytes: Sequence[int],
    idle: Sequence[C],
    limits: PoolLimits,
    available: Callable[[], int | None],
) -> Room[C] | NoRoom:
    """Room for one more build.

    Args:
        need_bytes: its predicted peak.
        kind: the worker it needs.
        held_bytes: predicted peaks of the builds that run.
        idle: children that wait for work.
        limits: of the pool.
        available: memory the machine could give now; asked only where it matters.
    """
    held = sum(held_bytes)
    if held + need_bytes > limits.memory_bytes:
        return NoRoom(limits.memory_bytes - held, ever=bool(held_bytes))
    use = max((child for child in idle if child.kind == kind), key=lambda child: child.idle_since, default=None)
    others = sorted((child for child in idle if child is not use), key=lambda child: child.idle_since)
    leave: list[C] = []
    while others and held + need_bytes + sum(child.resident for child in others) > limits.memory_bytes:
        leave.append(others.pop(0))
    free = available() if limits.check_available else None
    if free is not None:
        # The running builds may still grow to all they were predicted to need. What idle children hold comes back.
        free += sum(child.resident for child in leave) + (use.resident if use is not None else 0)
        while others and held + need_bytes > free:
            leave.append(others.pop(0))
            free += leave[-1].resident
        if held + need_bytes > free:
            return NoRoom(max(0, free - held), ever=bool(held_bytes))
    return Room(use, tuple(leave))
