"""The weights that a worker holds, by digest, within a bound."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable

import torch


class ResidentWeights:
    """Tensors by digest; the least recently used go first when there is no room.

    Args:
        max_bytes: of all of them.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._held: OrderedDict[str, torch.Tensor] = OrderedDict()
        self._nbytes = 0

    @property
    def nbytes(self) -> int:
        """How many bytes are held."""
        return self._nbytes

    def __contains__(self, name: str) -> bool:
        return name in self._held

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._held[name]

    def shrink(self, max_bytes: int) -> None:
        """Hold no more than so much from now on: the least recently used go."""
        self.max_bytes = max(0, max_bytes)
        while self._nbytes > self.max_bytes:
            self.drop([next(iter(self._held))])

    def lacking(self, names: Iterable[str]) -> list[str]:
        """Those that are not held; the others count as used now."""
        missing = []
        for name in names:
            if name in self._held:
                self._held.move_to_end(name)
            else:
                missing.append(name)
        return missing

    def drop(self, names: Iterable[str]) -> None:
        """Hold these no longer, if they are held."""
        for name in names:
            tensor = self._held.pop(name, None)
            if tensor is not None:
                self._nbytes -= tensor.numel() * tensor.itemsize

    def put(self, name: str, tensor: torch.Tensor, wanted: Collection[str]) -> bool:
        """Hold one more, and drop others for it, but none that is wanted.

        Returns:
            False if there is no room, and it is not held.
        """
        if name in self._held:
            return True
        size = tensor.numel() * tensor.itemsize
        for one in [one for one in self._held if one not in wanted]:
            if self._nbytes + size <= self.max_bytes:
                break
            dropped = self._held.pop(one)
            self._nbytes -= dropped.numel() * dropped.itemsize
        if self._nbytes + size > self.max_bytes:
            return False
        self._held[name] = tensor
        self._nbytes += size
        return True
