"""Conformal intervals: the quantile, and what it holds."""

from __future__ import annotations

import numpy as np
import pytest

from djinn_fx.costmodels.laws.interval import conformal_scale, interval


def test_the_quantile_is_the_one_with_the_finite_sample_correction() -> None:
    # nine scores: the 80 % quantile is the ceil(10 x 0.8) = 8th smallest
    assert conformal_scale([9, -1, 2, -3, 4, 5, -6, 7, 8]) == 8


def test_few_scores_give_the_normal_quantile() -> None:
    assert conformal_scale([0.1, 0.2]) == pytest.approx(1.2816)


@pytest.mark.parametrize("draw", [np.random.Generator.normal, np.random.Generator.laplace, np.random.Generator.uniform])
def test_it_holds_for_any_distribution(draw) -> None:  # type: ignore[no-untyped-def]
    random = np.random.default_rng(0)
    inside = []
    for _ in range(200):
        scale = conformal_scale(draw(random, size=40))
        inside.append(np.mean(np.abs(draw(random, size=50)) <= scale))
    assert 0.78 <= np.mean(inside) <= 0.84


def test_an_interval_is_symmetric_in_the_logarithm() -> None:
    found = interval(2.0, 0.1, 2.0, "calibrated")
    assert found.time_s == 2.0
    assert found.low_s * found.high_s == pytest.approx(4.0)
    assert found.high_s == pytest.approx(2.0 * np.exp(0.2))


def test_an_absurd_deviation_stays_finite() -> None:
    assert np.isfinite(interval(1.0, 1e9, 5.0, "calibrated").high_s)
