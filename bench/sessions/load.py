"""A load: jobs of turns, as a simulator plays them, and how one is made to be in equilibrium."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

PAGE = 64
"""Tokens a page."""


@dataclass(slots=True)
class Turn:
    """One call of the model.

    Attributes:
        gap: seconds from the end of the turn before (or the job's start) until it comes.
        common: leading tokens that it has in common with the context as it was left.
        inputs: tokens of its prompt, those in common too.
        outputs: tokens that it makes.
        tool: what is awaited after it: a tool's name, "user", or "" for unknown.
        steps: steps of the workflow until the job's next turn, where known.
        busy: seconds that it took where the trace was recorded.
    """

    gap: float
    common: int
    inputs: int
    outputs: int
    tool: str = ""
    steps: int | None = None
    busy: float = 0.0

    @property
    def tokens(self) -> int:
        """The context when it is over."""
        return self.inputs + self.outputs


@dataclass(slots=True)
class Spawn:
    """A subagent: a job that a turn of another sets off.

    Attributes:
        after: number of the turn after which it comes.
        delay: seconds after that turn's end.
        job: its turns; ``base`` tokens of them are its parent's.
    """

    after: int
    delay: float
    job: Job


@dataclass(slots=True)
class Job:
    """A session.

    Attributes:
        key: its id.
        start: when it begins; the first turn's gap counts from here.
        turns: one after the other.
        tenant: whose.
        held: tokens that it has a context of already at its start: it is the later part of a session, ...
        waited: ... and has been waiting for so many seconds by then.
        then: seconds from its last turn's end until the session would go on, beyond the window; None if it is over.
        base: leading tokens that belong to ``parent``.
        parent: key of a shared prefix or, of a subagent, of the session that set it off.
        spawns: its subagents.
    """

    key: str
    start: float
    turns: list[Turn]
    tenant: str = ""
    held: int = 0
    waited: float = 0.0
    then: float | None = None
    base: int = 0
    parent: str = ""
    spawns: list[Spawn] = field(default_factory=list)

    def byte_seconds(self, token_bytes: int, longest_gap: float = float("inf")) -> float:
        """Bytes of its own context times the seconds for which it has them, by the trace's own times."""
        total, held = 0.0, self.held
        for turn in self.turns:
            total += held * min(turn.gap, longest_gap) + turn.tokens * turn.busy
            held = turn.tokens
        return total * token_bytes

    def span(self) -> float:
        """Seconds from start to end, by the trace's own times."""
        return sum(turn.gap + turn.busy for turn in self.turns)


@dataclass(frozen=True)
class Load:
    """What a simulation is given.

    Attributes:
        jobs: in any order.
        window: seconds in which they start; it is measured from ``warm`` on until then.
        warm: seconds at the beginning that do not count.
        prefixes: tokens of each shared prefix, by key.
        refused: turns left out, since their context would not fit into the pool.
    """

    jobs: tuple[Job, ...]
    window: float
    warm: float
    prefixes: dict[str, int] = field(default_factory=dict)
    refused: int = 0

    @property
    def turns(self) -> int:
        """How many turns all jobs have, subagents' too."""
        return sum(len(job.turns) + sum(len(spawn.job.turns) for spawn in job.spawns) for job in self.jobs)


def fitting(job: Job, most_tokens: int) -> tuple[Job, int]:
    """A job without what comes from the first turn on whose context is larger than that, and how many turns went."""
    for place, turn in enumerate(job.turns):
        if turn.tokens > most_tokens:
            spawns = [spawn for spawn in job.spawns if spawn.after < place]
            return replace(job, turns=job.turns[:place], spawns=spawns), len(job.turns) - place
    return job, 0


def in_equilibrium(
    sessions: Sequence[Job],
    token_bytes: int,
    alive_bytes: float,
    most_tokens: int,
    seed: int,
    longest_gap: float,
    starts: Sequence[float] | None = None,
) -> Load:
    """Sessions that start at chance so that those alive hold so many bytes on average, at all times.

    Sessions last for hours and a window that begins empty would fill for longer than anybody can wait. So time is a
    ring: what a session does after the window's end it does, as a job of its own, at the window's beginning, where it
    arrives with the context that it has by then.

    Args:
        sessions: of which each is played once.
        token_bytes: keys and values of a token.
        alive_bytes: what the contexts of living sessions are to hold, averaged over time.
        most_tokens: contexts above that end a session.
        seed: of the starts.
        longest_gap: gaps are cut to so many seconds.
        starts: of each session, as parts of the window; else by chance, each as likely as the other.
    """
    chance = random.Random(seed)
    kept, refused = [], 0
    for one in sessions:
        whole, gone = fitting(one, most_tokens)
        refused += gone
        turns = [replace(turn, gap=min(turn.gap, longest_gap)) for turn in whole.turns]
        if turns:
            kept.append(replace(whole, turns=turns))
    window = sum(job.byte_seconds(token_bytes) for job in kept) / alive_bytes
    when = starts if starts is not None else [chance.random() for _ in kept]
    jobs = [part for job, at in zip(kept, when, strict=False) for part in on_the_ring(job, at * window, window)]
    return Load(tuple(jobs), window, warm=0.1 * window, refused=refused)


def on_the_ring(job: Job, start: float, window: float) -> list[Job]:
    """A session cut where it passes the window's end, each part a job; one that only waits has no turns."""
    parts: list[Job] = []
    now, begin, first, held, waited = start, start, 0, job.held, 0.0
    turns: list[Turn] = []

    def cut(rest: float, whole: float) -> None:
        """The window ends: after ``whole - rest`` seconds of a gap of ``whole`` seconds."""
        nonlocal now, begin, first, held, waited, turns
        parts.append(_part(job, len(parts), begin, turns, first, held=held, waited=waited, then=whole))
        held = turns[-1].tokens if turns else held
        first, turns, now, begin, waited = first + len(turns), [], 0.0, 0.0, whole - rest

    for turn in job.turns:
        rest = turn.gap
        while now + rest >= window:
            rest -= window - now
            cut(rest, turn.gap)
        now += rest
        turns.append(replace(turn, gap=rest))
        now = min(now + turn.busy, window)
    parts.append(_part(job, len(parts), begin, turns, first, held=held, waited=waited, then=None))
    return parts


def _part(
    job: Job, number: int, begin: float, turns: list[Turn], first: int, held: int, waited: float, then: float | None
) -> Job:
    spawns = [replace(one, after=one.after - first) for one in job.spawns if 0 <= one.after - first < len(turns)]
    key = f"{job.key}.{number}" if number else job.key
    return replace(job, key=key, start=begin, turns=turns, held=held, waited=waited, then=then, spawns=spawns)
