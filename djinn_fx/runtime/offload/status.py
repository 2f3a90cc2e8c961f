"""What an offloaded model was planned to take, beside what it took."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from torch import nn

from djinn_fx.reasons import Reason
from djinn_fx.runtime.offload.load import weights_of
from djinn_fx.units import format_bytes, format_seconds


@dataclass(frozen=True, kw_only=True)
class OffloadStatus:
    """Bytes and seconds of an offloaded model, planned and measured.

    Attributes:
        budget: bytes that the process may take.
        held: what it took without the model, or was said to take.
        working: kept for activations and caches.
        weights: bytes of all weights.
        pinned: of those in memory now.
        ring: of the ring that the others are read into.
        by_rows: of embeddings that are looked up in their file.
        predicted_read_bytes: what a call reads, rows aside.
        predicted_read_s: seconds for that at the rate at which the pinned weights were read; computing goes on
            beside it. None if nothing was read yet.
        predicted_peak: bytes of the process.
        calls: measured, the last 256.
        read_bytes: by the last call; what is read ahead for the next one shifts between calls.
        seconds: median of a call; None before the first.
        waited_s: of the last call, how long operators waited for weights.
        peak: most bytes that the process was seen to hold in these calls.
        misses: how often a weight was asked for that was not expected.
        reasons: weights that were let go because activations and caches grew.
    """

    budget: int
    held: int
    working: int
    weights: int
    pinned: int
    ring: int
    by_rows: int
    predicted_read_bytes: int
    predicted_read_s: float | None
    predicted_peak: int
    calls: int
    read_bytes: int | None
    seconds: float | None
    waited_s: float | None
    peak: int | None
    misses: int
    reasons: tuple[Reason, ...]

    def __str__(self) -> str:
        where = (
            f"offloaded: {format_bytes(self.weights)} of weights under {format_bytes(self.budget)}; "
            f"{format_bytes(self.pinned)} stay, {format_bytes(self.by_rows)} are looked up by rows, "
            f"ring {format_bytes(self.ring)}, {format_bytes(self.working)} kept for activations"
        )
        takes = f", {format_seconds(self.predicted_read_s)}" if self.predicted_read_s is not None else ""
        planned = f"{format_bytes(self.predicted_read_bytes)}{takes}; peak {format_bytes(self.predicted_peak)}"
        lines = [where, f"a call reads {planned} (predicted)"]
        if self.seconds is not None:
            lines.append(
                f"a call read {format_bytes(self.read_bytes or 0)}, {format_seconds(self.seconds)}, waited "
                f"{format_seconds(self.waited_s or 0.0)}; peak {format_bytes(self.peak or 0)} ({self.calls} measured)"
            )
        return "\n".join([*lines, *map(str, self.reasons)])


def offload_status(model: nn.Module) -> OffloadStatus:
    """What a model given to :func:`djinn_fx.load_offloaded` was planned to take, beside what it took.

    Raises:
        OffloadError: it is not offloaded.
    """
    weights = weights_of(model)
    room, passes = weights.room, list(weights.passes)
    pinned = weights.pinned_bytes
    ring = weights.ring.size if weights.ring is not None else 0
    rows = {key for key in weights.plan.by_rows if not weights.stays(key)}
    planned = {*weights.plan.pinned, *weights.plan.by_rows}
    evicted = sum(weights.sizes[k] for k in weights.plan.pinned if not weights.stays(k))
    read = sum(weights.sizes[k] for k in weights.sizes if k not in planned) + evicted
    return OffloadStatus(
        budget=room.budget,
        held=room.held,
        working=room.working,
        weights=sum(weights.sizes.values()),
        pinned=pinned,
        ring=ring,
        by_rows=sum(weights.sizes[key] for key in rows),
        predicted_read_bytes=read,
        predicted_read_s=read / weights.load_rate if weights.load_rate else None,
        predicted_peak=room.held + room.working + pinned + ring,
        calls=len(passes),
        read_bytes=passes[-1].read_bytes if passes else None,
        seconds=statistics.median(one.seconds for one in passes) if passes else None,
        waited_s=passes[-1].waited_s if passes else None,
        peak=max(one.peak_bytes for one in passes) if passes else None,
        misses=weights.ring.misses if weights.ring is not None else 0,
        reasons=tuple(weights.reasons),
    )
