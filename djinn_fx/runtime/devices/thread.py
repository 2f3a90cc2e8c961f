"""A device's thread: long-lived, shared by all compiled models that use the device, over when none of them is left."""

from __future__ import annotations

import functools
import logging
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue

from djinn_fx.runtime.devices.wear import at_home, wear
from djinn_fx.settings.devices import LocalDevice
from djinn_fx.threads import ENDING, at_end, new_lock, start_thread, tell_of_fork

log = logging.getLogger("djinn_fx.runtime.devices")

#: What a device's thread is given to do; it raises nothing.
Job = Callable[[], None]
_Inbox = SimpleQueue[Job | None]


class DeviceThread:
    """Does what it is given, one after the other.

    Args:
        name: of the thread.
        begin: done by the thread before anything else.
        at_home: asked in the thread before each job whether it still runs where it is to.
    """

    def __init__(self, name: str, begin: Job = lambda: None, at_home: Callable[[], bool] = lambda: True) -> None:
        self.name, self._begin, self._at_home = name, begin, at_home
        self._lock = new_lock()
        self._inbox: _Inbox = SimpleQueue()
        self._started = False
        self._lost = threading.Event()
        _ALL.add(self)
        tell_of_fork(self)

    def is_lost(self) -> bool:
        """Whether its device is no more: the thread does what it is given, but elsewhere. Starts the thread."""
        return self._lost.is_set() if self._started or self._start() else False

    @property
    def lost(self) -> bool:
        """The same of a thread that may not have begun."""
        return self._lost.is_set()

    def lose(self) -> None:
        """Note that the device is no more."""
        self._lost.set()

    def submit(self, job: Job) -> bool:
        """Have something done. False if there is no thread any more: the interpreter ends."""
        if not self._started and not self._start():
            return False
        if ENDING.is_set():
            return False
        self._inbox.put(job)
        return True

    def _start(self) -> bool:
        with self._lock:
            if not self._started:
                inbox, begin, at_home, lost = self._inbox, self._begin, self._at_home, self._lost
                begun = threading.Event()
                work = functools.partial(_work, inbox, begin, at_home, lost, begun)
                if start_thread(work, self.name) is None:
                    return False
                while not begun.wait(0.1):  # who asks whether the device is lost is to know it then
                    if ENDING.is_set():
                        return False
                self._started = True
            return True

    def stop(self) -> None:
        """Let the thread end when it has done what it was given."""
        self._inbox.put(None)

    def after_fork(self) -> None:
        """In a child process: the thread is not there, and what it was given belongs to the parent."""
        self._inbox, self._started, self._lost = SimpleQueue(), False, threading.Event()

    def __del__(self) -> None:
        self.stop()


def _work(
    inbox: _Inbox, begin: Job, at_home: Callable[[], bool], lost: threading.Event, begun: threading.Event
) -> None:
    """The thread. It does not know the object, so that the device can be dropped."""
    begin()
    if not at_home():
        lost.set()
    begun.set()
    while True:
        job = inbox.get()
        if job is None:
            return
        if not at_home():
            lost.set()
        try:
            job()
        except BaseException:  # a job tells its own errors; what it overlooks must not end the device
            log.exception("a device's thread goes on")
        del job  # while it waits it holds nothing


_ALL: weakref.WeakSet[DeviceThread] = weakref.WeakSet()
_KNOWN: weakref.WeakValueDictionary[tuple[str, tuple[int, ...]], DeviceThread] = weakref.WeakValueDictionary()
_LOCK = new_lock()


def thread_of(device: LocalDevice) -> DeviceThread:
    """The thread of a device; it lives for as long as somebody holds this object."""
    with _LOCK:
        known = _KNOWN.get((device.name, device.cores))
        if known is None or known.lost:  # the device may be back
            known = DeviceThread(f"djinn {device.name}", lambda: wear(device), lambda: at_home(device))
            _KNOWN[device.name, device.cores] = known
        return known


def _stop_all() -> None:
    for thread in list(_ALL):
        thread.stop()


at_end(_stop_all)
