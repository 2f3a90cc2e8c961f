"""What a step is predicted to take: a law for shapes that are new, medians for others, and how fast the machine is."""

from __future__ import annotations

import itertools

import pytest

from djinn_fx.sessions.steps.times import Shape, StepTimes

LAW = (3e-3, 2e-5, 1e-8, 5e-7)
SHAPES = [Shape(batch, new, past) for batch, new, past in itertools.product((1, 4, 16), (1, 32), (0, 128, 1024))]


def true_s(shape: Shape) -> float:
    return sum(rate * term for rate, term in zip(LAW, shape.terms, strict=True))


def taught(times: int) -> StepTimes:
    made = StepTimes()
    for _ in range(times):
        for shape in SHAPES:
            made.add(shape, true_s(shape))
    return made


def test_a_shape_that_was_never_seen_is_predicted_by_the_law() -> None:
    assert StepTimes().predict(SHAPES[0]) is None
    made = taught(1)
    new = Shape(7, 8, 512)
    assert made.predict(new) == pytest.approx(true_s(new), rel=1e-3)


def test_a_shape_that_was_seen_is_predicted_by_its_median() -> None:
    made, odd = taught(3), Shape(5, 5, 5)
    for seconds in (9.0, 0.5, 0.4, 0.5, 0.6):  # the first call compiles
        made.add(odd, seconds)
    assert made.predict(odd) == pytest.approx(0.5 * made.pace)


def test_a_machine_that_becomes_slower_is_followed_and_one_slow_step_is_not() -> None:
    made, one, other = taught(5), SHAPES[3], SHAPES[8]
    before = made.predict(other)
    assert before == pytest.approx(true_s(other))
    made.add(one, 10 * true_s(one))
    made.add(other, 5 * true_s(other))
    assert made.predict(other) == pytest.approx(before), "two of seven are chance"
    for shape in SHAPES[:5]:
        made.add(shape, 2 * true_s(shape))
    assert made.predict(other) == pytest.approx(2 * before)
    assert made.predict(Shape(7, 8, 512)) == pytest.approx(2 * true_s(Shape(7, 8, 512)), rel=0.2), "new shapes too"
