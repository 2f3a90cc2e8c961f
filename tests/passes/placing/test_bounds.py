"""The bound of a row: no answer of any kind is below it, and it is met where nothing stands in the way."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from djinn_fx.passes.placing.bounds import bound_of
from djinn_fx.passes.placing.chain import Held, Row, shares_of
from djinn_fx.passes.placing.told import memory_taken
from tests.programs import DETERMINISTIC


def row_of(seconds: list[tuple[float, ...]], rooms: tuple[float, ...], moving: float = 0.0, *, throughput: bool) -> Row:
    count = len(seconds)
    return Row(
        seconds=tuple(seconds),
        held=tuple(Held(nbytes=1, users=(place,)) for place in range(count)),
        live=(0,) * count,
        rooms=rooms,
        crossing=(0, *(place + 1 for place in range(count - 1))),
        moving_s=lambda source, target, nbytes: moving * (1 + nbytes) if source != target else 0.0,
        fixed=(None,) * count,
        throughput=throughput,
    )


TIME = st.integers(1, 9).map(float)
TIMES = st.lists(st.tuples(TIME, TIME), min_size=1, max_size=6)


@DETERMINISTIC
@given(TIMES, st.integers(1, 6), st.integers(1, 6), st.floats(0, 3), st.booleans())
def test_no_answer_is_below_it(
    seconds: list[tuple[float, ...]], first: int, second: int, moving: float, throughput: bool
) -> None:
    row = row_of(seconds, (float(first), float(second)), moving, throughput=throughput)
    bound = bound_of(row)
    for devices in itertools.product(range(2), repeat=len(seconds)):
        shares = shares_of(row, devices)
        if all(taken <= row.rooms[device] for device, taken in memory_taken(row, shares).items()):
            assert shares.figure_s >= bound * (1 - 1e-9)


def test_it_is_met_by_an_even_pipeline_and_by_one_device() -> None:
    even = row_of([(1.0, 1.0)] * 4, (9.0, 9.0), throughput=True)
    assert bound_of(even) == pytest.approx(shares_of(even, (0, 0, 1, 1)).figure_s) == 2.0
    alone = row_of([(1.0, 2.0)] * 4, (9.0, 9.0), throughput=False)
    assert bound_of(alone) == shares_of(alone, (0,) * 4).figure_s == 4.0


def test_memory_that_asks_for_two_devices_asks_for_a_hand_over() -> None:
    row = row_of([(1.0, 1.0)] * 4, (2.0, 2.0), 0.5, throughput=False)
    assert bound_of(row) == 4.0 + 0.5 * 2  # the smallest that may cross is one byte
    assert bound_of(row) <= shares_of(row, (0, 0, 1, 1)).figure_s == 4.0 + 0.5 * 3


def test_devices_that_differ_by_a_factor_share_by_speed() -> None:
    row = row_of([(1.0, 3.0)] * 4, (9.0, 9.0), throughput=True)
    assert bound_of(row) == pytest.approx(3.0)
    assert shares_of(row, (0, 0, 0, 1)).figure_s == 3.0
