"""A device that decodes many turns at once and prefills one beside them, on a virtual clock.

Between two events nothing changes what an iteration holds, so that iterations are counted, not played.
"""

from __future__ import annotations

import heapq
import itertools
import math
from typing import Any

from bench.sessions.law import Law


class Compute:
    """Prefills, of which the one with the least left goes first, and decodes.

    Which prefill's chunk the next iteration holds is free to choose; first come, first served would let one prompt of a
    million tokens hold up everybody for minutes, and hide what memory does behind it.

    Attributes:
        busy: seconds in which it had something to do.
    """

    def __init__(self, law: Law) -> None:
        self.busy = 0.0
        self._law = law
        self._clock = 0.0
        self._prefills: list[tuple[float, int, Any]] = []
        self._current: Any = None
        self._left = 0.0
        self._decodes: list[tuple[float, int, int, Any]] = []
        self._iterations = 0.0
        self._bytes = 0
        self._numbers = itertools.count()

    def prefill(self, owner: Any, seconds: float) -> None:
        """Queue a prefill of so many seconds of work. Advance first."""
        if self._current is not None and seconds < self._left:
            heapq.heappush(self._prefills, (self._left, next(self._numbers), self._current))
            self._current = None
        heapq.heappush(self._prefills, (seconds, next(self._numbers), owner))
        self._next_prefill()

    def decode(self, owner: Any, tokens: int, nbytes: int) -> None:
        """Begin to decode so many tokens over so many bytes. Advance first."""
        heapq.heappush(self._decodes, (self._iterations + tokens, next(self._numbers), nbytes, owner))
        self._bytes += nbytes

    @property
    def prefilling(self) -> Any:
        """Whose prefill is under way; None if there is none."""
        return self._current

    def _next_prefill(self) -> None:
        if self._current is None and self._prefills:
            self._left, _, self._current = heapq.heappop(self._prefills)

    def _rates(self) -> tuple[float, float]:
        """Seconds of prefill done in a second, and iterations in a second."""
        decode = self._law.iteration_s(len(self._decodes), self._bytes)
        if self._current is None:
            return 0.0, 1 / decode if decode else 0.0
        whole = decode + self._law.chunk_s
        return self._law.chunk_s / whole, 1 / whole

    def next_done(self) -> float:
        """When something is over if nothing comes; infinity if nothing is under way."""
        share, pace = self._rates()
        prefill = self._left / share if self._current is not None else math.inf
        decode = (self._decodes[0][0] - self._iterations) / pace if self._decodes else math.inf
        return self._clock + max(0.0, min(prefill, decode))

    def advance(self, now: float) -> tuple[list[Any], list[Any]]:
        """Go on to an instant, at most to the next end. Returns whose prefill is over, and whose decoding."""
        spent = now - self._clock
        self._clock = now
        share, pace = self._rates()
        if spent > 0 and (self._current is not None or self._decodes):
            self.busy += spent
            self._left -= share * spent
            self._iterations += pace * spent if self._decodes else 0.0
        prefilled, decoded = [], []
        if self._current is not None and self._left <= 1e-9:
            prefilled.append(self._current)
            self._current = None
            self._next_prefill()
        while self._decodes and self._decodes[0][0] <= self._iterations + 1e-6:
            _, _, nbytes, owner = heapq.heappop(self._decodes)
            self._bytes -= nbytes
            decoded.append(owner)
        return prefilled, decoded
