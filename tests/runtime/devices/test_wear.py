"""What makes a thread a device's, and that nobody else notices."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import TypeVar

import pytest
import torch

from djinn_fx.runtime.devices.wear import count_of_later_threads, use_threads, wear, with_threads, worn
from djinn_fx.settings.devices import LocalDevice
from djinn_fx.threads import start_thread
from tests.runtime.devices.two import CORES, DEVICES, needs_two

T = TypeVar("T")
pytestmark = needs_two


def in_thread(work: Callable[[], T]) -> T:
    found: list[T] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


@pytest.fixture(autouse=True)
def three_threads() -> object:
    """A count that nothing else here has."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_a_count_is_this_thread_s_alone() -> None:
    def work() -> tuple[int, int]:
        use_threads(1)
        return torch.get_num_threads(), count_of_later_threads()

    assert in_thread(work) == (1, 3)
    assert torch.get_num_threads() == 3
    assert count_of_later_threads() == 3


def test_a_count_is_put_back_in_the_end_even_after_a_failure() -> None:
    seen: list[int] = []

    def fails() -> None:
        with with_threads(2):
            seen.extend((torch.get_num_threads(), count_of_later_threads()))
            raise ValueError("meanwhile")

    with pytest.raises(ValueError, match="meanwhile"):
        fails()
    assert seen == [2, 3]
    assert (torch.get_num_threads(), count_of_later_threads()) == (3, 3)


def test_a_device_s_thread_is_on_its_processors_with_its_count() -> None:
    def work() -> object:
        wear(DEVICES[1])
        return worn(), os.sched_getaffinity(0), torch.get_num_threads(), count_of_later_threads()

    assert in_thread(work) == (DEVICES[1], {CORES[1]}, 1, 3)
    assert worn() is None
    assert os.sched_getaffinity(0) >= set(CORES)
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("serves", [True, False])
def test_what_serves_a_device_is_its_too_and_everything_else_runs_anywhere(serves: bool) -> None:
    found: list[object] = []

    def work() -> None:
        wear(DEVICES[1])
        started = start_thread(
            lambda: found.append((worn(), os.sched_getaffinity(0), torch.get_num_threads())), "made", serves=serves
        )
        assert started is not None
        started.join()

    everywhere = os.sched_getaffinity(0)
    in_thread(work)
    assert found == [(DEVICES[1], {CORES[1]}, 1) if serves else (None, everywhere, 3)]


def test_processors_that_are_gone_are_no_reason_to_stop() -> None:
    gone = LocalDevice(name="cpu:0", cores=(4095,))
    assert in_thread(lambda: (wear(gone), torch.get_num_threads())[1]) == 1
