"""Digests of weights that another graph took: good while nothing was written, whichever way it is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch

from djinn_fx.engines.bound.watch import Watch
from djinn_fx.remote.delta.graph import GraphForm
from djinn_fx.remote.graphs.digests import Digests
from djinn_fx.remote.graphs.parts import Part
from djinn_fx.remote.graphs.placed import PlacedPart
from djinn_fx.remote.wire import payload
from djinn_fx.remote.wire.payload import payload_of
from djinn_fx.threads import new_rlock

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


class Holding:
    """Of a worker that has whatever it is sent."""

    def __init__(self) -> None:
        self.lock = new_rlock()
        self.sent: list[list[str]] = []

    def send(self, graph: GraphForm, payloads: Mapping[str, Any]) -> None:
        assert set(payloads) == set(graph.weights)
        self.sent.append(list(graph.weights))

    def use(self, names: Sequence[str]) -> None: ...

    def unused(self, names: Sequence[str]) -> None: ...


def test_two_graphs_over_the_same_weights_digest_each_once_and_see_what_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[int] = []
    real = payload.digest_of

    def counted(dtype: str, axes: Any, *parts: Any) -> str:
        taken.append(sum(len(part) for part in parts))
        return real(dtype, axes, *parts)

    monkeypatch.setattr(payload, "digest_of", counted)
    weights = [torch.randn(size, 512) for size in (512, 256, 1)]
    holding, parts = Holding(), []
    for outputs in (1, 2):
        form = {"inputs": [[["v"], [n]] for n in range(3)], "ops": [], "outputs": [0] * outputs, "symbols": []}
        part = Part(
            region=0, worker="worker:0", label="region", form=form, hints=(), devices={}, kinds=("parameter",) * 3,
            weights=(0, 1, 2), state=(), written={},
        )  # fmt: skip
        parts.append(PlacedPart(part, holding, {}))  # type: ignore[arg-type]
        parts[-1].ensure(weights)
    assert len(taken) == 3
    assert holding.sent[0] == holding.sent[1]
    weights[0].data[100, 100] = 3.0
    for part in parts:
        part.ensure(weights)
    assert holding.sent[2] == holding.sent[3]
    assert [before == after for before, after in zip(holding.sent[0], holding.sent[2], strict=True)] == [0, 1, 1]
    assert len(taken) == 6  # of the second graph none, again
