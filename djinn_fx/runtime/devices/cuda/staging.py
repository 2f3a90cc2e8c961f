"""Pinned memory of the host that values pass through where no peer path exists: a few pieces, used again and again."""

from __future__ import annotations

from typing import Any

import torch

from djinn_fx.runtime.devices.cuda.driver import Driver
from djinn_fx.threads import new_lock

#: Pieces that are kept. Of more, the smallest goes: torch's allocator leaves it alone for as long as it is read.
MOST_PIECES = 8


class Staging:
    """Lends pinned memory.

    Args:
        driver: allocates it.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._free: list[tuple[torch.Tensor, Any]] = []
        self._lock = new_lock()

    def take(self, nbytes: int) -> torch.Tensor:
        """Memory of at least so many bytes that no stream reads or writes any more."""
        with self._lock:
            fits = [
                place
                for place, (piece, read) in enumerate(self._free)
                if piece.numel() >= nbytes and read.query()  # else a stream has yet to read it
            ]
            if fits:
                return self._free.pop(min(fits, key=lambda place: self._free[place][0].numel()))[0]
        return self._driver.pinned(max(nbytes, 1))

    def give(self, piece: torch.Tensor, read: Any) -> None:
        """Give memory back; it is lent again once this event has happened."""
        with self._lock:
            self._free.append((piece, read))
            if len(self._free) > MOST_PIECES:
                self._free.remove(min(self._free, key=lambda one: one[0].numel()))
