"""How workflows use models: how often each is asked for, which ones together, which workflows are frequent."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from djinn_fx.solvers.deployment.problem import Problem


@dataclass(frozen=True)
class Patterns:
    """Of a problem's traffic.

    Attributes:
        usage: nodes that ask for each model.
        together: for each two models, a smaller number first: pairs of nodes of one request that ask for them.
        frequency: requests of each workflow.
    """

    usage: Mapping[int, int]
    together: Mapping[tuple[int, int], int]
    frequency: Mapping[int, int]


def patterns_of(problem: Problem) -> Patterns:
    """Counted over all requests."""
    usage: Counter[int] = Counter()
    together: Counter[tuple[int, int]] = Counter()
    frequency: dict[int, int] = {}
    counts = np.bincount(problem.traffic.workflow, minlength=len(problem.workflows)).tolist()
    for number, (one, times) in enumerate(zip(problem.workflows, counts, strict=True)):
        if not times:
            continue
        frequency[number] = times
        for model in one.models:
            usage[model] += times
        for first, second in itertools.combinations(one.models, 2):
            together[min(first, second), max(first, second)] += times
    return Patterns(dict(usage), dict(together), frequency)
