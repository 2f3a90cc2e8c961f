"""The cost model fitted to this machine: kernels by engine, laws by kernel, an interval from samples left out."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from djinn_fx.costmodels.estimate import CALIBRATED, MIXED, Estimate
from djinn_fx.costmodels.laws.curves import batch, graph_seconds, kernel_seconds
from djinn_fx.costmodels.laws.fit import SCHEMA, Fitted
from djinn_fx.costmodels.laws.fusion import OP_BY_OP, kernels, policy_of
from djinn_fx.costmodels.laws.interval import interval
from djinn_fx.costmodels.work.work import Work, WorkGraph
from djinn_fx.hardware.device import Device
from djinn_fx.settings.engines import EAGER

#: An engine that was not measured is estimated by eager's fit; its interval is this many times as wide.
_STRANGER = 3.0
_NOTHING = Estimate(time_s=0.0, low_s=0.0, high_s=0.0, provenance=CALIBRATED)


class CalibratedModel:
    """Times from laws fitted to samples of this machine.

    Args:
        fitted: what :func:`djinn_fx.costmodels.laws.fit.fit` gave.
        name: for reports and cache keys.
        threads: how many the engines may use; None: the most that was measured.

    Raises:
        ValueError: the data are of another version, or hold no fit.
    """

    def __init__(self, fitted: Mapping[str, Any], name: str = "calibrated", threads: int | None = None) -> None:
        if fitted.get("schema") != SCHEMA:
            raise ValueError(f"the fit's schema is {fitted.get('schema')!r}, not {SCHEMA}; run djinn calibrate")
        self.name = name
        self._fits: dict[tuple[str, int], Fitted] = {}
        for key, data in fitted["engines"].items():
            engine, _, count = key.rpartition("/")
            self._fits[engine, int(count)] = Fitted.from_json(data)
        if not self._fits:
            raise ValueError("the fit holds no engine; run djinn calibrate")
        self.threads = max(count for _, count in self._fits) if threads is None else threads
        self._op = functools.lru_cache(maxsize=65536)(self._price_op)

    def knows(self, engine: str) -> bool:
        """Whether the engine was measured."""
        return any(name == engine for name, _ in self._fits)

    def op(self, work: Work, device: Device) -> Estimate:
        """One op called on its own, in eager. See :meth:`ops` for many."""
        return self._op(work)

    def ops(self, works: Sequence[Work], device: Device) -> list[Estimate]:
        """Each op called on its own, in eager: many at once, which is faster by far than one by one."""
        fitted, threads, factor = self._fit_of(EAGER)
        busy = [work for work in works if not work.costs_nothing]
        if not busy:
            return [_NOTHING] * len(works)
        together = WorkGraph(ops=tuple(busy), reads=((),) * len(busy), escapes=(True,) * len(busy))
        columns = batch([kernels(together, OP_BY_OP)])
        # How far away an op's weights lie is not for its neighbours here to tell: each is alone.
        columns = replace(columns, reach=np.maximum(1.0, columns.weight + columns.other))
        seconds = kernel_seconds(columns, fitted.logs[None], threads, fitted.names)[0]
        deviation = 2.0 * fitted.error * factor  # a single op, whose error nothing cancels
        found = iter([interval(float(one), deviation, fitted.scale, CALIBRATED) for one in seconds])
        return [_NOTHING if work.costs_nothing else next(found) for work in works]

    def _price_op(self, work: Work) -> Estimate:
        return self.ops([work], _NO_DEVICE)[0]

    def region(self, graph: WorkGraph, device: Device, engine: str) -> Estimate:
        """A region or whole graph run once by an engine, its call included."""
        return self.regions([graph], device, engine)[0]

    def regions(self, graphs: Sequence[WorkGraph], device: Device, engine: str) -> list[Estimate]:
        """As :meth:`region`, for several graphs."""
        fitted, threads, factor = self._fit_of(engine)
        columns = batch([kernels(graph, policy_of(engine)) for graph in graphs])
        width = 1e-3
        moved = np.concatenate([fitted.logs[None], fitted.logs[None] + width * np.eye(len(fitted.logs))])
        logs = np.log(graph_seconds(columns, moved, threads, fitted.names))
        slopes = (logs[1:] - logs[0]) / width
        variance = np.einsum("pg,pq,qg->g", slopes, fitted.covariance, slopes)
        deviations = factor * np.hypot(fitted.error, np.sqrt(np.maximum(variance, 0.0)))
        return [
            interval(float(np.exp(one)), float(deviation), fitted.scale, self._provenance(graph))
            for one, deviation, graph in zip(logs[0], deviations, graphs, strict=True)
        ]

    @staticmethod
    def _provenance(graph: WorkGraph) -> str:
        """``mixed`` where some op has no rule: its operations are not known, its bytes and call are."""
        return MIXED if any(work.problem for work in graph) else CALIBRATED

    def _fit_of(self, engine: str) -> tuple[Fitted, int, float]:
        """The fit for an engine, the threads it was made for, and a factor for its interval."""
        for name, factor in ((engine, 1.0), (EAGER, _STRANGER)):
            counts = [count for fitted, count in self._fits if fitted == name]
            if counts:
                nearest = min(counts, key=lambda count: (abs(count - self.threads), count))
                return self._fits[name, nearest], nearest, factor * (1.0 if nearest == self.threads else _STRANGER)
        (_, threads), fitted = next(iter(self._fits.items()))
        return fitted, threads, _STRANGER


_NO_DEVICE = Device(
    name="none",
    kind="cpu",
    peak_flops={"float32": 1.0},
    bandwidth_bytes_s=1.0,
    memory_bytes=0,
    launch_overhead_s=0.0,
    source="stands for nothing: a calibrated model knows its machine",
)
