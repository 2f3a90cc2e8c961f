"""A declared link lets through what its figures say, on whichever clock."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from djinn_fx.runtime.devices.links import Bucket
from djinn_fx.settings.devices import DeclaredLink
from tests.examples import examples

RATE, LATENCY = 1000.0, 0.25


def link(now: list[float], burst: int = 0) -> Bucket:
    declared = DeclaredLink(ends=("cpu:0", "cpu:1"), bandwidth_bytes_s=RATE, latency_s=LATENCY)
    return Bucket(declared, burst_bytes=burst, clock=lambda: now[0])


def test_one_after_the_other_and_each_later_by_the_latency() -> None:
    now = [10.0]
    one = link(now)
    assert one.book(500) == pytest.approx(10.5 + LATENCY)
    assert one.book(500) == pytest.approx(11.0 + LATENCY)
    now[0] = 20.0
    assert one.book(0) == pytest.approx(20.0 + LATENCY)


def test_a_link_that_was_idle_lets_a_burst_through() -> None:
    now = [10.0]
    one = link(now, burst=300)
    assert one.book(300) == pytest.approx(10.0 + LATENCY)
    assert one.book(100) == pytest.approx(10.1 + LATENCY)


@examples(60)
@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 2000)), max_size=20), st.sampled_from([0, 100, 5000]))
def test_in_no_time_more_passes_than_burst_and_bandwidth(sent: list[tuple[float, int]], burst: int) -> None:
    now = [5.0]
    one = link(now, burst)
    arrivals: list[tuple[float, int]] = []
    for pause, nbytes in sent:
        now[0] += pause
        due = one.book(nbytes)
        assert due >= now[0] + LATENCY
        arrivals.append((due, nbytes))
    assert [due for due, _ in arrivals] == sorted(due for due, _ in arrivals)
    for first in range(len(arrivals)):
        passed = 0
        for due, nbytes in arrivals[first:]:
            passed += nbytes
            # What arrives first began to pass before: its own bytes are no part of what passes in that time.
            assert passed - arrivals[first][1] <= burst + RATE * (due - arrivals[first][0]) + 1e-6


def test_waiting_ends_no_earlier_than_it_should() -> None:
    declared = DeclaredLink(ends=("cpu:0", "cpu:1"), bandwidth_bytes_s=1e6, latency_s=1e-3)
    one = Bucket(declared)
    for nbytes in (0, 500, 5000):
        due = one.book(nbytes)
        one.wait(due)
        assert time.perf_counter() >= due
