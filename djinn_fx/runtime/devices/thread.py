"""A device's thread: long-lived, shared by all compiled models that use the device, over when none of them is left."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from queue import SimpleQueue

from djinn_fx.runtime.devices.wear import wear
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
    """

    def __init__(self, name: str, begin: Job = lambda: None) -> None:
        self.name, self._begin = name, begin
        self._lock = new_lock()
        self._inbox: _Inbox = SimpleQueue()
        self._started = False
        _ALL.add(self)
        tell_of_fork(self)

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
                inbox, begin = self._inbox, self._begin
                self._started = start_thread(lambda: _work(inbox, begin), self.name) is not None
            return self._started

    def stop(self) -> None:
        """Let the thread end when it has done what it was given."""
        self._inbox.put(None)

    def after_fork(self) -> None:
        """In a child process: the thread is not there, and what it was given belongs to the parent."""
        self._inbox, self._started = SimpleQueue(), False

    def __del__(self) -> None:
        self.stop()


def _work(inbox: _Inbox, begin: Job) -> None:
    """The thread. It knows the inbox alone, so that the device can be dropped."""
    begin()
    while True:
        job = inbox.get()
        if job is None:
            return
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
        if known is None:
            known = _KNOWN[device.name, device.cores] = DeviceThread(f"djinn {device.name}", lambda: wear(device))
        return known


def _stop_all() -> None:
    for thread in list(_ALL):
        thread.stop()


at_end(_stop_all)
