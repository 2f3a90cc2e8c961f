"""What a placement comes to, quickly: loads of devices and the latency of one call."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from djinn_fx.solvers.placement.groups import Floats
from djinn_fx.solvers.placement.problem import Aim, Goal, Problem


def figure_of(problem: Problem, goal: Goal, devices: Sequence[int]) -> float:
    """What the goal's aim comes to for a placement that keeps the rules."""
    if goal.aim is Aim.DEVICES:
        return float(devices_used(problem, devices))
    return latency_of(problem, devices) if goal.aim is Aim.LATENCY else float(loads_of(problem, devices).max(initial=0))


def devices_used(problem: Problem, devices: Sequence[int]) -> int:
    """How many devices have an operator; hosts are there anyway."""
    return sum(not problem.devices[one].host for one in set(devices))


def loads_of(problem: Problem, devices: Sequence[int]) -> Floats:
    """Seconds that each device spends on one sample: its compute, and what it sends and fetches."""
    loads = np.zeros(len(problem.devices))
    fetching: list[set[int]] = [set() for _ in problem.operators]
    for source, user in problem.edges:
        if devices[source] != devices[user]:
            fetching[source].add(devices[user])
    for one, device, others in zip(problem.operators, devices, fetching, strict=True):
        loads[device] += one.times_s[problem.devices[device].kind]
        if others:
            for end in (device, *sorted(others)):
                loads[end] += problem.devices[end].transfer_s(one.output_bytes)
    return loads


def latency_of(problem: Problem, devices: Sequence[int]) -> float:
    """Seconds of one call: infinite where two devices wait for each other.

    A device that is no host is called once. Operators of hosts begin when their inputs are there, any number at a time.
    Operators that are nowhere yet (device -1) take the least that they can, which makes a finite result a
    bound: whatever device they go to, it is not less.
    """
    hosts = [device.host for device in problem.devices]
    block = [place if device < 0 or hosts[device] else -1 - device for place, device in enumerate(devices)]
    took: dict[int, float] = dict.fromkeys(block, 0.0)
    waits: dict[int, int] = dict.fromkeys(block, 0)
    after: dict[int, set[int]] = {one: set() for one in took}
    fetching: dict[int, set[int]] = {}
    for source, user in problem.edges:
        first, second = block[source], block[user]
        if first != second:
            if devices[source] >= 0 and devices[user] >= 0:
                fetching.setdefault(source, set()).add(second)
            if second not in after[first]:
                after[first].add(second)
                waits[second] += 1
    kinds = [device.kind for device in problem.devices]
    for one, device, mine in zip(problem.operators, devices, block, strict=True):
        took[mine] += one.times_s[kinds[device]] if device >= 0 else min(one.times_s[kind] for kind in kinds)
    for source, users in fetching.items():
        for end in (block[source], *sorted(users)):
            if end < 0:
                took[end] += problem.devices[-1 - end].transfer_s(problem.operators[source].output_bytes)
    return _longest(took, waits, after)


def _longest(took: dict[int, float], waits: dict[int, int], after: dict[int, set[int]]) -> float:
    starts = dict.fromkeys(took, 0.0)
    free = [one for one, count in waits.items() if not count]
    latest = 0.0
    for one in free:
        end = starts[one] + took[one]
        latest = max(latest, end)
        for other in after[one]:
            starts[other] = max(starts[other], end)
            waits[other] -= 1
            if not waits[other]:
                free.append(other)
    return latest if len(free) == len(took) else math.inf
