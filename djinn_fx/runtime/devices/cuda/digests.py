"""What tells whether weights on a device are as they were, without a second copy of them beside them.

A write through ``weight.data``, by another library or by a kernel of the user's leaves no trace in torch, so the
numbers themselves are looked at: their memory as 64-bit words in rows and columns, of which the sums are kept, modulo
2**64. A change keeps all of these only if it takes from each row and column as much as it adds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from djinn_fx.runtime.devices.cuda.carrying import flat

#: Words in a row.
_WIDTH = 4096
_WORD = 8


def digest(weights: Sequence[torch.Tensor]) -> tuple[torch.Tensor, list[int]]:
    """The sums of all weights in one vector, on their device, and how many are each one's."""
    parts = [list(_sums(weight)) for weight in weights]
    lengths = [sum(part.numel() for part in mine) for mine in parts]
    return torch.cat([part for mine in parts for part in mine]), lengths


def _sums(weight: torch.Tensor) -> Iterator[torch.Tensor]:
    data = flat(weight).view(torch.uint8) if weight.numel() else flat(weight).to(torch.uint8)
    aligned = weight.storage_offset() * weight.element_size() % _WORD == 0
    whole = data.numel() // _WORD * _WORD if aligned else 0
    words = data[:whole].view(torch.int64) if whole else data
    rows = words.numel() // _WIDTH
    table = words[: rows * _WIDTH].view(rows, _WIDTH)
    if rows:
        yield table.sum(0, dtype=torch.int64)
        yield table.sum(1, dtype=torch.int64)
    yield words[rows * _WIDTH :].to(torch.int64)
    if whole:
        yield data[whole:].to(torch.int64)
