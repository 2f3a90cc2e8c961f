"""A turn's way through a server: it waits for memory, loads what it lacks, is prefilled and decoded, and ends."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.sessions.compute import Compute
from bench.sessions.links import Transfer
from bench.sessions.load import PAGE, Job
from bench.sessions.memory import Entry, Memory
from bench.sessions.server import Played, Server
from djinn_fx.sessions.policy.base import Move, Policy
from djinn_fx.sessions.policy.state import Phase, Tier


class Clock:
    """Events in the order of their instants.

    Attributes:
        now: the virtual time, in seconds.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._numbers = itertools.count()

    def at(self, when: float, what: Callable[..., None], *with_: object) -> None:
        """Something is to happen at an instant."""
        heapq.heappush(self._events, (when, next(self._numbers), what, with_))

    def go_on(self) -> bool:
        """Let the next event happen; whether there was one."""
        if not self._events:
            return False
        self.now, _, what, with_ = heapq.heappop(self._events)
        what(*with_)
        return True


@dataclass(slots=True, eq=False)
class Served:
    """A turn under way."""

    entry: Entry
    job: Job
    place: int
    played: Played
    granted: int
    awaits: set[int] = field(default_factory=set)
    admitted: bool = False


class Serving:
    """Turns under way.

    Args:
        clock: when things end.
        server: on what.
        memory: whose bytes are where.
        policy: who decides.
        ended: called with each turn that is over.

    Attributes:
        queue: turns that wait for memory.
        active: how many have it.
    """

    def __init__(
        self, clock: Clock, server: Server, memory: Memory, policy: Policy, ended: Callable[[Served], None]
    ) -> None:
        self.clock, self.server, self.memory, self.policy = clock, server, memory, policy
        self.compute = Compute(server.law)
        self.queue: list[Served] = []
        self.active = 0
        self._ended = ended
        self._waiters: dict[int, list[Served]] = {}
        self._into_at = self._out_at = self._compute_at = math.inf

    # -- the clock ---------------------------------------------------------------------------------------------------

    def schedule(self) -> None:
        """Enter the next end of each link and of computing."""
        when = self.memory.into.next_done()
        if when != self._into_at:
            self._into_at = when
            if when < math.inf:
                self.clock.at(max(when, self.clock.now), self._into_done, when)
        when = self.memory.out.next_done()
        if when != self._out_at:
            self._out_at = when
            if when < math.inf:
                self.clock.at(max(when, self.clock.now), self._out_done, when)
        when = self.compute.next_done()
        if when != self._compute_at:
            self._compute_at = when
            if when < math.inf:
                self.clock.at(max(when, self.clock.now), self._compute_done, when)

    def links(self) -> None:
        """Bring both links to now; what ends is told."""
        for transfer in self.memory.into.advance(self.clock.now):
            if transfer.barrier > self.clock.now:
                self.clock.at(transfer.barrier, self._arrived, transfer)
            else:
                self._arrived(transfer)
        for transfer in self.memory.out.advance(self.clock.now):
            if not transfer.urgent:
                self.memory.copied(transfer)

    def _into_done(self, when: float) -> None:
        if when == self._into_at:
            self._into_at = math.inf
            self.links()

    def _out_done(self, when: float) -> None:
        if when == self._out_at:
            self._out_at = math.inf
            self.links()

    # -- a turn ------------------------------------------------------------------------------------------------------

    def come(self, turn: Served) -> None:
        """A turn is there."""
        self.queue.append(turn)
        self.admit()

    def admit(self) -> None:
        """Let turns in, in the policy's order, as long as there is room for the first of them."""
        queue, policy, now = self.queue, self.policy, self.clock.now
        while queue:
            turn = min(queue, key=lambda one: policy.rank(one.entry.context, now)) if len(queue) > 1 else queue[0]
            place = queue.index(turn)
            del queue[place]  # before it enters: a turn that ends at once lets others in
            if not self._enter(turn):
                queue.insert(place, turn)
                return

    def _enter(self, turn: Served) -> bool:
        """Give a turn its memory and begin to load what it lacks, or say that there is no room yet."""
        entry, memory, now = turn.entry, self.memory, self.clock.now
        parent = entry.parent
        self.links()
        if parent is not None:
            parent.context.readers += 1
            memory.refresh(parent)
        more = turn.granted - entry.granted + (max(0, entry.base_bytes - parent.granted) if parent is not None else 0)
        if memory.free(Tier.DEVICE) + memory.idle < more and (self.active or not self._push_out(turn, more)):
            if parent is not None:
                parent.context.readers -= 1
                memory.refresh(parent)
            return False
        barrier = memory.make_room(more, now, entry.context.tenant)
        if memory.free(Tier.DEVICE) < more:
            # The policy named too few: whoever is idle goes, in any order.
            for other in list(memory.entries.values()):
                if memory.free(Tier.DEVICE) < more and other.idle:
                    barrier = max(barrier, memory.evict(_dropped(other), now, more - memory.free(Tier.DEVICE)))
        turn.admitted = True
        self.active += 1
        memory.grant(entry, max(entry.granted, turn.granted))
        order = (0.0, *self.policy.rank(entry.context, now))
        if parent is not None:
            self._fetch(parent, min(parent.recoverable, entry.base_bytes), turn, order, barrier)
            memory.grant(parent, max(parent.granted, entry.base_bytes))
            if parent.context.readers == 1 and parent.context.tool == "prefix":
                self.policy.began(parent.context, now)
        missing = entry.recoverable - entry.context.device_bytes
        wish = self.policy.recover_bytes(entry.context, now) if missing and entry.loading is None else missing
        page = PAGE * self.server.token_bytes
        self._fetch(
            entry, entry.context.device_bytes + min(missing, -(-max(0, wish) // page) * page), turn, order, barrier
        )
        entry.context.readers += 1
        if not turn.awaits:
            self._prefill(turn)
        return True

    def _push_out(self, turn: Served, more: int) -> bool:
        """Nothing is under way that could end: turns that wait too give up what they hold, the last ones first."""
        memory, now = self.memory, self.clock.now
        others = sorted(
            (one for one in self.queue if one is not turn),
            key=lambda one: self.policy.rank(one.entry.context, now),
            reverse=True,
        )
        for other in others:
            if memory.free(Tier.DEVICE) + memory.idle >= more:
                break
            context = other.entry.context
            context.phase = Phase.WAITING
            memory.refresh(other.entry)
            memory.evict(_dropped(other.entry), now)
            context.phase = Phase.WANTED
            memory.refresh(other.entry)
        assert memory.free(Tier.DEVICE) + memory.idle >= more, (
            "a context and the one that it shares with are larger than the pool"
        )
        return True

    def _fetch(self, entry: Entry, end: int, turn: Served, order: tuple[float, ...], barrier: float) -> None:
        """Begin to load an entry's bytes up to ``end`` for a turn, or wait for a load that is under way."""
        memory, there = self.memory, entry.context.device_bytes
        if entry.loading is not None:
            entry.loading.urgent = True
            entry.loading.barrier = max(entry.loading.barrier, barrier)
            if entry.loading.left:
                memory.into.push(entry.loading, order, self.clock.now)
        elif end > there:
            memory.grant(entry, max(entry.granted, end))
            memory.load(entry, end, True, order, barrier, self.clock.now)
        elif barrier > self.clock.now:
            mark = Transfer(None, 0, 0.0, True)
            turn.awaits.add(id(mark))
            self._waiters[id(mark)] = [turn]
            self.clock.at(barrier, self._ready, mark)
            return
        else:
            return
        turn.awaits.add(id(entry.loading))
        self._waiters.setdefault(id(entry.loading), []).append(turn)
        turn.played.loaded += entry.loading.nbytes

    def _arrived(self, transfer: Transfer) -> None:
        if transfer.owner.loading is not transfer:
            return
        self.memory.arrived(transfer, self.clock.now)
        entry = transfer.owner
        turn = entry.turn
        if (
            turn is not None
            and turn.admitted
            and id(transfer) in turn.awaits
            and entry.recoverable > entry.context.device_bytes
        ):
            # A prefetch brought a part, and the turn came meanwhile.
            self._fetch(
                entry, entry.recoverable, turn, (0.0, *self.policy.rank(entry.context, self.clock.now)), self.clock.now
            )
        self._ready(transfer)

    def _ready(self, transfer: Transfer) -> None:
        for turn in self._waiters.pop(id(transfer), ()):
            turn.awaits.discard(id(transfer))
            if not turn.awaits:
                self._prefill(turn)

    def _prefill(self, turn: Served) -> None:
        """All of its context that can be had without computing is there."""
        turn.played.ready = self.clock.now
        entry, law = turn.entry, self.server.law
        one, wanted = self.server.token_bytes, turn.job.turns[turn.place]
        seconds = 0.0
        parent = entry.parent
        if parent is not None and parent.context.device_bytes < entry.base_bytes and parent.turn is None:
            seconds += law.prefill_s(parent.context.device_bytes // one, entry.base_bytes // one)
            turn.played.computed += (
                (entry.base_bytes - parent.context.device_bytes) // one if parent.context.turns else 0
            )
            parent.context.turns += 1
            self.memory.on_device(parent, entry.base_bytes)
        there = min((entry.base_bytes + entry.context.device_bytes) // one, max(wanted.common, entry.base_bytes // one))
        seconds += law.prefill_s(min(there, wanted.inputs - 1), wanted.inputs)
        turn.played.computed += max(0, wanted.common // PAGE * PAGE - there) if turn.place or turn.job.held else 0
        self._step()
        self.compute.prefill(turn, seconds)
        self._mark()

    def _compute_done(self, when: float) -> None:
        if when == self._compute_at:
            self._compute_at = math.inf
            self._step()

    def _step(self) -> None:
        """Bring computing to now; what ends goes on."""
        prefilled, decoded = self.compute.advance(self.clock.now)
        for turn in prefilled:
            turn.played.first_token = self.clock.now
            self.compute.decode(turn, turn.job.turns[turn.place].outputs, turn.entry.base_bytes + turn.granted)
            self._mark()
        for turn in decoded:
            self._end(turn)

    def _mark(self) -> None:
        """Who is being prefilled has begun."""
        turn = self.compute.prefilling
        if turn is not None and not turn.played.began:
            turn.played.began = self.clock.now
            turn.entry.context.phase = Phase.RUNNING

    def _end(self, turn: Served) -> None:
        entry, memory, now = turn.entry, self.memory, self.clock.now
        context, parent = entry.context, entry.parent
        turn.played.done = now
        context.size_bytes, context.tokens = turn.granted, turn.job.turns[turn.place].tokens
        context.turns += 1
        context.readers -= 1
        entry.turn = None
        self.active -= 1
        memory.grant(entry, turn.granted)
        memory.on_device(entry, turn.granted)
        if parent is not None:
            parent.context.readers -= 1
            if not parent.context.readers and parent.context.tool == "prefix":
                parent.context.since = now
                self.policy.ended(parent.context, now)
            memory.refresh(parent)
        self._ended(turn)
        if self.queue:
            self.admit()


def _dropped(entry: Entry) -> Move:
    return Move(entry.context, entry.granted, Tier.DEVICE, Tier.HOST, because="nobody else was named")
