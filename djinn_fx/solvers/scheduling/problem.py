"""Tasks on devices, values over links, and an answer: when and where each happens.

A device runs one task at a time; a link moves one value at a time, whatever its devices do meanwhile. A value moves
once to each other device that uses it, straight from the one that made it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from djinn_fx.errors import SolverError
from djinn_fx.solvers.dag import in_turn


@dataclass(frozen=True)
class Task:
    """Something that one device does at a stretch.

    Attributes:
        times_s: seconds on each device, by place; infinite where it cannot run. Where only one is finite, it is fixed.
        output_bytes: size of its result.
    """

    times_s: tuple[float, ...]
    output_bytes: float = 0.0


@dataclass(frozen=True)
class Link:
    """A way for values, one at a time.

    Attributes:
        ways: pairs of devices that it leads from and to. A bus has many; what carries both ways at once is two links.
        bytes_per_s: its rate.
        latency_s: seconds beside that, for each value.
    """

    ways: tuple[tuple[int, int], ...]
    bytes_per_s: float = math.inf
    latency_s: float = 0.0

    def seconds(self, size: float) -> float:
        """How long a value of so many bytes occupies it."""
        return self.latency_s + size / self.bytes_per_s


@dataclass(frozen=True)
class Problem:
    """Tasks, who uses whose result, and what there is to run them.

    Attributes:
        tasks: each with a time for each device.
        edges: pairs of places: the second uses the result of the first.
        devices: how many there are.
        links: between two devices without one, nothing can move.

    Raises:
        SolverError: something in it is none; the message says which.
    """

    tasks: tuple[Task, ...]
    edges: tuple[tuple[int, int], ...]
    devices: int
    links: tuple[Link, ...] = ()
    #: The link from one device to another, by these two.
    link_of: dict[tuple[int, int], int] = field(init=False, repr=False, compare=False)
    #: Tasks, each after all whose results it uses.
    line: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for place, task in enumerate(self.tasks):
            times = task.times_s
            if len(times) != self.devices or not all(time >= 0 for time in times) or not task.output_bytes >= 0:
                raise SolverError(f"task {place} is none for {self.devices} devices: {task}")
            if all(math.isinf(time) for time in times):
                raise SolverError(f"task {place} can run on no device")
        found: dict[tuple[int, int], int] = {}
        for at, link in enumerate(self.links):
            if not (link.bytes_per_s > 0 and 0 <= link.latency_s < math.inf):
                raise SolverError(f"link {at} is none: {link}")
            for way in link.ways:
                if way in found or way[0] == way[1] or not all(0 <= end < self.devices for end in way):
                    raise SolverError(
                        f"link {at} cannot lead from device {way[0]} to {way[1]}, or is the second to do so"
                    )
                found[way] = at
        object.__setattr__(self, "link_of", found)
        object.__setattr__(self, "line", _line(self))

    def transfer_s(self, task: int, source: int, to: int) -> float:
        """Seconds that a task's result takes from one device to another, with nobody in its way."""
        if source == to:
            return 0.0
        link = self.link_of.get((source, to))
        return math.inf if link is None else self.links[link].seconds(self.tasks[task].output_bytes)


def _line(problem: Problem) -> tuple[int, ...]:
    count = len(problem.tasks)
    for source, user in problem.edges:
        if not all(0 <= end < count for end in (source, user)):
            raise SolverError(f"an edge goes from task {source} to {user}; there are {count}")
    line = in_turn(count, problem.edges)
    if len(line) < count:
        raise SolverError("tasks use each other's results in a circle")
    return tuple(line)


@dataclass(frozen=True)
class Move:
    """A value on its way: whose result, from where to where, and when, in seconds."""

    task: int
    source: int
    to: int
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Schedule:
    """An answer, and how good it is known to be.

    Attributes:
        devices: of each task.
        starts_s: when each task begins.
        ends_s: when each has ended.
        moves: values that go from device to device.
        bound_s: no schedule ends before.
        found_by: the method, for reports.
    """

    devices: tuple[int, ...]
    starts_s: tuple[float, ...]
    ends_s: tuple[float, ...]
    moves: tuple[Move, ...]
    bound_s: float
    found_by: str = field(compare=False)

    @property
    def makespan_s(self) -> float:
        """When everything has ended."""
        return max(self.ends_s, default=0.0)

    @property
    def gap(self) -> float:
        """By how much the makespan is above the bound, as a share of the bound."""
        if self.makespan_s <= self.bound_s:
            return 0.0
        return (self.makespan_s - self.bound_s) / self.bound_s if self.bound_s else math.inf
