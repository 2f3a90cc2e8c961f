"""Further copies while requests run: of a model for which too many nodes wait, where memory is left.

No copy is moved or ended for it. A model gets one where as many nodes wait for each of its copies as was asked, and
its queue would take longer than a load does; among several, the one whose queue takes longest. It comes where there is
room: on idle devices first, then on fast ones, then on those that have worked least. One is loaded at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from djinn_fx.deploy.running.routing import Router
from djinn_fx.solvers.deployment.placing.room import Room
from djinn_fx.solvers.deployment.problem import Problem, Replica

#: Nodes that wait for each copy, unless something else is asked.
QUEUE = 4
#: Seconds between two looks at the queues.
LOOK_S = 0.25


@dataclass(frozen=True)
class Added:
    """A copy that was loaded while requests ran.

    Attributes:
        replica: where.
        at: seconds after the first arrival from which it took nodes.
        asked: when its load began.
        waiting: nodes that waited for its model then.
        copies: of its model then.
    """

    replica: Replica
    at: float
    asked: float
    waiting: int
    copies: int


class Elastic:
    """Says which further copy is wanted.

    Args:
        problem: with the cluster whose memory is kept to; ``exclusive`` holds for further copies too.
        router: whose queues are looked at.
        queue: nodes that wait for each copy of a model, at least.
        load_s: for each model seconds that it took to load.
    """

    def __init__(self, problem: Problem, router: Router, queue: int, load_s: Mapping[int, float]) -> None:
        self.router, self.queue, self.load_s = router, queue, load_s
        self.room = Room(problem, router.plan.replicas)
        self._worked = [0.0] * problem.cluster.size
        self._took: dict[int, tuple[float, int]] = {}
        self._refused: set[int] = set()
        self._next = 0.0

    def ended(self, node: int) -> None:
        """A node has ended: what it took is what its model is reckoned with."""
        router = self.router
        took = router.end[node] - router.start[node]
        seconds, count = self._took.get(router.model_of[node], (0.0, 0))
        self._took[router.model_of[node]] = (seconds + took, count + 1)
        for device in router.devices[router.ran[node]]:
            self._worked[device] += took

    def wanted(self, now: float) -> tuple[Replica, int, int] | None:
        """A copy to be loaded, with the nodes that wait for its model and the copies that it has; None: none is."""
        if now < self._next:
            return None
        self._next = now + LOOK_S
        router = self.router
        waiting = Counter(router.model_of[node] for node in router.waiting())
        copies = Counter(m for here in router.hosted for m, numbers in here.items() for _ in numbers)
        rows = [
            (count * self._seconds(model) / copies[model], model)
            for model, count in waiting.items()
            if copies[model] and count >= self.queue * copies[model] and model not in self._refused
        ]
        for seconds, model in sorted(rows, reverse=True):
            place = self._place(model) if seconds > self.load_s.get(model, 0.0) else None
            if place is not None:
                self.room.put(place)
                return place, waiting[model], copies[model]
        return None

    def refuse(self, model: int) -> None:
        """A load of the model has failed: it is not tried again, and its place is not given to another."""
        self._refused.add(model)

    def _seconds(self, model: int) -> float:
        """That a node of a model takes: in the mean so far, else as the requests say."""
        problem = self.room.problem
        seconds, count = self._took.get(model, (float(problem.work[model]), int((problem.model_of == model).sum())))
        return seconds / max(1, count)

    def _place(self, model: int) -> Replica | None:
        room, problem = self.room, self.room.problem
        firsts = room.firsts(model)
        for group in problem.groups:  # of its own, all others must be in the server already
            if model in group:
                whole = [s for s in range(len(problem.cluster.servers)) if room.hosted(s) >= group - {model}]
                firsts = firsts[np.isin(problem.servers[firsts], whole)]
        if not len(firsts):
            return None
        busy = room.over(np.array(self.router.busy, np.float64), model, firsts)
        worked = room.over(np.array(self._worked), model, firsts)
        slow = room.over(problem.slowness, model, firsts)
        return Replica(model, int(firsts[np.lexsort((firsts, worked, slow, busy))[0]]))


__all__ = ["QUEUE", "Added", "Elastic"]
