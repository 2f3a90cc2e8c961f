"""What may start now, and which idle children must go for it. No torch; looks, and leaves the doing to others."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from djinn_fx.pool.jobs import BuildFailed, BuildJob, FailureKind
from djinn_fx.pool.limits import PoolLimits, available_bytes
from djinn_fx.pool.process import Child
from djinn_fx.pool.tickets import Entry
from djinn_fx.units import format_bytes

#: So many jobs may start before one that waits for memory; then all others wait for it.
OVERTAKES = 8


@dataclass(frozen=True)
class Room:
    """There is room.

    Attributes:
        use: the idle child to build in; None to start one.
        leave: idle children to kill before.
    """

    use: Child | None
    leave: tuple[Child, ...]


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
    idle: Sequence[Child],
    limits: PoolLimits,
    available: Callable[[], int | None],
) -> Room | NoRoom:
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
    leave: list[Child] = []
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


@dataclass(frozen=True)
class Schedule:
    """What to do now.

    Attributes:
        starting: jobs to start, each with its idle child, if there is one, in ``Entry.child``.
        refused: jobs that can never run, and why.
        leaving: idle children to kill.
        idle: those that stay idle.
    """

    starting: list[Entry]
    refused: list[tuple[Entry, BuildFailed]]
    leaving: list[Child]
    idle: list[Child]


def schedule(
    entries: Iterable[Entry],
    *,
    active: Sequence[Entry],
    idle: Sequence[Child],
    limits: PoolLimits,
    workers: Mapping[str, str],
    now: float,
) -> Schedule:
    """Which of the waiting jobs start, in the order given. A job that waits for memory lets others go first, but no
    more than :data:`OVERTAKES`.

    Args:
        entries: all jobs, also running ones.
        active: those that have a slot and memory, also ones that are cancelled but not yet gone.
        idle: children without work.
        limits: of the pool.
        workers: the workers there are.
        now: seconds of time.monotonic.
    """
    leaving = [child for child in idle if now - child.idle_since >= limits.idle_s or not child.usable()]
    plan = Schedule([], [], leaving, [child for child in idle if child not in leaving])
    held = [limits.reserved_bytes(entry.job.memory_bytes) for entry in active]
    passed: list[Entry] = []  # due, but there is no memory
    for entry in entries:
        if entry.running:
            continue
        failure = _impossible(entry.job, limits, workers)
        if failure is not None:
            plan.refused.append((entry, failure))
            continue
        if len(held) >= limits.children or entry.not_before > now:
            continue
        if any(other.overtaken >= OVERTAKES for other in passed):
            continue
        need = limits.reserved_bytes(entry.job.memory_bytes)
        room = room_for(
            need, entry.job.worker, held_bytes=held, idle=plan.idle, limits=limits, available=available_bytes
        )
        if isinstance(room, Room):
            for other in passed:
                other.overtaken += 1
            plan.leaving.extend(room.leave)
            plan.idle[:] = [child for child in plan.idle if child not in room.leave and child is not room.use]
            entry.child = room.use
            held.append(need)
            plan.starting.append(entry)
        elif room.ever:
            passed.append(entry)
        else:
            plan.refused.append((entry, _not_admitted(need, f"{format_bytes(room.free_bytes)} are free")))
    return plan


def pause(entries: Iterable[Entry], idle: Iterable[Child], limits: PoolLimits, now: float) -> float | None:
    """Seconds until something is due even without news; None for never."""
    due = [entry.not_before for entry in entries if not entry.running and entry.not_before > now]
    due += [child.idle_since + limits.idle_s for child in idle]
    return max(0.0, min(due) - now) if due else None


def _impossible(job: BuildJob, limits: PoolLimits, workers: Mapping[str, str]) -> BuildFailed | None:
    if sys.platform != "linux":
        return BuildFailed(kind=FailureKind.REFUSED, detail="builds in child processes need Linux")
    if job.worker not in workers:
        return BuildFailed(kind=FailureKind.REFUSED, detail=f"there is no worker named {job.worker!r}")
    if job.memory_bytes > limits.memory_bytes:
        return _not_admitted(job.memory_bytes, f"the pool may use {format_bytes(limits.memory_bytes)}")
    return None


def _not_admitted(need_bytes: int, why: str) -> BuildFailed:
    detail = f"the build is predicted to need {format_bytes(need_bytes)} of memory; {why}"
    return BuildFailed(kind=FailureKind.NOT_ADMITTED, detail=detail)
