"""A graph over devices that outlives them: before a call it is looked whether they are all there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from djinn_fx.engines.base import RegionCallable
from djinn_fx.runtime.devices.modes import intercepted
from djinn_fx.runtime.devices.thread import DeviceThread
from djinn_fx.runtime.devices.wear import worn
from djinn_fx.threads import new_rlock


@dataclass(frozen=True, kw_only=True)
class Settled:
    """A graph on its devices.

    Attributes:
        run: over the devices.
        alone: in the thread that calls.
        threads: of the devices, by name.
    """

    run: RegionCallable
    alone: RegionCallable
    threads: Mapping[str, DeviceThread]


class Moving:
    """A graph's callable that is planned anew without the devices that are lost. A ``RegionCallable``.

    Where none is left it runs in the thread that calls.

    Args:
        settled: the graph on its devices.
        without: gives it on others than these; None if there are no others.
    """

    def __init__(self, settled: Settled, without: Callable[[frozenset[str]], Settled | None]) -> None:
        self._settled, self._without = settled, without
        self._lock = new_rlock()

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        """Run the graph; empties the list.

        Raises:
            DeviceLostError: a region found its device lost while it ran; the next call does without the device.
        """
        settled = self._settled
        for thread in settled.threads.values():
            if thread.is_lost() and worn() is None and not intercepted():
                settled = self._moved()
                break
        return settled.run(args)

    def _moved(self) -> Settled:
        with self._lock:
            lost = frozenset(name for name, thread in self._settled.threads.items() if thread.lost)
            if lost:  # else another thread was here first
                found, alone = self._without(lost), self._settled.alone
                self._settled = found if found is not None else Settled(run=alone, alone=alone, threads={})
            return self._settled
