"""How wide an interval must be to hold the truth as often as it says: split-conformal prediction.

The fit states a standard deviation for each graph, which grows with the distance from what was measured. How many of
those the truth lies away is counted on samples that the fit did not see (families left out), and that quantile is the
half width. Whatever the errors' distribution, it holds for graphs like the samples (Vovk et al., 2005; Lei et al.,
"Distribution-free predictive inference for regression", JASA 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from djinn_fx.costmodels.estimate import Estimate

#: Share of truths inside.
COVERAGE = 0.8
#: Without samples to judge by: that of a normal distribution.
_NORMAL = 1.2816


def conformal_scale(scores: Sequence[float] | NDArray[np.float64]) -> float:
    """Half width of the interval in standard deviations.

    Args:
        scores: errors of unseen samples over their stated standard deviations.
    """
    sizes = np.sort(np.abs(np.asarray(scores, dtype=np.float64)))
    if len(sizes) < 5:
        return _NORMAL
    place = math.ceil((len(sizes) + 1) * COVERAGE) - 1
    return float(sizes[min(place, len(sizes) - 1)])


def interval(seconds: float, deviation: float, scale: float, provenance: str) -> Estimate:
    """An estimate whose interval is ``scale`` standard deviations of the logarithm to both sides."""
    factor = math.exp(min(20.0, scale * deviation))
    return Estimate(time_s=seconds, low_s=seconds / factor, high_s=seconds * factor, provenance=provenance)
