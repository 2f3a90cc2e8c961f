"""What makes a thread a device's: its processors, and how many threads torch's kernels use in it.

``torch.set_num_threads`` counts for the thread that calls it and for every one that is started later, which would take
a device's count for the user's. So another thread puts the count for later threads back each time.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

import torch

from djinn_fx.settings.devices import CudaDevice, LocalDevice
from djinn_fx.threads import inherit

_local = threading.local()


def count_of_later_threads() -> int:
    """How many threads torch's kernels use in a thread that is started now."""
    found: list[int] = []
    _elsewhere(lambda: found.append(torch.get_num_threads()))
    return found[0]


def use_threads(count: int) -> None:
    """Have torch's kernels use so many threads in this thread; in those started later as many as before."""
    if count == torch.get_num_threads():
        return
    later = count_of_later_threads()
    torch.set_num_threads(count)
    _elsewhere(lambda: torch.set_num_threads(later))


@contextlib.contextmanager
def with_threads(count: int) -> Iterator[None]:
    """As :func:`use_threads`, for as long as this lasts."""
    before = torch.get_num_threads()
    use_threads(count)
    try:
        yield
    finally:
        use_threads(before)


def wear(device: LocalDevice) -> None:
    """Make this thread a device's, for good; where its processors were taken away, one that may run anywhere."""
    _local.device, _local.before = device, None
    if hasattr(os, "sched_setaffinity"):
        _local.before = os.sched_getaffinity(0)
        with contextlib.suppress(OSError):  # :func:`at_home` tells
            os.sched_setaffinity(0, device.cores)
    use_threads(len(device.cores))


def wear_name(device: CudaDevice) -> None:
    """Make this thread a CUDA device's, for good; processors are left as they are."""
    _local.device, _local.before = device, None


def at_home(device: LocalDevice) -> bool:
    """Whether this thread, which is the device's, is on the device's processors alone, or on those that are left.

    A thread whose processors are all taken away (from its container, say) is put on others by the operating system.
    """
    return not hasattr(os, "sched_getaffinity") or os.sched_getaffinity(0).issubset(device.cores)


def is_there(device: LocalDevice) -> bool:
    """Whether this process may use the device's processors now, or some of them: a thread of its own tries."""
    found: list[bool] = []

    def tries() -> None:
        with contextlib.suppress(OSError):
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(0, device.cores)
            found.append(True)

    _elsewhere(tries)
    return bool(found)


def worn() -> LocalDevice | CudaDevice | None:
    """The device whose thread this is, if it is one."""
    return getattr(_local, "device", None)


def _elsewhere(work: Callable[[], None]) -> None:
    """Do something in a thread of its own. A plain thread: it is over before anybody could end or fork it."""
    thread = threading.Thread(target=work, name="djinn-threads")
    thread.start()
    thread.join()


def _inherited(serves: bool) -> Callable[[], None] | None:
    """For threads that a device's thread starts: those that serve it are its too, the others may run anywhere."""
    device, before = worn(), getattr(_local, "before", None)
    if not isinstance(device, LocalDevice):
        return None
    if serves:
        return lambda: wear(device)
    return (lambda: os.sched_setaffinity(0, before)) if before is not None else None


inherit(_inherited)
