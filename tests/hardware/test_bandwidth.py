"""Measured bandwidth: what is gone over, and that it is measured once; no test looks at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from djinn_fx.hardware import bandwidth
from djinn_fx.hardware.bandwidth import Bandwidths, Level, footprints, measure, measured_bandwidths, measured_machine
from djinn_fx.hardware.machine import GIB, Cache, Machine, probe_machine

MIB = 1024**2


def machine(*caches: tuple[int, int, int], memory: int = 64 * GIB) -> Machine:
    """A machine with caches of (level, size in KiB, count)."""
    made = (Cache(level=level, size_bytes=size * 1024, shared_by=1, count=count) for level, size, count in caches)
    return replace(probe_machine(), caches=tuple(made), memory_bytes=memory)


def test_each_cache_is_half_filled_and_memory_is_beyond_the_last() -> None:
    found = footprints(machine((1, 48, 2), (2, 1280, 2), (3, 49152, 1)), threads=2)
    assert found == {"L2": 1280 * 1024, "L3": 4 * 2 * 1280 * 1024, "memory": 4 * 48 * MIB}


def test_one_thread_reaches_one_of_the_near_caches() -> None:
    found = footprints(machine((1, 48, 2), (2, 1280, 2), (3, 49152, 1)), threads=1)
    assert found["L2"] == 640 * 1024


def test_memory_is_gone_over_within_bounds() -> None:
    assert footprints(machine(), threads=1) == {"memory": 64 * MIB}
    assert footprints(machine((3, 512 * 1024, 4)), threads=4)["memory"] == GIB
    assert footprints(machine(memory=256 * MIB), threads=1) == {"memory": 32 * MIB}


def test_every_level_is_measured_even_without_time() -> None:
    found = measure(machine((1, 32, 1), (2, 256, 1)), threads=2, budget_s=0.0)
    assert [level.name for level in found.levels] == ["L2", "memory"]
    assert all(level.read_bytes_s > 0 and level.copy_bytes_s > 0 for level in found.levels)
    assert found.threads == 2
    assert found.memory is found.levels[-1]


def test_the_budget_stops_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    monkeypatch.setattr(bandwidth, "_read", lambda again, pair: tried.append(again))
    monkeypatch.setattr(bandwidth, "_copy", lambda again, pair: tried.append(again))
    measure(machine((1, 32, 1), (2, 256, 1)), threads=1, budget_s=0.0)
    assert len(tried) == 4  # two ways over two levels, once each
    tried.clear()
    measure(machine((1, 32, 1), (2, 256, 1)), threads=1, budget_s=60.0)
    assert len(tried) == 4 * bandwidth._ROUNDS


def test_it_is_measured_once_and_the_device_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def told(_: Machine, threads: int) -> Bandwidths:
        calls.append(threads)
        memory = Level(name="memory", footprint_bytes=1, read_bytes_s=2e10, copy_bytes_s=3e10)
        return Bandwidths(threads=threads, levels=(memory,), seconds=0.0)

    monkeypatch.setattr(bandwidth, "measure", told)
    measured_bandwidths.cache_clear()
    measured_machine.cache_clear()
    try:
        assert measured_machine().bandwidth_bytes_s == 3e10
        assert "measured with" in measured_machine().source
        assert calls == [probe_machine().cores]
    finally:
        measured_bandwidths.cache_clear()
        measured_machine.cache_clear()
