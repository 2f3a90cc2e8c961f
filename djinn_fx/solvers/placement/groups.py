"""A problem with what must stay together as one: co-located operators, and what circles of them would tie.

A *net* is a value with everybody that touches it: its maker and its users. A device that shares a net with another
pays for one transfer, be it out or in; so the load of a device is its compute and the nets that it shares.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from djinn_fx.solvers.placement.problem import Problem

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Groups:
    """What is placed as one, in numbers.

    Attributes:
        members: the operators of each group.
        times: seconds of a group on a device; infinite where it must not be.
        memory: bytes of a group.
        order: pairs of groups; the first comes first where values may only go forward.
        nets: groups that touch a value, at least two, none twice the same.
        costs: seconds that a device pays for sharing a net.
    """

    members: tuple[tuple[int, ...], ...]
    times: Floats
    memory: Floats
    order: tuple[tuple[int, int], ...]
    nets: tuple[tuple[int, ...], ...]
    costs: Floats

    def of_operators(self, devices: Sequence[int], count: int) -> tuple[int, ...]:
        """The device of each operator from that of each group."""
        found = [0] * count
        for members, device in zip(self.members, devices, strict=True):
            for place in members:
                found[place] = int(device)
        return tuple(found)


def grouped(problem: Problem, *, contiguous: bool) -> Groups:
    """The groups of a problem.

    Args:
        problem: any.
        contiguous: whether values may only go forward; then groups that come before each other are one.
    """
    group_of = _colocated(problem)
    forward = precedence(problem, group_of)
    if contiguous:
        group_of = _renamed(_components(group_of, forward))
        forward = precedence(problem, group_of)
    group_of = _renamed(_idle_with_their_neighbour(problem, group_of, forward if contiguous else set()))
    return _in_numbers(problem, group_of)


def _colocated(problem: Problem) -> list[int]:
    names: dict[object, int] = {}
    keys: list[object] = [
        ("alone", place) if one.group is None else ("group", one.group) for place, one in enumerate(problem.operators)
    ]
    return [names.setdefault(key, len(names)) for key in keys]


def _renamed(group_of: Iterable[int]) -> list[int]:
    names: dict[int, int] = {}
    return [names.setdefault(one, len(names)) for one in group_of]


def precedence(problem: Problem, group_of: Sequence[int]) -> set[tuple[int, int]]:
    """Which groups come before which: by edges between forward operators. A group with backward operators alone stands
    where its forward half would: behind whoever uses its results.
    """
    forward = {group_of[place] for place, one in enumerate(problem.operators) if not one.backward}
    found = set()
    for source, user in problem.edges:
        first, second = group_of[source], group_of[user]
        behind = problem.operators[source].backward, problem.operators[user].backward
        if first == second:
            continue
        if behind == (False, False):
            found.add((first, second))
        elif behind == (True, True) and not (first in forward and second in forward):
            found.add((second, first))
    return found


def _components(group_of: list[int], order: set[tuple[int, int]]) -> list[int]:
    """Groups that come before each other get one number: Kosaraju's two walks."""
    count = max(group_of, default=-1) + 1
    after: list[list[int]] = [[] for _ in range(count)]
    before: list[list[int]] = [[] for _ in range(count)]
    for first, second in order:
        after[first].append(second)
        before[second].append(first)
    root = [-1] * count
    for start in reversed(_finished(after)):
        if root[start] < 0:
            stack = [start]
            root[start] = start
            while stack:
                for other in before[stack.pop()]:
                    if root[other] < 0:
                        root[other] = start
                        stack.append(other)
    return [root[group] for group in group_of]


def _finished(after: list[list[int]]) -> list[int]:
    """Groups in the order in which a walk in depth leaves them."""
    done, seen = list[int](), [False] * len(after)
    for start in range(len(after)):
        stack = [] if seen[start] else [(start, iter(after[start]))]
        seen[start] = True
        while stack:
            here, rest = stack[-1]
            step = next((one for one in rest if not seen[one]), None)
            if step is None:
                done.append(here)
                stack.pop()
            else:
                seen[step] = True
                stack.append((step, iter(after[step])))
    return done


def _idle_with_their_neighbour(problem: Problem, group_of: list[int], order: set[tuple[int, int]]) -> list[int]:
    """Groups that take no time and touch one other group alone go with that one: no placement is lost that is better.

    Where memory may be short, only those that need none.
    """
    kinds = sorted({device.kind for device in problem.devices})
    idle = [True] * (max(group_of, default=-1) + 1)
    roomy = sum(one.memory_bytes for one in problem.operators) <= min(
        (device.memory_bytes for device in problem.devices), default=0.0
    )
    near: list[set[int]] = [set() for _ in idle]
    for group, one in zip(group_of, problem.operators, strict=True):
        free = one.fixed is None and all(one.times_s[kind] == 0 for kind in kinds)
        idle[group] &= free and (roomy or one.memory_bytes == 0)
    for source, user in problem.edges:
        if group_of[source] != group_of[user]:
            near[group_of[source]].add(group_of[user])
            near[group_of[user]].add(group_of[source])
    for first, second in order:
        near[first].add(second)
        near[second].add(first)
    # Users of one value share its net too, but each of them is a neighbour of its maker.
    into = list(range(len(idle)))
    waiting = [group for group in range(len(idle)) if idle[group] and len(near[group]) == 1]
    for group in waiting:
        if len(near[group]) != 1 or into[group] != group:
            continue
        host = next(iter(near[group]))
        near[host].discard(group)
        into[group] = host
        if idle[host] and len(near[host]) == 1:
            waiting.append(host)
    return [_root(into, group) for group in group_of]


def _root(into: list[int], group: int) -> int:
    while into[group] != group:
        group = into[group]
    return group


def _in_numbers(problem: Problem, group_of: list[int]) -> Groups:
    count = max(group_of, default=-1) + 1
    members: list[list[int]] = [[] for _ in range(count)]
    times = np.zeros((count, len(problem.devices)))
    memory = np.zeros(count)
    for place, (group, one) in enumerate(zip(group_of, problem.operators, strict=True)):
        members[group].append(place)
        memory[group] += one.memory_bytes
        times[group] += [
            one.times_s[device.kind] if one.fixed in (None, at) else np.inf for at, device in enumerate(problem.devices)
        ]
    room = np.array([device.memory_bytes for device in problem.devices])
    times[memory[:, None] > room[None, :]] = np.inf
    nets, costs = _nets(problem, group_of)
    order = tuple(sorted(precedence(problem, group_of)))
    return Groups(tuple(map(tuple, members)), times, memory, order, nets, costs)


def _nets(problem: Problem, group_of: list[int]) -> tuple[tuple[tuple[int, ...], ...], Floats]:
    touched: dict[int, set[int]] = defaultdict(set)
    for source, user in problem.edges:
        touched[source] |= {group_of[source], group_of[user]}
    costs: dict[tuple[int, ...], Floats] = {}
    for source, groups in touched.items():
        price = np.array([device.transfer_s(problem.operators[source].output_bytes) for device in problem.devices])
        if len(groups) > 1 and price.any():
            key = tuple(sorted(groups))
            costs[key] = costs[key] + price if key in costs else price
    return tuple(costs), np.array(list(costs.values())).reshape(len(costs), len(problem.devices))


def fitted(groups: Groups, rooms: Sequence[float]) -> list[int] | None:
    """Some placement that memory suffices for: the largest first, each where it ends the earliest and fits."""
    left, found = list(rooms), [0] * len(groups.members)
    spent = np.zeros(len(rooms))
    for group in sorted(range(len(found)), key=lambda group: -float(groups.memory[group])):
        memory, times = float(groups.memory[group]), groups.times[group]
        may = [at for at, room in enumerate(left) if memory <= room and times[at] < np.inf]
        if not may:
            return None
        device = min(may, key=lambda at: (spent[at] + times[at], -left[at]))
        spent[device] += times[device]
        left[device] -= memory
        found[group] = device
    return found
