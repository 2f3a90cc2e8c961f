"""A link that was declared between two devices: what goes over it is copied, and comes as late as it would."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from djinn_fx.runtime.devices.thread import DeviceThread, Job
from djinn_fx.settings.devices import DeclaredLink
from djinn_fx.threads import new_lock

#: What a sleeping thread may be late.
_LATE_S = 250e-6


class Bucket:
    """When what goes over a link arrives: one after the other at its bandwidth, each later by its latency.

    A token bucket: in any time no more than ``burst_bytes`` and what the bandwidth lets through goes over it.

    Args:
        link: its figures.
        burst_bytes: that a link which was idle for long enough lets through at once.
        clock: seconds, ever growing.
        sleep: lets so many seconds pass.
    """

    def __init__(
        self,
        link: DeclaredLink,
        *,
        burst_bytes: int = 0,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._link, self._clock, self._sleep = link, clock, sleep
        self._ahead = burst_bytes / link.bandwidth_bytes_s
        #: When what was sent so far is over, at the link's bandwidth from a time on at which it was idle.
        self._free = -math.inf
        self._lock = new_lock()

    @property
    def bandwidth_bytes_s(self) -> float:
        """Bytes per second."""
        return self._link.bandwidth_bytes_s

    def book(self, nbytes: int) -> float:
        """Send so many bytes now; the time at which the last of them has arrived."""
        with self._lock:
            now = self._clock()
            self._free = max(now - self._ahead, self._free) + nbytes / self._link.bandwidth_bytes_s
            return max(now, self._free) + self._link.latency_s

    def wait(self, until: float) -> None:
        """Sleep until a time: no shorter, and no longer than a thread takes that is awake."""
        while (left := until - self._clock()) > 0:
            # A sleep ends some tenths of a millisecond late: the rest is waited for awake.
            self._sleep(left - _LATE_S if left > 2 * _LATE_S else 0.0)


class LinkThread(DeviceThread):
    """One direction of a link: a thread that makes the copies, and is late.

    Args:
        name: of the thread.
        link: its figures.
    """

    def __init__(self, name: str, link: DeclaredLink) -> None:
        super().__init__(name)
        self._bucket = Bucket(link)

    def submit_move(self, job: Job, nbytes: int) -> bool:
        """Have something done once so many bytes have arrived, which are sent now."""
        bucket, due = self._bucket, self._bucket.book(nbytes)

        def late() -> None:
            bucket.wait(due)
            job()

        return self.submit(late)
