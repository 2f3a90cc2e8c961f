"""From a memory plan to what allocators make of it: live bytes, whole pages of a process, segments of a CUDA cache."""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Protocol
from xml.etree import ElementTree

from djinn_fx.srg.memory import MemoryPlan

#: torch aligns on the CPU to so many bytes; the system hands out pages.
CPU_ALIGNMENT, PAGE = 64, 4096
#: glibc (malloc.c): bytes before each block; from so many bytes on a block always has pages of its own.
HEADER, LARGEST_THRESHOLD = 16, 32 * 2**20
#: Small objects (a tensor's own record among them) are put into what alignment leaves beside a block, and stay for a
#: while after it is released: until then its hole is too small for another block of its size. Bytes of one, and the
#: allocations that it stays for: of 0 to 8, 3 foretold 25 models' growth best (7 % off in the middle; 14 % with 0).
SMALL_OBJECT, STAYS_FOR = 96, 3


def changes(plan: MemoryPlan, device: str) -> Iterator[tuple[int, int]]:
    """What is allocated and released while the graph runs, in order: a row's number, and its bytes or their negative.

    What is there before the first step is not allocated; what is there after the last one is not released.
    """
    begins: dict[int, list[int]] = {}
    ends: dict[int, list[int]] = {}
    for number, row in enumerate(plan.rows):
        if row.device != device or not row.nbytes:
            continue
        if not row.given:
            begins.setdefault(row.start, []).append(number)
        ends.setdefault(row.end, []).append(number)
    for step in range(len(plan.steps)):
        yield from ((number, -plan.rows[number].nbytes) for number in ends.get(step, ()))
        yield from ((number, plan.rows[number].nbytes) for number in begins.get(step, ()))


class Allocator(Protocol):
    """What memory is asked of."""

    def allocate(self, number: int, nbytes: int) -> None:
        """A row comes to be."""
        ...

    def release(self, number: int) -> None:
        """A row goes."""
        ...


def replay(allocator: Allocator, plan: MemoryPlan, device: str) -> None:
    """Ask an allocator for what the graph asks for, in its order."""
    for number, nbytes in changes(plan, device):
        if nbytes > 0:
            allocator.allocate(number, nbytes)
        else:
            allocator.release(number)


def live_increase(plan: MemoryPlan, device: str) -> int:
    """By how many bytes the live memory rises above that at the beginning."""
    return max(accumulate((nbytes for _, nbytes in changes(plan, device)), initial=0))


def process_increase(plan: MemoryPlan, device: str, holes: Sequence[int] = ()) -> int:
    """By how many bytes a process grows at most: the system's allocator replayed, holes and all.

    Args:
        plan: what is allocated and released.
        device: where.
        holes: bytes of the holes that the heap has already, whose pages were given back (see :func:`holes_of_heap`).
    """
    heap = Heap(holes)
    for number, row in enumerate(plan.rows):  # what is handed over has pages already, which are used again
        if row.device == device and row.nbytes and row.given and row.end < len(plan.steps):
            heap.allocate(number, row.nbytes)
    heap.begin()
    replay(heap, plan, device)
    return heap.peak


def holes_of_heap(report: str) -> tuple[int, ...]:
    """The holes of a process's main heap, in bytes, from what glibc's ``malloc_info`` writes.

    There are none if that cannot be read. It tells classes of sizes: the holes of a class are taken to be equal.
    """
    try:
        heap = ElementTree.fromstring(report).find("heap")
    except ElementTree.ParseError:
        return ()
    found: list[int] = []
    for one in heap.iter() if heap is not None else ():
        if one.tag in ("size", "unsorted"):
            count, total = int(one.get("count", 0)), int(one.get("total", 0))
            found += [total // count] * count if count else []
    return tuple(size for size in found if size >= PAGE)


class Heap:
    """The C library's heap as glibc runs it: the smallest hole that fits, neighbours joined, else the top moves up.

    What is as large as its largest threshold gets pages of its own, which go back when it is released. Pages of the
    heap stay once they were touched.

    Args:
        holes: bytes of those that are there at the beginning; no page of them is in memory.
    """

    def __init__(self, holes: Sequence[int] = ()) -> None:
        self._places: dict[int, tuple[int, int]] = {}
        self._holes: list[tuple[int, int]] = []  # (start, end), by their starts
        self._areas: list[int] = []  # where a hole began, and last the top
        self._touched: list[int] = []  # up to where each of them was used
        self._beside: dict[int, list[tuple[int, int]]] = {}  # small objects' places, by the block's start
        self._later: deque[tuple[int, tuple[int, int]]] = deque()  # from which allocation on what is a hole
        self._allocations = 0
        at = 0
        for size in holes:
            self._holes.append((at, at + size))
            self._areas.append(at)
            at += size + PAGE  # something that is in use lies between
        self._areas.append(at)
        self._touched = list(self._areas)
        self._top, self._mapped, self._resident, self._before, self.peak = at, 0, 0, 0, 0

    def allocate(self, name: int, nbytes: int) -> None:
        """Make room; what there was before at that name must have been released."""
        if nbytes >= LARGEST_THRESHOLD:
            self._places[name] = (-1, pages(nbytes))
            self._mapped += pages(nbytes)
        else:
            self._places[name] = start, end = self._placed(-(-(nbytes + HEADER) // HEADER) * HEADER)
            area = bisect.bisect(self._areas, start) - 1
            if end > self._touched[area]:
                self._resident += end - self._touched[area]
                self._touched[area] = end
        self.peak = max(self.peak, pages(self._resident) + self._mapped - self._before)

    def begin(self) -> None:
        """Count from here on."""
        self._before, self.peak = pages(self._resident) + self._mapped, 0

    def _placed(self, size: int) -> tuple[int, int]:
        """As ``posix_memalign`` does: a hole with room for any alignment; small objects take what is left beside it."""
        self._allocations += 1
        while self._later and self._later[0][0] <= self._allocations:
            self._add(*self._later.popleft()[1])
        start, end = self._hole(size + CPU_ALIGNMENT + 2 * HEADER)
        aligned = -(-(start + HEADER) // CPU_ALIGNMENT) * CPU_ALIGNMENT - HEADER
        behind = aligned + size
        small = min(end, behind + SMALL_OBJECT)
        self._beside[aligned] = [one for one in ((start, aligned), (behind, small)) if one[0] < one[1]]
        if small < end:
            self._add(small, end)
        return aligned, behind

    def _hole(self, size: int) -> tuple[int, int]:
        """The smallest hole of so many bytes or more, taken out; if there is none, one at the top."""
        fitting = [(end - start, at) for at, (start, end) in enumerate(self._holes) if end - start >= size]
        if fitting:
            return self._holes.pop(min(fitting)[1])
        start = self._holes.pop()[0] if self._holes and self._holes[-1][1] == self._top else self._top
        self._top = start + size
        return start, self._top

    def release(self, name: int) -> None:
        """Give back what has that name; nothing if it was there before."""
        start, end = self._places.pop(name, (0, 0))
        if start < 0:
            self._mapped -= end
        elif end:
            self._add(start, end)
            due = self._allocations + 1 + STAYS_FOR
            self._later += ((due, one) for one in self._beside.pop(start))

    def _add(self, start: int, end: int) -> None:
        """A hole, joined with its neighbours."""
        at = bisect.bisect(self._holes, (start, end))
        if at < len(self._holes) and self._holes[at][0] == end:
            end = self._holes.pop(at)[1]
        if at and self._holes[at - 1][1] == start:
            at -= 1
            start = self._holes.pop(at)[0]
        self._holes.insert(at, (start, end))


def pages(nbytes: int) -> int:
    """Bytes of the whole pages that hold so many."""
    return -(-nbytes // PAGE) * PAGE
