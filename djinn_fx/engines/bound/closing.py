"""Sessions that nobody wants any more, closed in a thread of their own.

Closing a session with copies of weights takes as long as a call, and what it frees stays with the C library until that
is told to give it back, which takes as long again. So neither is done where a session is let go of: that may be in a
call, or in the middle of any line (garbage collection). Memory is given back once for all that go at about the same
time, and with it the pages of weights that lie in files (``filed.py``): who reads them brings them back. So
do pages of the runtimes' code: opening reads ten times as much of it as answering. The next call brings back those that
it needs, which takes it as long again, so they stay where nothing was opened.
"""

from __future__ import annotations

import queue
import threading
from typing import Any

from djinn_fx import freed
from djinn_fx.engines.bound import filed
from djinn_fx.pool import procfs
from djinn_fx.threads import ENDING, at_end, new_lock, start_thread, tell_of_fork

#: Those that follow within so many seconds are of the same batch.
BATCH_S = 0.2
#: So long after the last, memory and pages are given back once more: what was under way, such as a comparison or the
#: opening of an engine that was beaten meanwhile, has let go of its memory since, or has read those pages.
AGAIN_S = 5.0

#: In the place of a tuple of sessions.
_ONLY_MEMORY = object()
#: Folders of libraries that open sessions.
LIBRARIES: set[str] = set()


class Closer:
    """See the module's text.

    Attributes:
        abandoned: what was to be closed in a parent process: its threads are not in this one.
    """

    def __init__(self) -> None:
        self.abandoned: list[object] = []
        self._begin()
        tell_of_fork(self)

    def _begin(self) -> None:
        #: A SimpleQueue may be used in the middle of anything; starting a thread may not.
        self._gone: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = new_lock()

    def start(self) -> None:
        """Have the thread there, before there is anything to let go of."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                gone = self._gone
                at_end(lambda: gone.put(()))
                self._thread = start_thread(lambda: _close(gone), "djinn lets go")

    def let_go(self, *sessions: object) -> None:
        """Drop these, soon, and have the freed memory given back. May be called in the middle of anything.

        With none: have given back what somebody who opened something has freed, and the code that this read.
        """
        self._gone.put(sessions)

    def freed(self) -> None:
        """Have given back what somebody else has freed who opened nothing."""
        self._gone.put(_ONLY_MEMORY)

    def wait(self) -> None:
        """Until all that was let go of is closed, and its memory given back."""
        self.start()
        if self._thread is not None:
            done = threading.Event()
            self._gone.put(done)
            done.wait()

    def after_fork(self) -> None:
        """In a forked process: whoever was closing sessions is not there."""
        self.abandoned.append(self._gone)
        self._begin()


def _close(gone: queue.SimpleQueue[Any]) -> None:
    patience: float | None = None
    code = False
    while not ENDING.is_set():
        try:
            first = [gone.get(timeout=patience)]
        except queue.Empty:
            _give_back(code)
            patience, code = None, False
            continue
        waiting, opened = _batch(first, gone)
        code = code or opened
        if not ENDING.is_set():
            _give_back(opened)
            patience = AGAIN_S
        for one in waiting:
            one.set()


def _give_back(code: bool) -> None:
    procfs.give_back()
    freed.give_back_idle()
    if code:
        procfs.give_back_code(LIBRARIES)
    filed.page_out()


def _batch(first: list[Any], gone: queue.SimpleQueue[Any]) -> tuple[list[threading.Event], bool]:
    """Drop what is first, which nobody else may hold, and all that follows soon.

    Returns:
        Who waits for that, and whether sessions were opened or let go of.
    """
    waiting, opened = [], False
    item = first.pop()
    while item is not None:
        opened = opened or isinstance(item, tuple)
        if isinstance(item, threading.Event):
            waiting.append(item)
        item = None  # this closes it
        if ENDING.is_set():
            break
        try:
            item = gone.get(timeout=0.0 if waiting else BATCH_S)
        except queue.Empty:
            break
    return waiting, opened


#: The one of this process.
CLOSER = Closer()
