"""Who holds the memory of weights: when only engines do any more, no call can bring these weights again.

Torch tells nobody when a tensor dies, and a weak reference on a weight would forbid ``torch.utils.swap_tensors``. So
the holders of its memory are counted, and counted again whenever Python has collected garbage.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import time
import weakref
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

import torch

from djinn_fx.engines.bound.mappings import Span
from djinn_fx.threads import new_rlock

#: How many of those that hold a storage are engines, by the storage's address.
_OWN: Counter[int] = Counter()
#: Of these counts. Reentrant: holders go at any moment, in any thread.
_LOCK = new_rlock()


class Holders:
    """Holds the memory of some weights, once each, and tells whether nobody else but its like does.

    What an engine is given is not the weights but :attr:`lent`: other tensors over the same memory, which keep it alive
    by way of this one hold. So it is known exactly how many holds are the engines', whatever an engine makes of what it
    is given, and whoever reads the weights at the same moment.

    Args:
        weights: dense tensors on the CPU.

    Attributes:
        held: the weights without their gradients, which count writes as they do.
        lent: a tensor over each weight's memory, of its sizes and strides.
    """

    def __init__(self, weights: Sequence[torch.Tensor]) -> None:
        self._counts, self._lock = _OWN, _LOCK  # the module's names may be gone when the interpreter ends
        self.held = [weight.detach() for weight in weights]
        self.lent = [_over(one) for one in self.held]
        self._storages = [one.untyped_storage()._cdata for one in self.held]
        with self._lock:
            self._counts.update(self._storages)

    @property
    def gone(self) -> bool:
        """Whether nobody but engines holds the memory of some weight."""
        return bool(self.left)

    @property
    def left(self) -> Sequence[torch.Tensor]:
        """The weights whose memory nobody but engines holds."""
        pairs = zip(self.held, self._storages, strict=True)
        return [one for one, storage in pairs if _uses(one) <= self._counts[storage]]

    def __del__(self) -> None:
        with self._lock:
            for storage in self._storages:  # before the holds themselves go: never fewer holds than are counted
                self._counts[storage] -= 1
                if not self._counts[storage]:
                    del self._counts[storage]


def extent_of(weight: torch.Tensor) -> Span:
    """The memory that a weight lies in, with what is between its elements; empty where it has none."""
    if not weight.numel() or not weight.data_ptr():  # a tensor of nothing but zeros may have no memory
        return 0, 0
    last = sum((size - 1) * stride for size, stride in zip(weight.shape, weight.stride(), strict=True))
    start = weight.data_ptr()
    return start, start + (last + 1) * weight.element_size()


def _over(weight: torch.Tensor) -> torch.Tensor:
    """Another tensor over a weight's memory: another storage, that keeps the weight."""
    start, end = extent_of(weight)
    if start == end:
        return weight.detach()
    memory: Any = (ctypes.c_char * (end - start)).from_address(start)
    memory.weight = weight
    return torch.frombuffer(memory, dtype=weight.dtype).as_strided(weight.shape, weight.stride())


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
