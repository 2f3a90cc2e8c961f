"""How fast pages may go: a real link is as fast as it is, one that stands for another is declared."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from djinn_fx.errors import SettingsError
from djinn_fx.threads import new_lock


@dataclass
class Link:
    """A token bucket for one direction: what is sent waits until so many bytes may have passed.

    Attributes:
        bytes_per_s: the rate; None for as fast as memory is.
        latency_s: added once to each transfer.
        clock, sleep: the time and how one waits; handed in by tests.
    """

    bytes_per_s: float | None = None
    latency_s: float = 0.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _open_at: float = field(default=-math.inf, repr=False)

    def __post_init__(self) -> None:
        if self.bytes_per_s is not None and not (math.isfinite(self.bytes_per_s) and self.bytes_per_s > 0):
            raise SettingsError(f"a link of {self.bytes_per_s} bytes a second carries nothing: give a positive rate")
        if not (math.isfinite(self.latency_s) and self.latency_s >= 0):
            raise SettingsError(f"a link's latency is a time of at least zero, not {self.latency_s}")
        self._lock = new_lock()

    def carry(self, size: int) -> None:
        """Wait until the bytes would have arrived. Transfers of several threads wait for each other."""
        if self.bytes_per_s is None:
            return
        with self._lock:
            now = self.clock()
            self._open_at = max(now, self._open_at) + self.latency_s + size / self.bytes_per_s
            wait = self._open_at - now
        if wait > 0:
            self.sleep(wait)
