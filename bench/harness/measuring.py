"""Interleaved timing, ratios pair by pair, bars."""

from __future__ import annotations

import contextlib
import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


def interleave(cases: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Call every case once a round, in an order that rotates (A B, B A, …); the results by case, one a round."""
    names = list(cases)
    results: dict[str, list[T]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in rotated(names, turn):
            results[name].append(cases[name]())
    return results


def rotated(items: Sequence[T], turn: int) -> list[T]:
    """The items starting with number ``turn``: nobody is always last."""
    start = turn % len(items) if items else 0
    return [*items[start:], *items[:start]]


def time_calls(call: Callable[[], Any], calls: int) -> list[float]:
    """Seconds of each of ``calls`` calls, with the garbage collector off."""
    clock, seconds = time.perf_counter, []
    with no_gc():
        for _ in range(calls):
            start = clock()
            call()
            seconds.append(clock() - start)
    return seconds


def time_block(call: Callable[[], Any], calls: int) -> float:
    """Seconds per call over a block of calls: for calls so short that reading the clock would count."""
    repeats = range(calls)
    with no_gc():
        start = time.perf_counter()
        for _ in repeats:
            call()
        return (time.perf_counter() - start) / calls


@contextlib.contextmanager
def no_gc() -> Iterator[None]:
    """Collect garbage now and not until the end."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Ratios pair by pair: their median, smallest, largest, and all of them."""

    median: float
    low: float
    high: float
    pairs: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """The ratio of two interleaved series.

    Raises:
        ValueError: no samples, or not as many of the one as of the other: then they are no pairs.
    """
    if not numerators:
        raise ValueError("no samples")
    pairs = tuple(a / b for a, b in zip(numerators, denominators, strict=True))
    return Ratio(median=statistics.median(pairs), low=min(pairs), high=max(pairs), pairs=pairs)


def floor(noise: Ratio) -> float:
    """How far from 1 the median of a thing against itself may be, 19 times in 20: a ratio within it is none.

    By order statistics, which suppose nothing of how times are spread; of fewer than six pairs all.
    """
    ordered, count = sorted(noise.pairs), len(noise.pairs)
    cut, tail = 0, 0.5**count
    while tail <= 0.025:
        cut += 1
        tail += math.comb(count, cut) * 0.5**count
    low, high = (ordered[place] for place in (max(0, cut - 1), min(count - 1, count - cut)))
    return max(high, 1 / low)


def successive(samples: Sequence[float]) -> Ratio | None:
    """Noise floor of a series that was not measured twice: each sample over the next; None if there is one only."""
    return ratio(samples[:-1], samples[1:]) if len(samples) > 1 else None


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A figure with a bound.

    Attributes:
        value: None if this run did not measure it.
        bound: what it is held against.
        holds: None if there is no value.
        rule: ``"<="``, ``">="`` or ``"=="``.
    """

    value: float | None
    bound: float
    holds: bool | None
    rule: str = "<="


def bar(value: float | None, bound: float, rule: str = "<=") -> Bar:
    """Hold a figure against a bound."""
    rules: dict[str, Callable[[float, float], bool]] = {
        "<=": lambda a, b: a <= b,
        ">=": lambda a, b: a >= b,
        "==": lambda a, b: a == b,
    }
    return Bar(value=value, bound=bound, holds=None if value is None else rules[rule](value, bound), rule=rule)
