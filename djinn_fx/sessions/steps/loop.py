"""The thread that makes steps: there while there is something to do, asleep until somebody rings."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from djinn_fx.errors import DjinnError
from djinn_fx.threads import ENDING, new_lock, start_thread

#: The longest sleep: the interpreter's end is noticed by then.
_NAP_S = 0.1
#: How long the thread stays with nothing to do: to start one takes longer than a ring may.
_LINGER_S = 2.0


class Loop:
    """Calls a function for as long as it has something to do.

    Args:
        step: does one piece of work; whether there was one.
        rest: seconds to sleep when there was none; None to end the thread until the next ring.
    """

    def __init__(self, step: Callable[[], bool], rest: Callable[[], float | None]) -> None:
        self._step, self._rest = step, rest
        self._bell = threading.Event()
        self._lock = new_lock()
        self._thread: Any = None

    def ring(self, soon: bool = True) -> None:
        """There may be something to do. Takes microseconds where the thread is there.

        Args:
            soon: wake it; else it looks when its nap is over.

        Raises:
            DjinnError: it is not, and none can be started.
        """
        if soon:
            self._bell.set()
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is None:
                self._thread = start_thread(self._serve, "djinn sessions")
                if self._thread is None:
                    raise DjinnError("no thread can be started: the interpreter ends, or there are too many")

    def forked(self) -> None:
        """In a forked process: the thread is not there."""
        self._thread = None
        self._bell = threading.Event()

    def _serve(self) -> None:
        idle_since: float | None = None
        while not ENDING.is_set():
            self._bell.clear()
            if self._step():
                idle_since = None
                continue
            seconds, now = self._rest(), time.monotonic()
            idle_since = None if seconds is not None else now if idle_since is None else idle_since
            if idle_since is None or now - idle_since < _LINGER_S:
                self._bell.wait(_NAP_S if seconds is None else min(_NAP_S, seconds))
                continue
            with self._lock:
                self._thread = None
                # Who rang between the last look and now has seen a thread, and started none.
                if not self._bell.is_set() and self._rest() is None:
                    return
                self._thread = threading.current_thread()
