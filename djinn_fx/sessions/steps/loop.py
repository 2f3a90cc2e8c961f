"""The thread that makes steps: there while there is something to do, asleep until somebody rings."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from djinn_fx.errors import DjinnError
from djinn_fx.threads import ENDING, new_lock, start_thread

#: The longest sleep: the interpreter's end is noticed by then.
_NAP_S = 0.1


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

    def ring(self) -> None:
        """There may be something to do. Takes microseconds where the thread is there.

        Raises:
            DjinnError: it is not, and none can be started.
        """
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
        while not ENDING.is_set():
            self._bell.clear()
            if self._step():
                continue
            seconds = self._rest()
            if seconds is not None:
                self._bell.wait(min(_NAP_S, seconds))
                continue
            with self._lock:
                self._thread = None
                # Who rang between the last look and now has seen a thread, and started none.
                if not self._bell.is_set():
                    return
                self._thread = threading.current_thread()
