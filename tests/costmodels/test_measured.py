"""A measured time and the interval it stands for."""

from __future__ import annotations

import pytest

from djinn_fx.costmodels.estimate import MEASURED
from djinn_fx.costmodels.measured import LEAST_SPREAD, Timing


def test_the_median_and_the_tenths() -> None:
    timing = Timing.of([float(second) for second in range(11, 0, -1)])
    assert (timing.time_s, timing.low_s, timing.high_s, timing.calls) == (6.0, 2.0, 10.0, 11)


def test_an_even_number_has_its_median_between_two() -> None:
    assert Timing.of([1.0, 2.0, 4.0, 100.0]).time_s == 3.0


def test_equal_times_still_have_an_interval() -> None:
    estimate = Timing.of([2.0] * 5).estimate
    assert estimate.provenance == MEASURED
    assert (estimate.low_s, estimate.time_s, estimate.high_s) == (
        2.0 * (1 - LEAST_SPREAD),
        2.0,
        2.0 * (1 + LEAST_SPREAD),
    )


@pytest.mark.parametrize("seconds", [[], [0.0], [-1.0, 2.0], [float("nan")]])
def test_calls_that_took_no_time_are_none(seconds: list[float]) -> None:
    with pytest.raises(ValueError):
        Timing.of(seconds)
