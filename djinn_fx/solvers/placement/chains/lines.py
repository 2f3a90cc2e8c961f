"""Orders in which groups may come, one after the other."""

from __future__ import annotations

from collections.abc import Callable

from djinn_fx.solvers.placement.chains.ideals import Order
from djinn_fx.solvers.placement.groups import Groups


def lines(order: Order, groups: Groups) -> dict[str, list[int]]:
    """Orders in which groups may come, by name: each goes on differently where there is a choice."""
    weight = _shared(groups, order.count)
    return {
        "in depth": _line(order, lambda free: len(free) - 1),
        "in depth, others first": _line(order, lambda free: len(free) - 1, turned=True),
        "in breadth": _line(order, lambda free: 0),
        "as given": _line(order, lambda free: min(range(len(free)), key=lambda at: groups.members[free[at]][0])),
        "least open": _least_open(order, groups, weight),
    }


def _line(order: Order, choose: Callable[[list[int]], int], turned: bool = False) -> list[int]:
    waits = [before.bit_count() for before in order.before]
    free = [group for group, count in enumerate(waits) if not count]
    if turned:
        free.reverse()
    found = []
    while free:
        group = free.pop(choose(free))
        found.append(group)
        users = order.after[group]
        for other in reversed(users) if turned else users:
            waits[other] -= 1
            if not waits[other]:
                free.append(other)
    return found


def _shared(groups: Groups, count: int) -> list[list[tuple[int, float]]]:
    """The nets of each group, with what they cost at most."""
    found: list[list[tuple[int, float]]] = [[] for _ in range(count)]
    for place, (net, costs) in enumerate(zip(groups.nets, groups.costs, strict=True)):
        for group in net:
            found[group].append((place, float(costs.max())))
    return found


def _least_open(order: Order, groups: Groups, nets: list[list[tuple[int, float]]]) -> list[int]:
    """Next comes the group that leaves the least for sharing: nets that are begun and not ended."""
    size = [len(net) for net in groups.nets]
    had = [0] * len(size)

    def opens(group: int) -> float:
        return sum(cost * ((had[net] == 0) - (had[net] == size[net] - 1)) for net, cost in nets[group])

    def choose(free: list[int]) -> int:
        at = min(range(len(free)), key=lambda at: (opens(free[at]), -at))
        for net, _ in nets[free[at]]:
            had[net] += 1
        return at

    return _line(order, choose)
