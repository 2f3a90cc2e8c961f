"""Engines of a contest that are being made ready in threads, each by one at a time."""

from __future__ import annotations

from collections.abc import Callable

from djinn_fx.dispatch.contests.entrant import Entrant, Standing
from djinn_fx.dispatch.lazy import CHANGED
from djinn_fx.threads import new_lock, start_thread, tell_of_fork


class Preparations:
    """See the module's text."""

    def __init__(self) -> None:
        #: How those stood that are being made ready.
        self._before: dict[Entrant, Standing] = {}
        self._lock = new_lock()
        tell_of_fork(self)

    def __bool__(self) -> bool:
        return bool(self._before)

    def begin(self, entrant: Entrant, work: Callable[[], None]) -> None:
        """Have an engine made ready by some work, unless somebody is at it. It stands as before when that is done."""
        with self._lock:
            if entrant.standing in (Standing.PREPARING, Standing.OUT):
                return
            self._before[entrant], entrant.standing = entrant.standing, Standing.PREPARING

        def prepare() -> None:
            try:
                work()
            finally:
                self._end(entrant)

        if start_thread(prepare, f"djinn prepares {entrant.engine}") is None:
            self._end(entrant)

    def _end(self, entrant: Entrant) -> None:
        with CHANGED:
            before = self._before.pop(entrant, Standing.TRIAL)
            if entrant.standing is Standing.PREPARING:  # it is not out
                entrant.standing = before
            CHANGED.notify_all()

    def after_fork(self) -> None:
        """In a forked process: whoever was making an engine ready is not there. A later call begins anew."""
        for entrant, before in self._before.items():
            if entrant.standing is Standing.PREPARING:
                entrant.standing = before
        self._before.clear()
