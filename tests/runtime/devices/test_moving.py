"""A graph that is moved off a device: before a call, once, and after the call in which a region found it lost."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from djinn_fx.errors import DeviceLostError
from djinn_fx.runtime.devices.moving import Moving, Settled
from djinn_fx.runtime.devices.thread import DeviceThread, thread_of
from djinn_fx.runtime.devices.wear import at_home, is_there, wear
from djinn_fx.settings.devices import LocalDevice
from tests.runtime.devices.test_executor import passing, regions
from tests.runtime.devices.two import CORES, DEVICES, needs_two
from tests.waiting import LONG, until

pytestmark = needs_two


def plus(number: int) -> Any:
    return lambda args: [args[0] + number]


def test_nobody_is_moved_while_every_device_is_there() -> None:
    thread = DeviceThread("djinn here")
    moving = Moving(Settled(run=plus(1), alone=plus(2), threads={"a": thread}), lambda lost: pytest.fail(str(lost)))
    assert [moving([1])[0] for _ in range(3)] == [2, 2, 2]


def test_a_lost_device_is_told_of_once_however_many_call() -> None:
    lost, kept, asked = DeviceThread("djinn lost"), DeviceThread("djinn kept"), []
    together = threading.Barrier(4)

    def without(names: frozenset[str]) -> Settled:
        asked.append(names)
        return Settled(run=plus(10), alone=plus(2), threads={"kept": kept})

    moving = Moving(Settled(run=plus(1), alone=plus(2), threads={"lost": lost, "kept": kept}), without)
    found: list[int] = []

    def call() -> None:
        together.wait(LONG)
        found.append(moving([1])[0])

    lost.lose()
    callers = [threading.Thread(target=call) for _ in range(4)]
    for one in callers:
        one.start()
    for one in callers:
        one.join(LONG)
    assert found == [11] * 4
    assert asked == [{"lost"}]


def test_without_any_device_the_thread_that_calls_does_it() -> None:
    lost = DeviceThread("djinn lost")
    lost.lose()
    moving = Moving(Settled(run=plus(1), alone=plus(2), threads={"lost": lost}), lambda _: None)
    assert [moving([1])[0] for _ in range(2)] == [3, 3]


def test_a_region_s_loss_is_an_error_of_its_call_and_the_next_one_does_without() -> None:
    def failing(args: list[Any]) -> list[Any]:
        raise DeviceLostError("the device fell off the bus")

    spread, asked = regions(passing, failing, passing, passing), []

    def without(names: frozenset[str]) -> Settled:
        asked.append(names)
        return Settled(run=plus(4), alone=plus(4), threads={})

    threads = {one.name: thread_of(one) for one in DEVICES}
    moving = Moving(Settled(run=spread, alone=plus(4), threads=threads), without)
    with pytest.raises(DeviceLostError, match="fell off"):
        moving([torch.zeros(2, 2), torch.zeros(2, 2)])
    assert asked == []
    assert torch.equal(moving([torch.zeros(2, 2)])[0], torch.full((2, 2), 4.0))
    assert asked == [{"cpu:1"}]


def test_a_device_that_was_lost_gets_a_new_thread() -> None:
    first = thread_of(DEVICES[1])
    assert thread_of(DEVICES[1]) is first
    first.lose()
    again = thread_of(DEVICES[1])
    assert again is not first
    assert not again.is_lost()


def test_which_processors_are_there() -> None:
    assert is_there(DEVICES[1])
    assert is_there(LocalDevice(name="cpu:9", cores=(CORES[1], 4095))), "some of them are left"
    assert not is_there(LocalDevice(name="cpu:9", cores=(4095,)))


def test_a_thread_knows_when_it_runs_elsewhere() -> None:
    nowhere = LocalDevice(name="cpu:9", cores=(4095,))
    found: dict[str, bool] = {}

    def work(device: LocalDevice) -> None:
        wear(device)
        found[device.name] = at_home(device)

    for device in (DEVICES[1], nowhere):
        thread = threading.Thread(target=work, args=(device,))
        thread.start()
        thread.join()
    assert found == {"cpu:1": True, "cpu:9": False}


def test_the_first_question_waits_until_the_thread_knows() -> None:
    nowhere = LocalDevice(name="cpu:9", cores=(4095,))
    thread, done = thread_of(nowhere), threading.Event()
    assert thread.is_lost()
    assert thread.submit(done.set), "it does what it is given all the same"
    assert until(done.is_set)
