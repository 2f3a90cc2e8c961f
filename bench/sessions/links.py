"""One direction of a link on a virtual clock: a transfer at a time, which a more urgent one interrupts."""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass
from typing import Any

#: What counts as over: a double of 1e5 seconds times 50 GB/s is not finer than half a byte.
EPSILON_BYTES = 16.0


@dataclass(slots=True, eq=False)
class Transfer:
    """Bytes on their way.

    Attributes:
        owner: whose.
        nbytes: how many in all.
        left: how many are still to come.
        urgent: somebody waits for it.
        barrier: an instant before which it cannot be over, whatever the link does.
        version: of its place in the queue; a place of an older one does not count. Below 0: taken back.
    """

    owner: Any
    nbytes: int
    left: float
    urgent: bool
    barrier: float = 0.0
    version: int = 0


class Link:
    """A queue of transfers.

    Attributes:
        bytes_per_s: its rate.
        carried: bytes that went over it.
        busy: seconds for which it had something to do.
    """

    def __init__(self, bytes_per_s: float) -> None:
        self.bytes_per_s = bytes_per_s
        self.carried = 0.0
        self.busy = 0.0
        self._queue: list[tuple[tuple[float, ...], int, int, Transfer]] = []
        self._numbers = itertools.count()
        self._clock = 0.0
        self._waiting = 0.0

    def push(self, transfer: Transfer, order: tuple[float, ...], now: float) -> None:
        """Queue a transfer, or give one that is queued another place. Advance to ``now`` first."""
        if transfer.version == 0:
            self._waiting += transfer.left
        transfer.version += 1
        heapq.heappush(self._queue, (order, next(self._numbers), transfer.version, transfer))

    def take_back(self, transfer: Transfer, now: float) -> int:
        """End a transfer before it is done. Returns the whole bytes that came over; advance to ``now`` first."""
        self._waiting -= transfer.left
        transfer.version = -1
        return transfer.nbytes - math.ceil(transfer.left - EPSILON_BYTES)

    def advance(self, now: float) -> list[Transfer]:
        """Go on to an instant. Returns what is over, in order."""
        done = []
        while (top := self._top()) is not None:
            spent = now - self._clock
            could = spent * self.bytes_per_s
            if top.left > could + EPSILON_BYTES:
                if could > 0:
                    top.left -= could
                    self._count(could, spent)
                break
            self._count(top.left, top.left / self.bytes_per_s)
            self._clock += top.left / self.bytes_per_s
            top.left = 0.0
            top.version = -1
            heapq.heappop(self._queue)
            done.append(top)
        self._clock = now
        return done

    def next_done(self) -> float:
        """When the next transfer is over if no other comes; infinity if there is none."""
        top = self._top()
        return math.inf if top is None else self._clock + top.left / self.bytes_per_s

    def backlog_s(self, now: float) -> float:
        """Seconds for all that is queued, as of the last instant it was advanced to."""
        return max(0.0, self._waiting / self.bytes_per_s - (now - self._clock))

    def _count(self, nbytes: float, seconds: float) -> None:
        self.carried += nbytes
        self._waiting = max(0.0, self._waiting - nbytes)
        self.busy += seconds

    def _top(self) -> Transfer | None:
        while self._queue:
            _, _, version, transfer = self._queue[0]
            if version == transfer.version:
                return transfer
            heapq.heappop(self._queue)
        return None
