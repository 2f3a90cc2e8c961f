"""The ring by itself: order, bounds, errors, threads."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable

import pytest

from djinn_fx.runtime.offload.ring import Ring
from tests.waiting import until

BLOCK = 4096
SIZES = {key: BLOCK * (1 + key % 3) for key in range(12)}


class Reads:
    """Writes each key's number all over its room, and notes what was read."""

    def __init__(self) -> None:
        self.keys: list[int] = []
        self.failing: set[int] = set()

    def __call__(self, key: int, into: memoryview, stopped: Callable[[], bool]) -> int | None:
        assert len(into) == SIZES[key]
        self.keys.append(key)
        if key in self.failing:
            raise OSError(f"no {key}")
        into[:] = bytes([key + 1]) * len(into)
        return 0


def ring(reads: Reads, blocks: int = 8, order: tuple[int, ...] = tuple(range(12))) -> Ring:
    return Ring(blocks * BLOCK, SIZES, order, reads)


def used(one: Ring, key: int) -> bool:
    """Lease a weight and compare it; False if it has to be read elsewhere."""
    with one.lease(key) as begins:
        if begins is None:
            return False
        found = bytes(memoryview(one.memory)[begins : begins + SIZES[key]])
        assert found == bytes([key + 1]) * SIZES[key]
        return True


def test_in_order_each_weight_is_read_once_a_round() -> None:
    reads = Reads()
    one = ring(reads)
    for _ in range(5):
        for key in range(12):
            assert used(one, key)
    assert one.misses == 0
    assert sorted(reads.keys[:60]) == sorted([*range(12)] * 5)
    one.stop()


def test_it_reads_ahead_no_further_than_there_is_room() -> None:
    reads = Reads()
    one = ring(reads, blocks=4)
    assert until(lambda: one.ready_bytes == 3 * BLOCK)  # keys 0 and 1 take three blocks; key 2 needs three more
    assert sorted(reads.keys) == [0, 1]
    one.stop()


def test_any_order_gets_the_right_numbers() -> None:
    reads, chosen = Reads(), random.Random(5)
    one = ring(reads, blocks=6)
    for _ in range(300):
        assert used(one, chosen.randrange(12))
    assert one.misses > 100
    one.stop()


def test_the_same_weight_twice_in_a_row_is_read_once() -> None:
    reads = Reads()
    one = ring(reads, order=(0, 1, 1, 2))
    for key in (0, 1, 1, 2) * 3:
        assert used(one, key)
    assert sorted(reads.keys[:9]) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    one.stop()


def test_a_new_order_is_followed() -> None:
    reads = Reads()
    one = ring(reads)
    assert used(one, 0)
    one.follow([5, 3, 1])
    before = one.misses
    for key in (5, 3, 1) * 3:
        assert used(one, key)
    assert one.misses == before
    one.stop()


def test_beside_a_weight_in_use_another_is_read_elsewhere_rather_than_waited_for() -> None:
    reads = Reads()
    one = ring(reads, blocks=3)
    with one.lease(2) as begins:  # fills the ring
        assert begins is not None
        assert not used(one, 7)
    assert used(one, 7)
    one.stop()


def test_an_error_in_the_thread_is_raised_where_the_weight_is_asked_for_each_time() -> None:
    reads = Reads()
    reads.failing = {2}
    one = ring(reads)
    for _ in range(2):
        assert used(one, 0)
        assert used(one, 1)
        with pytest.raises(OSError, match="no 2"), one.lease(2):
            raise AssertionError("lent")
    reads.failing = set()
    for key in (2, 3, 4):
        assert used(one, key)
    one.stop()


def test_an_interrupt_while_it_waits_leaves_the_ring_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    reads, held = Reads(), threading.Event()

    def slow(key: int, into: memoryview, stopped: Callable[[], bool]) -> int | None:
        return reads(key, into, stopped) if held.wait(60.0) else None

    one = Ring(8 * BLOCK, SIZES, tuple(range(12)), slow)

    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(one._shared.changed, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            used(one, 5)
    held.set()
    for key in (5, 6, 7, 0, 1):
        assert used(one, key)
    one.stop()


def test_an_error_of_what_nobody_asks_for_disturbs_nobody() -> None:
    reads = Reads()
    reads.failing = {1}
    one = ring(reads)
    for _ in range(3):
        for key in (0, 2, 3):
            assert used(one, key)
    one.stop()


def test_several_threads_each_get_the_right_numbers() -> None:
    reads = Reads()
    one = ring(reads, blocks=6)
    wrong: list[BaseException] = []

    def work(seed: int) -> None:
        chosen = random.Random(seed)
        try:
            for _ in range(150):
                used(one, chosen.randrange(12))
        except BaseException as error:  # noqa: BLE001 - told below
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    one.stop()


def test_a_ring_that_nobody_has_any_more_ends_its_thread() -> None:
    reads = Reads()
    one = ring(reads)
    shared = one._shared
    assert used(one, 0)
    del one
    assert until(lambda: shared.stopped)


def test_a_stopped_ring_lends_nothing_new() -> None:
    reads = Reads()
    one = ring(reads, blocks=3)
    assert until(lambda: one.ready_bytes > 0)
    one.stop()
    assert not used(one, 11)
