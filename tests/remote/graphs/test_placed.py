"""A part on its worker: what is sent of its weights, and what is let go of."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch

from djinn_fx.remote.delta.graph import GraphForm
from djinn_fx.remote.graphs.parts import Part
from djinn_fx.remote.graphs.placed import MOST_SETS, PlacedPart
from djinn_fx.remote.wire import payload
from djinn_fx.threads import new_rlock


class Holding:
    """Of a worker that has whatever it is sent."""

    def __init__(self) -> None:
        self.lock = new_rlock()
        self.sent: list[list[str]] = []
        self.users: Counter[str] = Counter()

    def send(self, graph: GraphForm, payloads: Mapping[str, Any]) -> None:
        assert set(payloads) == set(graph.weights)
        self.sent.append(list(graph.weights))

    def use(self, names: Sequence[str]) -> None:
        self.users.update(names)

    def unused(self, names: Sequence[str]) -> None:
        self.users.subtract(names)

    @property
    def used(self) -> int:
        assert min(self.users.values(), default=0) >= 0
        return sum(count > 0 for count in self.users.values())


def placed(holding: Holding, outputs: int = 1) -> PlacedPart:
    value = ["float32", [2], [1], [0], "cpu"]
    form = {"inputs": [[value, [n]] for n in range(3)], "ops": [], "outputs": [0] * outputs, "symbols": []}
    part = Part(
        region=0, worker="worker:0", label="region", form=form, hints=(), devices={}, kinds=("parameter",) * 3,
        weights=(0, 1, 2), state=(), written={},
    )  # fmt: skip
    return PlacedPart(part, holding, {})  # type: ignore[arg-type]


def weights() -> list[torch.Tensor]:
    return [torch.randn(size, 512) for size in (512, 256, 1)]


def test_models_that_share_a_graph_take_turns_and_nothing_is_sent_again() -> None:
    holding, models = Holding(), [weights() for _ in range(3)]
    part, graphs = placed(holding), []
    for one in models:
        part.ensure(one)
        graphs.append(part.graph)
    assert len(set(graphs)) == 3
    for one, graph in zip(models[::-1], graphs[::-1], strict=True):
        part.ensure(one)
        assert part.graph == graph
    assert len(holding.sent) == 3
    assert holding.used == 9


def test_what_a_model_that_is_gone_had_is_let_go_of() -> None:
    holding, part = Holding(), None
    part, first, second = placed(holding), weights(), weights()
    part.ensure(first)
    part.ensure(second)
    second[0].mul_(2.0)
    part.ensure(second)
    assert holding.used == 6  # in the place of what it held before
    del first
    gc.collect()
    assert holding.used == 3
    for _ in range(MOST_SETS + 2):
        second = weights()
        part.ensure(second)
    assert holding.used <= 3 * MOST_SETS
    del part
    gc.collect()
    assert holding.used == 0


def test_two_graphs_over_the_same_weights_digest_each_once_and_see_what_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[int] = []
    real = payload.digest_of

    def counted(dtype: str, axes: Any, *parts: Any) -> str:
        taken.append(sum(len(part) for part in parts))
        return real(dtype, axes, *parts)

    monkeypatch.setattr(payload, "digest_of", counted)
    model = weights()
    holding, parts = Holding(), []
    for outputs in (1, 2):
        parts.append(placed(holding, outputs))
        parts[-1].ensure(model)
    assert len(taken) == 3
    assert holding.sent[0] == holding.sent[1]
    model[0].data[100, 100] = 3.0
    for part in parts:
        part.ensure(model)
    assert holding.sent[2] == holding.sent[3]
    assert [before == after for before, after in zip(holding.sent[0], holding.sent[2], strict=True)] == [0, 1, 1]
    assert len(taken) == 6  # of the second graph none, again
