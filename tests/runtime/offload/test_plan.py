"""What stays and what is read: by counting bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from djinn_fx.errors import SettingsError
from djinn_fx.runtime.offload.plan import SMALL_BYTES, Room, Weight, residency
from tests.examples import examples

MB = 1 << 20


def room(for_weights: int) -> Room:
    return Room(budget=for_weights + 300, held=100, working=200)


def weights(*sizes: int) -> list[Weight]:
    return [Weight(name=f"w{n}", size=size) for n, size in enumerate(sizes)]


def test_all_of_it_stays_where_it_fits() -> None:
    plan = residency(weights(5 * MB, 6 * MB), room(11 * MB))
    assert plan.pinned == (0, 1)
    assert plan.ring_bytes == plan.pass_bytes == 0


def test_one_large_weight_stays_so_that_the_ring_can_be_small() -> None:
    """A ring for the 40 MB weight would leave nothing for the others; one for the 4 MB weights leaves 8 MB."""
    plan = residency(weights(40 * MB, *[4 * MB] * 20), room(60 * MB))
    assert plan.pinned[0] == 0
    assert plan.ring_bytes == 12 * MB
    assert plan.pinned_bytes == 48 * MB
    assert plan.pass_bytes == 120 * MB - 48 * MB


def test_what_stays_is_spread_over_the_order() -> None:
    plan = residency(weights(*[4 * MB] * 30), room(12 * MB + 40 * MB))
    thirds = [sum(low <= n < low + 10 for n in plan.pinned) for low in (0, 10, 20)]
    assert sum(thirds) == 10
    assert max(thirds) - min(thirds) <= 1


def test_a_weight_that_is_used_twice_stays_first() -> None:
    some = weights(*[4 * MB] * 10)
    some[7] = Weight(name="tied", size=4 * MB, uses=2)
    plan = residency(some, room(12 * MB + 4 * MB))
    assert plan.pinned == (7,)
    assert plan.pass_bytes == 36 * MB


def test_rows_need_neither_memory_nor_ring() -> None:
    table = Weight(name="table", size=100 * MB, by_rows=True)
    plan = residency([table, *weights(4 * MB, 4 * MB)], room(7 * MB))
    assert plan.by_rows == (0,)
    assert plan.streamed == (1, 2)
    assert plan.ring_bytes == 7 * MB


def test_an_impossible_budget_names_what_binds_and_what_would_do() -> None:
    some = weights(3 * MB, 9 * MB, MB)
    with pytest.raises(SettingsError, match="'w1'") as told:
        residency(some, room(9 * MB))
    smallest = 300 + MB + 9 * MB
    assert f"{smallest} bytes" in str(told.value)
    assert residency(some, room(smallest - 300)).streamed
    with pytest.raises(SettingsError):
        residency(some, room(smallest - 301))


@given(
    st.lists(
        st.tuples(st.integers(1, 40), st.integers(1, 2), st.booleans()),
        min_size=1,
        max_size=25,
    ),
    st.integers(1, 300),
)
@examples(100)
def test_a_plan_keeps_within_the_room(shapes: list[tuple[int, int, bool]], quarters: int) -> None:
    some = [
        Weight(name=f"w{n}", size=size * MB // 4, uses=uses, by_rows=rows)
        for n, (size, uses, rows) in enumerate(shapes)
    ]
    space = room(quarters * MB // 4)
    try:
        plan = residency(some, space)
    except SettingsError:
        kept = sum(w.size for w in some if w.size <= SMALL_BYTES)
        largest = max((w.size for w in some if w.size > SMALL_BYTES and not w.by_rows), default=0)
        assert kept + largest > space.for_weights
        return
    assert sorted(plan.pinned + plan.streamed + plan.by_rows) == list(range(len(some)))
    assert plan.pinned_bytes + plan.ring_bytes <= space.for_weights
    assert all(some[n].size <= plan.ring_bytes for n in plan.streamed)
    assert all(some[n].by_rows for n in plan.by_rows)
