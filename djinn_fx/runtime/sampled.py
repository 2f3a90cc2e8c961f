"""Timing a graph's regions now and then, so that estimates can learn from what calls really take.

Most calls go straight through: they cost one more function call. After a few calls that warm caches, every ``GAP``-th
call runs the same program with a clock around each region; after ``SAMPLES`` of these the times are handed on, and the
next such burst comes after twice as many calls as the one before.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from djinn_fx.engines.base import RegionCallable
from djinn_fx.runtime.arena.arena import Arena
from djinn_fx.runtime.executor import executable
from djinn_fx.runtime.program import Program
from djinn_fx.threads import new_lock, start_thread

#: Calls before the first that is timed; calls from one timed call to the next; timed calls of a burst.
WARM, GAP, SAMPLES = 4, 4, 8
#: Calls between the first two bursts.
PAUSE = 1000

#: Seconds of the timed calls by region index and by the engine that answered.
Times = Mapping[tuple[int, str], Sequence[float]]


class Sampled:
    """A graph's callable that times its regions now and then. A ``RegionCallable``.

    Args:
        run: the graph.
        program: what it runs.
        callables: of the regions.
        constants: of the program.
        engines: each tells which engine its region runs on, which may change.
        told: given the times of a burst, in a thread of its own.
        arena: of the graph.
        make: gives what runs the graph with these callables for its regions; None: one after the other.
    """

    def __init__(
        self,
        run: RegionCallable,
        program: Program,
        callables: Sequence[RegionCallable],
        constants: Mapping[int, Any],
        engines: Sequence[Callable[[], str]],
        told: Callable[[Times], None],
        arena: Arena | None = None,
        make: Callable[[Sequence[RegionCallable]], RegionCallable] | None = None,
    ) -> None:
        self._run, self._told = run, told
        self._times: dict[tuple[int, str], list[float]] = {}
        clocks = [self._clock(place, *pair) for place, pair in enumerate(zip(callables, engines, strict=True))]
        self._timed = make(clocks) if make is not None else executable(program, clocks, constants, arena=arena)
        self._left, self._taken, self._pause = WARM + 1, 0, PAUSE
        self._busy = new_lock()

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        """Run the graph; empties the list."""
        self._left -= 1
        if self._left:
            return self._run(args)
        return self._sample(args)

    def _sample(self, args: list[Any]) -> Sequence[Any]:
        if not self._busy.acquire(blocking=False):  # two threads at once: their times say nothing of one
            self._left = GAP
            return self._run(args)
        try:
            results = self._timed(args)
            self._taken += 1
            self._left = GAP
            if self._taken >= SAMPLES:
                self._hand_on()
        finally:
            self._busy.release()
        return results

    def _hand_on(self) -> None:
        times = {key: tuple(seconds) for key, seconds in self._times.items()}
        self._times.clear()
        self._taken, self._left = 0, self._pause
        self._pause *= 2
        start_thread(functools.partial(self._told, times), "djinn learns")

    def _clock(self, place: int, run: RegionCallable, engine: Callable[[], str]) -> RegionCallable:
        def timed(args: list[Any]) -> Sequence[Any]:
            start = time.perf_counter()
            results = run(args)
            seconds = time.perf_counter() - start
            self._times.setdefault((place, engine()), []).append(seconds)
            return results

        return timed
