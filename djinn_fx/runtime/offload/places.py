"""Where offloaded weights are while they are used: this process's memory, or a CUDA device's.

On a device a weight is read into pinned memory of the host, copied on a stream of its own while operators compute on
theirs, and lent once the copy is over. Room that was lent is written again only after what computed with it: each
loan's end leaves an event on the stream that used it, and copies wait for these. Built with no device at hand: what of
this runs without one is tested with streams that only take notes, the rest by ``make gpu``.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable
from typing import Any

import torch

from djinn_fx import threads
from djinn_fx.errors import SettingsError
from djinn_fx.pool.procfs import give_back, resident_bytes
from djinn_fx.runtime.offload.shards import BLOCK, Shards, new_memory, span_of
from djinn_fx.runtime.offload.stored import StoredTensor


class HostMemory:
    """Weights are used where they are read to.

    Attributes:
        device: that tensors are on.
    """

    device = torch.device("cpu")

    def held(self) -> int:
        """Bytes that are taken now, by the whole process."""
        return resident_bytes(os.getpid())

    def give_back(self) -> None:
        """Return what is free to the system."""
        give_back()

    def new(self, size: int) -> torch.Tensor:
        """Memory as bytes, which begins on a block."""
        return torch.frombuffer(new_memory(size), dtype=torch.uint8)

    def read(
        self, shards: Shards, one: StoredTensor, into: torch.Tensor, stopped: Callable[[], bool] = lambda: False
    ) -> int | None:
        """Read a weight. Where it begins in ``into``; None if it was stopped.

        Raises:
            ModelFileError: as :meth:`Shards.read`.
        """
        return shards.read(one.file, one.start, one.size, memoryview(into.numpy()), stopped)  # type: ignore[arg-type]

    def let_go(self) -> None:
        """A loan is over."""


class DeviceMemory(HostMemory):
    """Weights are used on a CUDA device.

    Args:
        device: which.
        kept: bytes of pinned host memory in which weights that were read stay, so that they are read once.
        cuda: ``torch.cuda``, or what stands in for it.

    Raises:
        SettingsError: there is no such device here.
    """

    def __init__(self, device: torch.device, kept: int = 0, cuda: Any = torch.cuda) -> None:
        if not cuda.is_available():
            raise SettingsError(f"there is no device {device} here: torch finds no CUDA device")
        self.device = device if device.index is not None else torch.device(device.type, cuda.current_device())
        self._cuda = cuda
        self._copies = cuda.Stream(self.device)
        self._used: dict[Any, Any] = {}
        self._staging = threading.local()
        self._kept: dict[StoredTensor, tuple[torch.Tensor, int]] = {}
        self._left, self._lock = kept, threads.new_lock()

    def held(self) -> int:
        """Bytes that torch's allocator has handed out on the device."""
        return int(self._cuda.memory_allocated(self.device))

    def give_back(self) -> None:
        """Return what torch's allocator has in reserve."""
        self._cuda.empty_cache()

    def new(self, size: int) -> torch.Tensor:
        """Memory of the device. Copies into it begin after what the caller's stream has been given so far."""
        made = torch.empty(max(size, 1), dtype=torch.uint8, device=self.device)
        self._copies.wait_stream(self._cuda.current_stream(self.device))
        return made

    def read(
        self, shards: Shards, one: StoredTensor, into: torch.Tensor, stopped: Callable[[], bool] = lambda: False
    ) -> int | None:
        """As for the host; over when the numbers are on the device."""
        source, begins = self._on_host(shards, one, stopped)
        if begins is None:
            return None
        with self._lock, self._cuda.stream(self._copies):  # no other thread's copy between the waiting and this one
            for event in self._used.values():
                self._copies.wait_event(event)
            self._used.clear()
            into[: one.size].copy_(source[begins : begins + one.size], non_blocking=True)
            copied = self._cuda.Event()
            copied.record(self._copies)
        copied.synchronize()  # this thread waits, those that compute do not
        return 0

    def let_go(self) -> None:
        """What the caller's stream has been given so far uses what was lent; copies over it wait for that."""
        stream = self._cuda.current_stream(self.device)
        event = self._cuda.Event()
        with self._lock:
            event.record(stream)
            self._used[stream] = event

    def _on_host(
        self, shards: Shards, one: StoredTensor, stopped: Callable[[], bool]
    ) -> tuple[torch.Tensor, int | None]:
        """The weight in pinned memory, and where it begins there; None if it was stopped."""
        if one in self._kept:
            return self._kept[one]
        size = span_of(one.start, one.size)[1]
        with self._lock:
            stays = size <= self._left
            self._left -= size * stays
        memory = self._pinned(size) if stays else self._stage(size)
        begins = super().read(shards, one, memory[:size], stopped)
        if stays and begins is not None:
            self._kept[one] = (memory, begins)
        elif stays:
            with self._lock:
                self._left += size
        return memory, begins

    def _stage(self, size: int) -> torch.Tensor:
        """This thread's memory for what is on its way."""
        memory: torch.Tensor | None = getattr(self._staging, "memory", None)
        if memory is None or memory.numel() < size:
            self._staging.memory = memory = self._pinned(size)
        return memory

    def _pinned(self, size: int) -> torch.Tensor:
        """Pinned memory that begins on a block."""
        made = torch.empty(size + BLOCK, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        return made[-made.data_ptr() % BLOCK :][: max(size, 1)]


def place_of(device: str | torch.device, kept: int) -> HostMemory:
    """Where weights are to be used.

    Raises:
        SettingsError: no such device here, or one of another kind.
    """
    wanted: torch.device | None = None
    with contextlib.suppress(RuntimeError):
        wanted = torch.device(device)
    if wanted is None or wanted.type not in ("cpu", "cuda"):
        raise SettingsError(f"{device!r} is no device for offloaded weights: write cpu, or cuda:0")
    return HostMemory() if wanted.type == "cpu" else DeviceMemory(wanted, kept)


def reader(place: HostMemory, shards: Shards, stored: Any) -> Callable[..., int | None]:
    """How the ring's threads read; it must not hold the weights, which end them."""
    return functools.partial(_read, place, shards, stored)


def _read(
    place: HostMemory, shards: Shards, stored: Any, key: int, into: torch.Tensor, stopped: Callable[[], bool]
) -> int | None:
    return place.read(shards, stored[key], into, stopped)
