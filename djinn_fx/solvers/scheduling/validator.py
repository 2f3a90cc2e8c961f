"""Whether a schedule keeps the rules, looked at slowly and apart from whoever found it."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable
from enum import Enum

from djinn_fx.solvers.rules import Broken, refuse
from djinn_fx.solvers.scheduling.problem import Problem, Schedule

#: Seconds may be off by such a share of the makespan: sums of floats depend on their order.
ROUNDING = 1e-9


class Rule(Enum):
    """What a schedule must hold to."""

    COUNT = "a device, a start and an end for each task"
    SUPPORT = "each task is on a device that can run it"
    LENGTH = "tasks and transfers take as long as they take, and none begins before 0"
    DEVICE = "a device runs one task at a time"
    LINK = "a link moves one value at a time"
    WAY = "values move along links, from the device where they are made"
    ONCE = "a value moves to a device once"
    INPUTS = "a task begins when all that it uses is there"
    BOUND = "the makespan is not below the bound"


def validate(problem: Problem, schedule: Schedule) -> list[Broken]:
    """Every rule that the schedule breaks, and by which tasks; empty for a valid one."""
    count = len(problem.tasks)
    if {len(schedule.devices), len(schedule.starts_s), len(schedule.ends_s)} != {count}:
        return [Broken(Rule.COUNT, (), f"{len(schedule.devices)} devices for {count} tasks")]
    lost = [
        task
        for task, device in enumerate(schedule.devices)
        if not 0 <= device < problem.devices or math.isinf(problem.tasks[task].times_s[device])
    ]
    if lost:
        return [Broken(Rule.SUPPORT, (task,), f"device {schedule.devices[task]}") for task in lost]
    slack = ROUNDING * max(schedule.makespan_s, 1e-12)
    found = [*_tasks(problem, schedule, slack), *_moves(problem, schedule, slack), *_inputs(problem, schedule, slack)]
    if schedule.makespan_s < schedule.bound_s - slack:
        found.append(Broken(Rule.BOUND, (), f"makespan {schedule.makespan_s}, bound {schedule.bound_s}"))
    return found


def check(problem: Problem, schedule: Schedule) -> Schedule:
    """The same schedule.

    Raises:
        SolverError: it breaks a rule.
    """
    refuse(validate(problem, schedule), f"a schedule found by {schedule.found_by}", "tasks")
    return schedule


def _overlaps(spans: Iterable[tuple[float, float, int]], rule: Rule, slack: float) -> list[Broken]:
    """Neighbours in time that overlap."""
    by = sorted(span for span in spans if span[1] > span[0])
    return [
        Broken(rule, (one[2], other[2]), f"{one[0]} to {one[1]} s and {other[0]} to {other[1]} s")
        for one, other in itertools.pairwise(by)
        if other[0] < one[1] - slack
    ]


def _tasks(problem: Problem, schedule: Schedule, slack: float) -> list[Broken]:
    found = []
    spans = list(zip(schedule.starts_s, schedule.ends_s, range(len(problem.tasks)), strict=True))
    for start, end, task in spans:
        length = problem.tasks[task].times_s[schedule.devices[task]]
        if abs(end - start - length) > slack or start < 0:
            found.append(Broken(Rule.LENGTH, (task,), f"{start} to {end} s, and it takes {length} s"))
    for device in range(problem.devices):
        found += _overlaps((one for one in spans if schedule.devices[one[2]] == device), Rule.DEVICE, slack)
    return found


def _moves(problem: Problem, schedule: Schedule, slack: float) -> list[Broken]:
    found = []
    for move in schedule.moves:
        length = problem.transfer_s(move.task, move.source, move.to)
        if move.source != schedule.devices[move.task] or move.source == move.to or math.isinf(length):
            found.append(Broken(Rule.WAY, (move.task,), f"from device {move.source} to {move.to}"))
        elif abs(move.end_s - move.start_s - length) > slack:
            found.append(Broken(Rule.LENGTH, (move.task,), f"{move.start_s} to {move.end_s} s for {length} s"))
        if move.start_s < schedule.ends_s[move.task] - slack:
            found.append(Broken(Rule.INPUTS, (move.task,), f"it moves at {move.start_s} s and is not made then"))
    times = Counter((move.task, move.to) for move in schedule.moves)
    found += [Broken(Rule.ONCE, (task,), f"{count} times to {to}") for (task, to), count in times.items() if count > 1]
    for at, link in enumerate(problem.links):
        mine = [move for move in schedule.moves if (move.source, move.to) in link.ways]
        spans = [(move.start_s, move.end_s, move.task) for move in mine]
        found += [
            Broken(Rule.LINK, one.places, f"link {at}: {one.detail}") for one in _overlaps(spans, Rule.LINK, slack)
        ]
    return found


def _inputs(problem: Problem, schedule: Schedule, slack: float) -> list[Broken]:
    there = {
        (task, device): end for task, (device, end) in enumerate(zip(schedule.devices, schedule.ends_s, strict=True))
    }
    there |= {(move.task, move.to): move.end_s for move in schedule.moves}
    found = []
    for source, user in problem.edges:
        came = there.get((source, schedule.devices[user]), math.inf)
        if schedule.starts_s[user] < came - slack:
            detail = f"begins at {schedule.starts_s[user]} s, the result of {source} is there at {came} s"
            found.append(Broken(Rule.INPUTS, (user,), detail))
    return found
