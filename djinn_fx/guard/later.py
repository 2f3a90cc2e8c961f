"""When an engine's later answers are compared again: at certain calls of a shape, and where a number is not finite.

Both must cost nothing to speak of, since they stand before every call. Calls are counted in one addition. Whether
results are finite is told by their sum, which is not if one element is not; of large results, which would take long to
add up, elements are looked at that are evenly spread, other ones in every call.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence
from typing import Any

import torch

#: Calls of a shape that are compared besides the first.
LATER = (10, 100, 1000)
#: Results that are looked at in one call: the first, and others in turn.
_RESULTS = 4
#: A result with so many elements is looked at in full: 2 us. Torch adds up more than these in several threads.
_WHOLE = 32768
#: Of a larger one about so many elements: 4 to 20 us, by whether they are in a processor's cache.
_SPREAD = 2048

_SUMMED_AS: dict[torch.dtype, torch.dtype | None] = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: None,
    torch.float64: None,
    torch.complex64: None,
    torch.complex128: None,
}


def sampling(verify: str) -> int | None:
    """Of how many later calls one is checked, by the setting ``verify``; None if none is.

    Raises:
        ValueError: neither ``first``, ``off`` nor ``sample:SHARE`` with a share above 0 and at most 1.
    """
    if verify in ("first", "off"):
        return None
    kind, _, share = verify.partition(":")
    try:
        value = float(share)
    except ValueError:
        value = 0.0
    if kind != "sample" or not 0.0 < value <= 1.0:
        raise ValueError(f"verify is {verify!r}: it must be first, off, or sample:SHARE with 0 < SHARE <= 1")
    return max(1, round(1.0 / value))


class ShapeCalls:
    """Counts the calls of one shape.

    Attributes:
        calls: so far, the first one included.
        due: the call from which on one is to be compared; 0: the next is, by itself.
    """

    __slots__ = ("calls", "due")

    def __init__(self) -> None:
        self.calls = 1
        self.due: float = LATER[0]

    def settled(self) -> None:
        """One was compared."""
        self.due = next((call for call in LATER if call > self.calls), math.inf)


class Look:
    """Whether numbers that are not finite are to be found in a call's results.

    Args:
        results: of an earlier call: they tell which of them can be looked at.
    """

    def __init__(self, results: Sequence[Any]) -> None:
        self._places = tuple(place for place, value in enumerate(results) if _can_be_summed(value))
        self._turn = 0

    def finds(self, results: Sequence[Any]) -> bool:
        """Whether a result that is looked at in this call has one among the elements that are looked at."""
        self._turn = turn = self._turn + 1
        places = self._places
        if len(places) > _RESULTS:
            others = len(places) - 1
            first = turn * (_RESULTS - 1)
            places = (places[0], *(places[1 + (first + i) % others] for i in range(_RESULTS - 1)))
        return any(_has_odd(results[place], turn) for place in places)


def finite(values: Sequence[Any]) -> bool:
    """Whether all elements of all floating tensors among these are finite."""
    return not any(_can_be_summed(value) and _odd(value) for value in values)


def _can_be_summed(value: Any) -> bool:
    plain = isinstance(value, torch.Tensor) and value.layout is torch.strided and value.device.type == "cpu"
    return plain and value.dtype in _SUMMED_AS


def _has_odd(value: torch.Tensor, turn: int) -> bool:
    count = value.numel()
    return _odd(value if count <= _WHOLE else _spread(value, count, turn))


def _odd(value: torch.Tensor) -> bool:
    total = value.sum(dtype=_SUMMED_AS[value.dtype]).item()
    # A sum of finite numbers may be too large.
    return not cmath.isfinite(total) and not bool(value.isfinite().all())


def _spread(value: torch.Tensor, count: int, turn: int) -> torch.Tensor:
    """Some elements, other ones in every turn."""
    if 1 + sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True)) == count:
        step = count // _SPREAD | 1  # odd, so that it does not always meet the same places of a row
        first = turn % step
        return value.as_strided(((count - first) // step,), (step,), value.storage_offset() + first)
    while value.numel() > _WHOLE:  # there are gaps in its memory: one row
        value = value[turn % value.shape[0]]
    return value
