"""Digests of weights that another graph took: good while nothing was written, whichever way it is written."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from djinn_fx.engines.bound.watch import Watch
from djinn_fx.remote.graphs.digests import Digests
from djinn_fx.remote.wire.payload import payload_of

SIZES = (4, 512)  # compared in full, and by pages


def noted(weights: list[torch.Tensor]) -> tuple[Digests, Watch, list[str]]:
    digests, watch = Digests(), Watch(weights)
    taken = [payload_of(weight).digest for weight in weights]
    digests.note(watch, weights, taken)
    return digests, watch, taken


@pytest.mark.parametrize("size", SIZES)
def test_another_graph_has_those_that_both_read(size: int) -> None:
    weights = [torch.randn(size, size) for _ in range(3)]
    digests, watch, taken = noted(weights)
    other = torch.randn(size, size)
    assert digests.of([weights[2], other, weights[0].detach()]) == [taken[2], None, taken[0]]
    assert watch.untraceable is None


def test_another_view_of_the_same_memory_is_another_weight() -> None:
    weight = torch.randn(512, 512)
    digests, watch, _ = noted([weight])
    assert digests.of([weight.t(), weight.view(torch.int32), weight.view(-1), weight[:256]]) == [None] * 4
    del watch


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "write",
    [
        lambda weight: weight.mul_(2.0),
        lambda weight: weight.data.mul_(2.0),
        lambda weight: weight.numpy().__setitem__((0, 0), 5.0),
    ],
    ids=["in place", "data", "numpy"],
)
def test_what_was_written_has_none(size: int, write: Callable[[torch.Tensor], None]) -> None:
    weight = torch.randn(size, size)
    digests, watch, taken = noted([weight])
    assert digests.of([weight]) == taken
    write(weight)
    assert digests.of([weight]) == [None]
    del watch


def test_with_its_watch_a_digest_goes_and_keeps_nothing_alive() -> None:
    weight = torch.randn(512, 512)
    digests, watch, taken = noted([weight])
    del watch
    assert digests.of([weight]) == [None]
    assert taken
