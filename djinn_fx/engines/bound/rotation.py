"""Noticing writes where the kernel does not tell of them: a part of the memory is read on each call, by turns.

What is read costs, with the rest of a look, at most :data:`SHARE` of the time of the calls; everything has been read
once within :data:`MAX_CALLS` of them, and much sooner where calls take long: they read all weights, so for weights that
are multiplied a turn takes some 150 to 400 calls, or up to 1000 where vectors, which are compared in full, are many.
"""

from __future__ import annotations

import ctypes
import time
import zlib
from collections.abc import Sequence

from djinn_fx.engines.bound.mappings import Span

#: Of the time of calls that looking may take.
SHARE = 0.018
#: Within so many calls everything is read, whatever that costs.
MAX_CALLS = 4096
#: Bytes of which one digest is kept.
CHUNK = 32 << 10


def view_of(span: Span) -> memoryview:
    """Memory as bytes. Whoever asks keeps it alive, and reads only while it is there."""
    return memoryview((ctypes.c_char * (span[1] - span[0])).from_address(span[0])).cast("B")


class Rotation:
    """Digests of some memory as it was.

    Args:
        spans: the memory.
    """

    def __init__(self, spans: Sequence[Span]) -> None:
        self._chunks = [(start, min(start + CHUNK, end)) for low, end in spans for start in range(low, end, CHUNK)]
        begun = time.perf_counter()
        self._digests = [zlib.crc32(view_of(chunk)) for chunk in self._chunks]
        self._chunk_s = (time.perf_counter() - begun) / max(len(self._chunks), 1)
        self._floor = len(self._chunks) / MAX_CALLS
        self._next, self._due, self._credit_s = 0, 0.0, 0.0
        self._changed = False

    @property
    def any(self) -> bool:
        """Whether there is anything to read."""
        return bool(self._chunks)

    def spent(self, seconds: float) -> None:
        """A call took so long: a share of that may be used."""
        self._credit_s = min(self._credit_s + SHARE * seconds, self._chunk_s * len(self._chunks))

    def unchanged(self, taken: float = 0.0) -> bool:
        """Read the next part. False once some part was not as it was.

        Args:
            taken: seconds that the rest of this look has taken.
        """
        if self._changed or not self._chunks:
            return not self._changed
        self._credit_s = max(self._credit_s - taken, 0.0)
        self._due += self._floor
        count = max(int(self._due), int(self._credit_s / self._chunk_s))
        if not count:
            return True
        begun = time.perf_counter()
        for _ in range(min(count, len(self._chunks))):
            place = self._next % len(self._chunks)  # two threads may read the same: no harm
            self._next = place + 1
            if zlib.crc32(view_of(self._chunks[place])) != self._digests[place]:
                self._changed = True
                return False
        reading = time.perf_counter() - begun
        self._due = max(self._due - count, 0.0)
        self._credit_s = max(self._credit_s - reading, 0.0)
        self._chunk_s += 0.2 * (reading / count - self._chunk_s)
        return True
