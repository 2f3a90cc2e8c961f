"""Curves of waits, where one can work them out by hand, and hints weighed by how true they proved."""

from __future__ import annotations

import math
import random

import pytest

from djinn_fx.sessions.policy.curves import LEAN, Curve, Table, ratio_grid, seconds_grid
from djinn_fx.sessions.policy.state import Context
from djinn_fx.sessions.policy.trust import Trust


def test_shares_are_those_of_waits_that_reached_a_stretch() -> None:
    curve = Curve((1.0, 10.0))
    for age in [0.5] * 200 + [5.0] * 100:
        curve.ended(age)
    for _ in range(100):
        curve.reached(5.0, None)  # goes on: reached the second stretch, and did not end there
    first, second, _ = curve.hazards()
    lean = LEAN * curve.hazards()[2]
    assert first == pytest.approx((200 + lean) / (400 + LEAN))
    assert second == pytest.approx((100 + lean) / (200 + LEAN))
    assert curve.survival()[1] == pytest.approx(1 - first)


def test_a_wait_that_goes_on_is_counted_once_and_can_be_taken_back() -> None:
    curve = Curve((1.0, 10.0), Curve((1.0, 10.0)))
    before = curve.hazards().tolist()
    place = curve.reached(0.2, None)
    place = curve.reached(4.0, place)
    assert curve.hazards().tolist() != before
    curve.reached(-1.0, place)
    assert curve.hazards().tolist() == before


def test_censored_waits_make_waits_longer() -> None:
    def chance(going_on: int) -> float:
        curve = Curve(seconds_grid())
        for _ in range(50):
            curve.ended(8.0)
        for _ in range(going_on):
            curve.reached(500.0, None)
        return Table(curve, 60.0).at(0.0)[0]

    assert chance(0) > 0.9
    assert chance(50) == pytest.approx(0.5, abs=0.1)


def test_a_table_of_waits_that_all_last_alike() -> None:
    curve = Curve(seconds_grid())
    for _ in range(2000):
        curve.ended(100.0)
    chance, mean, early, late = Table(curve, 1000.0).at(0.0)
    assert chance > 0.99
    assert mean == pytest.approx(100.0, rel=0.15)
    assert 75 < early < 101 < late * 1.2


def test_a_curve_of_few_waits_is_like_the_broader_one() -> None:
    broad = Curve(seconds_grid())
    for _ in range(500):
        broad.ended(3.0)
    narrow = Curve(seconds_grid(), broad)
    assert Table(narrow, 10.0).at(0.0)[0] == pytest.approx(Table(broad, 10.0).at(0.0)[0], abs=0.02)


def waits(trust: Trust, tenant: str, estimate: object, count: int = 60) -> float:
    chance = random.Random(3)
    for _ in range(count):
        real = math.exp(chance.gauss(3, 1))
        said = estimate(real, chance) if callable(estimate) else estimate
        context = Context("a", tenant=tenant, tool="shell", estimate_s=said)
        trust.end(trust.begin(context), real)
    return trust.kind(tenant, "shell").trust


def test_hints_are_believed_by_how_true_they_proved() -> None:
    trust = Trust()
    assert waits(trust, "exact", lambda real, _: real) > 0.99
    assert waits(trust, "liar", 0.001) < 0.7  # always the same says nothing, whatever it is
    assert waits(trust, "random", lambda _, chance: math.exp(chance.uniform(-5, 9))) < 0.1
    assert waits(trust, "silent", None) == pytest.approx(1 / (1 + math.exp(-1.0)))


@pytest.mark.parametrize("said", [math.nan, math.inf, -3.0])
def test_a_hint_that_is_no_time_is_none(said: float) -> None:
    trust = Trust()
    assert trust.begin(Context("a", estimate_s=said)).estimate_s is None


@pytest.mark.parametrize("grid", [seconds_grid(), ratio_grid()])
def test_grids_ascend(grid: tuple[float, ...]) -> None:
    assert list(grid) == sorted(set(grid))
    curve = Curve(grid)
    for age in (0.0, grid[0], grid[-1], 1e12):
        curve.ended(age)
    assert all(math.isfinite(number) for number in Table(curve, 5.0).at(0.0))
