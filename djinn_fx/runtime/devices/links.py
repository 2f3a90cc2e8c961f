"""A link that was declared between two devices: what goes over it is copied, and comes as late as it would."""

from __future__ import annotations

import time
from collections.abc import Callable

from djinn_fx.runtime.devices.thread import DeviceThread, Job
from djinn_fx.settings.devices import DeclaredLink
from djinn_fx.threads import new_lock


class Bucket:
    """When what goes over a link arrives: one after the other at its bandwidth, each later by its latency.

    Args:
        link: its figures.
        clock: seconds, ever growing.
    """

    def __init__(self, link: DeclaredLink, clock: Callable[[], float] = time.perf_counter) -> None:
        self._link, self._clock = link, clock
        self._free = 0.0
        self._lock = new_lock()

    def book(self, nbytes: int) -> float:
        """Send so many bytes now; the time at which the last of them has arrived."""
        with self._lock:
            self._free = max(self._clock(), self._free) + nbytes / self._link.bandwidth_bytes_s
            return self._free + self._link.latency_s

    def wait(self, until: float) -> None:
        """Sleep until a time."""
        left = until - self._clock()
        if left > 0:
            time.sleep(left)


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
