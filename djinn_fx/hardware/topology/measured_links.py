"""A link's time law from transfers that were timed on it. Imports no torch."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

from djinn_fx.hardware.topology.links import MEASURED, Link


def measured_link(link: Link, samples: Sequence[tuple[int, float]]) -> Link:
    """The link with what was measured in place of what its class says.

    The latency is the median time of the smallest size; between the medians of the measured sizes times are
    interpolated, beyond the largest the rate between the two largest goes on. The 80 % interval is that of single
    transfers about their size's median.

    Args:
        link: whose ends, medium and kind stay.
        samples: bytes and seconds of single transfers, several for each of two sizes or more.

    Raises:
        ValueError: fewer than two sizes, or a time that is not positive.
    """
    by_size: dict[int, list[float]] = {}
    for nbytes, seconds in samples:
        if nbytes < 0 or seconds <= 0:
            raise ValueError(f"a transfer of {nbytes} bytes in {seconds} s")
        by_size.setdefault(nbytes, []).append(seconds)
    if len(by_size) < 2:
        raise ValueError("a link's law needs transfers of two sizes or more")
    medians = [(size, statistics.median(times)) for size, times in sorted(by_size.items())]
    latency_s = medians[0][1]
    curve: list[tuple[int, float]] = []
    for size, seconds in medians:
        # Noise may make a larger transfer seem faster than a smaller one; a law must not.
        curve.append((size, max(seconds - latency_s, curve[-1][1] if curve else 0.0)))
    (before, before_s), (last, last_s) = curve[-2:]
    grown_s = last_s - before_s or last_s
    spreads = sorted(s / median for size, median in medians for s in by_size[size])
    return replace(
        link,
        latency_s=latency_s,
        curve=tuple(curve),
        bandwidth_bytes_s=(last - before) / grown_s if grown_s > 0 else link.bandwidth_bytes_s,
        interval=(min(1.0, _quantile(spreads, 0.1)), max(1.0, _quantile(spreads, 0.9))),
        provenance=MEASURED,
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    """The value at a share of the way through an ordered series, interpolated."""
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
