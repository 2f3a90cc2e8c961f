"""Laws of GPU kernels: how long a product of matrices, an elementwise op, a softmax or a norm takes, from few numbers.

A law knows how such kernels work (tiles, waves over the processors, depth, bytes, a launch) and has a few coefficients
that only measurements tell (what share of peak a full wave attains, how deep a tile's start-up is). It computes whole
columns of shapes at once. Coefficients are fitted by ``bench/cost/gpu_fit.py``; all of them are
logarithms or plain slopes, so that 0 is neutral, and coefficients of several devices may be averaged.

Sizes are those of PyTorch's own float32 kernels (cuBLAS without TF32); see docs/decisions/0013.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Bytes of one element in the measurements: all of them were taken in float32.
FLOAT_BYTES = 4
#: Tiles of outputs that one thread block computes, (rows, columns); cuBLAS has more, these span its choices.
_TILES = ((128, 128), (64, 128), (128, 64), (64, 64))
#: Into how many parts the depth may be cut, so that a product of few tiles fills the device.
_SPLITS = (1, 2, 4, 8)
#: How sharply the longer of computing and moving bytes wins over the shorter; infinity would be a plain maximum.
_SHARPNESS = 4.0
#: A depth from which rows of both operands lie so far apart that their addresses miss the translation caches.
_LONG_DEPTH = 8192.0
#: The softmax kernel keeps a row of at most so many elements in registers and reads it once.
_REGISTER_ROW = 1024.0
#: Elements that a thread reads at once.
_VECTOR = 4.0
#: Threads that a processor keeps under way; some keep fewer, which a coefficient makes up for.
_THREADS = 2048.0
#: How sharply, in octaves, rows cease to fit into the cache.
_CACHE_SHARPNESS = 2.0
#: Bytes that one wave of tiles may touch before its addresses miss the translation caches.
_WIDE_SPAN = 2.0**28
#: A product runs below the boost clock where the board's power does not suffice: the share of the boost clock is the
#: base clock's share times this (times a fitted coefficient), at most 1.
_POWER = 1.57
#: A product of about this many seconds still runs at the boost clock if the board was cool before.
_BURST_S = 0.015
#: A board's power is held to its limit over about so many seconds, and this is how cool it is before.
_POWER_WINDOW_S = 1.0
_COOL = 0.3
#: Seconds between the end of a kernel and the start of the next one in the queue.
_GAP_S = 2e-6
#: Within how many octaves of cache size two devices resemble each other.
_REACH = 1.0
#: A device's deviations that say nothing of any other device, as a share of the variance.
_NUGGET = 0.3


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuSpec:
    """What a data sheet tells of a GPU.

    Attributes:
        name: as the driver reports it, or the catalogue's.
        flops: peak operations per second of the arithmetic asked for, at the boost clock.
        bandwidth: bytes per second.
        processors: streaming multiprocessors or compute units.
        cores: single-precision lanes of one of them.
        clock_hz: boost clock.
        cache_bytes: second-level cache.
        base_share: base clock as a share of the boost clock; 1 where unknown.
    """

    name: str
    flops: float
    bandwidth: float
    processors: int
    cores: int
    clock_hz: float
    cache_bytes: float
    base_share: float = 1.0


@dataclass(frozen=True, slots=True)
class Coefficient:
    """One number that measurements tell.

    Attributes:
        name: what it is.
        start: a plausible value, and the centre of a weak prior.
        spread: how far it plausibly lies from ``start`` (one standard deviation).
        inherited: whether a device's deviation is expected of devices of its generation too (which tiles the library
            has for it, how its memory and caches work), or is its own or its host's (power, launches, odd kernels).
    """

    name: str
    start: float
    spread: float
    inherited: bool = True


@dataclass(frozen=True, slots=True)
class Law:
    """One kind of kernel.

    Attributes:
        name: ``linear``, ``bmm``, ``elementwise``, ``softmax``, ``norm``.
        columns: names of the sizes it takes, in order.
        coefficients: what is fitted.
        seconds: times for rows of sizes, shape (rows, columns), given the coefficients' values, shape (coefficients,).
    """

    name: str
    columns: tuple[str, ...]
    coefficients: tuple[Coefficient, ...]
    seconds: Callable[[GpuSpec, Array, Array], Array]

    @property
    def start(self) -> Array:
        """Plausible values of the coefficients, shape (coefficients,)."""
        return np.array([one.start for one in self.coefficients])

    @property
    def spread(self) -> Array:
        """How far values plausibly lie from them, shape (coefficients,)."""
        return np.array([one.spread for one in self.coefficients])


_PRODUCT = (
    Coefficient("launch", np.log(12e-6), 0.7, False),
    Coefficient("peak share", np.log(0.95), 0.05, False),
    Coefficient("power", 0.0, 0.15, False),
    Coefficient("burst", 0.0, 1.0, False),
    Coefficient("start-up depth", np.log(12.0), 0.7),
    Coefficient("64 rows", 0.3, 0.4),
    Coefficient("64 columns", 0.3, 0.4),
    Coefficient("whole waves", 0.0, 1.0),
    Coefficient("tail", np.log(0.3), 0.7),
    Coefficient("bandwidth share", np.log(0.75), 0.2),
    Coefficient("long depth", 0.05, 0.1, False),
    Coefficient("wide span", 0.05, 0.2, False),
)


def _product_seconds(spec: GpuSpec, sizes: Array, values: Array) -> Array:
    """Batched product; columns: batch, rows, depth, columns. The quickest tile and split is taken, as cuBLAS does."""
    batch, rows, depth, columns = sizes.T
    launch, peak, power, burst, start_up, few_rows, few_columns, whole, tail, bandwidth, long, wide = values
    clock = min(1.0, _POWER * float(np.exp(power)) * spec.base_share)
    rate = spec.flops * np.exp(peak) / spec.processors
    bytes_s = spec.bandwidth * np.exp(bandwidth)
    slower = {(128, 128): 0.0, (64, 128): few_rows, (128, 64): few_columns, (64, 64): few_rows + few_columns}
    rounding = 1 / (1 + np.exp(-whole))
    compute = np.full(len(sizes), np.inf)
    for tile in _TILES:
        tiles = batch * np.ceil(rows / tile[0]) * np.ceil(columns / tile[1]) / spec.processors
        for split in _SPLITS:
            waves = tiles * split
            waves = waves + rounding * (np.ceil(waves) - waves) + np.exp(tail)
            one = 2 * tile[0] * tile[1] * (depth / split + np.exp(start_up)) * np.exp(slower[tile]) / rate
            again = 2 * FLOAT_BYTES * split * batch * rows * columns / bytes_s if split > 1 else 0.0
            compute = np.minimum(compute, waves * one + again)
    span = FLOAT_BYTES * depth * np.minimum(rows + columns, 2 * _TILES[0][0] * spec.processors)
    far = long * np.maximum(0.0, np.log2(depth / _LONG_DEPTH)) + wide * np.maximum(0.0, np.log2(span / _WIDE_SPAN))
    compute = compute * np.exp(far) / clock
    cool = _BURST_S**2 / (_BURST_S**2 + compute**2) / (1 + np.exp(-burst))
    compute = compute * clock / (clock + (1 - clock) * cool)
    moved = FLOAT_BYTES * batch * (rows * depth + depth * columns + rows * columns) / bytes_s
    return np.asarray(np.exp(launch) + _longer(compute, moved))


def _longer(first: Array, second: Array) -> Array:
    """A smooth maximum: what overlaps hides, yet two equal times hide each other not quite."""
    top = np.maximum(first, second)
    low = np.minimum(first, second) / top
    return np.asarray(top * (1 + low**_SHARPNESS) ** (1 / _SHARPNESS))


_ELEMENTWISE = (
    Coefficient("launch", np.log(12e-6), 0.7, False),
    Coefficient("bandwidth share", np.log(0.82), 0.15),
    Coefficient("one operand", 0.0, 0.05),
    Coefficient("power function", 0.0, 0.1),
)


def _elementwise_seconds(spec: GpuSpec, sizes: Array, values: Array) -> Array:
    """Columns: elements, operands as large as the result (1 or 2), whether it is a power of elements (0 or 1)."""
    elements, operands, is_power = sizes.T
    launch, bandwidth, one_operand, power = values
    moved = FLOAT_BYTES * elements * (operands + 1) / spec.bandwidth
    slower = -bandwidth + np.where(operands < 2, one_operand + power * is_power, 0.0)
    return np.asarray(np.exp(launch) + moved * np.exp(slower))


_ROWS = (
    Coefficient("launch", np.log(18e-6), 0.7, False),
    Coefficient("bandwidth share", np.log(0.82), 0.15),
    Coefficient("cache share", np.log2(0.45), 0.5),
    Coefficient("uneven", 0.2, 0.2),
    Coefficient("unaligned", 0.05, 0.05),
    Coefficient("short row", 0.05, 0.1),
)


def _softmax_seconds(spec: GpuSpec, sizes: Array, values: Array) -> Array:
    """Columns: rows, length. A short row stays in registers; a long one is read thrice, from a cache if it fits."""
    length = sizes[:, 1]
    threads = np.exp2(np.clip(np.floor(np.log2(length / _VECTOR)), 5, 10))
    in_registers = length <= _REGISTER_ROW
    return _rows_seconds(spec, sizes, values, np.where(in_registers, 32.0, threads), np.where(in_registers, 0.0, 2.0))


def _norm_seconds(spec: GpuSpec, sizes: Array, values: Array) -> Array:
    """Columns: rows, length. A row is read twice: for its mean and variance, then to be scaled."""
    return _rows_seconds(spec, sizes, values, np.full(len(sizes), 128.0), np.ones(len(sizes)))


def _rows_seconds(spec: GpuSpec, sizes: Array, values: Array, threads: Array, rereads: Array) -> Array:
    """One block of threads a row, which it reads once more ``rereads`` times: from the cache, as far as the rows that
    are under way at once fit in there."""
    rows, length = sizes.T
    launch, bandwidth, cache, uneven, unaligned, short = values
    under_way = spec.processors * (_THREADS / threads) * FLOAT_BYTES * length
    missed = 1 / (1 + np.exp(-_CACHE_SHARPNESS * (np.log2(under_way / spec.cache_bytes) - cache)))
    rounds = length / _VECTOR / threads
    slower = (
        -bandwidth
        + uneven * np.where(rereads > 1, np.log(np.ceil(rounds) / rounds), 0.0)
        + unaligned * (length % _VECTOR != 0)
        + short * np.maximum(0.0, np.log2(_REGISTER_ROW / length))
    )
    moved = FLOAT_BYTES * rows * length * (2 + rereads * missed) / spec.bandwidth
    return np.asarray(np.exp(launch) + moved * np.exp(slower))


_SIZES = ("batch", "rows", "depth", "columns")
LAWS: Mapping[str, Law] = {
    law.name: law
    for law in (
        Law("linear", _SIZES, _PRODUCT, _product_seconds),
        Law("bmm", _SIZES, _PRODUCT, _product_seconds),
        Law("elementwise", ("elements", "operands", "is power"), _ELEMENTWISE, _elementwise_seconds),
        Law("softmax", ("rows", "length"), _ROWS, _softmax_seconds),
        Law("norm", ("rows", "length"), _ROWS, _norm_seconds),
    )
}


def in_sequence(law: Law, spec: GpuSpec, sizes: Array, values: Array, cool: float = 0.0) -> Array:
    """Times of kernels that follow one another on a busy device: launches are hidden behind the kernel before.

    Args:
        cool: how far the board still is from its power limit, between 0 (products run at the clock that the board's
            power sustains) and 1 (at the boost clock); see :func:`coolness`.
    """
    names = [one.name for one in law.coefficients]
    busy = values.copy()
    busy[names.index("launch")] = np.log(_GAP_S)
    if "burst" in names:
        busy[names.index("burst")] = np.log(max(cool, 1e-9) / (1 - cool))
    return law.seconds(spec, sizes, busy)


def coolness(seconds: float) -> float:
    """How cool a board stays in bursts of so many seconds of work: power is held to its limit over about a second."""
    return _COOL / (1 + (seconds / _POWER_WINDOW_S) ** 2)


#: Base clock over boost clock, by a part of the device's name; the vendors' product briefs, as collected by
#: TechPowerUp's GPU database (https://www.techpowerup.com/gpu-specs/). The longest part that fits counts.
_BASE_SHARES = {
    "p100-pcie": 1190 / 1329,
    "p100-sxm": 1328 / 1480,
    "p100": 1190 / 1329,
    "v100-pcie": 1230 / 1380,
    "v100-sxm": 1290 / 1530,
    "v100": 1290 / 1530,
    "t4": 585 / 1590,
    "a100-pcie-40gb": 765 / 1410,
    "a100-40gb-pcie": 765 / 1410,
    "a100-80gb-pcie": 1065 / 1410,
    "a100-sxm": 1095 / 1410,
    "a100": 1095 / 1410,
    "a10": 885 / 1695,
    "a30": 930 / 1440,
    "l4": 795 / 2040,
    "l40": 735 / 2490,
    "l40s": 1110 / 2520,
    "h100-pcie": 1095 / 1755,
    "h100": 1590 / 1980,
    "h200": 1590 / 1980,
    "rtx-4090": 2235 / 2520,
    "rtx-5090": 2017 / 2407,
    "mi100": 1000 / 1502,
    "mi210": 1000 / 1700,
    "mi250": 1000 / 1700,
    "mi300x": 1000 / 2100,
}


def base_share(name: str) -> float:
    """Base clock as a share of the boost clock for a device's name, as a driver or a catalogue has it; 1 if unknown."""
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    fitting = [
        part
        for part in _BASE_SHARES
        if f"-{part}-" in f"-{words}-" or (part.endswith("sxm") and f"-{part}" in f"-{words}")
    ]
    return _BASE_SHARES[max(fitting, key=len)] if fitting else 1.0


def similarity(target: GpuSpec, sources: Sequence[GpuSpec]) -> Array:
    """How much of each source's own deviation is expected of the target, shape (sources,); sums to less than 1.

    The deviations are taken as a Gaussian process over devices. Of a data sheet the last cache tells the generation
    best: it grew tenfold in one step. A far device gets what is shared only.
    """
    if not sources:
        return np.zeros(0)
    places = np.log2([max(source.cache_bytes, 1.0) for source in sources])
    between = np.abs(places[:, None] - places[None])
    to_target = np.abs(places - np.log2(max(target.cache_bytes, 1.0)))
    matrix = np.exp(-between / _REACH) + _NUGGET * np.eye(len(sources))
    return np.asarray(np.linalg.solve(matrix, np.exp(-to_target / _REACH)))
