"""Whether a placement keeps the rules, looked at slowly and apart from whoever found it."""

from __future__ import annotations

import math
from collections import defaultdict
from enum import Enum

from djinn_fx.solvers.placement.problem import Aim, Goal, Problem, Solution
from djinn_fx.solvers.rules import Broken, refuse

#: How far a figure may be off, as a share: sums of floats depend on their order.
ROUNDING = 1e-6


class Rule(Enum):
    """What a placement must hold to."""

    COUNT = "one device for each operator"
    RANGE = "each device is one of the problem's"
    SUPPORT = "each operator can run on the kind of its device"
    FIXED = "an operator that is fixed is on its device"
    COLOCATION = "operators of a group are on one device"
    MEMORY = "what a device's operators keep fits into its memory"
    CONTIGUITY = "values only go forward from device to device"
    DEADLINE = "the deadline is met"
    FIGURE = "the figure is what the placement comes to"
    BOUND = "the figure is not below the bound"


def validate(problem: Problem, goal: Goal, solution: Solution) -> list[Broken]:
    """Every rule that the placement breaks, and by which operators; empty for a valid one."""
    devices, count = solution.devices, len(problem.operators)
    if len(devices) != count:
        return [Broken(Rule.COUNT, (), f"{len(devices)} devices for {count} operators")]
    lost = [place for place, device in enumerate(devices) if not 0 <= device < len(problem.devices)]
    if lost:
        return [Broken(Rule.RANGE, (place,), f"device {devices[place]} of {len(problem.devices)}") for place in lost]
    found = [*_alone(problem, devices), *_together(problem, devices), *_full(problem, devices)]
    if goal.contiguous or goal.timed.aim is Aim.LATENCY:
        found += _forward(problem, goal, devices)
    return found or _figures(problem, goal, solution)


def check(problem: Problem, goal: Goal, solution: Solution) -> Solution:
    """The same solution.

    Raises:
        SolverError: it breaks a rule.
    """
    refuse(validate(problem, goal, solution), f"a placement found by {solution.found_by}", "operators")
    return solution


def _alone(problem: Problem, devices: tuple[int, ...]) -> list[Broken]:
    """What an operator breaks by itself."""
    broken = []
    for place, (one, device) in enumerate(zip(problem.operators, devices, strict=True)):
        if math.isinf(one.times_s[problem.devices[device].kind]):
            broken.append(Broken(Rule.SUPPORT, (place,), f"device {device} is of kind {problem.devices[device].kind}"))
        if one.fixed is not None and one.fixed != device:
            broken.append(Broken(Rule.FIXED, (place,), f"on device {device}, fixed to {one.fixed}"))
    return broken


def _together(problem: Problem, devices: tuple[int, ...]) -> list[Broken]:
    """Groups that are on several devices."""
    members: dict[int, list[int]] = defaultdict(list)
    for place, one in enumerate(problem.operators):
        if one.group is not None:
            members[one.group].append(place)
    found = []
    for group, places in members.items():
        used = sorted({devices[place] for place in places})
        if len(used) > 1:
            found.append(Broken(Rule.COLOCATION, tuple(places), f"group {group} is on devices {used}"))
    return found


def _full(problem: Problem, devices: tuple[int, ...]) -> list[Broken]:
    """Devices whose memory does not suffice."""
    found = []
    for at, device in enumerate(problem.devices):
        places = tuple(place for place, used in enumerate(devices) if used == at)
        kept = sum(problem.operators[place].memory_bytes for place in places)
        if kept > device.memory_bytes * (1 + 1e-12):
            detail = f"device {at} keeps {kept:.0f} of {device.memory_bytes:.0f} bytes"
            found.append(Broken(Rule.MEMORY, places, detail))
    return found


def _links(problem: Problem, goal: Goal, devices: tuple[int, ...]) -> set[tuple[int, int]]:
    """Who must come before whom: pairs of devices; a host's operators by themselves where one call is timed."""
    calls = goal.timed.aim is Aim.LATENCY
    names = [place if calls and problem.devices[device].host else -1 - device for place, device in enumerate(devices)]
    forward = {one.group for one in problem.operators if not one.backward and one.group is not None}
    found = set()
    for source, user in problem.edges:
        ends = (problem.operators[source], problem.operators[user])
        if names[source] == names[user]:
            continue
        if calls or not (ends[0].backward or ends[1].backward):
            found.add((names[source], names[user]))
        elif all(end.backward for end in ends) and not all(end.group in forward for end in ends):
            found.add((names[user], names[source]))
    return found


def _forward(problem: Problem, goal: Goal, devices: tuple[int, ...]) -> list[Broken]:
    """Devices that wait for each other: those that are left when, again and again, one that waits for none is taken."""
    links = _links(problem, goal, devices)
    while True:
        waiting = {second for _, second in links}
        free = {first for first, _ in links if first not in waiting}
        if not free:
            break
        links = {link for link in links if link[0] not in free}
    if not links:
        return []
    stuck = sorted({-1 - end for link in links for end in link if end < 0})
    return [Broken(Rule.CONTIGUITY, (), f"devices {stuck} use each other's values in a circle")]


def _figures(problem: Problem, goal: Goal, solution: Solution) -> list[Broken]:
    """What is said of the solution as a whole."""
    timed = _latency(problem, solution.devices) if goal.timed.aim is Aim.LATENCY else _load(problem, solution.devices)
    used = sum(not problem.devices[device].host for device in set(solution.devices))
    figure = float(used) if goal.aim is Aim.DEVICES else timed
    broken = []
    if goal.aim is Aim.DEVICES and timed > goal.deadline_s * (1 + ROUNDING):
        broken.append(Broken(Rule.DEADLINE, (), f"{timed:.6g} s, and {goal.deadline_s:.6g} s are given"))
    if abs(solution.figure - figure) > ROUNDING * max(figure, 1e-12):
        broken.append(Broken(Rule.FIGURE, (), f"{solution.figure} said, {figure} found"))
    if solution.figure < solution.bound * (1 - ROUNDING):
        broken.append(Broken(Rule.BOUND, (), f"figure {solution.figure}, bound {solution.bound}"))
    return broken


def _load(problem: Problem, devices: tuple[int, ...]) -> float:
    """The largest load, a device after the other."""
    loads = []
    for at, device in enumerate(problem.devices):
        mine = {place for place, used in enumerate(devices) if used == at}
        load = sum(problem.operators[place].times_s[device.kind] for place in mine)
        moved = {source for source, user in problem.edges if (source in mine) != (user in mine)}
        load += sum(device.transfer_s(problem.operators[place].output_bytes) for place in moved)
        loads.append(load)
    return max(loads, default=0.0)


def _latency(problem: Problem, devices: tuple[int, ...]) -> float:
    """Seconds of one call: ends are raised until all of them hold."""
    ends = [0.0] * len(problem.operators)
    calls = [
        [place for place, used in enumerate(devices) if used == at]
        for at, device in enumerate(problem.devices)
        if not device.host
    ]
    calls += [[place] for place, used in enumerate(devices) if problem.devices[used].host]
    while True:
        before = list(ends)
        for places in filter(None, calls):
            device, mine = problem.devices[devices[places[0]]], set(places)
            fetched = {source for source, user in problem.edges if user in mine and source not in mine}
            sent = {source for source, user in problem.edges if source in mine and user not in mine}
            end = max((ends[source] for source in fetched), default=0.0)
            end += sum(problem.operators[place].times_s[device.kind] for place in places)
            end += sum(device.transfer_s(problem.operators[place].output_bytes) for place in fetched | sent)
            for place in places:
                ends[place] = end
        if ends == before:
            return max(ends, default=0.0)
