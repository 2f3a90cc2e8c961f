"""How fast this machine's memory and caches move bytes, measured with NumPy in at most two seconds, when asked for.

Imports no torch. Nothing here runs unless it is called: :func:`djinn_fx.hardware.device.this_machine` reads only what
the operating system tells.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from djinn_fx.hardware.device import Device, device_of
from djinn_fx.hardware.machine import Machine, probe_machine

MIB = 1024**2
#: Longest time that measuring may take, in seconds; ways that are left when it is over are tried once each.
BUDGET_S = 1.6
#: Rounds of each way; the fastest counts, as in STREAM (McCalpin): what disturbs a round only makes it slower.
_ROUNDS = 15
#: A way repeats until it has moved this much in a round, so that calls from Python weigh little.
_BYTES_A_ROUND = 32 * MIB
#: Main memory is measured over this many times the last cache …
_TIMES_LAST_CACHE = 4
#: … but over no more than this, nor an eighth of the memory.
_LARGEST = 1024 * MIB
_SMALLEST = 64 * MIB

Buffer = NDArray[np.int32]


@dataclass(frozen=True, kw_only=True)
class Level:
    """What was measured of one level of the memory.

    Attributes:
        name: ``"L2"``, ``"L3"``, or ``"memory"``.
        footprint_bytes: what all threads together went over again and again.
        read_bytes_s: bytes read per second by all threads.
        copy_bytes_s: bytes read and bytes written per second, together, while copying.
    """

    name: str
    footprint_bytes: int
    read_bytes_s: float
    copy_bytes_s: float


@dataclass(frozen=True, kw_only=True)
class Bandwidths:
    """What was measured, nearest level first and main memory last; ``seconds`` is what it took."""

    threads: int
    levels: tuple[Level, ...]
    seconds: float

    @property
    def memory(self) -> Level:
        """Main memory's level."""
        return self.levels[-1]


@functools.cache
def measured_bandwidths(threads: int = 0) -> Bandwidths:
    """Measure with this many threads, one time a process; 0: as many as there are physical cores.

    The first level is left out: what a call from Python costs is more than reading it takes.
    """
    machine = probe_machine()
    return measure(machine, threads or machine.cores)


@functools.cache
def measured_machine() -> Device:
    """This machine as a device whose bandwidth was measured: the faster of reading and copying. All else is nominal."""
    measured = measured_bandwidths()
    nominal = device_of(probe_machine())
    best = max(measured.memory.read_bytes_s, measured.memory.copy_bytes_s)
    return replace(
        nominal,
        bandwidth_bytes_s=best,
        source=f"{nominal.source}; bandwidth measured with {measured.threads} threads: {best / 1e9:.1f} GB/s",
    )


def footprints(machine: Machine, threads: int) -> dict[str, int]:
    """What to go over, in bytes of all threads together, for each level that can be told from the next nearer one.

    Half of a cache, so that it holds both ends of a copy and what else runs, but no more than four times the next
    nearer one: of a last cache that many share, a virtual machine's above all, half is seldom to be had. Main memory
    over several times the last cache.
    """
    found: dict[str, int] = {}
    nearer = 0
    for cache in machine.caches:
        whole = cache.size_bytes * min(cache.count, threads)
        size = min(whole // 2, 4 * nearer) if found else whole // 2
        if cache.level > 1 and size > nearer:
            found[f"L{cache.level}"] = size
        nearer = whole
    wanted = max(_SMALLEST, _TIMES_LAST_CACHE * machine.last_cache_bytes)
    found["memory"] = min(wanted, _LARGEST, machine.memory_bytes // 8)
    return found


def measure(machine: Machine, threads: int, budget_s: float = BUDGET_S) -> Bandwidths:
    """Measure each level of this machine with this many threads.

    Args:
        machine: sizes of its caches.
        threads: each has its own part of the footprint; NumPy lets go of Python's lock while it moves bytes.
        budget_s: time for all of it.
    """
    start = time.perf_counter()
    sizes = footprints(machine, threads)
    levels = []
    with ThreadPoolExecutor(threads) as pool:
        for number, (name, size) in enumerate(sizes.items()):
            # An equal share of the time that is left, so that a slow level takes nothing from those after it.
            share = max(0.0, start + budget_s - time.perf_counter()) / (len(sizes) - number)
            levels.append(_measure_level(pool, threads, name, size, share))
    return Bandwidths(threads=threads, levels=tuple(levels), seconds=time.perf_counter() - start)


def _measure_level(pool: ThreadPoolExecutor, threads: int, name: str, size: int, budget_s: float) -> Level:
    end = time.perf_counter() + budget_s
    half = max(1, size // (2 * threads * 4))  # elements of a source or a target
    pairs = list(pool.map(_buffers, [half] * threads))
    moved = 2 * half * 4 * threads
    again = max(1, _BYTES_A_ROUND // (2 * half * 4))
    # Reading goes over both ends, copying from one to the other: the footprint is the same.
    middle = time.perf_counter() + (end - time.perf_counter()) / 2
    read = _best(pool, pairs, functools.partial(_read, again), middle)
    copy = _best(pool, pairs, functools.partial(_copy, again), end)
    return Level(name=name, footprint_bytes=moved, read_bytes_s=moved * again / read, copy_bytes_s=moved * again / copy)


def _buffers(elements: int) -> tuple[Buffer, Buffer]:
    """Source and target, written once: a page that nobody wrote is no memory yet."""
    return np.ones(elements, np.int32), np.ones(elements, np.int32)


def _best(
    pool: ThreadPoolExecutor,
    pairs: list[tuple[Buffer, Buffer]],
    way: Callable[[tuple[Buffer, Buffer]], None],
    end: float,
) -> float:
    """Seconds of the fastest round in which every thread goes its way once."""
    best = float("inf")
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        list(pool.map(way, pairs))
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= end:
            break
    return best


def _read(again: int, pair: tuple[Buffer, Buffer]) -> None:
    """The largest element: NumPy's quickest way over an array, quicker than a sum."""
    for _ in range(again):
        pair[0].max()
        pair[1].max()


def _copy(again: int, pair: tuple[Buffer, Buffer]) -> None:
    for _ in range(again):
        np.copyto(pair[1], pair[0])
