"""The calibrated roofline: one efficiency for each kind of op, the yardstick for the laws of ``curves``.

An op takes the longer of its operations at peak and its bytes at full bandwidth, times a factor of its kind, and a
call. The factors are fitted to the same samples. It knows neither caches nor shapes nor fusion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from djinn_fx.costmodels.profile import SAMPLES_FILE, Sample, read_checked
from djinn_fx.costmodels.work.work import KINDS, WorkGraph

#: Nominal rates that the factors are relative to; any would do, for a factor is fitted to each kind.
_OPERATIONS_S, _BYTES_S = 1e11, 1e10
_ROUNDS = 200


def baseline_columns(graph: WorkGraph) -> list[float]:
    """Roofline seconds by kind at nominal rates, and the number of ops that are called."""
    seconds = dict.fromkeys(KINDS, 0.0)
    calls = 0
    for work in graph:
        if not work.costs_nothing:
            seconds[work.kind] += max(work.flops / _OPERATIONS_S, work.nbytes / _BYTES_S)
            calls += 1
    return [*seconds.values(), calls * 1e-6]


def fit_baseline(samples: Sequence[Sample]) -> dict[str, float]:
    """A factor for each kind and for the call; a kind without samples has the factor of all.

    Minimises the relative error by multiplicative updates (every factor stays positive).
    """
    table = np.asarray([baseline_columns(sample.graph) for sample in samples])
    times = np.asarray([sample.time_s for sample in samples])
    table = table / times[:, None]
    factors = np.ones(table.shape[1])
    for _ in range(_ROUNDS):
        predicted = np.maximum(table @ factors, 1e-12)
        factors *= (table.T @ (1.0 / predicted)) / np.maximum(table.sum(axis=0), 1e-12)
        factors = np.clip(factors, 1e-3, 1e3)
    seen = table.sum(axis=0) > 0
    factors[~seen] = float(np.exp(np.log(factors[seen]).mean())) if seen.any() else 1.0
    return dict(zip((*KINDS, "call"), (float(f"{factor:.4g}") for factor in factors), strict=True))


def baseline_seconds(factors: Mapping[str, float], graph: WorkGraph) -> float:
    """Predicted seconds of a graph, run once."""
    weights = [factors[name] for name in (*KINDS, "call")]
    return float(np.dot(baseline_columns(graph), weights))


def read_samples(folder: Path) -> list[Sample]:
    """The samples beside a profile.

    Raises:
        OSError: there are none, or they cannot be read.
        ValueError: the file is damaged.
    """
    try:
        return [Sample.from_json(one) for one in read_checked(folder / SAMPLES_FILE)]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{folder / SAMPLES_FILE}: not samples ({error!r})") from error
