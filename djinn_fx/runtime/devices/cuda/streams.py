"""A CUDA device's thread and its two streams: one computes, one copies. Shared by all graphs that use the device."""

from __future__ import annotations

import weakref

from djinn_fx.runtime.devices.cuda.driver import Driver
from djinn_fx.runtime.devices.thread import DeviceThread
from djinn_fx.runtime.devices.wear import wear_name
from djinn_fx.settings.devices import CudaDevice
from djinn_fx.threads import new_lock


class DeviceStreams:
    """One device.

    Args:
        device: which.
        driver: through which it is reached.

    Attributes:
        name: such as ``"cuda:1"``.
        index: torch's number.
        compute: the stream that regions run on.
        copy: the stream that values arrive on and leave by, while others are computed.
        thread: gives the streams their work.
    """

    def __init__(self, device: CudaDevice, driver: Driver) -> None:
        self.name, self.index, self.driver = device.name, device.index, driver
        self.compute, self.copy = driver.new_stream(device.index), driver.new_stream(device.index)

        def begin() -> None:
            wear_name(device)
            driver.use(device.index)

        self.thread = DeviceThread(f"djinn {device.name}", begin)


_KNOWN: weakref.WeakValueDictionary[tuple[str, int], DeviceStreams] = weakref.WeakValueDictionary()
_LOCK = new_lock()


def streams_of(device: CudaDevice, driver: Driver) -> DeviceStreams:
    """A device's streams; they live for as long as somebody holds this object."""
    with _LOCK:
        known = _KNOWN.get((device.name, id(driver)))
        if known is None or known.thread.lost:
            known = _KNOWN[device.name, id(driver)] = DeviceStreams(device, driver)
        return known
