"""Is an answer that differs from eager's wrong? Eager rounds too: a run in float64 says who is nearer to the truth.

With ``x`` the result in float64, ``e`` eager's, ``p`` the engine's, ``n`` a run in float64 with random rounding, and
``t`` the tolerance, the engine is right if, as vectors and in the worst element,

    |p - x|  <=  4 * max(|e - x|, |n - x|)  +  t * |x|

and its undefined and infinite elements are where those of ``x``, rounded to the result's type, are. Whole numbers and
truth values are counted: right if the engine's differ from ``x`` in at most four times as many places as eager's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from djinn_fx.guard.compare import Bounds, Gap, Miss, gap_of, unequal

#: How much further from the truth than eager an engine may be.
FACTOR = 4.0


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The region's results in float64, and with random rounding; None where that could not be had.

    Both hold results and then the arguments it writes into, as the lists that are judged do.
    """

    exact: Sequence[Any]
    noisy: Sequence[Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What float64 says of a difference: whether it is one of rounding, and the numbers that say so."""

    right: bool
    detail: str


def judge(miss: Miss, found: Sequence[Any], expected: Sequence[Any], truth: Truth, bounds: Bounds) -> Judgement:
    """Whether a difference of numbers (``miss.numbers``) is one of rounding."""
    mine, other, exact = found[miss.place], expected[miss.place], truth.exact[miss.place]
    if not isinstance(exact, torch.Tensor) or exact.shape != other.shape:
        return Judgement(right=False, detail="")
    limits = bounds(other)
    if limits is None:
        if other.dtype != exact.dtype:
            return Judgement(right=False, detail="")
        counts = unequal(mine, exact), unequal(other, exact)
        detail = f"it differs from float64's in {counts[0]} elements, eager in {counts[1]}"
        return Judgement(right=counts[0] <= FACTOR * counts[1], detail=detail)
    exact = _as_rounded(exact, other)
    far, eager = gap_of(mine, exact, other.dtype), gap_of(other, exact, other.dtype)
    near = [eager]
    if truth.noisy is not None:
        near.append(gap_of(truth.noisy[miss.place], exact, other.dtype))
    near = [one for one in near if not one.odd]  # where eager overflows and float64 does not, it is no measure
    norm, worst = max((one.norm for one in near), default=0.0), max((one.worst for one in near), default=0.0)
    huge = max((one.huge for one in near), default=0.0)
    right = not far.odd and (
        far.norm <= FACTOR * norm + limits.whole * far.of_norm
        and far.worst <= FACTOR * worst + limits.worst * far.of_worst
        and far.huge <= FACTOR * huge + limits.worst
    )
    return Judgement(right=right, detail=f"from float64 it is off by {_words(far)}, eager by {_words(eager)}")


def _words(gap: Gap) -> str:
    return f"what cannot be measured (it {gap.odd})" if gap.odd else f"{gap.worst:.2g} at most"


def _as_rounded(exact: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The exact result, infinite where its type cannot hold it."""
    rounded = exact.to(like.dtype)
    return torch.where(rounded.isfinite(), exact, rounded.to(exact.dtype)) if like.is_floating_point() else exact
