"""Reading memory by turns: everything within a bounded number of calls, for a share of their time."""

from __future__ import annotations

import numpy as np
import pytest

from djinn_fx.engines.bound import rotation
from djinn_fx.engines.bound.rotation import CHUNK, MAX_CALLS, SHARE, Rotation

CHUNKS = 40


@pytest.fixture
def memory() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, CHUNKS * CHUNK - 5, np.uint8)


def spans(memory: np.ndarray) -> list[tuple[int, int]]:
    start, end = memory.ctypes.data, memory.ctypes.data + memory.nbytes
    middle = start + 3 * CHUNK + 11
    return [(start, middle), (middle, end)]


@pytest.mark.parametrize("place", [0, CHUNK - 1, CHUNK, 3 * CHUNK + 10, 3 * CHUNK + 11, CHUNKS * CHUNK - 6])
def test_a_write_anywhere_is_seen_within_the_bound_even_if_calls_take_no_time(place: int, memory: np.ndarray) -> None:
    found = Rotation(spans(memory))
    memory[place] ^= 1
    calls = next(number for number in range(2 * MAX_CALLS) if not found.unchanged())
    assert calls <= MAX_CALLS
    assert not found.unchanged()


def test_long_calls_pay_for_more(memory: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(1_000_000))
    monkeypatch.setattr(rotation.time, "perf_counter", lambda: 0.001 * next(clock))
    found = Rotation(spans(memory))  # by this clock each digest takes a fraction of a millisecond
    read: list[int] = []
    monkeypatch.setattr(rotation.zlib, "crc32", lambda view: read.append(len(view)) or 0)
    found.spent(0.0)
    found.unchanged()
    assert read == []
    found.spent(found._chunk_s / SHARE * 5.5)
    found.unchanged()
    assert len(read) == 1  # the first one differs: no need to read on
    assert not found.unchanged()


def test_what_is_read_is_bounded_by_the_time_of_calls(memory: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Rotation(spans(memory))
    read: list[int] = []
    real = rotation.zlib.crc32

    def counting(view: memoryview) -> int:
        read.append(len(view))
        return real(view)

    monkeypatch.setattr(rotation.zlib, "crc32", counting)
    for _ in range(100):
        found.spent(0.0)
        assert found.unchanged()
    assert len(read) <= 100 * CHUNKS / MAX_CALLS + 1
    found.spent(3600.0)  # an hour: everything once, no more
    assert found.unchanged()
    assert len(read) <= 100 * CHUNKS / MAX_CALLS + 1 + CHUNKS + 1


def test_what_the_rest_of_a_look_takes_counts(memory: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Rotation(spans(memory))
    read: list[int] = []
    real = rotation.zlib.crc32
    monkeypatch.setattr(rotation.zlib, "crc32", lambda view: read.append(len(view)) or real(view))
    found.spent(3600.0)
    assert found.unchanged(SHARE * 3600.0)
    assert read == []
    found.spent(3600.0)
    assert found.unchanged(1e-6)
    assert read


def test_nothing_to_read_is_never_changed() -> None:
    found = Rotation([])
    assert not found.any
    found.spent(1.0)
    assert found.unchanged()
