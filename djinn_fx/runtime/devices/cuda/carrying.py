"""Taking a value from one CUDA device to another: straight where the driver allows it, else through pinned memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from djinn_fx.runtime.devices.cuda.staging import Staging
from djinn_fx.runtime.devices.cuda.streams import DeviceStreams


def flat(value: torch.Tensor) -> torch.Tensor:
    """All memory from a strided tensor's first element to its last, as a vector."""
    extent = 1 + sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True))
    return value.detach().as_strided((extent if value.numel() else 0,), (1,), value.storage_offset())


class Way:
    """From one device to another.

    Args:
        source: where values are.
        target: where they are to be.
        staging: for values that pass through the host.
    """

    def __init__(self, source: DeviceStreams, target: DeviceStreams, staging: Staging) -> None:
        self.source, self.target = source, target
        self._driver, self._staging = source.driver, staging
        self._straight = self._driver.peers(source.index, target.index) and self._driver.peers(
            target.index, source.index
        )

    def carried(self, value: Any, after: Sequence[Any]) -> tuple[Any, Any]:
        """A copy with the same strides, and the event after which it is there. Nobody waits here but streams.

        Both copy streams do the work, so the target's memory comes from its copy stream: who computes with it tells the
        allocator. The source's is left alone until it has been read.

        Args:
            value: what is to be carried; what is no tensor is given back as it is.
            after: events after which it may be read.
        """
        driver, source, target = self._driver, self.source, self.target
        done = driver.new_event()
        with torch.no_grad(), driver.on(source.copy, target.copy):
            for event in after:
                source.copy.wait_event(event)
            if isinstance(value, torch.Tensor):
                vector = flat(value)
                made = torch.empty(vector.shape, dtype=value.dtype, device=driver.device(target.index))
                if self._straight:
                    driver.keep(value, source.copy)
                    made.copy_(vector, non_blocking=True)  # on the source's copy stream; the target's waits for it
                else:
                    self._through_host(vector, made, value)
                value = made.as_strided(value.shape, value.stride(), 0)
            else:
                target.copy.wait_event(_recorded(driver, source.copy))
            done.record(target.copy)
        return value, done

    def _through_host(self, vector: torch.Tensor, made: torch.Tensor, value: torch.Tensor) -> None:
        driver, source, target = self._driver, self.source, self.target
        nbytes = vector.numel() * vector.element_size()
        piece = self._staging.take(nbytes)
        middle = piece[:nbytes].view(vector.dtype)
        driver.keep(value, source.copy)
        with driver.on(source.copy):
            middle.copy_(vector, non_blocking=True)
        target.copy.wait_event(_recorded(driver, source.copy))
        with driver.on(target.copy):
            made.copy_(middle, non_blocking=True)
        self._staging.give(piece, _recorded(driver, target.copy))


def _recorded(driver: Any, stream: Any) -> Any:
    event = driver.new_event()
    event.record(stream)
    return event
