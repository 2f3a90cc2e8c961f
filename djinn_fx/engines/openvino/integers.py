"""OpenVINO keeps 64-bit integers in 32 bits: no weight that needs more is given to it."""

from __future__ import annotations

import torch

from djinn_fx.engines.ranges.program import extremes

_WIDE = frozenset({torch.int64, torch.uint32, torch.uint64})


def is_narrow(tensor: torch.Tensor) -> bool:
    """Whether all numbers of a tensor of whole numbers have 32 bits."""
    if tensor.dtype not in _WIDE:
        return True
    least, most = extremes(tensor)
    return least >= -(2**31) and most < 2**31
