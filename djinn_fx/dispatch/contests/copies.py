"""One copy of the weights: what graphs over the same weights (prefill and decode of a model) keep of them together.

Each engine packs weights its own way, so two graphs that chose two engines would hold each weight three times. While
engines are tried there are two copies at most: one that is kept, and that of the engine on trial. When a trial is over,
or none can go on without a third copy, the copy that saves the most time of all these graphs' calls is kept, and each
graph runs on the fastest engine that needs that copy or none. Copies that sessions share (``engines/packed``) are one.

Where weights are small a second copy costs less than slower calls: as many are kept as fit :data:`ROOM` together, and
one more while engines are tried.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from djinn_fx.dispatch.contests.trial import TELLING
from djinn_fx.dispatch.entrant import USING, Entrant, State
from djinn_fx.threads import new_lock, new_rlock

#: Bytes that all copies of small weights may take together.
ROOM = 128 << 20
#: What an engine keeps is a copy of the weights if it has more than this share of their bytes: not folded constants.
COPY = 0.1
#: A copy must save more than this share of the time.
MARGIN = 0.03
#: Where a trial cannot go on for another one that was not called for so many of its own calls, that one lets go.
PATIENCE = 3
#: How often each graph is called is known after so many calls of all of them.
ENOUGH = 64
#: A graph makes no copy that would be one too many where those that are kept save more than so many times what all of
#: its calls take without: even if they took no time, its copy would not be kept.
OUTWEIGHED = 2.0
#: Graphs are over the same weights if they have more than this share of the bytes of either in common.
SAME = 0.5


@dataclass(frozen=True, kw_only=True)
class Option:
    """An engine that may answer a graph's calls.

    Attributes:
        engine: its name.
        copy: tells which copy of the weights it needs; None: none.
        sessions: whose it answers by, if it serves or may come to.
        kept: whether that copy is there, or being made.
        seconds: a call takes; None: not known.
    """

    engine: str
    copy: Hashable | None = None
    sessions: Hashable | None = None
    kept: bool = False
    seconds: float | None = None


def copy_of(entrant: Entrant, weights_bytes: int) -> Hashable | None:
    """Which copy of the weights an engine needs; None: none, as far as is known."""
    copied = entrant.copied_bytes
    return None if copied is not None and copied <= COPY * weights_bytes else entrant.copy


def options_of(entrants: Sequence[Entrant], weights_bytes: int) -> list[Option]:
    """The engines that may answer, as they stand now."""
    return [
        Option(
            engine=one.engine,
            copy=copy_of(one, weights_bytes),
            sessions=one.sessions if one.state in USING else None,
            kept=one.state in USING or one.run.memory_bytes > COPY * weights_bytes,
            seconds=_seconds(one),
        )
        for one in entrants
        if one.state is not State.FAILED
    ]


def fastest(options: Sequence[Option], copy: Hashable | None) -> Option | None:
    """Of those that need this copy or none; None: no time of such a one is known."""
    fit = [one for one in options if one.copy in (None, copy) and one.seconds is not None]
    return min(fit, key=lambda one: one.seconds or 0.0, default=None)


def _seconds(entrant: Entrant) -> float | None:
    """Of an answer, by what can tell best; None: nothing can."""
    if entrant.known_s is not None and len(entrant.seconds) < TELLING:
        return entrant.known_s
    return entrant.median_s if entrant.median_s is not None else entrant.least_s


class Member(Protocol):
    """A graph's contest, as it is seen from here."""

    asked: int

    @property
    def own_s(self) -> float:
        """The least seconds of a call on its own ops; infinite: not known."""
        ...

    @property
    def trying(self) -> bool:
        """Whether an engine is on trial against the best so far."""
        ...

    def options(self, weights_bytes: int) -> Sequence[Option]:
        """The engines that may answer."""
        ...

    def keep(self, copy: Hashable | None, weights_bytes: int) -> None:
        """Run on the fastest engine that needs this copy or none, if the best so far needs another."""
        ...

    def pause(self) -> None:
        """Let go of the copy of the engine on trial; it is tried later."""
        ...


class Copies:
    """See the module's text. A member's lock is never held while this one's is waited for.

    Args:
        weights: bytes of each weight, by address.

    Attributes:
        due: there are too many copies, and it is too early to tell which to keep.
    """

    due = False

    def __init__(self, weights: Mapping[int, int]) -> None:
        self.weights, self.bytes = weights, sum(weights.values())
        #: Copies that may be kept.
        self.room = max(1, ROOM // max(1, self.bytes))
        #: Each with its calls when the latest came. Replaced, never changed: it is read without the lock.
        self._since: tuple[tuple[weakref.ref[Member], int], ...] = ()
        #: Of members that wait for room: how often they asked, and the calls of the others before.
        self._waits: weakref.WeakKeyDictionary[Member, tuple[int, int]] = weakref.WeakKeyDictionary()
        self._lock = new_rlock()

    def join(self, member: Member) -> None:
        """One graph more. Calls are counted from here on."""
        with self._lock:
            self._since = tuple((weakref.ref(one), one.asked) for one in (*self.members, member))

    @property
    def members(self) -> list[Member]:
        """The graphs' contests."""
        return [one for one, _ in self._calls()]

    # On trial

    def admits(self, copy: Hashable | None) -> bool:
        """Whether this copy may be made now. Takes no lock."""
        return copy is None or len(self._kept() - {copy}) <= self.room

    def outweighs(self, copy: Hashable | None, member: Member) -> bool:
        """Whether this copy, made for this graph, would be one too many and would not be kept. Takes no lock."""
        if copy is None or sum(one.asked - before for one, before in self._calls()) < ENOUGH:
            return False
        kept = self._kept() - {copy}
        if len(kept) < self.room:
            return False
        calls = [(one, one.asked - before, one.options(self.bytes)) for one, before in self._calls()]
        own = [(count + 1, options, one.own_s) for one, count, options in calls if one is member]
        others = [(count, options) for one, count, options in calls if one is not member]
        others = [(count, options) for count, options in others if _knows(options, copy)]

        def saved(other: Hashable | None) -> float:
            return sum(count * (_least(options, copy) - _least(options, other)) for count, options in others)

        without = sum(count * min(own_s, _least(options, None)) for count, options, own_s in own)
        return max(map(saved, kept), default=0.0) > OUTWEIGHED * without

    def keeps(self, copy: Hashable | None) -> bool:
        """Whether this copy is there, or being made. Takes no lock."""
        return copy is not None and copy in self._kept()

    def uses(self, sessions: Hashable | None, but: Member) -> bool:
        """Whether a graph but this one runs by these sessions, or may come to."""
        others = [one for one in self.members if one is not but]
        return sessions is not None and any(
            one.sessions == sessions for each in others for one in each.options(self.bytes)
        )

    def _kept(self) -> set[Hashable]:
        return {one.copy for each in self.members for one in each.options(self.bytes) if one.kept} - {None}

    def make_room(self, member: Member) -> None:
        """A copy was not admitted: trials whose calls do not come are put off, then one copy is kept."""
        with self._lock:
            others = [one for one in self.members if one is not member and one.trying]
            calls = sum(one.asked for one in others)
            waited, before = self._waits.get(member, (0, calls))
            waited = waited + 1 if calls == before else 0
            self._waits[member] = waited, calls
            if others and waited < PATIENCE:
                return
            self._waits.pop(member)
            for one in others:
                one.pause()
            if len(self._kept()) > self.room:
                self._keep_one()

    # Settled

    def settle(self) -> None:
        """Where there are too many, keep the copy that saves the most, once it is known who is called how often.

        A graph whose winner is known from an earlier process is decided by its first calls.
        """
        with self._lock:
            several = len(self._kept()) > self.room
            self.due = several and sum(one.asked - before for one, before in self._calls()) < ENOUGH
            if several and not self.due:
                self._keep_one()

    def _keep_one(self) -> None:
        """Have each graph run on what needs no copy but the one that saves the most."""
        best = self._best()
        for one in self.members:
            one.keep(best, self.bytes)

    def _best(self) -> Hashable | None:
        """The copy to be kept; None: none is worth it."""
        # None is never called: its next call counts.
        known = [(one.asked - before + 1, one.options(self.bytes)) for one, before in self._calls()]
        # What a copy saves a graph is known once calls without one were timed.
        known = [(calls, options) for calls, options in known if math.isfinite(_least(options, None))]

        def total(copy: Hashable | None) -> float:
            return sum(calls * _least(options, copy) for calls, options in known)

        copies = {one.copy for _, options in known for one in options if one.seconds is not None} - {None}
        best = min(sorted(copies, key=repr), key=total, default=None)
        return best if best is not None and total(best) < (1 - MARGIN) * total(None) else None

    def _calls(self) -> list[tuple[Member, int]]:
        found = [(ref(), before) for ref, before in self._since]
        return [(one, before) for one, before in found if one is not None]


def _knows(options: Sequence[Option], copy: Hashable) -> bool:
    """Whether it is known how long calls take with this copy."""
    return math.isfinite(_least(options, copy)) and all(one.seconds is not None for one in options if one.copy == copy)


def _least(options: Sequence[Option], copy: Hashable | None) -> float:
    """Seconds of the fastest."""
    best = fastest(options, copy)
    return best.seconds if best is not None and best.seconds is not None else math.inf


_LOCK = new_lock()
#: Of all weights over which there are graphs.
_ALL: list[Copies] = []


def join(member: Member, weights: Sequence[torch.Tensor]) -> Copies:
    """Have a graph's contest join those over the same weights."""
    own = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in weights}
    nbytes = sum(own.values())
    with _LOCK:
        _ALL[:] = [one for one in _ALL if one.members]
        for one in _ALL:
            common = sum(size for address, size in own.items() if one.weights.get(address) == size)
            if common > SAME * max(nbytes, one.bytes):
                one.join(member)
                return one
        _ALL.append(Copies(own))
        _ALL[-1].join(member)
        return _ALL[-1]
