"""What GPU kernels take by the fitted laws: a cost model for devices of kind ``cuda``.

Coefficients are shipped (``data/gpu_kernels.json``; fitted by ``bench/cost/gpu.py --coefficients``) from measured
float32 kernels of four GPUs. On one of those an estimate in float32 is ``calibrated``; on any other GPU, or in another
precision, the same laws are given the data sheet's figures, and the estimate is ``datasheet`` with a wider interval.
"""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from djinn_fx.costmodels.estimate import CALIBRATED, DATASHEET, UNPRICED, Estimate
from djinn_fx.costmodels.laws.fusion import Kernel, kernels, policy_of
from djinn_fx.costmodels.laws.gpu_laws import (
    FLOAT_BYTES,
    LAWS,
    Array,
    GpuSpec,
    Law,
    base_share,
    coolness,
    in_sequence,
    similarity,
)
from djinn_fx.costmodels.laws.roofline import RooflineModel
from djinn_fx.costmodels.work.work import Work, WorkGraph
from djinn_fx.hardware.device import Device
from djinn_fx.settings.engines import EAGER

SCHEMA = "djinn_fx.gpu_kernels/1"
COEFFICIENTS = Path(__file__).parents[1] / "data" / "gpu_kernels.json"

#: Bytes of an element by dtype; others are priced as float32.
_ITEM_BYTES = {"float64": 8, "float16": 2, "bfloat16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1, "int8": 1, "uint8": 1}
#: Kinds whose time is that of their bytes, and how often a byte that is read at scattered addresses counts: a sector of
#: 32 bytes is moved for each element of 4, but neighbours often share it.
_SCATTERED = 2.0
#: Special functions an SM does for each fused multiply-add: 16 lanes against 64 or 128 (CUDA programming guide, table
#: of arithmetic throughput), each counted as one operation where a multiply-add counts as two.
_SPECIAL_SHARE = 1 / 16
#: Share of the peak that fused attention kernels attain in float32; FlashAttention-2 reports 0.5 to 0.7 of half's.
_ATTENTION_SHARE = 0.5
#: Seconds of CPU time that eager PyTorch takes to start one op; a GPU that is quicker waits for it.
_DISPATCH_S = 6e-6
#: Answers for single ops that a model keeps, and devices whose coefficients are kept.
_KEPT_OPS, _KEPT_DEVICES = 16384, 256
#: An interval where a law is used beyond what was measured (another precision, a convolution), as factors.
_BEYOND = (0.5, 2.0)


@dataclass(frozen=True, slots=True)
class Fitted:
    """One law's coefficients.

    Attributes:
        law: which law.
        shared: what the devices have in common, shape (coefficients,).
        own: what each device adds, shape (devices, coefficients).
        specs: the devices.
    """

    law: Law
    shared: Array
    own: Array
    specs: tuple[GpuSpec, ...]

    def values(self, spec: GpuSpec) -> Array:
        """Coefficients for a device, measured or not: the shared ones and the similar devices' own, by similarity."""
        inherited = np.array([one.inherited for one in self.law.coefficients])
        return np.asarray(self.shared + np.where(inherited, similarity(spec, self.specs) @ self.own, 0.0))

    def seconds(self, spec: GpuSpec, sizes: Array) -> Array:
        """Times for rows of sizes on a device."""
        return self.law.seconds(spec, sizes, self.values(spec))


@dataclass(frozen=True, slots=True)
class _Table:
    """The shipped coefficients: a fit of each law, and how wrong it was, as factors around a prediction (80 %)."""

    fits: Mapping[str, Fitted]
    seen: Mapping[str, tuple[float, float]]
    unseen: Mapping[str, tuple[float, float]]


@functools.cache
def _table(path: Path = COEFFICIENTS) -> _Table:
    """Raises ValueError if the file is not of this schema: it is part of the package."""
    data = json.loads(path.read_text(encoding="utf-8"))
    if data.get("schema") != SCHEMA:
        raise ValueError(f"{path}: schema is {data.get('schema')!r}, not {SCHEMA!r}")
    specs = {one["name"]: GpuSpec(**one) for one in data["devices"]}
    fits = {}
    for name, entry in data["laws"].items():
        devices = sorted(entry["own"])
        own = np.array([entry["own"][device] for device in devices])
        fits[name] = Fitted(LAWS[name], np.array(entry["shared"]), own, tuple(specs[one] for one in devices))
    return _Table(
        fits,
        {name: (entry["seen"][0], entry["seen"][1]) for name, entry in data["laws"].items()},
        {name: (entry["unseen"][0], entry["unseen"][1]) for name, entry in data["laws"].items()},
    )


def spec_of(device: Device, dtype: str = "float32") -> GpuSpec:
    """A catalogue row as the laws want it, for arithmetic in a dtype.

    The laws count elements of four bytes: for others the bandwidth is scaled instead.
    """
    peak = device.peak(dtype)
    names = (device.title, *device.aliases, device.name)
    share = next((share for name in names if (share := base_share(name)) < 1), 1.0)
    return GpuSpec(
        name=device.name,
        flops=peak,
        bandwidth=device.bandwidth_bytes_s * FLOAT_BYTES / _ITEM_BYTES.get(dtype, FLOAT_BYTES),
        processors=device.processors,
        cores=max(1, round(device.peak("float32") / 2 / device.clock_hz / device.processors)),
        clock_hz=device.clock_hz,
        cache_bytes=float(device.cache_bytes),
        base_share=share,
    )


class GpuModel:
    """Laws of GPU kernels as a cost model. A device without processors, clock or cache is priced by the roofline."""

    name = "gpu-kernels"

    def __init__(self) -> None:
        self._roofline = RooflineModel()
        self._ops: dict[tuple[Work, int], tuple[Device, Estimate]] = {}

    def op(self, work: Work, device: Device) -> Estimate:
        """One op called on its own on an idle device, its launch included."""
        return self.ops([work], device)[0]

    def ops(self, works: Sequence[Work], device: Device) -> list[Estimate]:
        """Each op on its own; those of one law are computed together. Graphs repeat ops: answers are kept."""
        found: dict[Work, Estimate] = {}
        rows: dict[Work, _Row] = {}
        for work in dict.fromkeys(works):
            kept = self._ops.get((work, id(device)))
            if kept is not None and kept[0] is device:
                found[work] = kept[1]
            elif work.costs_nothing:
                found[work] = Estimate(time_s=0.0, low_s=0.0, high_s=0.0, provenance=DATASHEET)
            elif not _known(device) or work.kind == "collective":
                found[work] = self._roofline.op(work, device)
            else:
                rows[work] = _Row.of_work(work)
        if rows:
            seconds = _seconds(list(rows.values()), device, sequence=False, cool=0.0)
            for (work, row), time in zip(rows.items(), seconds, strict=True):
                found[work] = _summed([row], [float(time)], device)
        if len(self._ops) + len(found) > _KEPT_OPS:
            self._ops.clear()
        self._ops.update({(work, id(device)): (device, one) for work, one in found.items()})
        return [found[work] for work in works]

    def region(self, graph: WorkGraph, device: Device, engine: str) -> Estimate:
        """The kernels of an engine one after another, launches hidden; eager is never quicker than its calls."""
        if not _known(device):
            return self._roofline.region(graph, device, engine)
        schedule = kernels(graph, policy_of(engine))
        rows = [_Row.of_kernel(kernel) for kernel in schedule.kernels]
        found = _estimate(rows, device)
        calls = _DISPATCH_S * (len(rows) + schedule.views) if engine == EAGER else device.launch_overhead_s
        if found.time_s >= calls:
            return found
        return replace(found, time_s=calls, low_s=min(found.low_s, calls / 2), high_s=max(found.high_s, 2 * calls))


def _known(device: Device) -> bool:
    return device.kind == "cuda" and device.processors > 0 and device.clock_hz > 0 and device.cache_bytes > 0


@dataclass(frozen=True, slots=True)
class _Row:
    """One kernel for a law.

    Attributes:
        law: its name.
        sizes: the law's columns.
        dtype: of the arithmetic.
        at_least: operations of a kind that the law does not count, as ordinary operations.
        is_sure: whether kernels of this kind were measured.
        problem: why it is unpriced, or None.
    """

    law: str
    sizes: tuple[float, ...]
    dtype: str
    at_least: float
    is_sure: bool
    problem: str | None

    @classmethod
    def of_work(cls, work: Work) -> _Row:
        """A single op."""
        scattered = (_SCATTERED - 1) * (work.strided_bytes + work.gather_bytes)
        return cls._made(work, work.nbytes + scattered, work.special_flops)

    @classmethod
    def of_kernel(cls, kernel: Kernel) -> _Row:
        """Ops that run together; what stays inside touches no memory."""
        scattered = (_SCATTERED - 1) * (kernel.strided_bytes + kernel.gather_bytes)
        return cls._made(kernel.main, kernel.nbytes + scattered, kernel.special_flops, fused=len(kernel.ops) > 1)

    @classmethod
    def _made(cls, work: Work, nbytes: float, special: float, *, fused: bool = False) -> _Row:
        at_least = special / _SPECIAL_SHARE
        if work.kind == "attention":
            at_least += work.matmul_flops / _ATTENTION_SHARE
        product = _product(work)
        if product is not None:
            law = "bmm" if product[0] > 1 else "linear"
            return cls(law, product, work.dtype, at_least, work.kind == "matmul", work.problem)
        if work.kind in ("softmax", "norm") and len(work.sides) == 2 and not fused:
            sizes = tuple(float(max(1, side)) for side in work.sides)
            return cls(work.kind, sizes, work.dtype, at_least, True, work.problem)
        elements = nbytes / _ITEM_BYTES.get(work.dtype, FLOAT_BYTES) / 3
        sure = work.kind in ("elementwise", "copy", "fill") and not fused
        return cls("elementwise", (max(elements, 1.0), 2.0, 0.0), work.dtype, at_least, sure, work.problem)


def _product(work: Work) -> tuple[float, ...] | None:
    """Batch, rows, depth, columns of a product, or of the product that a convolution amounts to."""
    if work.kind == "matmul" and len(work.sides) == 4:
        batch, rows, columns, depth = work.sides
    elif work.kind == "conv" and len(work.sides) == 6:
        images, columns, depth, batch, positions, kernel = work.sides
        rows, depth, columns = images * positions, depth * kernel, max(1, columns // max(1, batch))
    else:
        return None
    return tuple(float(max(1, side)) for side in (batch, rows, depth, columns))


def _estimate(rows: Sequence[_Row], device: Device) -> Estimate:
    """Times of kernels that run one after another, summed."""
    hot = _seconds(rows, device, sequence=True, cool=0.0)
    seconds = _seconds(rows, device, sequence=True, cool=coolness(float(hot.sum()))) if rows else hot
    return _summed(rows, seconds.tolist(), device)


def _summed(rows: Sequence[_Row], seconds: Sequence[float], device: Device) -> Estimate:
    """The sum of these times; the ends of the interval too, as if all kernels erred alike."""
    table, names = _table(), _names(device)
    low = high = 0.0
    sure = True
    for row, time in zip(rows, seconds, strict=True):
        seen = row.is_sure and row.dtype == "float32" and any(one.name in names for one in table.fits[row.law].specs)
        factors = table.seen[row.law] if seen else table.unseen[row.law]
        if not row.is_sure or row.dtype != "float32":
            factors = (min(factors[0], _BEYOND[0]), max(factors[1], _BEYOND[1]))
        low, high, sure = low + time * factors[0], high + time * factors[1], sure and seen
    provenance = CALIBRATED if sure and rows else DATASHEET
    if rows and all(row.problem is not None for row in rows):
        provenance = UNPRICED
    return Estimate(time_s=sum(seconds), low_s=low, high_s=high, provenance=provenance)


def _names(device: Device) -> frozenset[str]:
    return frozenset((device.name, device.title, *device.aliases))


def _seconds(rows: Sequence[_Row], device: Device, *, sequence: bool, cool: float) -> Array:
    """Each kernel's time, those of one law and dtype computed together."""
    seconds = np.zeros(len(rows))
    together: dict[tuple[str, str], list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        together[row.law, row.dtype].append(index)
    for (law, dtype), indices in together.items():
        spec, values = _values(device, law, dtype)
        sizes = np.array([rows[index].sizes for index in indices])
        if sequence:
            seconds[indices] = in_sequence(LAWS[law], spec, sizes, values, cool)
        else:
            seconds[indices] = LAWS[law].seconds(spec, sizes, values)
        seconds[indices] = np.maximum(seconds[indices], [rows[index].at_least / spec.flops for index in indices])
    return seconds


_kept_values: dict[tuple[int, str, str], tuple[Device, GpuSpec, Array]] = {}


def _values(device: Device, law: str, dtype: str) -> tuple[GpuSpec, Array]:
    """A data sheet for a dtype, and a fitted device's own coefficients or what is expected of another device's."""
    key = id(device), law, dtype
    kept = _kept_values.get(key)
    if kept is not None and kept[0] is device:
        return kept[1], kept[2]
    spec, fitted, names = spec_of(device, dtype), _table().fits[law], _names(device)
    own = next((fitted.own[index] for index, one in enumerate(fitted.specs) if one.name in names), None)
    values = fitted.values(spec) if own is None else np.asarray(fitted.shared + own)
    if len(_kept_values) >= _KEPT_DEVICES:
        _kept_values.clear()
    _kept_values[key] = device, spec, values
    return spec, values
