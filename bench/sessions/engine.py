"""A server of agent sessions on a virtual clock: sessions open, their turns come, they wait, they close.

Events only: a turn's coming, an end of a transfer or of computing, an instant at which the policy wants to be asked.
Turns come a gap after the end of the turn before (closed loop), so that a server that is late is late with the rest
of a session too.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from bench.sessions.load import PAGE, Job, Load, Spawn
from bench.sessions.memory import Entry, Memory
from bench.sessions.server import Hint, Played, Server, silent
from bench.sessions.serving import Clock, Served, Serving
from djinn_fx.sessions.policy.base import Policy
from djinn_fx.sessions.policy.state import Context, Phase, Tier


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
        self.clock = Clock()
        self.memory = Memory(server.pool_bytes, server.host_bytes, server.link_bytes_s, server.law, server.quotas)
        self.memory.policy = policy
        self.serving = Serving(self.clock, server, self.memory, policy, self._ended)
        self.played: list[Played] = []
        self.alive_byte_s = 0.0
        self._check = check
        self._to_come = 0
        self._wake_at = math.inf
        self._alive_bytes, self._alive_at = 0, 0.0
        policy.attach(self.memory)

    @property
    def now(self) -> float:
        """Seconds of the virtual clock."""
        return self.clock.now

    # -- the clock ---------------------------------------------------------------------------------------------------

    def run(self) -> Simulation:
        """Play all of it."""
        self._open_all()
        serving, policy = self.serving, self.policy
        while (self._to_come or serving.active or serving.queue) and self.clock.go_on():
            if policy.wake() <= self.now:
                self._due()
            self._schedule()
            if self._check:
                problems = list(self.memory.broken())
                assert not problems, problems
        assert not serving.queue, f"{len(serving.queue)} turns were never admitted"
        return self

    def _later(self, when: float, what: Callable[..., None], *with_: object) -> None:
        """What brings a turn: until it has, the run is not over."""
        self._to_come += 1
        self.clock.at(when, what, *with_)

    def _schedule(self) -> None:
        """Enter the next end of what is under way, and the policy's own instant."""
        self.serving.schedule()
        when = self.policy.wake()
        if when < self._wake_at:
            self._wake_at = when
            self.clock.at(max(when, self.now), self._woken, when)

    def _woken(self, when: float) -> None:
        if when == self._wake_at:
            self._wake_at = math.inf

    def _due(self) -> None:
        memory = self.memory
        self.serving.links()
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
        if self.serving.queue:
            self.serving.admit()

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

    # -- turns -------------------------------------------------------------------------------------------------------

    def _come(self, job: Job, place: int) -> None:
        entry, turn, now = self.memory.entries[job.key], job.turns[place], self.now
        self._to_come -= 1
        context = entry.context
        self.serving.links()
        whole = max(0, turn.common // PAGE * PAGE * self.server.token_bytes - entry.base_bytes)
        before = context.size_bytes
        shared = max((self.memory.entries[key].base_bytes for key in entry.kids), default=0)
        whole = max(whole, min(shared, before))
        if whole < before:
            self.memory.cut(entry, whole, now)
        first = place == 0 and not job.held
        played = Played(job.key, place, job.tenant, now, first)
        self.played.append(played)
        entry.turn = Served(entry, job, place, played, max(shared, self._bytes(turn.tokens) - entry.base_bytes))
        context.phase, context.since, context.next_use = Phase.WANTED, now, now
        self._alive(entry.turn.granted - before)
        self.memory.refresh(entry)
        self.policy.began(context, now)
        self.serving.come(entry.turn)

    def _ended(self, turn: Served) -> None:
        """A turn is over: its subagents are to come, and the session waits."""
        for spawn in turn.job.spawns:
            if spawn.after == turn.place:
                self._later(self.now + spawn.delay, self._spawn, spawn, turn.job)
        self._wait(turn.entry, turn.job, turn.place, self.now)

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
