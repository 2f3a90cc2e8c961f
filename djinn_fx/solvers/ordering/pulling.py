"""An order made better by running early what lets go of memory.

The order at hand is followed. After each node it is looked at what could be run with the storages just made: the nodes
that touch them, all that these wait for, then what those make, and so on, some dozens of nodes ahead. Where that ends
with less than was there, and on the way stays under the peak that has to be anyway, it is run at once. Read backwards
(see ``Problem.backwards``) the same makes late what takes memory.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence

from djinn_fx.solvers.ordering.problem import Problem
from djinn_fx.solvers.ordering.state import State

#: Nodes that one look ahead may run.
AHEAD = 16


class _Pull:
    """One pass over an order."""

    def __init__(self, problem: Problem, order: Sequence[int], target: int, least: int, steps: int) -> None:
        self._problem, self._order, self._least, self._steps = problem, order, least, steps
        self._rank = {node: place for place, node in enumerate(order)}
        self._state = State(problem)
        self._target = target
        self.found: list[int] = []

    def pull(self) -> list[int]:
        """The new order."""
        given = [place for place, one in enumerate(self._problem.storages) if one.given and self._matters(place)]
        self._let_go(given)
        for node in self._order:
            if not self._state.done[node]:
                self._run(node)
        return self.found

    def _run(self, node: int) -> None:
        """Run a node and then whatever can let go of what it made or read."""
        self._keep(node)
        self._let_go(self._near(node))

    def _let_go(self, places: Iterable[int]) -> None:
        """As long as something can be let go of, do what lets go of most."""
        promised: list[tuple[int, int]] = []
        self._look(places, promised)
        while promised and self._state.steps < self._steps:
            _, place = heapq.heappop(promised)
            if not self._state.left[place]:
                continue
            _, ran = self._ahead(place)  # less than was promised, or nothing, after what ran since
            for node in ran:
                self._keep(node)
            self._look({near for node in ran for near in self._near(node)}, promised)

    def _look(self, places: Iterable[int], promised: list[tuple[int, int]]) -> None:
        for place in places:
            gain, _ = self._ahead(place) if self._state.steps < self._steps else (0, [])
            if gain:
                heapq.heappush(promised, (-gain, place))

    def _keep(self, node: int) -> None:
        self._target = max(self._target, self._state.run(node))
        self.found.append(node)

    def _near(self, node: int) -> set[int]:
        """Storages of some size that a node has touched, or that those touch which have waited for it."""
        near = [node, *(one for one in self._problem.after[node] if not self._state.done[one])]
        touched = (place for one in near for place in self._problem.touches[one])
        return {place for place in touched if self._matters(place)}

    def _matters(self, place: int) -> bool:
        storage = self._problem.storages[place]
        return storage.nbytes >= self._least and self._state.left[place] > 0

    def _ahead(self, place: int) -> tuple[int, list[int]]:
        """How many bytes can be let go of by finishing a storage and what comes of it, and the nodes that do so."""
        state, start = self._state, self._state.live
        ran: list[int] = []
        best, count = 0, 0
        places = [place]
        while places:
            needed = self._needed(places.pop(), AHEAD - len(ran))
            for node in needed or ():
                level = state.run(node)
                ran.append(node)
                if level > self._target:
                    needed = None
                    break
                if start - state.live > best:
                    best, count = start - state.live, len(ran)
                places += [one for one in self._problem.touches[node] if state.left[one]]
            if needed is None:
                break
        for node in reversed(ran):
            state.take_back(node)
        return best, ran[:count]

    def _needed(self, place: int, most: int) -> list[int] | None:
        """Those that still have to touch a storage and all that they wait for; None if they are too many."""
        state, before = self._state, self._problem.before
        if state.left[place] > most:  # what every layer reads, say
            return None
        waiting = [node for node in self._problem.storages[place].touched if not state.done[node]]
        found = set(waiting)
        while waiting:
            if len(found) > most:
                return None
            for one in before[waiting.pop()]:
                if not state.done[one] and one not in found:
                    found.add(one)
                    waiting.append(one)
        return sorted(found, key=self._rank.__getitem__) if len(found) <= most else None


def pulled(problem: Problem, order: Sequence[int], target: int, least: int, steps: int) -> tuple[list[int], int]:
    """An order like this one in which memory is let go of earlier, and how many nodes were run to find it.

    Args:
        problem: the nodes.
        order: the one at hand.
        target: bytes under which looking ahead stays; as much as the order needs anyway, once it has.
        least: storages of fewer bytes are not looked at.
        steps: nodes to run before looking ahead stops.
    """
    work = _Pull(problem, order, target, least, steps)
    found = work.pull()
    return found, work._state.steps
