"""One dive: a search for a packing within a given height, depth first, that gives up after so many nodes.

A packing is built from the bottom. Above what is placed, each section has a floor: the lowest offset that any buffer
can still have there. In a section nobody's floor is wasted for free: floor and what is still to be placed must stay
below the capacity. A run of equal floors between higher ones is a valley, and some buffer that fits into it can begin
at its floor. So a node chooses a valley, the section in it that can waste least, and tries every buffer that covers
this section and fits; the last way is that nobody begins there, and the section's floor is raised to where the next
one can. That covers every packing that cannot be pushed down, so a dive that ran out of nodes to visit has proved that
the capacity is too small. Which valley comes first and in which order buffers are tried decides whether a dive succeeds
soon: sections that lack room, or led to failures, come first, and a buffer is liked the less the more room it wastes.

Floors, sections and minimal solutions are after M. Moffitt, "MiniMalloc: A Lightweight Memory Allocator for
Hardware-Accelerated Machine Learning" (ASPLOS 2023); that any valley may come next, what a choice wastes, and
dives that begin anew are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from djinn_fx.solvers.packing.table import NEVER, Ints, Table


@dataclass(frozen=True, kw_only=True)
class Taste:
    """What a dive prefers.

    Attributes:
        duration: weight of a buffer's duration (logarithm).
        size: weight of its size (logarithm).
        noise: standard deviation of what chance adds to a buffer.
        waste: weight of the room that a choice wastes, measured by what its sections could waste.
        wall: what a buffer gains for each side of the valley it touches.
        level: ... and for each side on which it ends level with what is beside it.
    """

    duration: float
    size: float
    noise: float = 0.3
    waste: float = 1.0
    wall: float = 0.5
    level: float = 1.0


class State(NamedTuple):
    """What is decided: the lowest offset of each buffer (NEVER: placed), floors, what is to be placed by section."""

    lowest: Ints
    floor: Ints
    rest: Ints
    placed: int
    done: int


class Valley(NamedTuple):
    """A run of sections with one floor, lower than what is beside it, and the section in it that can waste least."""

    begin: int
    end: int
    floor: int
    left: int
    right: int
    section: int
    spare: int
    choices: list[int]


@dataclass
class Node:
    """A state whose ways on are known; they are taken one by one."""

    state: State
    valley: Valley
    window: slice
    lowest: Ints
    floor: Ints
    rest: Ints
    ways: list[tuple[int, int]]
    next: int = 0


@dataclass
class Dive:
    """One search.

    Attributes:
        table: the problem.
        capacity: the height to stay within, in units.
        liking: by buffer, how much it is preferred.
        taste: what else counts.
        blame: by section, how often it stopped a dive: written to.
        limit: nodes after which the dive gives up.
        stop: asked now and then whether to give up.
        nodes: nodes visited.
        needed: once nothing is left to visit: no packing has a height below this.
    """

    table: Table
    capacity: int
    liking: list[float]
    taste: Taste
    blame: NDArray[np.float64]
    limit: int
    stop: Callable[[], bool]
    nodes: int = 0
    needed: int = int(NEVER)
    offsets: list[int] = field(default_factory=list)

    def run(self) -> bool | None:
        """Whether a packing was found (in ``offsets``); None if the dive gave up before it knew."""
        self.offsets = [0] * self.table.buffers
        hurry = np.log(self.blame) * 0.3
        state: State | None = self._start()
        path: list[Node] = []
        seen: set[tuple[int, bytes]] = set()
        while state is not None:
            if state.done == self.table.buffers:
                return True
            if self.nodes >= self.limit or (self.nodes % 16 == 15 and self.stop()):
                return None
            self.nodes += 1
            mark = (state.placed, state.floor.tobytes())
            if mark not in seen:
                seen.add(mark)
                path.append(self._open(state, hurry))
            state = self._next(path)
        return False

    def _start(self) -> State:
        """Nothing is placed."""
        table = self.table
        floor = np.where(table.load > 0, 0, NEVER)
        return State(np.zeros(table.buffers, dtype=np.int64), floor, table.load, 0, 0)

    def _next(self, path: list[Node]) -> State | None:
        """The next state to look at: down from the last node, or from the nearest one above it with a way left."""
        while path:
            node = path[-1]
            if node.next < len(node.ways):
                row, buffer = node.ways[node.next]
                node.next += 1
                return self._place(node, row, buffer)
            if node.next == len(node.ways):
                node.next += 1
                state = self._raise(node)
                if state is not None:
                    return state
            path.pop()
        return None

    def _place(self, node: Node, row: int, buffer: int) -> State:
        floor, rest = node.state.floor.copy(), node.state.rest.copy()
        floor[node.window], rest[node.window] = node.floor[row], node.rest[row]
        self.offsets[buffer] = node.valley.floor
        placed = node.state.placed | 1 << buffer
        return State(node.lowest[row], floor, rest, placed, node.state.done + 1)

    def _raise(self, node: Node) -> State | None:
        """Nobody begins on the valley's floor in its chosen section."""
        state, table, valley = node.state, self.table, node.valley
        raised = self._next_begin(state, valley)
        if raised > valley.floor + valley.spare:
            self.needed = min(self.needed, self.capacity + raised - valley.floor - valley.spare)
            self.blame[valley.section] += not node.ways
            return None
        lowest = state.lowest.copy()
        here = table.living[valley.section]
        here = here[lowest[here] < NEVER]
        lowest[here] = table.aligned(np.maximum(lowest[here], raised), here)
        floor = table.floors(lowest, slice(0, table.sections))
        spare = np.where(state.rest > 0, self.capacity - floor - state.rest, NEVER)
        worst = int(spare.argmin())
        if spare[worst] < 0:
            self._dead_end(worst, self.capacity - int(spare[worst]))
            return None
        return State(lowest, floor, state.rest, state.placed, state.done)

    def _dead_end(self, section: int, needed: int) -> None:
        self.blame[section] += 1
        self.needed = min(self.needed, needed)

    def _open(self, state: State, hurry: NDArray[np.float64]) -> Node:
        """Find the ways on from a state: which buffers may begin in which valley, the best first."""
        table = self.table
        spare = np.where(state.rest > 0, self.capacity - state.floor - state.rest, NEVER)
        valley = self._valley(state, spare, hurry)
        choices = np.array(valley.choices)
        window = table.window(valley.begin, valley.end)
        tops = table.sizes[choices] + valley.floor
        lowest = np.maximum(state.lowest, table.beside[choices] & tops[:, None])
        lowest = table.aligned(lowest, slice(None))
        lowest[np.arange(len(choices)), choices] = NEVER
        floor = table.floors(lowest, window)
        rest = state.rest[window] - table.room[choices, window]
        left = np.where(rest > 0, self.capacity - floor - rest, NEVER)
        worst = left.min(axis=1)
        for row in np.flatnonzero(worst < 0):
            self.needed = min(self.needed, self.capacity - int(worst[row]))
        before = np.minimum(spare[window], self.capacity)
        share = np.maximum(before - np.minimum(left, self.capacity), 0) / (before + 0.01 * self.capacity)
        ways = self._best_first(valley, choices, worst >= 0, share.sum(axis=1))
        return Node(state, valley, window, lowest, floor, rest, ways)

    def _valley(self, state: State, spare: Ints, hurry: NDArray[np.float64]) -> Valley:
        """From the section that comes first, downhill."""
        urgency = np.where(state.rest > 0, state.floor / self.capacity - hurry, np.inf)
        at, floors, end = int(urgency.argmin()), state.floor.tolist(), self.table.sections
        while True:
            floor = floors[at]
            begin = at
            while begin > 0 and floors[begin - 1] == floor:
                begin -= 1
            while at + 1 < end and floors[at + 1] == floor:
                at += 1
            left = floors[begin - 1] if begin > 0 else int(NEVER)
            right = floors[at + 1] if at + 1 < end else int(NEVER)
            if left < floor and left <= right:
                at = begin - 1
            elif right < floor:
                at += 1
            else:
                return self._tightest(state, spare, (begin, at + 1, floor, left, right))

    def _tightest(self, state: State, spare: Ints, run: tuple[int, int, int, int, int]) -> Valley:
        """The section of a valley that can waste least; among equals that with the fewest choices."""
        begin, end, floor, left, right = run
        first, last = self.table.first, self.table.last
        inside = [i for i in np.flatnonzero(state.lowest == floor).tolist() if first[i] >= begin and last[i] <= end]
        room = spare[begin:end].tolist()
        least = min(room)
        found: tuple[list[int], int] | None = None
        changes = {first[i] for i in inside} | {last[i] for i in inside}  # between them choices stay the same
        for section in range(begin, end):
            fresh = section == begin or section in changes or room[section - begin - 1] > least
            if room[section - begin] == least and fresh:
                here = [i for i in inside if first[i] <= section < last[i]]
                if found is None or len(here) < len(found[0]):
                    found = here, section
        assert found is not None
        alike = {self.table.kinds[i]: i for i in reversed(found[0])}  # equal buffers: one of them
        return Valley(begin, end, floor, left, right, found[1], least, list(alike.values()))

    def _best_first(
        self, valley: Valley, choices: Ints, possible: NDArray[np.bool_], wasted: NDArray[np.float64]
    ) -> list[tuple[int, int]]:
        first, last, taste = self.table.first, self.table.last, self.taste
        ways = []
        for row, (buffer, may, waste) in enumerate(
            zip(choices.tolist(), possible.tolist(), wasted.tolist(), strict=True)
        ):
            if not may:
                continue
            liked = self.liking[buffer] - taste.waste * waste
            top = valley.floor + int(self.table.sizes[buffer])
            for touches, beside in (
                (first[buffer] == valley.begin, valley.left),
                (last[buffer] == valley.end, valley.right),
            ):
                if touches:
                    liked += taste.wall + (taste.level if beside == top else 0.0)
            ways.append((-liked, row, buffer))
        return [(row, buffer) for _, row, buffer in sorted(ways)]

    def _next_begin(self, state: State, valley: Valley) -> int:
        """Where the lowest buffer of the section can begin if not on the floor: on a wall, or on one placed later."""
        table = self.table
        near = np.flatnonzero((table.starts < valley.end) & (table.ends > valley.begin) & (state.lowest < NEVER))
        here = (table.starts[near] <= valley.section) & (valley.section < table.ends[near])
        lowest = state.lowest[near]
        values = np.where(here, lowest, lowest + table.sizes[near])[~here | (lowest > valley.floor)]
        return int(values.min()) if len(values) else int(NEVER)


def liking(table: Table, taste: Taste, chance: np.random.Generator) -> list[float]:
    """By buffer, how much it is preferred, with what chance adds."""
    length = np.log(table.ends - table.starts)
    size = np.log(table.sizes)
    noise = taste.noise * chance.standard_normal(table.buffers)
    found: list[float] = (taste.duration * length + taste.size * size + noise).tolist()
    return found


def taste_of(turn: int, chance: np.random.Generator) -> Taste:
    """The taste of a search's dive by its number: which weights serve differs between families of problems."""
    if turn % 3 == 0:
        return Taste(duration=0.0, size=1.0)
    if turn % 3 == 1:
        return Taste(duration=1.0, size=0.5)
    angle = chance.random() * math.pi / 2
    noise, waste, level = (float(chance.choice(weights)) for weights in ((0.1, 0.3, 0.5), (0.3, 1, 2), (0.5, 1, 2)))
    return Taste(duration=math.cos(angle), size=math.sin(angle), noise=noise, waste=waste, level=level)
