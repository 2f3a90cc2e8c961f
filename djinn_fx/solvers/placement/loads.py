"""Placements for the throughput of a pipeline: chains of stages, and what is found without an order."""

from __future__ import annotations

import math
from collections.abc import Iterator

from djinn_fx.solvers.placement.chains.best import Chain, best_chain
from djinn_fx.solvers.placement.chains.ideals import Order, all_ideals
from djinn_fx.solvers.placement.chains.line import Line
from djinn_fx.solvers.placement.chains.lines import lines
from djinn_fx.solvers.placement.chains.pool import Pool, alike
from djinn_fx.solvers.placement.groups import Groups, fitted, grouped
from djinn_fx.solvers.placement.problem import Problem, Solution
from djinn_fx.solvers.placement.progress import Best, Clock
from djinn_fx.solvers.placement.search import mixed_integer
from djinn_fx.solvers.placement.search.annealing import ROUND, Annealing
from djinn_fx.solvers.placement.search.polish import polished
from djinn_fx.solvers.placement.search.tree import MOST_GROUPS, every_placement

#: Ideals up to which all of them are looked at.
MOST_IDEALS = 60_000
#: How much of the time is for looking at all of them; how much until the last polishing.
PROVING, ANNEALING = 0.6, 0.9
#: Seconds from which a solver library is asked for a bound, and how much of them is for moves before.
PROOF_SECONDS, MOVING = 5.0, 0.3
#: How far above the bound a chain is looked for first, then further: the nearer, the fewer pairs of ideals.
AIMS = (1.01, 1.03, 1.08, 1.2, 1.5, 2.5, 10.0, math.inf)
#: Steps of annealing between polishing; placements that are polished then.
SLICE, POLISHED = 32 * ROUND, 6


def largest_loads(best: Best, clock: Clock, seed: int) -> Iterator[Solution]:
    """Placements with a smaller and smaller largest load."""
    chained = grouped(best.problem, contiguous=True)
    groups = chained if best.goal.contiguous else grouped(best.problem, contiguous=False)
    yield from best.nothing_below(load_bound(best.problem, groups))
    if not best.done:
        yield from _chains(chained, best, clock, seed)
    if not best.goal.contiguous and not best.done:
        yield from _without_order(groups, best, clock, seed)


def load_bound(problem: Problem, groups: Groups) -> float:
    """No largest load is below this: the work shared evenly, and the longest group."""
    if not groups.members:
        return 0.0
    longest = float(groups.times.min(axis=1, initial=math.inf).max())
    if math.isinf(longest):
        return math.inf
    classes, weight = alike(groups, _rooms(problem))
    power = sum(one.speed * len(one.devices) for one in classes)
    even = float(weight.sum()) / power if power else 0.0
    return max(even, longest)


def _rooms(problem: Problem) -> list[float]:
    return [device.memory_bytes for device in problem.devices]


def _chains(groups: Groups, best: Best, clock: Clock, seed: int) -> Iterator[Solution]:
    """Stages of a pipeline: of some orders of the groups, then moves between stages, or all stages there are."""
    classes, weight = alike(groups, _rooms(best.problem))
    order, chain = Order(groups), None
    for name, line in lines(order, groups).items():
        found = _cut(Line(groups, classes, weight, line), best, clock)
        chain = found or chain
        yield from best.offer(_of(found, groups, best), f"an order of the graph ({name}), cut")
        if best.done or (chain is not None and clock.late()):
            return
    if chain is not None and not best.goal.contiguous:
        return
    every = all_ideals(order, MOST_IDEALS)
    if every is not None:
        found = best_chain(Pool(groups, classes, weight, every, best.figure), best.figure, clock.part(PROVING))
        chain = found or chain
        yield from best.offer(_of(found, groups, best), "all stages")
        if best.goal.contiguous and not clock.part(PROVING)():
            yield from best.searched()
    if best.goal.contiguous and chain is not None and not best.done:
        yield from _moves(groups, best, clock, seed, _ranks(chain, len(best.problem.devices)))


def _of(chain: Chain | None, groups: Groups, best: Best) -> tuple[int, ...] | None:
    if chain is None:
        return None
    return groups.of_operators(chain.of_groups(len(groups.members)), len(best.problem.operators))


def _cut(line: Line, best: Best, clock: Clock) -> Chain | None:
    """The best chain of a line, if it is better than the best; looked for close to the bound first."""
    for aim in AIMS if 0 < best.bound < math.inf and best.figure == math.inf else (math.inf,):
        found = best_chain(line, min(best.bound * aim, best.figure), clock.late)
        if found is not None or clock.late():
            return found
    return None


def _ranks(chain: Chain, devices: int) -> list[int]:
    """How far forward each device is: those of the chain by their stages, then those that it does not use."""
    line = [*chain.devices, *(device for device in range(devices) if device not in chain.devices)]
    return [line.index(device) for device in range(devices)]


def _without_order(groups: Groups, best: Best, clock: Clock, seed: int) -> Iterator[Solution]:
    """Placements in which values may go to and fro."""
    count, rooms = len(best.problem.operators), _rooms(best.problem)
    if len(groups.members) <= MOST_GROUPS:
        end = clock.part(0.7)
        found = every_placement(best.problem, groups, best.figure, calls=False, late=end)
        yield from best.offer(None if found is None else groups.of_operators(found, count), "every placement")
        if not end():
            yield from best.searched()
            return
    start = fitted(groups, rooms)
    yield from best.offer(None if start is None else groups.of_operators(start, count), "largest first")
    proof = clock.seconds is not None and clock.seconds >= PROOF_SECONDS and mixed_integer.usable(groups)
    yield from _moves(groups, best, clock, seed, None, MOVING if proof else 1.0)
    if proof and not best.done:
        found, bound = mixed_integer.best_known(groups, rooms, best.figure, clock.left() or 0.0)
        yield from best.offer(None if found is None else groups.of_operators(found, count), "mixed-integer program")
        yield from best.nothing_below(bound)


def _moves(
    groups: Groups, best: Best, clock: Clock, seed: int, rank: list[int] | None, share: float = 1.0
) -> Iterator[Solution]:
    """Groups moved by chance, then to where they are best, for a share of the time; with ranks of devices, values go
    forward only.
    """
    if best.solution is None:
        return
    start = [best.solution.devices[one[0]] for one in groups.members]
    count, rooms = len(best.problem.operators), _rooms(best.problem)
    search, done = Annealing(groups, rooms, start, seed, rank), 0
    late = clock.part(share)
    while not (late() or best.done or (clock.steps is not None and done >= clock.steps)):
        search.run(SLICE, clock.part(ANNEALING * share))
        done += SLICE
        for one in search.coldest(POLISHED):
            ends = polished(groups, rooms, one, late, rank)
            yield from best.offer(groups.of_operators(ends, count), "moves of groups")
