"""Many batches through a model that is spread over devices: each device is at work on another one.

Calls go through the compiled model as any call does, a few at once in threads of their own; their order on a device
follows from that. So it works with graph breaks too, and with a model on one device it is no faster and no wronger.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from djinn_fx.runtime.devices.cuda.beside import Beside, Home, last_call
from djinn_fx.runtime.devices.modes import Modes, carried, intercepted, modes
from djinn_fx.runtime.devices.thread import DeviceThread
from djinn_fx.runtime.devices.wear import use_threads


def pipeline(model: Callable[..., Any], batches: Iterable[Any], *, ahead: int = 4) -> Iterator[Any]:
    """A model's results for batches, in their order; several are under way at once.

    The first is computed alone, so that what must be compiled is compiled once. Grad mode, inference mode and autocast
    are those of whoever asks for the first result.

    Args:
        model: what ``torch.compile`` returned, with ``devices`` and ``objective: throughput``.
        batches: each a tensor, a tuple of arguments or a dictionary of keyword arguments. Read as they are needed.
        ahead: how many batches are under way at once; more than there are devices hides the handing over.

    Raises:
        Exception: what a call raised, when its result is asked for.
    """
    source = iter(batches)
    last_call()
    home: Home | None = None
    for batch in source:
        first = _called(model, batch)
        home = last_call()
        yield first
        del first
        break
    if ahead < 2 or intercepted():  # a Python mode sees the ops of this thread alone
        for batch in source:
            yield _called(model, batch)
        return
    count, caller = torch.get_num_threads(), modes()
    workers = deque(DeviceThread(f"djinn pipeline {n}", lambda: use_threads(count)) for n in range(ahead))
    waiting: deque[_Result] = deque()
    for batch in source:
        if len(waiting) == ahead:
            yield waiting.popleft().wait()
        waiting.append(_Result(workers[0], model, batch, caller, home))
        workers.rotate(-1)
    while waiting:
        yield waiting.popleft().wait()


def _called(model: Callable[..., Any], batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple) else model(batch)


class _Result:
    """A call under way in a worker, or done here if there is none any more."""

    def __init__(
        self, worker: DeviceThread, model: Callable[..., Any], batch: Any, caller: Modes, home: Home | None
    ) -> None:
        beside = self._beside = Beside(home, batch) if home is not None else None
        self._value: Any = None
        self._error: BaseException | None = None
        self._over = threading.Lock()
        self._over.acquire()

        def work() -> None:
            try:
                with carried(caller):
                    if beside is None:
                        self._value = _called(model, batch)
                    else:
                        self._value = beside.run(lambda: _called(model, batch))
            except BaseException as error:  # noqa: BLE001  (raised again where the result is asked for)
                self._error = error
            finally:
                self._over.release()

        if not worker.submit(work):
            work()

    def wait(self) -> Any:
        with self._over:
            if self._error is not None:
                raise self._error
            if self._beside is not None:
                self._beside.hand_over(self._value)
            return self._value
