"""Roofline: an op takes as long as its arithmetic or its memory traffic, whichever is longer, and its launch.

It knows nothing of caches or how well a kernel uses the machine: good for comparing parts of one graph, not for
promising seconds. Its interval says so.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from djinn_fx.costmodels.estimate import DATASHEET, UNPRICED, Estimate
from djinn_fx.costmodels.work.work import Work, WorkGraph
from djinn_fx.hardware.device import Device
from djinn_fx.srg.record import Cost

#: The 80 % interval of a roofline, as factors of its time. A datasheet's peak is never exceeded, but caches make
#: bytes cheaper than main memory's bandwidth; small and awkward shapes reach a tenth of the peak or less.
FASTER, SLOWER = 0.5, 10.0

#: A special function costs about as much as so many operations on a vector unit (a polynomial and its scaling): an
#: order of magnitude, not a measurement; the calibrated model fits it.
SPECIAL_FLOPS = 20

#: Graphs whose price is kept, for a caller that asks again.
_KEPT = 64


class RooflineModel:
    """The roofline of a device's datasheet as a cost model. Ops run one after the other: nothing is fused."""

    name = "roofline"

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, int], tuple[WorkGraph, Device, Estimate]] = OrderedDict()

    def op(self, work: Work, device: Device) -> Estimate:
        """One op called on its own; an op without a rule by its bytes and its launch, a lower bound."""
        seconds = seconds_of(work, device)
        provenance = DATASHEET if work.problem is None else UNPRICED
        return Estimate(time_s=seconds, low_s=FASTER * seconds, high_s=SLOWER * seconds, provenance=provenance)

    def region(self, graph: WorkGraph, device: Device, engine: str) -> Estimate:
        """The sum over the ops, whatever the engine; ``unpriced`` only if every op with work is."""
        key = (id(graph), id(device))
        kept = self._kept.get(key)
        if kept is not None and kept[0] is graph and kept[1] is device:
            return kept[2]
        estimate = _summed(graph.ops, device)
        self._kept[key] = (graph, device, estimate)
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return estimate


def _summed(works: Sequence[Work], device: Device) -> Estimate:
    seconds = sum(seconds_of(work, device) for work in works)
    busy = [work for work in works if not work.costs_nothing]
    unknown = bool(busy) and all(work.problem is not None for work in busy)
    return Estimate(
        time_s=seconds,
        low_s=FASTER * seconds,
        high_s=SLOWER * seconds,
        provenance=UNPRICED if unknown else DATASHEET,
    )


def seconds_of(work: Work, device: Device) -> float:
    """What the roofline says of one op."""
    if work.kind == "view" or work.kind == "free":
        return 0.0
    operations = work.matmul_flops + work.vector_flops + SPECIAL_FLOPS * work.special_flops
    moved = work.weight_bytes + work.read_bytes + work.write_bytes
    return max(operations / device.peak(work.dtype), moved / device.bandwidth_bytes_s) + device.launch_overhead_s


def cost_of(work: Work, estimate: Estimate) -> Cost:
    """What an op does and how long it takes, as the graph's record holds it."""
    return Cost(
        flops=work.matmul_flops + work.vector_flops + work.special_flops,
        read_bytes=work.weight_bytes + work.read_bytes,
        write_bytes=work.write_bytes,
        time_s=estimate.time_s,
        low_s=estimate.low_s,
        high_s=estimate.high_s,
        provenance=estimate.provenance,
    )


ROOFLINE = RooflineModel()
