"""List scheduling: tasks in an order, each where it leaves the best outlook, in the first gap that is long enough.

The order and the outlook are those of PEFT (Arabnejad and Barbosa, 2014), of the HEFT family (Topcuoglu et al., 2002):
a table says, for each task and device, how long what follows takes at least if the task is there. Unlike in these,
links are busy too: a transfer waits for its link.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from djinn_fx.solvers.scheduling.problem import Move, Problem

Table = list[list[float]]


def outlook(problem: Problem) -> Table:
    """Seconds from a task's end to the end of all, at least, a row a task, a column a device: nothing is in the way."""
    users = users_of(problem)
    found = [[0.0] * problem.devices for _ in problem.tasks]
    for task in reversed(problem.line):
        for device in range(problem.devices):
            found[task][device] = max(
                (
                    min(
                        problem.transfer_s(task, device, to) + time + found[user][to]
                        for to, time in enumerate(problem.tasks[user].times_s)
                    )
                    for user in users[task]
                ),
                default=0.0,
            )
    return found


def upward(problem: Problem) -> list[float]:
    """HEFT's rank: the longest way from a task to the end, all times and transfers averaged over devices."""
    pairs = [link.seconds for link in problem.links for _ in link.ways]
    users = users_of(problem)
    found = [0.0] * len(problem.tasks)
    for task in reversed(problem.line):
        times = [time for time in problem.tasks[task].times_s if time < math.inf]
        size = problem.tasks[task].output_bytes
        moving = sum(seconds(size) for seconds in pairs) / problem.devices**2 if problem.devices > 1 else 0.0
        after = max((found[user] + moving for user in users[task]), default=0.0)
        found[task] = sum(times) / len(times) + after
    return found


def users_of(problem: Problem) -> list[list[int]]:
    """Who uses each task's result."""
    users: list[list[int]] = [[] for _ in problem.tasks]
    for source, user in dict.fromkeys(problem.edges):
        users[source].append(user)
    return users


@dataclass
class Line:
    """What a device or a link does: spans that do not overlap, by time."""

    starts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)

    def first_gap(self, ready: float, length: float) -> float:
        """The earliest start from ``ready`` on at which so many seconds are free."""
        at = bisect.bisect_right(self.ends, ready)
        while at < len(self.starts) and self.starts[at] < ready + length:
            ready = max(ready, self.ends[at])
            at += 1
        return ready

    def take(self, start: float, end: float) -> None:
        """Be busy."""
        if end > start:
            at = bisect.bisect_left(self.starts, start)
            self.starts.insert(at, start)
            self.ends.insert(at, end)


class Listing:
    """A schedule in the making.

    Args:
        problem: its tasks are given one after the other, none before those whose results it uses.
    """

    def __init__(self, problem: Problem) -> None:
        count = len(problem.tasks)
        self.devices, self.starts, self.ends = [-1] * count, [0.0] * count, [0.0] * count
        self.moves: list[Move] = []
        self._problem = problem
        self._before: list[list[int]] = [[] for _ in range(count)]
        for source, user in dict.fromkeys(problem.edges):
            self._before[user].append(source)
        self._busy = [Line() for _ in range(problem.devices)]
        self._carrying = [Line() for _ in problem.links]
        self._there: dict[tuple[int, int], float] = {}

    def end_on(self, task: int, device: int) -> float:
        """When a task would end on a device; infinite where it cannot run, or a value cannot get there."""
        start, _ = self._start(task, device)
        return start + self._problem.tasks[task].times_s[device]

    def put(self, task: int, device: int) -> None:
        """Run a task on a device, and move there what it uses."""
        start, moves = self._start(task, device)
        self.devices[task], self.starts[task] = device, start
        self.ends[task] = start + self._problem.tasks[task].times_s[device]
        self._busy[device].take(start, self.ends[task])
        self._there[task, device] = self.ends[task]
        for move in moves:
            self._carrying[self._problem.link_of[move.source, device]].take(move.start_s, move.end_s)
            self._there[move.task, device] = move.end_s
        self.moves += moves

    def _start(self, task: int, device: int) -> tuple[float, list[Move]]:
        """The earliest start on a device, and the moves that this takes: who is ready first moves first."""
        ready, moves = 0.0, list[Move]()
        taken: dict[int, Line] = {}
        for source in sorted(self._before[task], key=lambda one: (self.ends[one], one)):
            there = self._there.get((source, device))
            if there is None:
                at, length = self.devices[source], self._problem.transfer_s(source, self.devices[source], device)
                if math.isinf(length):
                    return math.inf, []
                start, there = self._carry(source, at, device, length, taken)
                moves.append(Move(source, at, device, start, there))
            ready = max(ready, there)
        length = self._problem.tasks[task].times_s[device]
        return (self._busy[device].first_gap(ready, length) if length < math.inf else math.inf), moves

    def _carry(self, task: int, at: int, to: int, length: float, taken: dict[int, Line]) -> tuple[float, float]:
        link = self._problem.link_of[at, to]
        if link not in taken:
            line = self._carrying[link]
            taken[link] = Line(list(line.starts), list(line.ends))
        start = taken[link].first_gap(self.ends[task], length)
        taken[link].take(start, start + length)
        return start, start + length


def listed(
    problem: Problem, order: Sequence[int], ahead: Table | None, devices: Sequence[int] | None = None
) -> Listing:
    """A schedule of tasks in an order.

    Args:
        problem: what is scheduled.
        order: of all tasks.
        ahead: what is added to a task's end where its device is chosen; None for nothing.
        devices: of tasks; -1, or None for all, where it is to be chosen.
    """
    made = Listing(problem)
    for task in order:
        wanted = -1 if devices is None else devices[task]
        if wanted < 0 or math.isinf(made.end_on(task, wanted)):
            outlooks = [0.0] * problem.devices if ahead is None else ahead[task]
            ends = [made.end_on(task, device) for device in range(problem.devices)]
            wanted = min(range(problem.devices), key=lambda one: (ends[one] + outlooks[one], ends[one], one))
        made.put(task, wanted)
    return made


def by_rank(problem: Problem, ranks: Sequence[float]) -> list[int]:
    """Tasks by falling rank, none before those whose results it uses."""
    users = users_of(problem)
    waits = [0] * len(problem.tasks)
    for one in users:
        for user in one:
            waits[user] += 1
    free = [(-ranks[task], task) for task, count in enumerate(waits) if not count]
    heapq.heapify(free)
    found = []
    while free:
        _, task = heapq.heappop(free)
        found.append(task)
        for user in users[task]:
            waits[user] -= 1
            if not waits[user]:
                heapq.heappush(free, (-ranks[user], user))
    return found
