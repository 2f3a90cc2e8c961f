"""How an answer of TensorRT's is held against eager's: by the guard of all engines, with bounds of its own.

The bounds are those for unknown work, and double precision has those of single, in which TensorRT computes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from djinn_fx.guard import compare
from djinn_fx.guard.tolerance import Tolerance, may_round, tolerance

__all__ = ["bounds", "difference", "may_round"]


def difference(found: Sequence[Any], expected: Sequence[Any]) -> str | None:
    """In what an answer differs from eager's by more than two right answers may; None if in nothing."""
    return compare.difference(found, expected, bounds)


def bounds(expected: torch.Tensor) -> Tolerance | None:
    """How far numbers may differ from one of eager's tensors."""
    if expected.dtype is torch.float64:
        return tolerance(torch.empty(0, dtype=torch.float32, device=expected.device))
    return tolerance(expected)
