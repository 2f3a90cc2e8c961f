"""Placements for the latency of one call: lines of operators cut into calls, then groups moved one by one."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from djinn_fx.solvers.placement.chains.ideals import Order
from djinn_fx.solvers.placement.chains.line import Line
from djinn_fx.solvers.placement.chains.lines import lines
from djinn_fx.solvers.placement.chains.pool import Alike, Used, alike, states
from djinn_fx.solvers.placement.cost import latency_of
from djinn_fx.solvers.placement.groups import Floats, Groups, fitted, grouped
from djinn_fx.solvers.placement.problem import Problem, Solution
from djinn_fx.solvers.placement.progress import Best, Clock
from djinn_fx.solvers.placement.search.tree import MOST_GROUPS, every_placement

#: What cannot be takes so many times what everything else does: finite, so that sums of it can be taken apart again.
NEVER = 1e6
#: Heat of the search at its start and its end, as shares of the latency.
HOT, COLD = 3e-3, 1e-5
#: How often a group goes where a neighbour is; groups that are looked at for one that this would move.
FOLLOWING, TRIES = 0.8, 64


def latencies(best: Best, clock: Clock, seed: int) -> Iterator[Solution]:
    """Placements with a smaller and smaller latency of one call."""
    problem, count = best.problem, len(best.problem.operators)
    plain = replace(problem, operators=tuple(replace(one, backward=False) for one in problem.operators))
    groups = grouped(plain, contiguous=False)
    possible = not groups.members or groups.times.min(axis=1).max() < math.inf
    yield from best.nothing_below(latency_of(problem, [-1] * count) if possible else math.inf)
    if best.done:
        return
    tied = grouped(plain, contiguous=True)
    for name, devices in _cut_lines(problem, tied):
        yield from best.offer(tied.of_operators(devices, count), f"operators in one line ({name}), cut")
        if best.done or (best.solution and clock.late()):
            return
    if len(groups.members) <= MOST_GROUPS:
        end = clock.part(0.7)
        found = every_placement(problem, groups, best.figure, calls=True, late=end)
        yield from best.offer(None if found is None else groups.of_operators(found, count), "every placement")
        if not end():
            yield from best.searched()
            return
    rooms = [device.memory_bytes for device in problem.devices]
    start = [best.solution.devices[one[0]] for one in groups.members] if best.solution else fitted(groups, rooms)
    if start is not None:
        yield from best.offer(groups.of_operators(start, count), "largest first")
        for one in _moved(groups, start, best, clock, seed):
            yield from best.offer(one, "moves of groups")


def _cut_lines(problem: Problem, groups: Groups) -> Iterator[tuple[str, tuple[int, ...]]]:
    """For each order in which groups may come, the cut into calls and operators of a host that takes the least if
    everything happens one after the other. By the name of the order.
    """
    if not len(groups.members) or np.isinf(groups.times.min(axis=1)).any():
        return
    hosts = [at for at, device in enumerate(problem.devices) if device.host]
    host = groups.times[:, hosts].min(axis=1) if hosts else np.full(len(groups.members), np.inf)
    best = [hosts[at] for at in groups.times[:, hosts].argmin(axis=1)] if hosts else [0] * len(groups.members)
    classes, weight = alike(groups, [device.memory_bytes for device in problem.devices])
    calls = [one for one in classes if not problem.devices[one.devices[0]].host]
    for name, line in lines(Order(groups), groups).items():
        found = _cut(groups, calls, weight, line, host)
        if found is not None:
            yield name, tuple(best[group] if device < 0 else device for group, device in enumerate(found))


def _cut(groups: Groups, calls: Sequence[Alike], weight: Floats, line: Sequence[int], host: Floats) -> list[int] | None:
    """The device of each group, -1 for the host."""
    stages, every = Line(groups, calls, weight, line), np.arange(len(line) + 1)
    loads = [stages.loads(which, every, every, np.inf) for which in range(len(calls))]
    never = NEVER * (1.0 + float(np.where(np.isfinite(groups.times), groups.times, 0.0).sum() + groups.costs.sum()))
    alone = np.concatenate([[0.0], np.cumsum(np.minimum(host[list(line)], never))])
    begun = np.where(every == 0, 0.0, np.inf)
    value: dict[Used, Floats] = {(0,) * len(calls): _by_host(begun, alone)}
    came: dict[Used, tuple[Floats, list[tuple[int, Floats]]]] = {}
    for used in states([len(one.devices) for one in calls]):
        best, ways = np.full(len(every), np.inf), []
        for which, count in enumerate(used):
            if count:
                before = (*used[:which], count - 1, *used[which + 1 :])
                sums = value[before][:, None] + loads[which]
                froms = sums.argmin(axis=0)
                reached = sums[froms, every]
                ways.append((which, np.where(reached < best, froms, -1)))
                best = np.minimum(best, reached)
        value[used], came[used] = _by_host(best, alone), (best, ways)
    used = min(value, key=lambda one: (value[one][-1], sum(one)))
    return _walked(calls, used, came, alone, line) if value[used][-1] < never / 2 else None


def _by_host(begun: Floats, alone: Floats) -> Floats:
    """The least for each ideal if a host goes on from an earlier one, or from itself."""
    return np.minimum.accumulate(begun - alone) + alone


def _walked(
    calls: Sequence[Alike],
    used: Used,
    came: dict[Used, tuple[Floats, list[tuple[int, Floats]]]],
    alone: Floats,
    line: Sequence[int],
) -> list[int]:
    found, at = [-1] * len(line), len(line)
    while at and sum(used):
        best, ways = came[used]
        gained = best[: at + 1] - alone[: at + 1]
        at = int(gained.argmin())  # a host did what comes after
        which, froms = next((which, froms) for which, froms in reversed(ways) if froms[at] >= 0)
        start = int(froms[at])
        for group in line[start:at]:
            found[group] = calls[which].devices[used[which] - 1]
        at, used = start, (*used[:which], used[which] - 1, *used[which + 1 :])
    return found


def _moved(groups: Groups, start: Sequence[int], best: Best, clock: Clock, seed: int) -> Iterator[tuple[int, ...]]:
    """Better and better ones: groups go where a neighbour is, or anywhere; worse ones are taken less and less."""
    problem, chance, at = best.problem, random.Random(seed), list(start)
    near = _neighbours(problem, groups)
    devices = list(groups.of_operators(at, len(problem.operators)))
    left = [device.memory_bytes for device in problem.devices]
    for group, device in enumerate(at):
        left[device] -= float(groups.memory[group])
    now = least = latency_of(problem, devices)
    for step in itertools.count():
        over = clock.share() if clock.steps is None else step / max(clock.steps, 1)
        if over >= 1 or clock.late():
            return
        group, other = _some_move(near, at, len(left), chance)
        old, memory = at[group], float(groups.memory[group])
        if other == old or memory > left[other] or not groups.times[group, other] < math.inf:
            continue
        _put(groups, devices, group, other)
        found = latency_of(problem, devices)
        if found > now + chance.expovariate(1.0) * now * HOT * (COLD / HOT) ** over:
            _put(groups, devices, group, old)
            continue
        now, at[group] = found, other
        left[old], left[other] = left[old] + memory, left[other] - memory
        if found < least * (1 - 1e-9):
            least = found
            yield tuple(devices)


def _put(groups: Groups, devices: list[int], group: int, device: int) -> None:
    for place in groups.members[group]:
        devices[place] = device


def _some_move(near: list[list[int]], at: list[int], devices: int, chance: random.Random) -> tuple[int, int]:
    """A group and a device: mostly that of a neighbour that is elsewhere, as few others can be a gain."""
    for _ in range(TRIES):
        group = chance.randrange(len(at))
        follows = near[group] and chance.random() < FOLLOWING
        device = at[chance.choice(near[group])] if follows else chance.randrange(devices)
        if device != at[group]:
            break
    return group, device


def _neighbours(problem: Problem, groups: Groups) -> list[list[int]]:
    of = groups.of_operators(range(len(groups.members)), len(problem.operators))
    near: list[set[int]] = [set() for _ in groups.members]
    for source, user in problem.edges:
        if of[source] != of[user]:
            near[of[source]].add(of[user])
            near[of[user]].add(of[source])
    return [sorted(one) for one in near]
