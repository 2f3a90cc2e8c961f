"""The exact optimum of small instances: who is on the device when, so that turns wait least for the link.

Turns come at known instants; each must have its whole context on the device when it is computed; contexts come over a
link of a known rate. Time is the sequence of turns: in a slot between two turns' starts, what is loaded fits into the
link's time, which is the gap between these turns and the delay that is put in. The sum of delays is least. What is
loaded, kept and dropped may be parts of contexts, as pages are; a turn waits as a whole. The order of turns is given.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.sessions.engine import Simulation
from bench.sessions.law import Law
from bench.sessions.load import PAGE, Job, Load, Turn
from bench.sessions.server import Server
from djinn_fx.sessions.policy.base import Policy
from djinn_fx.sessions.policy.baselines.clairvoyant import Clairvoyant

TOKEN = 128 * 1024
PAGE_BYTES = PAGE * TOKEN
#: Computing takes next to nothing, so that what is compared is memory and link alone, ...
QUICK = Law(token_s=1e-9, pair_s=0.0, weights_s=1e-7, byte_s=0.0, launch_s=0.0)
#: ... and no policy may compute anew what it could load.
LOADING = {"dearer": math.inf}


@dataclass(frozen=True)
class Small:
    """A few sessions whose turns come at known instants.

    Attributes:
        pages: of each session's context.
        uses: instants and sessions, ascending.
        pool: pages.
        rate: pages a second.
    """

    pages: tuple[int, ...]
    uses: tuple[tuple[float, int], ...]
    pool: int
    rate: float


def drawn(sessions: int, turns: int, seed: int) -> Small:
    """By chance: waits from seconds to minutes; the pool holds about half of all."""
    chance = random.Random(seed)
    pages = tuple(chance.randint(20, 100) for _ in range(sessions))
    uses = []
    for one in range(sessions):
        now = chance.uniform(0, 30)
        for _ in range(turns):
            uses.append((now, one))
            now += chance.lognormvariate(2.5, 1.0)
    return Small(pages, tuple(sorted(uses)), max(2 * max(pages), sum(pages) // 2), 25.0 if seed % 2 else 14.0)


def optimum(small: Small, limit_s: float = 20.0) -> float | None:
    """The least sum of delays, in seconds; None where it was not proved in time.

    A delay of a turn puts off what comes after it in its own session alone, as in the simulator: delays of sessions are
    added up, and a slot's length goes by the delays of the turns at its ends. The order of turns stays.
    """
    from ortools.linear_solver import pywraplp

    solver = pywraplp.Solver.CreateSolver("SCIP")
    solver.SetTimeLimit(int(1000 * limit_s))
    uses, count = small.uses, len(small.pages)
    late = [solver.NumVar(0, solver.infinity(), f"d{k}") for k in range(len(uses))]
    start, last = [], dict[int, int]()
    shifts = []
    for k, (at, one) in enumerate(uses):
        shift = late[k] + (shifts[last[one]] if one in last else 0.0)
        shifts.append(shift)
        start.append(at + shift)
        last[one] = k
    before = [solver.NumVar(0, 0, f"x{one}") for one in range(count)]
    seen: set[int] = set()
    for k, (_, one) in enumerate(uses):
        here = [solver.NumVar(0, 1, f"x{one}@{k}") for one in range(count)]
        solver.Add(here[one] == 1)
        solver.Add(sum(small.pages[i] * here[i] for i in range(count)) <= small.pool)
        if k:
            solver.Add(start[k] >= start[k - 1])
        loads = []
        for i in range(count):
            if i not in seen:
                # It is made by its first turn; before that there is nothing.
                if i != one:
                    solver.Add(here[i] == 0)
                continue
            load = solver.NumVar(0, 1, f"l{i}@{k}")
            solver.Add(here[i] <= before[i] + load)
            loads.append(small.pages[i] * load)
        if k and loads:
            solver.Add(sum(loads) <= small.rate * (start[k] - start[k - 1]))
        seen.add(one)
        before = here
    # One binary a turn, late or not, and a tick of a tenth of a millisecond: what is late is late by at least that.
    for k in range(len(uses)):
        flag = solver.BoolVar(f"b{k}")
        solver.Add(late[k] <= 1e4 * flag)
        solver.Add(late[k] >= 1e-4 * flag)
    solver.Minimize(sum(late))
    if solver.Solve() != pywraplp.Solver.OPTIMAL:
        return None
    return float(solver.Objective().Value())


def simulated(small: Small, policy: Policy) -> float:
    """The sum of delays under a policy that is told every wait exactly."""
    run = played(small, policy)
    return sum(turn.began - turn.came for turn in run.played)


def played(small: Small, policy: Policy) -> Simulation:
    """A small instance in the simulator."""
    jobs = []
    for one, pages in enumerate(small.pages):
        instants = [at for at, which in small.uses if which == one]
        turns = []
        for place, at in enumerate(instants):
            gap = at - instants[place - 1] if place else at
            turns.append(Turn(gap, pages * PAGE - 1 if place else 0, pages * PAGE - 1, 1, "tool", busy=0.0))
        jobs.append(Job(str(one), 0.0, turns, then=1e9))
    load = Load(tuple(jobs), 1e9, 0.0)
    pool = small.pool * PAGE_BYTES
    server = Server(QUICK, TOKEN, pool, 1 << 50, small.rate * PAGE_BYTES)
    return Simulation(load, policy, server, lambda job, place, gap: gap).run()


def compared(
    policies: Sequence[tuple[str, Callable[[], Policy]]], seeds: int, sessions: int, turns: int
) -> list[dict[str, float]]:
    """Of each instance the optimum and what policies come to."""
    found = []
    for seed in range(seeds):
        small = drawn(sessions, turns, seed)
        best = optimum(small)
        if best is not None:
            waits = sum(max(at for at, which in small.uses if which == one) for one in range(sessions))
            link = played(small, Clairvoyant(**LOADING))
            known = {"optimum": best, "waits": waits, "link": link.memory.into.busy / link.now}
            found.append(known | {name: simulated(small, made()) for name, made in policies})
    return found
