"""Waiting in tests for what other threads and processes do: patient, since the machine may be busy."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Seconds nothing here takes unless it is stuck.
LONG = 60.0


def until(true: Callable[[], bool]) -> bool:
    """Whether it becomes true in time."""
    end = time.monotonic() + LONG
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
