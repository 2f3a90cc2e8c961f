"""What a session needs of a runtime for plans: CUDA's is in ``cuda``, that of the tests in their folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch


class Context(Protocol):
    """One execution context. Every method raises ``EngineError`` (stage run) if TensorRT refuses."""

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Tell an input's sizes."""
        ...

    def set_address(self, name: str, address: int) -> None:
        """Tell where a tensor is."""
        ...

    def run(self, stream: int) -> None:
        """Put the work on the current stream of the device, whose handle is given."""
        ...


class Loaded(Protocol):
    """A deserialised plan on one device."""

    #: By output: the input whose memory it must share, because TensorRT writes in place.
    aliases: Mapping[str, str]

    def tensors(self) -> Mapping[str, tuple[bool, str, tuple[int, ...]]]:
        """By name: whether it is an input, its type by torch's name, its sizes (-1: differs from call to call)."""
        ...

    def context(self) -> Context:
        """A new context; raises ``EngineError`` (stage load)."""
        ...


class Driver(Protocol):
    """What a session needs of the device's runtime."""

    def load(self, plan: bytes, device: torch.device) -> Loaded:
        """Deserialise a plan; raises ``EngineError`` (stage load)."""
        ...

    def stream(self, device: torch.device) -> int:
        """Handle of the current stream of a device."""
        ...

    def settle(self, device: torch.device) -> None:
        """Wait until the device has done everything it was given: before a context that may be running goes."""
        ...


__all__ = ["Context", "Driver", "Loaded"]
