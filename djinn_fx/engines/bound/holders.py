"""Who holds the memory of weights: when only engines do any more, no call can bring these weights again.

Torch tells nobody when a tensor dies, and a weak reference on a weight would forbid ``torch.utils.swap_tensors``. So
the holders of its memory are counted, and counted again whenever Python has collected garbage.
"""

from __future__ import annotations

import atexit
import gc
import time
import weakref
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import torch

#: How many of those that hold a storage are engines, by the storage's address.
_OWN: Counter[int] = Counter()


class Holders:
    """Counts who holds the memory of some weights.

    Args:
        weights: before an engine has taken hold of any.
    """

    def __init__(self, weights: Sequence[torch.Tensor]) -> None:
        self._counts = _OWN  # the module's name for it may be gone when the interpreter ends
        self._own: dict[int, int] = {}
        self._storages = [weight.untyped_storage()._cdata for weight in weights]
        self._before = {storage: _uses(weight) for storage, weight in zip(self._storages, weights, strict=True)}
        self._kept: list[torch.Tensor] = []

    def settle(self, kept: Sequence[torch.Tensor]) -> None:
        """Say that all who have come to share the memory are the engine's own.

        Args:
            kept: what keeps each weight's memory alive.
        """
        self._kept = list(kept)
        for one, storage in zip(kept, self._storages, strict=True):
            if storage not in self._own:
                self._own[storage] = max(_uses(one) - self._before[storage], 1)
                self._counts[storage] += self._own[storage]

    @property
    def gone(self) -> bool:
        """Whether nobody but engines holds the memory of some weight."""
        return any(
            _uses(one) <= self._counts[storage] for one, storage in zip(self._kept, self._storages, strict=False)
        )

    def __del__(self) -> None:
        for storage, count in self._own.items():
            self._counts[storage] -= count
            if not self._counts[storage]:
                del self._counts[storage]


def _uses(weight: torch.Tensor) -> int:
    """How many hold the storage of a tensor."""
    storage = weight.untyped_storage()
    count: int = torch._C._storage_Use_Count(storage._cdata)
    return count - 1  # the storage object made to ask


class Sweeper(Protocol):
    """Who keeps copies of weights."""

    def sweep(self) -> int:
        """Drop the copies of weights that nobody holds; how many."""
        ...


#: Who is to look for dead weights after garbage was collected.
SWEEPERS: weakref.WeakSet[Sweeper] = weakref.WeakSet()
#: Looking takes at most this share of the time, except after a full collection.
_SHARE = 0.01


class _Sweeps:
    """When they looked last."""

    again_at = 0.0

    @classmethod
    def after_collection(cls, phase: str, info: dict[str, int]) -> None:
        """Python's garbage collector has begun or ended."""
        if phase != "stop" or not info["generation"]:
            return
        now = time.perf_counter()
        if info["generation"] < 2 and now < cls.again_at:
            return
        for sweeper in list(SWEEPERS):
            sweeper.sweep()
        done = time.perf_counter()
        cls.again_at = done + (done - now) / _SHARE

    @classmethod
    def end(cls) -> None:
        """The interpreter ends: modules are taken apart while garbage is still collected."""
        if cls.after_collection in gc.callbacks:
            gc.callbacks.remove(cls.after_collection)


gc.callbacks.append(_Sweeps.after_collection)
atexit.register(_Sweeps.end)
