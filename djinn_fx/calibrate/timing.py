"""How long a call takes: blocks of calls, their median, and whether something else was running meanwhile.

Where a thread of a parallel loop loses its core to another process, the loop waits for the scheduler: an op of 10 us
takes 8 ms then. So a small parallel op whose time is known, the canary, is timed before and after. Where it is slow,
the machine is busy: the measurement waits, or is done again; so too where the operating system tells of other
processes that were computing.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from djinn_fx.calibrate.neighbours import disturbed, reading

#: A block of calls lasts at least this long, so that reading the clock does not count.
BLOCK_S = 5e-4
#: Blocks that every case gets, and those after which more tell nothing.
MIN_BLOCKS, MAX_BLOCKS = 5, 60
#: The canary's time over its best, above which the machine counts as busy.
BUSY = 1.6
#: Blocks whose median is so much above their fastest were disturbed.
UNEVEN = 1.35
#: How often a disturbed measurement is done again, and seconds to wait for a busy machine before each.
RETRIES, WAIT_S = 2, 0.5


@dataclass(frozen=True, kw_only=True)
class Timed:
    """Times of a call.

    Attributes:
        median_s: of the blocks' means, in seconds a call.
        spread: half the distance of the quartiles, as a share of the median.
        calls: that were made in all.
        fastest_s: of the blocks.
    """

    median_s: float
    spread: float
    calls: int
    fastest_s: float

    @property
    def even(self) -> bool:
        """Whether nothing tells that it was disturbed."""
        return self.median_s < UNEVEN * self.fastest_s


@dataclass
class Canary:
    """A small parallel op whose time tells whether this process has the machine to itself.

    Attributes:
        best_s: its best time so far, by number of threads.
    """

    best_s: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._values = torch.zeros(1 << 17)

    def busy(self) -> bool:
        """Whether it is much slower now than at its best."""
        times = []
        for _ in range(9):
            start = time.perf_counter()
            torch.tanh(self._values)
            times.append(time.perf_counter() - start)
        threads = torch.get_num_threads()
        best = min(self.best_s.get(threads, float("inf")), *times)
        self.best_s[threads] = best
        return statistics.median(times) > BUSY * best

    def wait(self, seconds: float = WAIT_S) -> bool:
        """Wait until the machine is quiet, at most so long; whether it is."""
        until = time.perf_counter() + seconds
        while self.busy():
            if time.perf_counter() > until:
                return False
            time.sleep(0.05)
        return True


def timed_quietly(
    call: Callable[[], Any], budget_s: float, canary: Canary, finish: Callable[[], Any] | None = None
) -> Timed:
    """As :func:`timed`, again where something else was running; of several attempts the one with the least median."""
    best: Timed | None = None
    for _ in range(1 + RETRIES):
        quiet = canary.wait()
        before = reading()
        found = timed(call, budget_s, finish)
        quiet = quiet and not disturbed(before, torch.get_num_threads()) and not canary.busy()
        if best is None or found.median_s < best.median_s:
            best = found
        if quiet and found.even:
            break
    assert best is not None, "there is at least one attempt"
    return best


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
    return Timed(
        median_s=statistics.median(seconds),
        spread=spread_of(seconds),
        calls=calls + in_block * len(seconds),
        fastest_s=min(seconds),
    )


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
