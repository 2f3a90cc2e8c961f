"""What is placed, on what, and what is asked: operators with edges, devices, a goal; and an answer.

A value that is used on another device than where it is made passes through the memory of the host: the device that
makes it sends it once, each other device that uses it fetches it once, and both pay for that by their own link. A host
pays nothing, as values lie in its memory already. This is the model of Tarnawski et al., "Efficient Algorithms for
Device Placement of DNN Graph Operators", 2020. Which copy goes over which link when is a matter of scheduling.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

from djinn_fx.errors import SolverError
from djinn_fx.solvers.dag import in_turn


@dataclass(frozen=True)
class Operator:
    """One operator, or a part of the model that stays together.

    Attributes:
        times_s: seconds it takes on each kind of device; infinite where it cannot run.
        memory_bytes: what it keeps on a device: weights, and whatever lives as long as they.
        output_bytes: size of its result, which moves once to each other device that uses it.
        group: operators with the same number are on the same device; None for one that goes by itself.
        fixed: the device it must be on, by its place among the problem's; None for any.
        backward: part of a backward pass: it follows the forward operators of its group, and what is contiguous is
            asked of the forward ones alone.
    """

    times_s: tuple[float, ...]
    memory_bytes: float = 0.0
    output_bytes: float = 0.0
    group: int | None = None
    fixed: int | None = None
    backward: bool = False


@dataclass(frozen=True)
class Device:
    """Something that runs operators, one after the other.

    Attributes:
        kind: which of an operator's times holds.
        memory_bytes: what its operators may keep on it together.
        bytes_per_s: rate of its link to the host's memory.
        latency_s: what each transfer takes beside that.
        host: values lie in its memory, so it pays for no transfers; for the latency of one call it runs any number of
            operators at a time, each as soon as its inputs are there, and it does not count as a device that is used.
    """

    kind: int
    memory_bytes: float = math.inf
    bytes_per_s: float = math.inf
    latency_s: float = 0.0
    host: bool = False

    def transfer_s(self, size: float) -> float:
        """Seconds to send or to fetch so many bytes."""
        return 0.0 if self.host else self.latency_s + size / self.bytes_per_s


@dataclass(frozen=True)
class Problem:
    """Operators, who uses whose result, and devices.

    Attributes:
        operators: in any order.
        edges: pairs of places: the second uses the result of the first.
        devices: the same kind may stand there many times.

    Raises:
        SolverError: something in it is none, such as an edge to nowhere; the message says which.
    """

    operators: tuple[Operator, ...]
    edges: tuple[tuple[int, int], ...]
    devices: tuple[Device, ...]

    def __post_init__(self) -> None:
        for place, device in enumerate(self.devices):
            if not (device.memory_bytes >= 0 and device.bytes_per_s > 0 and 0 <= device.latency_s < math.inf):
                raise SolverError(f"device {place} is none: {device}")
        kinds = {device.kind for device in self.devices}
        for place, one in enumerate(self.operators):
            wrong = _what_is_wrong(one, kinds, len(self.devices))
            if wrong:
                raise SolverError(f"operator {place} cannot be placed: {wrong}; it is {one}")
        for edge in self.edges:
            if not all(0 <= end < len(self.operators) for end in edge):
                raise SolverError(f"an edge goes from operator {edge[0]} to {edge[1]}; there are {len(self.operators)}")
        _check_acyclic(self)


def _what_is_wrong(one: Operator, kinds: set[int], devices: int) -> str | None:
    if any(not 0 <= kind < len(one.times_s) for kind in kinds):
        return f"it has times for {len(one.times_s)} kinds, and a device is of another"
    if any(not time >= 0 for time in one.times_s):
        return "a time is below 0 or no number"
    if not (0 <= one.memory_bytes < math.inf and 0 <= one.output_bytes < math.inf):
        return "its bytes are below 0, or no number"
    if one.fixed is not None and not 0 <= one.fixed < devices:
        return f"it is fixed to device {one.fixed} of {devices}"
    return None


def _check_acyclic(problem: Problem) -> None:
    """Operators with edges are a DAG."""
    line = set(in_turn(len(problem.operators), problem.edges))
    if len(line) < len(problem.operators):
        first = next(place for place in range(len(problem.operators)) if place not in line)
        raise SolverError(f"operators use each other's results in a circle; the first of them is {first}")


class Aim(Enum):
    """What is to be small."""

    LOAD = "the largest load of a device"
    LATENCY = "the seconds of one call"
    DEVICES = "the devices used"


@dataclass(frozen=True)
class Goal:
    """What is asked of a placement.

    Attributes:
        aim: what is to be small. ``LOAD``: seconds that the busiest device of a pipeline spends on one sample, its
            compute and its transfers in and out. ``LATENCY``: seconds from a sample's first operator to its last, where
            a device that is no host runs all its operators in one call: it fetches, computes and sends, in this order,
            and nothing of it begins before all of its inputs are there. ``DEVICES``: see ``deadline_s``.
        contiguous: devices can be put into an order in which values only go forward (backward operators follow their
            forward ones and are not looked at). Under ``LATENCY`` one call a device makes this so in any case.
        deadline_s: with ``DEVICES``: what ``deadline_of`` must not be above.
        deadline_of: with ``DEVICES``: ``LOAD`` or ``LATENCY``.
    """

    aim: Aim = Aim.LOAD
    contiguous: bool = True
    deadline_s: float = math.inf
    deadline_of: Aim = Aim.LOAD

    @property
    def timed(self) -> Goal:
        """The same with ``DEVICES`` replaced by what its deadline is of."""
        return Goal(self.deadline_of, self.contiguous) if self.aim is Aim.DEVICES else self


@dataclass(frozen=True)
class Solution:
    """An answer, and how good it is known to be.

    Attributes:
        devices: the device of each operator, by place.
        figure: what the goal's aim comes to: seconds, or a number of devices.
        bound: no solution's figure is below it.
        found_by: the method, for reports.
    """

    devices: tuple[int, ...]
    figure: float
    bound: float
    found_by: str = field(compare=False)

    @property
    def optimal(self) -> bool:
        """Whether nothing better can exist, up to rounding."""
        return self.figure <= self.bound * (1 + 1e-9)

    @property
    def gap(self) -> float:
        """By how much the figure is above the bound, as a share of the bound."""
        if self.figure <= self.bound:
            return 0.0
        return (self.figure - self.bound) / self.bound if self.bound else math.inf
