"""What is asked of ``torch.cuda``, all in one place, so that a test can take notes in its stead."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch

#: CUDA's errors after which a process can do nothing more on a device (``cudaError_t`` of the runtime's API).
_LOST = frozenset({46, 100, 101, 214, 220, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 802})


@dataclass(frozen=True, kw_only=True)
class Present:
    """A CUDA device that is here.

    Attributes:
        title: what the driver calls it.
        memory_bytes: all of its memory.
    """

    title: str
    memory_bytes: int


class Driver:
    """This machine's CUDA devices."""

    def present(self) -> tuple[Present, ...]:
        """Those that torch finds, in the order of its numbers."""
        if not torch.cuda.is_available():
            return ()
        rows = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        return tuple(Present(title=str(row.name), memory_bytes=int(row.total_memory)) for row in rows)

    def peers(self, one: int, other: int) -> bool:
        """Whether the first can read the second one's memory."""
        return bool(torch.cuda.can_device_access_peer(one, other))

    def device(self, index: int) -> torch.device:
        """As tensors have it."""
        return torch.device("cuda", index)

    def use(self, index: int) -> None:
        """Make a device this thread's current one."""
        torch.cuda.set_device(index)

    def new_stream(self, index: int) -> Any:
        """A stream of a device."""
        return torch.cuda.Stream(self.device(index))

    def new_event(self) -> Any:
        """An event that streams wait for."""
        return torch.cuda.Event()

    def current_stream(self, index: int) -> Any:
        """This thread's current stream on a device."""
        return torch.cuda.current_stream(self.device(index))

    def on(self, *streams: Any) -> contextlib.AbstractContextManager[Any]:
        """These as this thread's current streams, one a device; the last one's device is current."""
        stack = contextlib.ExitStack()
        for stream in streams:
            stack.enter_context(torch.cuda.stream(stream))
        return stack

    def keep(self, value: Any, stream: Any) -> None:
        """Have the allocator leave a tensor's memory alone until a stream is done with what it was given so far."""
        if isinstance(value, torch.Tensor) and value.is_cuda:
            value.record_stream(stream)

    def pinned(self, nbytes: int) -> torch.Tensor:
        """Pinned memory of the host, as bytes."""
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    def is_capturing(self) -> bool:
        """Whether this thread's current stream is being captured into a CUDA graph."""
        return bool(torch.cuda.is_current_stream_capturing())

    def is_lost(self, error: BaseException) -> bool:
        """Whether an error says that a device is of no use to this process any more."""
        return isinstance(error, torch.AcceleratorError) and getattr(error, "error_code", None) in _LOST


DRIVER = Driver()
