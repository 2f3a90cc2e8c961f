"""What is there after some nodes have run; nodes may be run, and taken back."""

from __future__ import annotations

from djinn_fx.solvers.ordering.problem import Problem


class State:
    """Some nodes have run, each after those that it waits for.

    Attributes:
        live: bytes that are there now.
        done: for each node, whether it has run.
        left: for each storage, how many nodes that touch it have not run.
        steps: how often a node was run, one that touches much counted more: what a search has cost.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._sizes = [one.nbytes for one in problem.storages]
        self._total = [0 if one.given else len(one.touched) for one in problem.storages]
        self._kept = [one.kept for one in problem.storages]
        self.left = [len(one.touched) for one in problem.storages]
        self.live = problem.held + sum(one.nbytes for one in problem.storages if one.given)
        self.done = [False] * problem.size
        self.steps = 0

    def run(self, node: int) -> int:
        """Run a node. Returns the bytes that are there meanwhile."""
        left, sizes, total = self.left, self._sizes, self._total
        freed = 0
        for place in self._problem.touches[node]:
            if left[place] == total[place]:
                self.live += sizes[place]
            left[place] -= 1
            if not left[place] and not self._kept[place]:
                freed += sizes[place]
        level = self.live + self._problem.workspace[node]
        self.live -= freed
        self.done[node] = True
        self.steps += 1 + len(self._problem.touches[node]) // 4
        return level

    def take_back(self, node: int) -> None:
        """As if the node, the last one that ran, had not."""
        left, sizes, total = self.left, self._sizes, self._total
        for place in self._problem.touches[node]:
            if not left[place] and not self._kept[place]:
                self.live += sizes[place]
            left[place] += 1
            if left[place] == total[place]:
                self.live -= sizes[place]
        self.done[node] = False
