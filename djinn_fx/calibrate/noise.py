"""How well times repeat on this machine: within a process, and from one process to the next."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from djinn_fx.costmodels.profile import Sample


def noise_of(by_task: Mapping[str, Sequence[Sample]]) -> dict[str, float]:
    """The noise floor, from tasks that several processes measured.

    Returns:
        ``within``: median over all samples of half the distance of the quartiles within a process, as a share;
        ``between``: median over tasks that were measured by several processes of the mean distance of a process's time
        from the median of them all, as a share of it; ``between_p90``: nine tenths of these tasks have less;
        ``tasks``: how many these were. Absent where nothing was measured more than once.
    """
    found: dict[str, float] = {}
    spreads = [one.spread for samples in by_task.values() for one in samples]
    if spreads:
        found["within"] = statistics.median(spreads)
    distances = sorted(_distance(samples) for samples in by_task.values() if len(samples) > 1)
    if distances:
        found["between"] = statistics.median(distances)
        found["between_p90"] = distances[min(len(distances) - 1, round(0.9 * len(distances)))]
        found["tasks"] = float(len(distances))
    return found


def _distance(samples: Sequence[Sample]) -> float:
    middle = statistics.median(one.time_s for one in samples)
    return statistics.fmean(abs(one.time_s - middle) for one in samples) / middle
