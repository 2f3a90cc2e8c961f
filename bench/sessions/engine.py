"""A server of agent sessions on a virtual clock: turns come, wait for memory, load, are computed, and end.

Events only: a turn's coming, an end of a transfer or of computing, an instant at which the policy wants to be asked.
Turns come a gap after the end of the turn before (closed loop), so that a server that is late is late with the rest
of a session too.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.sessions.compute import Compute
from bench.sessions.law import Law
from bench.sessions.links import Transfer
from bench.sessions.load import PAGE, Job, Load, Spawn
from bench.sessions.memory import Entry, Memory
from djinn_fx.sessions.policy.base import Move, Policy
from djinn_fx.sessions.policy.state import Context, Phase, Tier

#: Given a job, the number of a turn of it and the gap after that turn: what the client says of the gap.
Hint = Callable[[Job, int, float], float | None]


def silent(job: Job, place: int, gap: float) -> float | None:
    """A client that says nothing."""
    return None


@dataclass(frozen=True)
class Server:
    """What a load is played on.

    Attributes:
        law: what computing takes.
        token_bytes: keys and values of a token.
        pool_bytes: of the device's memory.
        host_bytes: of the host's.
        link_bytes_s: between them, in each direction.
        quotas: bytes of the device by tenant.
    """

    law: Law
    token_bytes: int
    pool_bytes: int
    host_bytes: int
    link_bytes_s: float
    quotas: dict[str, int] = field(default_factory=dict)

    def unlimited(self) -> Server:
        """The same with room for everything."""
        return Server(self.law, self.token_bytes, 1 << 60, 0, self.link_bytes_s)


@dataclass(slots=True)
class Played:
    """A turn of a job as it went. All in seconds of the clock.

    Attributes:
        job: its job's key.
        place: its number in the job.
        came: when it came.
        first_token: when its prefill was over.
        ready: when it had its memory and all that could be loaded.
        began: when computing began.
        done: when it was over.
        loaded: bytes it waited for.
        computed: tokens computed again, that the context had already.
    """

    job: str
    place: int
    tenant: str
    came: float
    first: bool
    ready: float = 0.0
    began: float = 0.0
    first_token: float = 0.0
    done: float = 0.0
    loaded: int = 0
    computed: int = 0


@dataclass(slots=True, eq=False)
class _Turn:
    """A turn under way."""

    entry: Entry
    job: Job
    place: int
    played: Played
    granted: int
    awaits: set[int] = field(default_factory=set)
    admitted: bool = False


class Simulation:
    """One run.

    Args:
        load: whose turns.
        policy: who decides; made for this run.
        server: on what.
        hint: what clients say.
        check: look at every invariant after every event (slow; for tests).
    """

    def __init__(self, load: Load, policy: Policy, server: Server, hint: Hint = silent, check: bool = False) -> None:
        self.load, self.policy, self.server, self.hint = load, policy, server, hint
        self.now = 0.0
        self.memory = Memory(server.pool_bytes, server.host_bytes, server.link_bytes_s, server.law, server.quotas)
        self.memory.policy = policy
        self.compute = Compute(server.law)
        self.played: list[Played] = []
        self.alive_byte_s = 0.0
        self._check = check
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._numbers = itertools.count()
        self._queue: list[_Turn] = []
        self._active = self._to_come = 0
        self._waiters: dict[int, list[_Turn]] = {}
        self._into_at = self._out_at = self._compute_at = self._wake_at = math.inf
        self._alive_bytes, self._alive_at = 0, 0.0
        policy.attach(self.memory)

    # -- the clock ---------------------------------------------------------------------------------------------------

    def run(self) -> Simulation:
        """Play all of it."""
        self._open_all()
        events, policy = self._events, self.policy
        while events and (self._to_come or self._active or self._queue):
            self.now, _, what, with_ = heapq.heappop(events)
            what(*with_)
            if policy.wake() <= self.now:
                self._due()
            self._schedule()
            if self._check:
                problems = list(self.memory.broken())
                assert not problems, problems
        assert not self._queue, f"{len(self._queue)} turns were never admitted"
        return self

    def _at(self, when: float, what: Callable[..., None], *with_: object) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), what, with_))

    def _later(self, when: float, what: Callable[..., None], *with_: object) -> None:
        """What brings a turn: until it has, the run is not over."""
        self._to_come += 1
        self._at(when, what, *with_)

    def _schedule(self) -> None:
        """Enter the next end of each link and of computing, and the policy's own instant."""
        when = self.memory.into.next_done()
        if when != self._into_at:
            self._into_at = when
            if when < math.inf:
                self._at(max(when, self.now), self._into_done, when)
        when = self.memory.out.next_done()
        if when != self._out_at:
            self._out_at = when
            if when < math.inf:
                self._at(max(when, self.now), self._out_done, when)
        when = self.compute.next_done()
        if when != self._compute_at:
            self._compute_at = when
            if when < math.inf:
                self._at(max(when, self.now), self._compute_done, when)
        when = self.policy.wake()
        if when < self._wake_at:
            self._wake_at = when
            self._at(max(when, self.now), self._woken, when)

    def _woken(self, when: float) -> None:
        if when == self._wake_at:
            self._wake_at = math.inf

    def _due(self) -> None:
        memory = self.memory
        self._links()
        for move in self.policy.due(self.now):
            if move.keep:
                memory.copy_ahead(move, self.now)
            elif move.target is Tier.DEVICE:
                memory.prefetch(move, self.now)
            elif move.source is Tier.DEVICE:
                memory.evict(move, self.now)
            else:
                entry = memory.entries.get(move.context.key)
                if entry is not None:
                    memory.forget(entry, move.nbytes, self.now)
        if self._queue:
            self._admit()

    def _links(self) -> None:
        """Bring both links to now; what ends is told."""
        for transfer in self.memory.into.advance(self.now):
            if transfer.barrier > self.now:
                self._at(transfer.barrier, self._arrived, transfer)
            else:
                self._arrived(transfer)
        for transfer in self.memory.out.advance(self.now):
            if not transfer.urgent:
                self.memory.copied(transfer)

    def _into_done(self, when: float) -> None:
        if when == self._into_at:
            self._into_at = math.inf
            self._links()

    def _out_done(self, when: float) -> None:
        if when == self._out_at:
            self._out_at = math.inf
            self._links()

    # -- sessions ----------------------------------------------------------------------------------------------------

    def _open_all(self) -> None:
        for key, tokens in self.load.prefixes.items():
            context = Context(key=key, size_bytes=self._bytes(tokens), tokens=tokens, tool="prefix")
            self.memory.entries[key] = Entry(context, self.server.token_bytes)
            self.policy.opened(context, 0.0)
        held = [job for job in self.load.jobs if job.held]
        held.sort(key=lambda job: job.turns[0].gap if job.turns else math.inf)
        for job in held:
            self._open(job)
        for job in self.load.jobs:
            if not job.held and job.turns:
                self._later(job.start + job.turns[0].gap, self._first, job)

    def _first(self, job: Job) -> None:
        self._open(job)
        self._come(job, 0)

    def _bytes(self, tokens: int) -> int:
        return -(-tokens // PAGE) * PAGE * self.server.token_bytes

    def _open(self, job: Job) -> None:
        """A session is there; the later part of one brings its context along, on the host as far as that has room."""
        memory, now = self.memory, self.now
        context = Context(key=job.key, tenant=job.tenant, first_at=now, since=now)
        entry = memory.entries[job.key] = Entry(context, self.server.token_bytes)
        entry.base_bytes = self._bytes(job.base) if job.parent else 0
        entry.parent = memory.entries.get(job.parent) if job.parent else None
        if entry.parent is not None:
            entry.parent.kids.add(job.key)
        self.policy.opened(context, now)
        if job.held:
            size = max(0, self._bytes(job.held) - entry.base_bytes)
            context.size_bytes, context.tokens, context.turns = size, job.held, 1
            self._alive(size)
            if memory.free(Tier.HOST) >= size:
                memory.on_host(entry, 0, size)
            elif memory.free(Tier.DEVICE) >= size:
                memory.grant(entry, size)
                memory.on_device(entry, size)
            memory.refresh(entry)
            self._wait(entry, job, -1, job.start - job.waited)

    def _wait(self, entry: Entry, job: Job, place: int, since: float) -> None:
        """Between two turns; the client says what it knows."""
        context, following = entry.context, place + 1
        gap = job.turns[following].gap if following < len(job.turns) else job.then
        context.phase, context.since = Phase.WAITING, since
        context.estimate_s = context.steps = None
        if place >= 0:
            turn = job.turns[place]
            context.tool, context.steps = turn.tool, turn.steps
        if gap is None:
            self._close(entry)
            return
        whole = gap + job.waited if place < 0 and following < len(job.turns) else gap
        context.estimate_s = self.hint(job, place, whole)
        context.next_use = since + whole
        if entry.parent is not None:
            self._parent_next(entry.parent)
        self.memory.refresh(entry)
        self.policy.ended(context, self.now)
        if following < len(job.turns):
            self._later(self.now + job.turns[following].gap, self._come, job, following)

    def _parent_next(self, parent: Entry) -> None:
        """A shared beginning is next needed when the first of those that share it is."""
        kids = (self.memory.entries[key].context.next_use for key in parent.kids)
        if parent.context.tool == "prefix":
            parent.context.next_use = min(
                (when for when in kids if when is not None and when >= self.now), default=None
            )

    def _close(self, entry: Entry) -> None:
        context = entry.context
        context.phase = Phase.CLOSED
        self.policy.closed(context, self.now)
        self._alive(-context.size_bytes)
        parent = entry.parent
        if entry.kids:
            # Subagents live on: what they share of it stays, as a shared beginning.
            most = max(self.memory.entries[key].base_bytes for key in entry.kids)
            self.memory.cut(entry, most, self.now)
            entry.orphaned, context.tool = True, "prefix"
            context.phase, context.since, context.estimate_s = Phase.WAITING, self.now, None
            self.memory.refresh(entry)
            self.policy.opened(context, self.now)
            self.policy.ended(context, self.now)
        else:
            self.memory.remove(entry, self.now)
        if parent is not None:
            parent.kids.discard(context.key)
            if parent.orphaned and not parent.kids:
                parent.context.phase = Phase.CLOSED
                self.policy.closed(parent.context, self.now)
                self.memory.remove(parent, self.now)

    def _alive(self, more: int) -> None:
        """Count bytes of living sessions over time, within the window."""
        until = min(self.now, self.load.window)
        self.alive_byte_s += self._alive_bytes * max(0.0, until - self._alive_at)
        self._alive_at = until
        self._alive_bytes += more

    # -- a turn ------------------------------------------------------------------------------------------------------

    def _come(self, job: Job, place: int) -> None:
        entry, turn, now = self.memory.entries[job.key], job.turns[place], self.now
        self._to_come -= 1
        context = entry.context
        self._links()
        whole = max(0, turn.common // PAGE * PAGE * self.server.token_bytes - entry.base_bytes)
        before = context.size_bytes
        shared = max((self.memory.entries[key].base_bytes for key in entry.kids), default=0)
        whole = max(whole, min(shared, before))
        if whole < before:
            self.memory.cut(entry, whole, now)
        first = place == 0 and not job.held
        played = Played(job.key, place, job.tenant, now, first)
        self.played.append(played)
        entry.turn = _Turn(entry, job, place, played, max(shared, self._bytes(turn.tokens) - entry.base_bytes))
        context.phase, context.since, context.next_use = Phase.WANTED, now, now
        self._alive(entry.turn.granted - before)
        self.memory.refresh(entry)
        self.policy.began(context, now)
        self._queue.append(entry.turn)
        self._admit()

    def _admit(self) -> None:
        """Let turns in, in the policy's order, as long as there is room for the first of them."""
        queue, policy, now = self._queue, self.policy, self.now
        while queue:
            turn = min(queue, key=lambda one: policy.rank(one.entry.context, now)) if len(queue) > 1 else queue[0]
            place = queue.index(turn)
            del queue[place]  # before it enters: a turn that ends at once lets others in
            if not self._enter(turn):
                queue.insert(place, turn)
                return

    def _enter(self, turn: _Turn) -> bool:
        """Give a turn its memory and begin to load what it lacks, or say that there is no room yet."""
        entry, memory, now = turn.entry, self.memory, self.now
        parent = entry.parent
        self._links()
        if parent is not None:
            parent.context.readers += 1
            memory.refresh(parent)
        more = turn.granted - entry.granted + (max(0, entry.base_bytes - parent.granted) if parent is not None else 0)
        if memory.free(Tier.DEVICE) + memory.idle < more and (self._active or not self._push_out(turn, more)):
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
        self._active += 1
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

    def _push_out(self, turn: _Turn, more: int) -> bool:
        """Nothing is under way that could end: turns that wait too give up what they hold, the last ones first."""
        memory, now = self.memory, self.now
        others = sorted(
            (one for one in self._queue if one is not turn),
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

    def _fetch(self, entry: Entry, end: int, turn: _Turn, order: tuple[float, ...], barrier: float) -> None:
        """Begin to load an entry's bytes up to ``end`` for a turn, or wait for a load that is under way."""
        memory, there = self.memory, entry.context.device_bytes
        if entry.loading is not None:
            entry.loading.urgent = True
            entry.loading.barrier = max(entry.loading.barrier, barrier)
            if entry.loading.left:
                memory.into.push(entry.loading, order, self.now)
        elif end > there:
            memory.grant(entry, max(entry.granted, end))
            memory.load(entry, end, True, order, barrier, self.now)
        elif barrier > self.now:
            mark = Transfer(None, 0, 0.0, True)
            turn.awaits.add(id(mark))
            self._waiters[id(mark)] = [turn]
            self._at(barrier, self._ready, mark)
            return
        else:
            return
        turn.awaits.add(id(entry.loading))
        self._waiters.setdefault(id(entry.loading), []).append(turn)
        turn.played.loaded += entry.loading.nbytes

    def _arrived(self, transfer: Transfer) -> None:
        if transfer.owner.loading is not transfer:
            return
        self.memory.arrived(transfer, self.now)
        entry = transfer.owner
        turn = entry.turn
        if (
            turn is not None
            and turn.admitted
            and id(transfer) in turn.awaits
            and entry.recoverable > entry.context.device_bytes
        ):
            # A prefetch brought a part, and the turn came meanwhile.
            self._fetch(entry, entry.recoverable, turn, (0.0, *self.policy.rank(entry.context, self.now)), self.now)
        self._ready(transfer)

    def _ready(self, transfer: Transfer) -> None:
        for turn in self._waiters.pop(id(transfer), ()):
            turn.awaits.discard(id(transfer))
            if not turn.awaits:
                self._prefill(turn)

    def _prefill(self, turn: _Turn) -> None:
        """All of its context that can be had without computing is there."""
        turn.played.ready = self.now
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
        prefilled, decoded = self.compute.advance(self.now)
        for turn in prefilled:
            turn.played.first_token = self.now
            self.compute.decode(turn, turn.job.turns[turn.place].outputs, turn.entry.base_bytes + turn.granted)
            self._mark()
        for turn in decoded:
            self._end(turn)

    def _mark(self) -> None:
        """Who is being prefilled has begun."""
        turn = self.compute.prefilling
        if turn is not None and not turn.played.began:
            turn.played.began = self.now
            turn.entry.context.phase = Phase.RUNNING

    def _end(self, turn: _Turn) -> None:
        entry, memory, now = turn.entry, self.memory, self.now
        context, parent = entry.context, entry.parent
        turn.played.done = now
        context.size_bytes, context.tokens = turn.granted, turn.job.turns[turn.place].tokens
        context.turns += 1
        context.readers -= 1
        entry.turn = None
        self._active -= 1
        memory.grant(entry, turn.granted)
        memory.on_device(entry, turn.granted)
        if parent is not None:
            parent.context.readers -= 1
            if not parent.context.readers and parent.context.tool == "prefix":
                parent.context.since = now
                self.policy.ended(parent.context, now)
            memory.refresh(parent)
        for spawn in turn.job.spawns:
            if spawn.after == turn.place:
                self._later(now + spawn.delay, self._spawn, spawn, turn.job)
        self._wait(entry, turn.job, turn.place, now)
        if self._queue:
            self._admit()

    def _spawn(self, spawn: Spawn, job: Job) -> None:
        """A subagent begins, if the session that it belongs to is there still."""
        self._to_come -= 1
        parent = self.memory.entries.get(job.key)
        if parent is not None and not parent.orphaned:
            # What it shares may have been cut meanwhile: no more than is there now, and the rest is its own.
            base = min(spawn.job.base * self.server.token_bytes, parent.context.size_bytes)
            self._to_come += 1
            self._first(_under(spawn.job, job.key, base // self.server.token_bytes))


def _under(job: Job, parent: str, base: int) -> Job:
    return Job(job.key, 0.0, job.turns, tenant=job.tenant, base=base, parent=parent)


def _dropped(entry: Entry) -> Move:
    return Move(entry.context, entry.granted, Tier.DEVICE, Tier.HOST, because="nobody else was named")
