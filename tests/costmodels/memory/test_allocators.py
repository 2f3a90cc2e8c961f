"""Allocators replayed: live bytes against a count by hand, the heap against rules it must keep, CUDA's cache."""

from __future__ import annotations

import itertools
import random

import pytest

from djinn_fx.costmodels.memory.allocators import (
    LARGEST_THRESHOLD,
    PAGE,
    STAYS_FOR,
    Heap,
    changes,
    holes_of_heap,
    live_increase,
    process_increase,
)
from djinn_fx.costmodels.memory.cuda_cache import MIB, CudaCache, reserved_peak
from djinn_fx.srg.memory import Holds, MemoryPlan, MemoryRow, MemoryStep


def plan(*spans: tuple[int, int, int], before: tuple[tuple[int, int], ...] = (), steps: int = 8) -> MemoryPlan:
    """Rows of (start, end, bytes), and rows of (end, bytes) that were there before."""
    made = [
        MemoryRow(name=f"s{start}", holds=Holds.ACTIVATION, nbytes=nbytes, start=start, end=end, device="cpu")
        for start, end, nbytes in spans
    ]
    held = [
        MemoryRow(name="given", holds=Holds.SAVED, nbytes=nbytes, start=0, end=end, device="cpu", given=True)
        for end, nbytes in before
    ]
    names = tuple(MemoryStep(name=f"s{place}", op="op") for place in range(steps))
    return MemoryPlan(phase="forward", rows=(*held, *made), steps=names)


def test_live_bytes_rise_by_what_is_made_and_fall_by_what_was_handed_over() -> None:
    one = plan((0, 3, 100), (1, 2, 50), (2, 8, 70), before=((1, 30),))
    assert [nbytes for _, nbytes in changes(one, "cpu")] == [100, -30, 50, -50, 70, -100]
    assert live_increase(one, "cpu") == 140
    assert live_increase(one, "cuda:0") == 0


def test_what_is_handed_over_makes_room_in_the_process() -> None:
    size = 4 * MIB
    kept, handed = plan((2, 8, size), before=((8, size),)), plan((2, 8, size), before=((1, size + 256),))
    assert process_increase(handed, "cpu") == 0
    assert process_increase(kept, "cpu") >= size


def test_holes_that_fit_are_used_and_count_when_they_are_touched() -> None:
    size = 100 * PAGE
    one = plan((0, 1, size))
    assert process_increase(one, "cpu") == process_increase(one, "cpu", holes=(PAGE,)) <= size + PAGE
    assert process_increase(one, "cpu", holes=(2 * size,)) <= size + PAGE


def test_a_hole_serves_its_own_size_again_once_the_small_objects_beside_it_are_gone() -> None:
    size, heap = 100 * PAGE, Heap()
    peaks = []
    for name in range(20):
        heap.allocate(name, size)
        heap.release(name)
        peaks.append(heap.peak)
    assert peaks[0] <= size + PAGE
    assert peaks[STAYS_FOR] > STAYS_FOR * size
    assert peaks[-1] == peaks[len(peaks) // 2] <= (STAYS_FOR + 2) * size + PAGE


@pytest.mark.parametrize("seed", range(20))
def test_the_heap_holds_all_that_lives_and_no_two_blocks_share_a_byte(seed: int) -> None:
    dice = random.Random(seed)
    heap = Heap([dice.randrange(PAGE, 64 * PAGE) for _ in range(dice.randrange(6))])
    live: dict[int, int] = {}
    most = 0
    for name in range(300):
        if live and dice.random() < 0.45:
            gone = dice.choice(list(live))
            heap.release(gone)
            del live[gone]
            continue
        live[name] = dice.randrange(1, 40 * PAGE)
        heap.allocate(name, live[name])
        most = max(most, sum(live.values()))
        spans = sorted(heap._places[one] for one in live)
        assert all(first[1] <= second[0] for first, second in itertools.pairwise(spans))
        assert all(end - start >= live[one] for one, (start, end) in heap._places.items())
    assert heap.peak >= most


def test_a_very_large_block_has_pages_of_its_own_and_gives_them_back() -> None:
    heap = Heap()
    for name in range(3):
        heap.allocate(name, LARGEST_THRESHOLD)
        heap.release(name)
    assert heap.peak == LARGEST_THRESHOLD


def test_holes_are_read_from_what_the_c_library_says() -> None:
    report = (
        '<malloc version="1"><heap nr="0"><sizes><size from="33" to="48" total="96" count="2"/>'
        '<size from="8193" to="12289" total="20480" count="2"/>'
        '<unsorted from="1" to="9" total="65536" count="1"/></sizes>'
        '</heap><heap nr="1"><sizes><size from="8193" to="9" total="9000" count="1"/></sizes></heap></malloc>'
    )
    assert holes_of_heap(report) == (10240, 10240, 65536)
    assert holes_of_heap("no XML") == ()


def test_cuda_rounds_small_blocks_into_segments_of_2_mib_and_large_ones_into_20() -> None:
    cache = CudaCache()
    for name in range(4):
        cache.allocate(name, 512 * 1024)
    assert cache.reserved == 2 * MIB
    cache.allocate(4, 3 * MIB)
    cache.allocate(5, 3 * MIB)
    assert cache.reserved == 22 * MIB
    cache.allocate(6, 11 * MIB)
    assert cache.reserved == 22 * MIB  # what is left of the 20
    cache.allocate(7, 11 * MIB + 1)
    assert cache.reserved == 34 * MIB


def test_cuda_joins_free_neighbours_and_uses_them_again() -> None:
    cache = CudaCache()
    for name in range(4):
        cache.allocate(name, 5 * MIB)
    assert cache.reserved == 20 * MIB
    for name in (1, 2):
        cache.release(name)
    cache.allocate(9, 10 * MIB - 512)
    assert cache.reserved == 20 * MIB


def test_a_plans_reserved_memory_is_at_least_its_peak() -> None:
    one = plan((0, 3, 5 * MIB), (1, 2, 700), (2, 8, 30 * MIB), before=((8, 9 * MIB),))
    assert reserved_peak(one, "cpu") >= one.peak("cpu").nbytes
    assert reserved_peak(one, "cpu") == 20 * MIB + 2 * MIB + 30 * MIB
