"""Arguments of a call as the contiguous tensors a runtime is given, or why it cannot be given them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from djinn_fx.engines.bound.signature import Fed


class Feeder:
    """Turns arguments into the inputs of a model, in its order.

    A tensor that is contiguous is given as it is; another is copied. A number becomes a 0-d tensor. A 0-d float64 is
    rounded where the model takes a float32 (``engines/lowering/narrowed.py``).

    Args:
        fed: the inputs, without those that the session holds itself.
    """

    def __init__(self, fed: Sequence[Fed]) -> None:
        self._plan = [(one.place, getattr(torch, one.dtype), one.sizes, one.sizes == ()) for one in fed]
        self._fixed = [
            None if None not in one.sizes else [(dim, size) for dim, size in enumerate(one.sizes) if size is not None]
            for one in fed
        ]

    def refusal(self, args: Sequence[Any]) -> str | None:
        """Why the model does not take these arguments; None if it does."""
        for place, dtype, sizes, scalar in self._plan:
            value = args[place]
            if not isinstance(value, torch.Tensor):
                if scalar and isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool):
                    continue
                return f"argument {place} is {type(value).__name__}, not a tensor"
            if value.dtype is not dtype and not (scalar and _is_rounded(value, dtype)):
                return f"argument {place} is {value.dtype}, not {dtype}"
            if not value.is_cpu or value.layout is not torch.strided:
                return f"argument {place} is not an ordinary tensor on the CPU"
            if not _fits(value.shape, sizes):
                return f"argument {place} has the sizes {tuple(value.shape)}, not {sizes}"
        return None

    def takes(self, args: Sequence[Any]) -> bool:
        """Whether the model takes these arguments. The same as ``refusal(args) is None``, fast."""
        for (place, dtype, sizes, scalar), fixed in zip(self._plan, self._fixed, strict=True):
            value = args[place]
            try:
                if (value.dtype is not dtype and not (scalar and _is_rounded(value, dtype))) or not value.is_cpu:
                    return False
                shape = value.shape
                if fixed is None:
                    if shape != sizes:
                        return False
                    continue
                if len(shape) != len(sizes):
                    return False
                for dim, size in fixed:
                    if shape[dim] != size:
                        return False
            except AttributeError:  # a number
                if not scalar or type(value) is not int:
                    return self.refusal(args) is None
        return True

    def tensors(self, args: Sequence[Any]) -> list[torch.Tensor]:
        """The inputs. They share memory with the arguments where that can be."""
        found = []
        for place, dtype, _, scalar in self._plan:
            value = args[place]
            if scalar and not isinstance(value, torch.Tensor):
                value = torch.tensor(int(value), dtype=torch.int64)
            elif scalar and value.dtype is not dtype:
                value = value.detach().to(dtype)
            elif not value.is_contiguous() or value.is_neg() or not value.data_ptr():
                value = plain(value)
            found.append(value)
        return found


def plain(value: torch.Tensor) -> torch.Tensor:
    """The tensor, detached, with its elements in order in memory as they are: no lazy negation, nothing left out."""
    value = value.detach().resolve_neg()
    # A tensor of nothing but zeros may have no memory; clone() gives it some.
    return value.clone(memory_format=torch.contiguous_format) if value._is_zerotensor() else value.contiguous()


def _is_rounded(value: torch.Tensor, dtype: torch.dtype) -> bool:
    return value.dtype is torch.float64 and dtype is torch.float32


def _fits(shape: Sequence[int], sizes: Sequence[int | None]) -> bool:
    return len(shape) == len(sizes) and all(
        wanted is None or size == wanted for size, wanted in zip(shape, sizes, strict=True)
    )
