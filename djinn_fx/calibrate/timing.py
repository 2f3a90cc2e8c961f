"""How long a call takes: blocks of calls, their median and how far the quartiles lie apart."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

#: A block of calls lasts at least this long, so that reading the clock does not count.
BLOCK_S = 5e-4
#: Blocks that every case gets, and those after which more tell nothing.
MIN_BLOCKS, MAX_BLOCKS = 5, 60


@dataclass(frozen=True, kw_only=True)
class Timed:
    """Times of a call.

    Attributes:
        median_s: of the blocks' means, in seconds a call.
        spread: half the distance of the quartiles, as a share of the median.
        calls: that were made in all.
    """

    median_s: float
    spread: float
    calls: int


def timed(call: Callable[[], Any], budget_s: float, finish: Callable[[], Any] | None = None) -> Timed:
    """Time a call for about ``budget_s`` seconds, after calls that warm it up.

    Args:
        call: what to time.
        budget_s: for warming and timing together; exceeded where :data:`MIN_BLOCKS` calls need more.
        finish: waits for the device, where calls return before the work is done.
    """
    begin = time.perf_counter()
    calls, one = _warm(call, finish, budget_s / 5)
    in_block = max(1, round(BLOCK_S / one))
    seconds: list[float] = []
    was_on = gc.isenabled()
    gc.disable()
    try:
        while len(seconds) < MIN_BLOCKS or (len(seconds) < MAX_BLOCKS and time.perf_counter() - begin < budget_s):
            seconds.append(_block(call, in_block, finish))
    finally:
        if was_on:
            gc.enable()
    return Timed(median_s=statistics.median(seconds), spread=spread_of(seconds), calls=calls + in_block * len(seconds))


def spread_of(seconds: Sequence[float]) -> float:
    """Half the distance between the quartiles over the median."""
    low, middle, high = statistics.quantiles(seconds, n=4)
    return (high - low) / 2 / middle


def _warm(call: Callable[[], Any], finish: Callable[[], Any] | None, budget_s: float) -> tuple[int, float]:
    """Call until it is warm: at least three times, for the first may open sessions and map memory.

    Returns:
        How many calls, and the seconds of the last.
    """
    begin, calls, last = time.perf_counter(), 0, 0.0
    while calls < 3 or (calls < 50 and time.perf_counter() - begin < budget_s):
        last = _block(call, 1, finish)
        calls += 1
    return calls, max(last, 1e-7)


def _block(call: Callable[[], Any], calls: int, finish: Callable[[], Any] | None) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    if finish is not None:
        finish()
    return (time.perf_counter() - start) / calls
