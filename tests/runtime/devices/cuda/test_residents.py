"""Copies of weights on another device: one for all who read them there, and never an old one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from djinn_fx.runtime.devices.cuda.carrying import Way
from djinn_fx.runtime.devices.cuda.digests import digest
from djinn_fx.runtime.devices.cuda.executor import CudaSpread
from tests import graphs
from tests.runtime.devices.cuda.spreading import spread
from tests.runtime.devices.cuda.standing import Notes


@pytest.fixture
def carried(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was carried from device to device."""
    found: list[Any] = []
    real = Way.carried

    def noting(way: Way, value: Any, after: Any) -> Any:
        found.append(value)
        return real(way, value, after)

    monkeypatch.setattr(Way, "carried", noting)
    return found


def model(x: Tensor, w0: Tensor, w1: Tensor) -> Tensor:
    return (x @ w0) @ w1


def graph(notes: Notes) -> CudaSpread:
    return spread(graphs.lowered(graphs.trace(model, *(torch.empty(64, 64) for _ in range(3)))), [1], notes)


def count(carried: list[Any], weights: list[Tensor]) -> list[int]:
    """How often each weight was carried since the last count."""
    found = [sum(one is weight for one in carried) for weight in weights]
    carried.clear()
    return found


WRITES: list[Callable[[Tensor], object]] = [
    lambda w: w.add_(1),
    lambda w: w.data.mul_(2),
    lambda w: w.data[3, 5].add_(1e-3),
    lambda w: w.data.copy_(w.data.flip(0)),
    lambda w: w.data.copy_(w.data.t().clone()),
    lambda w: w.data.numpy().fill(0.25),
    lambda w: setattr(w, "data", torch.ones(64, 64)),
]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("inference", [False, True])
def test_a_weight_is_carried_once_and_again_when_it_says_something_else(
    write: Callable[[Tensor], object], inference: bool, carried: list[Any]
) -> None:
    x, run = torch.randn(64, 64), graph(Notes())
    with torch.inference_mode(inference), torch.no_grad():
        weights = [torch.randn(64, 64) for _ in range(2)]
        for wanted in ([1, 1], [0, 0]):
            assert torch.equal(run([x, *weights])[0], model(x, *weights))
            assert count(carried, weights) == wanted
        write(weights[1])
        assert torch.equal(run([x, *weights])[0], model(x, *weights))
        assert count(carried, weights) == [0, 1]


def test_graphs_over_the_same_weights_share_copies_until_the_last_is_gone(carried: list[Any]) -> None:
    notes, weights, x = Notes(), [torch.randn(64, 64) for _ in range(2)], torch.randn(64, 64)
    first, second = graph(notes), graph(notes)
    first([x, *weights])
    assert count(carried, weights) == [1, 1]
    second([x, *weights])
    assert count(carried, weights) == [0, 0]
    weights[0].data.neg_()
    for run in (second, first):
        assert torch.equal(run([x, *weights])[0], model(x, *weights))
    assert count(carried, weights) == [1, 0]
    with torch.inference_mode():
        first([x, *weights])
    with torch.no_grad():
        second([x, *weights])
    assert count(carried, weights) == [0, 0]
    del first, second, run
    assert torch.equal(graph(notes)([x, *weights])[0], model(x, *weights))
    assert count(carried, weights) == [1, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.complex64, torch.uint8])
@pytest.mark.parametrize("size", [0, 1, 7, 4096 * 8, 3 * 4096 * 8 + 13])
@pytest.mark.parametrize("offset", [0, 1])
def test_a_digest_tells_any_element_that_changes_or_changes_places(dtype: torch.dtype, size: int, offset: int) -> None:
    base = torch.arange(size + offset).remainder(251).to(dtype)
    weight = base[offset:]
    before, lengths = digest([weight, torch.zeros(3)])
    assert sum(lengths) == before.numel()
    assert torch.equal(digest([weight, torch.zeros(3)])[0], before)
    for place in {0, size // 2, size - 1} if size else ():
        changed = base.clone()[offset:]
        changed[place] = 1 - changed[place].to(torch.int64) % 2 if dtype is torch.bool else changed[place] + 1
        assert not torch.equal(digest([changed, torch.zeros(3)])[0], before)
    if size > 1:
        swapped = base.clone()[offset:]
        swapped[0], swapped[-1] = weight[-1], weight[0]
        same = bool((swapped == weight).all())
        assert torch.equal(digest([swapped, torch.zeros(3)])[0], before) is same


def test_a_digest_is_little_beside_the_weights() -> None:
    assert digest([torch.zeros(4096, 4096)])[0].numel() == 4096 + 4096 * 4096 // 2 // 4096
