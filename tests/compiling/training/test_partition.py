"""Training under an activation budget: gradients are eager's, the peak stays below, random numbers are drawn once."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.memory.alive import activation_peak
from bench.memory.graphs import built
from djinn_fx.compiling.graph import forget, history
from djinn_fx.reasons import ReasonKind
from djinn_fx.srg.effects import is_random
from djinn_fx.srg.record import GraphKind
from djinn_fx.units import format_bytes
from tests.sweeps import in_turn

WIDTH, ROWS, LAYERS = 64, 128, 4
#: What one layer's activations take, in bytes.
ONE = 4 * WIDTH * ROWS


def stacked(dropout: float = 0.0) -> nn.Sequential:
    """Layers whose activations weigh more than their weights."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(LAYERS):
        layers += [nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Dropout(dropout), nn.Tanh()]
    return nn.Sequential(*layers)


def loss_of(output: Tensor) -> Tensor:
    return output.pow(2).mean()


def peaks(budget: str | None) -> list[int]:
    """What the activations of the forward and of the backward graph took, in bytes."""
    options = {} if budget is None else {"activation_budget": budget}
    graphs = built(stacked(), (torch.randn(ROWS, WIDTH),), {}, "eager", loss_of=loss_of, options=options)
    return [activation_peak(one.run, one.args, one.given_away, one.captured.srg.kind) for one in graphs]


@cache
def free() -> int:
    """The higher of the two without a budget."""
    return max(peaks(None))


def trained(model: nn.Module, call: Any) -> list[Tensor]:
    """The loss and all gradients of one step."""
    model.zero_grad()
    torch.manual_seed(1)
    loss = loss_of(call(torch.randn(ROWS, WIDTH)))
    loss.backward()
    return [loss.detach(), *(one.grad.clone() for one in model.parameters() if one.grad is not None)]


def compiled(model: nn.Module, budget: str) -> Any:
    torch._dynamo.reset()
    forget()
    options = {"engine": "eager", "cache_limit": 0, "activation_budget": budget}
    return torch.compile(model, backend="djinn", options=options)


def test_the_peak_falls_with_the_budget_and_stays_below_it() -> None:
    for share in (0.9, 0.65):
        budget = int(free() * share)
        assert max(peaks(f"{budget}B")) <= budget


@pytest.mark.parametrize(("dropout", "share"), in_turn([0.0, 0.5], [0.9, 0.65]))
def test_gradients_are_those_of_eager_to_the_last_bit(dropout: float, share: float) -> None:
    model = stacked(dropout)
    expected = trained(model, model)
    budget = int(free() * share + 2 * ONE * bool(dropout))
    found = trained(model, compiled(model, f"{budget}B"))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_no_random_number_is_drawn_twice() -> None:
    model = stacked(0.5)
    trained(model, compiled(model, f"{int(0.6 * free() + 2 * ONE)}B"))
    graphs = {one.srg.kind: one.srg for one in history()}
    assert any(is_random(node) for node in graphs[GraphKind.FORWARD].ops)
    assert not any(is_random(node) for node in graphs[GraphKind.BACKWARD].ops)
    names = {node.name for node in graphs[GraphKind.FORWARD].ops}
    assert any(node.name in names for node in graphs[GraphKind.BACKWARD].ops)


def test_what_was_decided_is_told() -> None:
    model = stacked()
    for budget, other in ((f"{10 * LAYERS * ONE}B", None), (f"{int(0.65 * free())}B", "without a budget")):
        trained(model, compiled(model, budget))
        (reason,) = [one for graph in history() for one in graph.plan.reasons if one.kind is ReasonKind.BUDGET]
        assert (reason.runner_up is None) == (other is None)


def test_a_budget_that_nothing_fits_names_the_tensor_and_one_that_is_enough() -> None:
    model = stacked()
    with pytest.raises(Exception, match=r"option 'activation_budget': 1\.0 kB is too little") as raised:
        trained(model, compiled(model, "1kB"))
    text = str(raised.value)
    assert f"{format_bytes(ONE)} " in text
    enough = text.partition("Give ")[2].partition(" or more")[0]
    trained(model, compiled(model, enough))  # does not raise
