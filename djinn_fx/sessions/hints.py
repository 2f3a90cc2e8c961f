"""What clients say of their sessions: phases, and the verbs by which caches are kept, moved and given up.

A signal is written down without waiting for anybody and heeded before the next step, so it costs a caller
microseconds. The verbs take the lock. Nothing that is said changes a token.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from djinn_fx.sessions.conversation import Conversation
from djinn_fx.sessions.memory.residency import Residency
from djinn_fx.sessions.outcome import Answer, Outcome
from djinn_fx.sessions.policy.state import Phase, Tier

#: Bounds of what may be asked: what lies beyond is clipped to them, and the answer says so.
MAX_ESTIMATE_S, MAX_TTL_S, MAX_LEASE_S = 7 * 86400.0, 86400.0, 600.0
MAX_PRIORITY = 100
#: How long a session that announced a turn is kept ready for it.
EXPECTED_S = 30.0
#: The share of the device's pages that may be pinned; the rest is for turns.
PINNED_SHARE = 0.5
IO_WAIT, COMPUTE = "IO_WAIT", "COMPUTE"


class Signal(NamedTuple):
    """What was said of a session's phase.

    Attributes:
        session: whose.
        waits: whether it waits, else it is about to compute.
        estimate_s: how long it will wait; None if it did not say.
        tool: what is awaited.
        at: when it was said.
    """

    session: Conversation
    waits: bool
    estimate_s: float | None
    tool: str
    at: float


@dataclass
class Hints:
    """Signals that are to be heeded, and the verbs.

    Attributes:
        residency: moves pages.
        lock: the manager's.
        clock: the time.
    """

    residency: Residency
    lock: Any
    clock: Callable[[], float]
    _inbox: deque[Signal] = field(default_factory=deque)
    _later: dict[str, Signal] = field(default_factory=dict)

    # -- phases ------------------------------------------------------------------------------------------------------

    def signal(self, one: Conversation, phase: str, estimate_ms: float | None, tool: str | None) -> Outcome:
        """Write down what was said, without waiting; see :func:`djinn_fx.signal_phase`."""
        waits = phase == IO_WAIT
        bad = _bad_time(estimate_ms, "estimated_resume_ms")
        if bad is not None:
            return Outcome(Answer.REJECTED, bad, one.key)
        if one.closed:
            return Outcome(Answer.MISSING, f"session {one.key!r} was closed", one.key)
        estimate_s = None if estimate_ms is None else min(float(estimate_ms) / 1000, MAX_ESTIMATE_S)
        self._inbox.append(Signal(one, waits, estimate_s, str(tool or "")[:200], self.clock()))
        if waits and one.turns:
            return Outcome(Answer.DEFERRED, "a turn of it is under way: it counts from the turn's end on", one.key)
        if estimate_ms is not None and estimate_ms / 1000 > MAX_ESTIMATE_S:
            return Outcome(Answer.CLIPPED, f"taken as {MAX_ESTIMATE_S:.0f} s, the longest wait", one.key)
        return Outcome(Answer.ACCEPTED, "it waits" if waits else "it is about to compute", one.key)

    @property
    def waiting(self) -> bool:
        """Whether something was said that was not heeded yet."""
        return bool(self._inbox)

    def heed(self) -> None:
        """Take what was said since; under the lock."""
        now = self.clock()
        while self._inbox:
            said = self._inbox.popleft()
            if said.session.closed:
                continue
            if said.waits and said.session.turns:
                self._later[said.session.key] = said
            elif said.waits:
                self._waits(said, now)
            else:
                self._later.pop(said.session.key, None)
                self._computes(said, now)
        for one in self.residency.conversations.busy.values():
            if one.expected_until and now >= one.expected_until:
                self._expected_in_vain(one, now)

    def ended(self, one: Conversation) -> None:
        """A turn is over: what was said of the wait behind it counts from now on."""
        said = self._later.pop(one.key, None)
        if said is not None and not one.turns:
            self._waits(said, self.clock())

    def _waits(self, said: Signal, now: float) -> None:
        one, context = said.session, said.session.context
        if one.expected_until:
            self._expected_in_vain(one, now)
        context.tool = said.tool
        # An estimate counts from when it was given; the policy counts from the wait's beginning.
        context.estimate_s = None if said.estimate_s is None else max(0.0, said.at - context.since) + said.estimate_s
        self.residency.policy.hinted(context, now)

    def _computes(self, said: Signal, now: float) -> None:
        one, context = said.session, said.session.context
        if one.turns or context.phase is not Phase.WAITING:
            return
        self._expect(one, now)
        context.phase, context.since = Phase.WANTED, now
        self.residency.policy.began(context, now)

    def _expect(self, one: Conversation, now: float) -> None:
        one.expected_until = now + EXPECTED_S
        self.residency.conversations.attend(one)

    def _expected_in_vain(self, one: Conversation, now: float) -> None:
        """A turn was announced and did not come."""
        one.expected_until = 0.0
        if one.context.phase is Phase.WANTED and not one.turns:
            one.context.phase, one.context.since = Phase.WAITING, now
            self.residency.policy.ended(one.context, now)

    # -- verbs -------------------------------------------------------------------------------------------------------

    def retain(self, one: Conversation, ttl_s: float, priority: int | None) -> Outcome:
        """Drop nothing of a session for so long, wherever it lies; and say how important it is."""
        bad = _bad_time(ttl_s, "ttl")
        if bad is not None:
            return Outcome(Answer.REJECTED, bad, one.key)
        with self.lock:
            if one.closed:
                return _gone(one)
            kept = min(float(ttl_s), MAX_TTL_S)
            one.retained_until = self.clock() + kept
            clipped = [f"ttl is {kept:.0f} s, the longest"] if kept < ttl_s else []
            if priority is not None:
                one.context.priority = max(-MAX_PRIORITY, min(MAX_PRIORITY, int(priority)))
                if one.context.priority != priority:
                    clipped.append(f"priority is {one.context.priority}, the outermost")
            if clipped:
                return Outcome(Answer.CLIPPED, "; ".join(clipped), one.key)
            return Outcome(Answer.ACCEPTED, f"nothing of it is dropped for {kept:g} s", one.key)

    def demote(self, one: Conversation) -> Outcome:
        """Have a session leave the device now."""
        with self.lock:
            if one.closed:
                return _gone(one)
            store = self.residency.store
            if store.host is None and store.disk is None:
                return Outcome(Answer.REJECTED, "there is no pool below the device", one.key)
            if one.turns:
                return Outcome(Answer.REJECTED, "a turn of it is under way", one.key)
            self._waits(Signal(one, True, None, one.context.tool, self.clock()), self.clock())
            own, left = one.context.device_bytes, one.context.device_bytes
            if own:
                self.residency.evict(one, len(one.holding), Tier.HOST)
                left = one.context.device_bytes
            if left:
                return Outcome(Answer.CLIPPED, f"{own - left} of {own} bytes leave: below there is no room", one.key)
            return Outcome(Answer.ACCEPTED, f"{own} bytes leave the device", one.key)

    def prefetch(self, one: Conversation) -> Outcome:
        """Have a session return to the device, as far as there is room that no turn needs."""
        with self.lock:
            if one.closed:
                return _gone(one)
            missing = sum(1 for page in one.holding if not self.residency.store.on_device(page))
            if not missing:
                return Outcome(Answer.ACCEPTED, "it is on the device", one.key)
            free = self.residency.store.device.free
            if not free:
                self._expect(one, self.clock())
                return Outcome(Answer.DEFERRED, "the device is full: it returns when there is room", one.key)
            short = self.residency.load(one, free)
            size = self.residency.page_bytes
            if short:
                detail = f"{(missing - short) * size} of {missing * size} bytes return: there is no more room"
                return Outcome(Answer.CLIPPED, detail, one.key)
            return Outcome(Answer.ACCEPTED, f"{missing * size} bytes return", one.key)

    def pin(self, one: Conversation, lease_s: float) -> Outcome:
        """Keep a session on the device for so long; a lease of 0 ends one."""
        bad = _bad_time(lease_s, "lease")
        if bad is not None:
            return Outcome(Answer.REJECTED, bad, one.key)
        with self.lock:
            if one.closed:
                return _gone(one)
            now, most = self.clock(), int(PINNED_SHARE * self.residency.store.device.pages)
            others = self.pinned_pages(now, but=one)
            if lease_s and others + len(one.holding) > most:
                size = self.residency.page_bytes
                left = (most - others) * size
                detail = f"it has {len(one.holding) * size} bytes, and of those that may be pinned {left} are left"
                return Outcome(Answer.REJECTED, detail, one.key)
            kept = min(float(lease_s), MAX_LEASE_S)
            one.context.pinned_until = now + kept
            self.residency.conversations.attend(one)
            if lease_s:
                self.residency.load(one, self.residency.store.device.free)
            if kept < lease_s:
                return Outcome(Answer.CLIPPED, f"the lease is {kept:.0f} s, the longest", one.key)
            return Outcome(Answer.ACCEPTED, f"it stays on the device for {kept:g} s", one.key)

    def release(self, one: Conversation) -> Outcome:
        """Free a session's pages wherever they are; its tokens stay, and are computed again when it goes on."""
        with self.lock:
            if one.closed:
                return _gone(one)
            if one.turns or one.stepping:
                one.release_after = True
                return Outcome(Answer.DEFERRED, "a turn of it is under way: its pages are freed at its end", one.key)
            pages = len(one.holding)
            if pages:
                self.residency.cut_before(one, set(one.holding))
            return Outcome(Answer.ACCEPTED, f"{pages} pages are freed", one.key)

    def pinned_pages(self, now: float, but: Conversation | None = None) -> int:
        """Pages that leases hold and that no turn under way counts."""
        every = self.residency.conversations.busy.values()
        held = [one for one in every if one is not but and not one.admitted and now < one.context.pinned_until]
        return sum(len(one.holding) for one in held)


def _bad_time(value: float | None, name: str) -> str | None:
    """What is wrong with a time; None if nothing is."""
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return f"{name} is {value!r}: give a number"
    if math.isnan(number) or number < 0:
        return f"{name} is {value!r}: give a number of at least zero"
    return None


def _gone(one: Conversation) -> Outcome:
    return Outcome(Answer.MISSING, f"session {one.key!r} was closed", one.key)
