"""Random numbers drawn twice alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


class Randomness:
    """The state of the random number generators a region may draw from, so that two runs draw the same.

    Args:
        args: the region's arguments; their devices' generators are meant.
    """

    def __init__(self, args: Sequence[Any]) -> None:
        cuda = {value.device for value in args if isinstance(value, torch.Tensor) and value.device.type == "cuda"}
        self._devices = sorted(cuda, key=str)
        self._states = self.now()

    def now(self) -> list[torch.Tensor]:
        """The present states."""
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in self._devices)]

    def rewind(self) -> None:
        """Go back to where it was when this was made."""
        self.set(self._states)

    def set(self, states: Sequence[torch.Tensor]) -> None:
        """Go to these states."""
        torch.set_rng_state(states[0])
        for device, state in zip(self._devices, states[1:], strict=True):
            torch.cuda.set_rng_state(state, device)
