"""The bound of a mixed-integer program, by HiGHS where it is installed (``pip install djinn-fx[solve]``).

A 0 or 1 for each group and device, and for each net and device whether the device shares it. Only placements in which
values may go to and fro are asked for: those that go forward alone have an exact method of their own.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np

from djinn_fx.solvers.placement.groups import Groups

#: How far HiGHS's own tolerances may put its bound too high, as a share.
TOLERANCE = 1e-6
#: Pairs of a group, or a net, and a device; beyond, nothing is proved within minutes.
MOST_PAIRS = 4_000


def usable(groups: Groups) -> bool:
    """Whether the library is there, and the problem is small enough for it to be of use."""
    devices = groups.times.shape[1]
    pairs = (len(groups.members) + len(groups.nets)) * devices
    return pairs <= MOST_PAIRS and importlib.util.find_spec("highspy") is not None


def best_known(
    groups: Groups, rooms: Sequence[float], below: float, seconds: float
) -> tuple[tuple[int, ...] | None, float]:
    """The best placement that the library finds in so many seconds, and what no placement's largest load is below.

    Args:
        groups: what is placed.
        rooms: bytes of each device.
        below: the largest load of a placement that is known.
        seconds: time limit.

    Returns:
        The device of each group, None if nothing better than ``below`` was found; and the bound, 0 for none.
    """
    import highspy

    model = highspy.Highs()
    for option, value in (("output_flag", False), ("threads", 1), ("mip_rel_gap", TOLERANCE), ("time_limit", seconds)):
        model.setOptionValue(option, value)
    largest = model.addVariable(lb=0.0, ub=below)
    where = [[model.addBinary() for _ in rooms] for _ in groups.members]
    _restrict(model, groups, rooms, where, largest)
    model.minimize(largest)
    info = model.getInfo()
    bound = max(0.0, float(info.mip_dual_bound) * (1 - TOLERANCE)) if np.isfinite(info.mip_dual_bound) else 0.0
    if info.primal_solution_status != int(highspy.SolutionStatus.kSolutionStatusFeasible):
        return None, min(bound, below)
    values = model.getSolution().col_value
    return tuple(max(range(len(row)), key=lambda at: values[row[at].index]) for row in where), min(bound, below)


def _restrict(model: Any, groups: Groups, rooms: Sequence[float], where: list[list[Any]], largest: Any) -> None:
    """Each group is somewhere it may be and fits; no device's compute and shared nets are above the largest load."""
    for row, times in zip(where, groups.times, strict=True):
        model.addConstr(sum(row) == 1)
        for variable, time in zip(row, times, strict=True):
            if not np.isfinite(time):
                model.addConstr(variable == 0)
    for device, room in enumerate(rooms):
        load = sum(
            float(time) * row[device]
            for row, time in zip(where, groups.times[:, device], strict=True)
            if np.isfinite(time)
        )
        for net, cost in zip(groups.nets, groups.costs[:, device], strict=True):
            if cost > 0:
                shares = model.addVariable(lb=0.0, ub=1.0)
                for other in net[1:]:
                    model.addConstr(shares >= where[net[0]][device] - where[other][device])
                    model.addConstr(shares >= where[other][device] - where[net[0]][device])
                load = load + float(cost) * shares
        model.addConstr(load <= largest)
        if groups.memory.sum() > room:
            kept = sum(float(one / room) * row[device] for row, one in zip(where, groups.memory, strict=True) if one)
            model.addConstr(kept <= 1.0)
