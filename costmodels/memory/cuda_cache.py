"""What torch's caching allocator reserves on a CUDA device for a plan: rounding, segments, splitting, replayed.

The figures are those of c10/cuda/CUDACachingAllocator.cpp at its defaults, without expandable segments. What is
reserved is never given back while a graph runs, so its peak is what it is at the end. Built, not run on a device yet.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass

from djinn_fx.costmodels.memory.allocators import replay
from djinn_fx.srg.memory import MemoryPlan

MIB = 2**20
#: Blocks are whole multiples of this.
BLOCK = 512
#: Up to this a block is small, and lies in a segment of 2 MiB.
SMALL, SMALL_SEGMENT = MIB, 2 * MIB
#: Up to this a large block shares a segment of 20 MiB; a larger one has its own, in whole multiples of 2 MiB.
SHARED, LARGE_SEGMENT, ROUND_LARGE = 10 * MIB, 20 * MIB, 2 * MIB


@dataclass(order=True)
class _Piece:
    """A part of a segment."""

    nbytes: int
    segment: int
    start: int


class CudaCache:
    """The allocator of one device and one stream.

    Attributes:
        reserved: bytes of all segments.
    """

    def __init__(self) -> None:
        self.reserved = 0
        self._free: dict[bool, list[_Piece]] = {True: [], False: []}
        self._used: dict[int, _Piece] = {}
        self._segments = 0

    def allocate(self, name: int, nbytes: int) -> None:
        """A block: the smallest free piece that holds it, else a new segment; what is left over is split off."""
        size = -(-max(nbytes, 1) // BLOCK) * BLOCK
        small = size <= SMALL
        pool = self._free[small]
        at = bisect.bisect_left(pool, _Piece(size, -1, -1))
        piece = pool.pop(at) if at < len(pool) else self._segment(size)
        rest = piece.nbytes - size
        if rest >= BLOCK if small else rest > SMALL:
            bisect.insort(pool, _Piece(rest, piece.segment, piece.start + size))
            piece.nbytes = size
        self._used[name] = piece

    def _segment(self, size: int) -> _Piece:
        if size <= SMALL:
            nbytes = SMALL_SEGMENT
        else:
            nbytes = LARGE_SEGMENT if size < SHARED else -(-size // ROUND_LARGE) * ROUND_LARGE
        self.reserved += nbytes
        self._segments += 1
        return _Piece(nbytes, self._segments, 0)

    def release(self, name: int) -> None:
        """Give a block back to the cache, joined with free neighbours; nothing if it was there before."""
        piece = self._used.pop(name, None)
        if piece is None:
            return
        pool = self._free[piece.nbytes <= SMALL]
        for other in [one for one in pool if one.segment == piece.segment]:
            if other.start + other.nbytes == piece.start or piece.start + piece.nbytes == other.start:
                pool.remove(other)
                piece = _Piece(piece.nbytes + other.nbytes, piece.segment, min(piece.start, other.start))
        bisect.insort(pool, piece)


def reserved_peak(plan: MemoryPlan, device: str) -> int:
    """Bytes that the cache has reserved after a run, what was there before included."""
    cache = CudaCache()
    for number, row in enumerate(plan.rows):
        if row.device == device and row.nbytes and row.given:
            cache.allocate(number, row.nbytes)
    replay(cache, plan, device)
    return cache.reserved
