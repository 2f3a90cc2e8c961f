"""Weights and constants that regions on another device read: copied there once, for all graphs that read them there.

Before a call uses them it is looked whether they still say what the graph's own tensors say (``digests.py``); the
thread of the device that reads them waits for that, and takes new copies of those that do not.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch

from djinn_fx.runtime.devices.cuda.carrying import Way
from djinn_fx.runtime.devices.cuda.digests import digest
from djinn_fx.threads import new_lock


class _Resident:
    """A copy of a weight on a device, what the weight's sums were, and the event after which the copy is there."""

    def __init__(self, copy: torch.Tensor, sums: torch.Tensor, ready: Any) -> None:
        self.copy, self.sums, self.ready = copy, sums, ready


#: By the way and by what the weight looks like; the sums, not the address, say that it is the same one.
_Key = tuple[Any, ...]
_SHARED: weakref.WeakValueDictionary[_Key, _Resident] = weakref.WeakValueDictionary()
_LOCK = new_lock()


class Residents:
    """What one graph reads on one device.

    Args:
        way: from the device of the graph's tensors.
    """

    def __init__(self, way: Way) -> None:
        self._way = way
        self._held: list[_Resident] = []
        self._sums: torch.Tensor | None = None
        self._lock = new_lock()

    def of(self, weights: Sequence[torch.Tensor], after: Any) -> list[torch.Tensor]:
        """The copies, which are what the weights are after an event. Waits until that is known.

        What has been given to the device's computing stream until now is done before copies that are new are read.
        """
        home, driver = self._way.source, self._way.source.driver
        with self._lock, torch.inference_mode(False), torch.no_grad(), driver.on(home.copy):
            home.copy.wait_event(after)
            sums, lengths = digest(weights)
            if self._sums is None or sums.shape != self._sums.shape or not torch.equal(sums, self._sums):
                parts = list(sums.split(lengths))
                self._held = [self._one(weight, part) for weight, part in zip(weights, parts, strict=True)]
                self._sums = sums
            return [one.copy for one in self._held]

    def _one(self, weight: torch.Tensor, sums: torch.Tensor) -> _Resident:
        """A weight's copy: one that is there and says the same, else a new one."""
        way = self._way
        looks = weight.data_ptr(), weight.dtype, tuple(weight.shape), weight.stride()
        key = (id(way.target), way.source.name, *looks)
        with _LOCK:
            known = _SHARED.get(key)
            if known is None or known.sums.shape != sums.shape or not torch.equal(known.sums, sums):
                copy, ready = way.carried(weight, ())
                known = _SHARED[key] = _Resident(copy, sums.clone(), ready)
        if all(known is not one for one in self._held):
            way.target.compute.wait_event(known.ready)
            way.source.driver.keep(known.copy, way.target.compute)
        return known
