"""Many batches at once: in order, with the caller's modes, errors at their place, nobody left behind."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import djinn_fx
from djinn_fx.runtime.devices.pipeline import pipeline
from tests.runtime.devices.two import OPTIONS, needs_two
from tests.waiting import LONG, until


def workers() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name.startswith("djinn pipeline")]


def test_results_come_in_the_order_of_the_batches_and_several_are_under_way() -> None:
    together = threading.Barrier(3)

    def model(number: int) -> int:
        if number:  # the first is alone
            together.wait(LONG)
        return number * 10

    assert list(pipeline(model, [(number,) for number in range(7)], ahead=3)) == [n * 10 for n in range(7)]
    gc.collect()
    assert until(lambda: workers() == [])


def test_batches_are_tensors_tuples_or_keywords() -> None:
    def model(x: Tensor, scale: float = 1.0) -> Tensor:
        return x * scale

    one = torch.ones(2)
    found = list(pipeline(model, [one, (one, 2.0), {"x": one, "scale": 3.0}]))
    assert [value[0].item() for value in found] == [1.0, 2.0, 3.0]


def test_no_more_is_read_than_is_under_way() -> None:
    read: list[int] = []

    def batches() -> Iterator[tuple[int]]:
        for number in range(10):
            read.append(number)
            yield (number,)

    results = pipeline(lambda number: number, batches(), ahead=2)
    assert next(results) == 0
    assert read == [0]
    assert next(results) == 1
    assert len(read) <= 4


def test_an_error_comes_in_its_place() -> None:
    def model(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    results = pipeline(model, [(number,) for number in range(6)])
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
    del results
    gc.collect()
    assert until(lambda: workers() == [])


def test_modes_and_the_count_of_threads_are_the_caller_s() -> None:
    def model(_: Any) -> Any:
        return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_num_threads()

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with torch.inference_mode():
            assert set(pipeline(model, [0] * 5)) == {(False, True, 3)}
        assert set(pipeline(model, [0] * 5)) == {(True, False, 3)}
    finally:
        torch.set_num_threads(before)


@needs_two
def test_a_model_over_two_devices_gives_what_it_gives_call_by_call() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = nn.Sequential(*(nn.Sequential(nn.Linear(32, 32), nn.Tanh()) for _ in range(4)))
    run = torch.compile(
        model, backend="djinn", options={**OPTIONS, "pin": {"0-1": "cpu:0", "2-3": "cpu:1"}, "engine": "eager"}
    )
    batches = [torch.randn(4, 32) for _ in range(70)]
    with torch.no_grad():
        found = list(djinn_fx.pipeline(run, batches))
        assert all(torch.equal(one, run(batch)) for one, batch in zip(found, batches, strict=True))
    devices = [region.device for region in djinn_fx.compilations()[-1].plan.regions]
    assert set(devices) == {"cpu:0", "cpu:1"}
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
