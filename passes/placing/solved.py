"""The row given to the solver for graphs: for more devices than can be tried in every order."""

from __future__ import annotations

import math
from collections.abc import Sequence

from djinn_fx.errors import SolverError
from djinn_fx.passes.placing.chain import MOST_DEVICES, Row, Shares, alike, by_cuts, figure_of
from djinn_fx.solvers.placement.anytime import place
from djinn_fx.solvers.placement.problem import Aim, Device, Goal, Operator, Problem

#: Seconds that the solver may take: a plan is made while somebody waits.
SECONDS = 0.3


def shared_out(row: Row, devices: Sequence[int]) -> Shares | None:
    """By cuts where every order of the devices can be tried, which is exact; else by the solver, or cuts in a few."""
    if len(devices) <= MOST_DEVICES or alike(row, devices):
        return by_cuts(row, devices)
    speed = [sum(seconds[device] for seconds in row.seconds) for device in range(len(row.rooms))]
    orders = (
        tuple(sorted(devices)),
        tuple(sorted(devices, key=lambda device: -row.rooms[device])),
        tuple(sorted(devices, key=lambda device: speed[device])),
    )
    found = [by_solver(row, devices), by_cuts(row, devices, dict.fromkeys(orders))]
    return min((one for one in found if one is not None), key=lambda one: one.figure_s, default=None)


def by_solver(row: Row, devices: Sequence[int], seconds: float = SECONDS) -> Shares | None:
    """A good answer that uses some of these devices, by the solver for graphs; None if it found none.

    The solver's memory is additive and its links lead through a host, so the answer is judged by the row's own rules.
    """
    problem = _problem(row, devices)
    goal = Goal(aim=Aim.LOAD if row.throughput else Aim.LATENCY)
    try:
        found = place(problem, goal, seconds=seconds)
    except SolverError:
        return None
    answer = tuple(devices[at] for at in found.devices)
    figure_s = figure_of(row, answer)
    return Shares(devices=answer, figure_s=figure_s) if math.isfinite(figure_s) else None


def _problem(row: Row, devices: Sequence[int]) -> Problem:
    count = len(row.seconds)
    held = [0] * count
    for one in row.held:
        held[one.users[0]] += one.nbytes
    groups: list[int | None] = [None] * count
    for first, last in row.together:
        groups[first : last + 1] = [first] * (last + 1 - first)
    operators = tuple(
        Operator(
            times_s=tuple(row.seconds[unit][device] for device in devices),
            memory_bytes=held[unit],
            output_bytes=row.crossing[unit + 1] if unit + 1 < count else 0,
            group=groups[unit],
            fixed=_place(devices, row.fixed[unit]),
        )
        for unit in range(count)
    )
    live = max(row.live, default=0)
    return Problem(
        operators=operators,
        edges=tuple((unit, unit + 1) for unit in range(count - 1)),
        devices=tuple(_device(row, devices, at, live) for at in range(len(devices))),
    )


def _place(devices: Sequence[int], fixed: int | None) -> int | None:
    return devices.index(fixed) if fixed in devices else None


def _device(row: Row, devices: Sequence[int], at: int, live: int) -> Device:
    """Half of what moving costs is the sender's, half the receiver's; links as the slowest of the device's."""
    others = [other for other in devices if other != devices[at]]
    latency_s = max(row.moving_s(devices[at], other, 0) for other in others) / 2
    megabyte_s = max(row.moving_s(devices[at], other, 10**6) for other in others) / 2 - latency_s
    return Device(
        kind=at,
        memory_bytes=max(0.0, row.rooms[devices[at]] - live),
        bytes_per_s=10**6 / megabyte_s if megabyte_s > 0 else math.inf,
        latency_s=latency_s,
    )
