"""An estimated time with its interval and where it comes from, and what a cost model is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from djinn_fx.costmodels.work.work import Work, WorkGraph
from djinn_fx.hardware.device import Device

#: Where a time comes from, weakest first. ``mixed`` is a sum over several.
UNPRICED = "unpriced"
DATASHEET = "datasheet"
CALIBRATED = "calibrated"
LEARNED = "learned"
MEASURED = "measured"
MIXED = "mixed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """How long something takes.

    Attributes:
        time_s: the median expected, in seconds.
        low_s: lower end of the 80 % interval.
        high_s: its upper end.
        provenance: ``unpriced``, ``datasheet``, ``calibrated``, ``learned``, ``measured`` or ``mixed``.
    """

    time_s: float
    low_s: float
    high_s: float
    provenance: str


@runtime_checkable
class CostModel(Protocol):
    """Tells how long work takes. A user may pass an own one: ``options={"cost_model": obj}``."""

    @property
    def name(self) -> str:
        """For reports and cache keys."""
        ...

    def op(self, work: Work, device: Device) -> Estimate:
        """One op called on its own."""
        ...

    def region(self, graph: WorkGraph, device: Device, engine: str) -> Estimate:
        """A region or whole graph, run once by an engine, its call included."""
        ...
