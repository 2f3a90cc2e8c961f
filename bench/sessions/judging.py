"""What a run comes to beside the same load with room for everything, and intervals of differences over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from bench.sessions.engine import Simulation
from bench.sessions.load import Load
from bench.sessions.server import Hint, Played, Server, silent
from djinn_fx.sessions.policy.base import Policy
from djinn_fx.sessions.policy.named import policy_named

Turns = Mapping[tuple[str, int], Played]


@dataclass(frozen=True)
class Result:
    """One run, of the turns that came within the measured part of the window. Seconds, bytes, tokens.

    Attributes:
        stall_s: of all turns: time to the first token, less that with room for everything. (Decoding goes by who else
            decodes; of one schedule of steps it is the same on both sides.)
        busy_s: of all turns from their coming to their end, with room for everything.
        p99_stall_s: of a turn's stall.
        p99_job_s: of jobs, from the first turn's coming to the last one's end.
        p99_first_s: of a session's first turn's wait for memory.
        p99_first_over_s: the same less that with room for everything.
        by_tenant: stall by tenant.
        loaded, stored, prefetched: bytes over the link.
        computed: tokens computed again.
        link_busy: share of the window in which the link to the device was busy.
        over: living bytes over time and pool, as measured.
    """

    stall_s: float
    busy_s: float
    p99_stall_s: float
    p99_job_s: float
    p99_first_s: float
    p99_first_over_s: float
    by_tenant: dict[str, float]
    loaded: float
    stored: float
    prefetched: float
    computed: int
    link_busy: float
    over: float
    turns: int

    def to_json(self) -> dict[str, object]:
        """Plain data."""
        return asdict(self)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def unlimited(load: Load, server: Server) -> Simulation:
    """The same load with room for everything."""
    return Simulation(load, policy_named("lru"), server.unlimited()).run()


def by_turn(run: Simulation) -> Turns:
    """Its turns."""
    return {(one.job, one.place): one for one in run.played}


def result(run: Simulation, free: Turns, load: Load, pool: int) -> Result:
    """A run beside the turns of one with room for everything."""
    stalls, busy, firsts, overs = [], 0.0, [], []
    tenants: dict[str, float] = {}
    jobs: dict[str, tuple[float, float]] = {}
    computed = 0
    for turn in run.played:
        one = free.get((turn.job, turn.place))
        if one is None or not load.warm <= one.came < load.window:
            continue
        stall = (turn.first_token - turn.came) - (one.first_token - one.came)
        stalls.append(stall)
        tenants[turn.tenant] = tenants.get(turn.tenant, 0.0) + stall
        busy += one.done - one.came
        computed += turn.computed
        if turn.first:
            firsts.append(turn.ready - turn.came)
            overs.append(turn.ready - turn.came - (one.ready - one.came))
        begin, end = jobs.get(turn.job, (turn.came, turn.done))
        jobs[turn.job] = min(begin, turn.came), max(end, turn.done)
    memory = run.memory
    return Result(
        stall_s=sum(stalls),
        busy_s=busy,
        p99_stall_s=percentile(stalls, 0.99),
        p99_job_s=percentile([end - begin for begin, end in jobs.values()], 0.99),
        p99_first_s=percentile(firsts, 0.99),
        p99_first_over_s=percentile(overs, 0.99),
        by_tenant=tenants,
        loaded=memory.loaded,
        stored=memory.stored,
        prefetched=memory.prefetched,
        computed=computed,
        link_busy=memory.into.busy / max(load.window, run.now),
        over=run.alive_byte_s / load.window / pool,
        turns=len(stalls),
    )


def play(load: Load, policy: Policy, server: Server, free: Turns, hint: Hint = silent) -> Result:
    """One run, judged."""
    return result(Simulation(load, policy, server, hint).run(), free, load, server.pool_bytes)


def bound_s(load: Load, free: Turns, server: Server) -> float:
    """Seconds of stall in all that no policy can avoid.

    The contexts of all turns that come within a stretch of time must have been on the device by the end of the last
    one's prefill; what the pool could not hold when the stretch began came over the link since, or was computed. Where
    that takes longer than the stretch, the session of the last turn is that much late, by stalls of its turns. One
    stretch counts: in another one the same seconds would be counted again. Stretches are of doubling lengths.
    """
    turns = sorted((one for one in free.values() if load.warm <= one.came < load.window), key=lambda one: one.came)
    sizes = {job.key: [turn.tokens for turn in job.turns] for job in load.jobs}
    rate = server.link_bytes_s + server.token_bytes / server.law.token_s
    worst, length = 0.0, 1.0
    while length < load.window:
        seen: dict[str, int] = {}
        start = end = -math.inf
        for one in turns:
            if one.came > start + length:
                start, end, seen = one.came, one.came, {}
            if one.job in sizes:
                seen[one.job] = max(seen.get(one.job, 0), sizes[one.job][one.place] * server.token_bytes)
                end = max(end, one.first_token)
                worst = max(worst, (sum(seen.values()) - server.pool_bytes) / rate - (end - start))
        length *= 2
    return worst


#: Student's t for 95 %, two-sided, by degrees of freedom.
_T = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 14: 2.145, 19: 2.093}


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """The mean of paired differences and half the width of its 95 % interval."""
    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return mean, math.inf
    freedom = len(differences) - 1
    t = _T.get(freedom) or next(value for known, value in sorted(_T.items()) if known >= freedom or known == 19)
    return mean, t * statistics.stdev(differences) / math.sqrt(len(differences))
