"""The simulator's rule of who runs what, fed with what really happens: ends, copies that are lost, copies that come."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from djinn_fx.solvers.deployment.problem import Plan, Problem, Replica
from djinn_fx.solvers.deployment.simulate import Run

#: Servers at which something may begin.
Touched = dict[int, None]


class Router(Run):
    """Queues of a plan's copies.

    Args:
        problem: with the traffic; its times only say what is expected.
        plan: valid for it.
    """

    def __init__(self, problem: Problem, plan: Plan) -> None:
        #: For each request that cannot be ended, why.
        self.failed: dict[int, str] = {}
        #: Nodes under way, and the copy that each is on.
        self.running: dict[int, int] = {}
        self._just_begun: list[tuple[int, int]] = []
        self._lost: dict[int, str] = {}
        self._retried: set[int] = set()
        super().__init__(problem, plan)

    def begun(self, end: float, node: int, replica: int) -> None:
        """Remember it: when it ends will be told."""
        self._just_begun.append((node, replica))

    def wait(self, node: int, request: int, now: float, touched: Touched) -> None:
        """A node can run, unless its request has failed or its model is nowhere."""
        if request in self.failed:
            return
        model = self.model_of[node]
        if any(model in here for here in self.hosted):
            super().wait(node, request, now, touched)
            return
        why = [text for number, text in self._lost.items() if self.plan.replicas[number].model == model]
        self.failed[request] = why[-1] if why else "the plan has no copy of a model that it needs"

    def settle(self, touched: Touched, now: float) -> list[tuple[int, int]]:
        """Begin what can begin.

        Returns:
            nodes to be sent, each with its copy.
        """
        found: list[tuple[int, int]] = []
        while touched:
            for server in touched:
                if self.idle[server]:
                    self.dispatch(server, now)
            touched = {}
            for node, replica in self._just_begun:
                if self.request[node] in self.failed:
                    self._undo(node)
                    self.free(replica, touched)
                else:
                    self.running[node] = replica
                    found.append((node, replica))
            self._just_begun.clear()
        return found

    def ended(self, node: int, now: float, touched: Touched) -> None:
        """A node has ended well."""
        self.end[node] = now
        self.finish(node, self.running.pop(node), now, touched)

    def broke(self, node: int, why: str, touched: Touched) -> None:
        """A node has failed, and so has its request; the copy goes on."""
        self.failed.setdefault(self.request[node], why)
        self._undo(node)
        self.free(self.running.pop(node), touched)

    def lose(self, replicas: Collection[int], why: str, now: float) -> Touched:
        """Copies are there no more: what ran or waited there waits for others, or its request fails.

        Returns:
            servers at which something may begin.
        """
        touched: Touched = dict.fromkeys(range(len(self.hosted)))
        waiting = self.waiting()
        for node in [node for node, replica in self.running.items() if replica in replicas]:
            self.free(self.running.pop(node), touched)
            self._undo(node)
            if node in self._retried:  # what brought two processes down is not given to a third
                self.failed.setdefault(self.request[node], why)
            self._retried.add(node)
            waiting.append(node)
        self._lost.update(dict.fromkeys(replicas, why))
        for here in self.hosted:
            for model in list(here):
                here[model] = [one for one in here[model] if one not in self._lost]
                if not here[model]:
                    del here[model]
        for request, home in enumerate(self.home):
            wanted = self.problem.workflows[self.workflow[request]].models
            if home >= 0 and not self.hosted[home].keys() >= set(wanted):
                self.home[request] = -1
        self._queue_again(waiting, now, touched)
        return touched

    def add(self, one: Replica, now: float) -> Touched:
        """A further copy is there; nothing that runs is touched.

        Args:
            one: the copy; the plan has it as its last from now on.
            now: seconds.

        Returns:
            servers at which something may begin.
        """
        number, cluster = len(self.plan.replicas), self.problem.cluster
        self.plan = replace(self.plan, replicas=(*self.plan.replicas, one))
        self.devices.append(range(one.first, one.first + self.widths[one.model]))
        self.server_of.append(cluster.server[one.first])
        self.bits.append(self._bits(number))
        self.slow.append(max(cluster.slowness[device] for device in self.devices[number]))
        self.hosted[self.server_of[number]].setdefault(one.model, []).append(number)
        touched: Touched = dict.fromkeys(range(len(self.hosted)))
        self._queue_again(self.waiting(), now, touched)
        return touched

    def _queue_again(self, waiting: Collection[int], now: float, touched: Touched) -> None:
        """Queues by who hosts what now, and what waits in them."""
        self.queues()
        for node in waiting:
            ready = self.ready[node]
            self.wait(node, self.request[node], now, touched)
            self.ready[node] = ready

    def give_up(self, why: str) -> None:
        """Requests whose nodes wait for nothing that could still happen fail."""
        for node in self.waiting():
            self.failed.setdefault(self.request[node], why)

    def waiting(self) -> list[int]:
        """Nodes that could run and wait for a copy, some of failed requests among them."""
        queues = {id(one): one for kind in (*self.unbound, *self.bound) for one in kind.values()}
        return [self.at[place] for one in queues.values() for place in one.heap]

    def _undo(self, node: int) -> None:
        self.start[node] = self.end[node] = np.nan
        self.ran[node] = -1


__all__ = ["Router", "Touched"]
