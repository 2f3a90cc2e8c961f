"""What is ordered, and an answer: nodes, what each waits for, and the storages that they touch.

A storage is there from the first node that touches it to the last: whoever makes it comes first since the others wait
for it. Views share a storage, so they touch it too. What is there the whole time is a plain number of bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from djinn_fx.errors import SolverError


@dataclass(frozen=True)
class Storage:
    """A piece of memory.

    Attributes:
        nbytes: its size in bytes.
        touched: the nodes that make, read or write it, each once.
        given: whether it is there before the first node runs.
        kept: whether it is still there after the last one.
    """

    nbytes: int
    touched: tuple[int, ...]
    given: bool = False
    kept: bool = False


@dataclass(frozen=True)
class Problem:
    """Nodes to order, numbered from 0 in the order in which they are given.

    Attributes:
        before: for each node, those that must run before it, by data, by writes, by anything else.
        storages: what is made or let go of on the way.
        workspace: for each node, bytes that it takes beside its storages while it runs.
        held: bytes that are there from the first to the last.

    Raises:
        SolverError: what is given is no problem, such as a node that waits for a later one.
    """

    before: tuple[tuple[int, ...], ...]
    storages: tuple[Storage, ...]
    workspace: tuple[int, ...]
    held: int = 0

    def __post_init__(self) -> None:
        wrong = next(_what_is_wrong(self), None)
        if wrong:
            raise SolverError(f"nodes cannot be ordered: {wrong}")

    @cached_property
    def size(self) -> int:
        """How many nodes there are."""
        return len(self.before)

    @cached_property
    def after(self) -> tuple[tuple[int, ...], ...]:
        """For each node, those that wait for it."""
        found: list[list[int]] = [[] for _ in self.before]
        for node, earlier in enumerate(self.before):
            for one in earlier:
                found[one].append(node)
        return tuple(map(tuple, found))

    @cached_property
    def touches(self) -> tuple[tuple[int, ...], ...]:
        """For each node, the storages that it touches."""
        found: list[list[int]] = [[] for _ in self.before]
        for place, storage in enumerate(self.storages):
            for node in storage.touched:
                found[node].append(place)
        return tuple(map(tuple, found))

    @cached_property
    def backwards(self) -> Problem:
        """The same with time reversed: what is kept is then given. An order read backwards has the same peak."""
        last = self.size - 1
        storages = (
            Storage(one.nbytes, tuple(last - node for node in one.touched), one.kept, one.given)
            for one in self.storages
        )
        before = (tuple(last - node for node in later) for later in reversed(self.after))
        return Problem(tuple(before), tuple(storages), self.workspace[::-1], self.held)


def _what_is_wrong(problem: Problem) -> Iterator[str]:
    count = len(problem.before)
    if len(problem.workspace) != count:
        yield f"{len(problem.workspace)} workspaces for {count} nodes"
    if min((problem.held, *problem.workspace, *(one.nbytes for one in problem.storages)), default=0) < 0:
        yield "a number of bytes is below 0"
    for node, earlier in enumerate(problem.before):
        if any(not 0 <= one < node for one in earlier):
            yield f"node {node} waits for {earlier}, which must come before it in the order given"
    for place, one in enumerate(problem.storages):
        if not one.touched or len(set(one.touched)) < len(one.touched):
            yield f"storage {place} must be touched by at least one node, by each once; it is by {one.touched}"
        if any(not 0 <= node < count for node in one.touched):
            yield f"storage {place} is touched by a node that there is not: {one.touched}"


@dataclass(frozen=True)
class Solution:
    """An answer, and how good it is known to be.

    Attributes:
        order: the nodes, the first one first.
        peak: most bytes at once, in bytes.
        bound: bytes below which no order's peak can be.
        found_by: the method, for reports.
    """

    order: tuple[int, ...]
    peak: int
    bound: int
    found_by: str

    @property
    def optimal(self) -> bool:
        """Whether no order with a lower peak can exist."""
        return self.peak == self.bound

    @property
    def gap(self) -> float:
        """By how much the peak is above the bound, as a share of the bound."""
        return (self.peak - self.bound) / self.bound if self.bound else 0.0


def profile_of(problem: Problem, order: Sequence[int]) -> list[int]:
    """Bytes that are there while each node of an order runs."""
    position = {node: place for place, node in enumerate(order)}
    change = [0] * (problem.size + 1)
    for storage in problem.storages:
        places = [position[node] for node in storage.touched]
        change[0 if storage.given else min(places)] += storage.nbytes
        change[problem.size if storage.kept else max(places) + 1] -= storage.nbytes
    found, live = [], problem.held
    for place, node in enumerate(order):
        live += change[place]
        found.append(live + problem.workspace[node])
    return found


def peak_of(problem: Problem, order: Sequence[int]) -> int:
    """Most bytes that are there at once; of no nodes, what is held."""
    return max(profile_of(problem, order), default=problem.held)
