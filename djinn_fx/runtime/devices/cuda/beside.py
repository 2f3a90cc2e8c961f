"""A call on a stream of its own, beside others of its thread's caller: what a pipeline of batches makes.

On the caller's stream a call would begin when the one before it is over, as that stream waits for its results.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.utils import _pytree as pytree

from djinn_fx.runtime.devices.cuda.driver import Driver


@dataclass(frozen=True)
class Home:
    """The device of the tensors of a graph that is spread over CUDA devices."""

    driver: Driver
    index: int


_local = threading.local()


def note_call(home: Home) -> None:
    """A graph was called in this thread that is spread over CUDA devices."""
    _local.home = home


def last_call() -> Home | None:
    """The home of the last such graph that this thread called since it was last asked."""
    home, _local.home = getattr(_local, "home", None), None
    return home


class Beside:
    """One call. Made in the caller's thread.

    Args:
        home: the device that the batch is on.
        batch: its arguments.
    """

    def __init__(self, home: Home, batch: Any) -> None:
        self._home, self._batch = home, batch
        self._ready, self._done = home.driver.new_event(), home.driver.new_event()
        self._ready.record(home.driver.current_stream(home.index))

    def run(self, call: Callable[[], Any]) -> Any:
        """Make it, in whichever thread; what it gives is there once :meth:`hand_over` was called."""
        driver = self._home.driver
        stream = driver.new_stream(self._home.index)
        with driver.on(stream):
            stream.wait_event(self._ready)
            for one in pytree.tree_leaves(self._batch):
                driver.keep(one, stream)
            try:
                return call()
            finally:
                self._done.record(stream)

    def hand_over(self, value: Any) -> None:
        """In the caller's thread: its stream waits for the call, and has what it gave."""
        driver = self._home.driver
        stream = driver.current_stream(self._home.index)
        stream.wait_event(self._done)
        for one in pytree.tree_leaves(value):
            driver.keep(one, stream)
