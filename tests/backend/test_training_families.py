"""Training steps of model families: loss and every gradient are eager's, however regions lay out their results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from djinn_fx.backend import status
from djinn_fx.engines.base import Artefact, RegionGraph
from djinn_fx.engines.eager import EagerEngine
from djinn_fx.reasons import ReasonKind
from djinn_fx.srg.graph import fake_value
from tests.backend.support import INDUCTOR, INDUCTOR_REPEATS, Noted, cutting, djinn, same
from tests.sweeps import some_of
from tests.training_steps import Training

CUT: dict[str, Any] = {"engine": "eager", "passes": cutting(12)}

SIX = (
    Training(family="gpt2"),
    Training(family="llama", attention="eager", checkpointing=True),
    Training(family="gemma2", attention="eager", labels=False),
    Training(family="falcon", labels=False, checkpointing=True),
    Training(family="bert"),
    Training(family="t5"),
)


@pytest.fixture
def any_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Regions give back results laid out the other way round, and take arguments only as they were traced."""
    ours = EagerEngine.compile

    def compile_(self: EagerEngine, region: RegionGraph, *, alone: bool = False) -> Artefact:
        made = ours(self, region)
        run: Any = made.ready
        traced = [fake_value(node) for node in region.gm.graph.find_nodes(op="placeholder")]

        def odd(args: list[Any]) -> Sequence[Any]:
            for given, promised in zip(args, traced, strict=True):
                if isinstance(given, torch.Tensor):
                    assert given.stride() == promised.stride() or 1 in given.shape
            return [_turned(result) for result in run(args)]

        return Artefact(header=made.header, payload=None, ready=odd)

    monkeypatch.setattr(EagerEngine, "compile", compile_)


def _turned(value: Any) -> Any:
    if not isinstance(value, torch.Tensor) or value.dim() < 2:
        return value
    order = tuple(reversed(range(value.dim())))
    return value.permute(order).contiguous().permute(order)


@pytest.mark.parametrize("training", some_of(SIX), ids=str)
def test_regions_that_lay_out_results_as_they_like(training: Training, any_layout: None) -> None:
    noted, compiled = Noted(), []

    def compile_it(model: Any) -> Any:
        compiled.append(djinn(model, CUT))
        return compiled[-1]

    same(training.run(compile_it), training.run(lambda model: model), rtol=2e-3, atol=1e-5)
    assert max(len(graph.plan.regions) for graph in noted.graphs) > 2
    assert {reason.kind for reason in status(compiled[0]).relaid} == {ReasonKind.RELAID}


def test_inductor_copies_where_eager_concatenates() -> None:
    """As a cache's first call does: joined with nothing. Inductor makes a copy of it, with the strides it had."""

    def function(x: torch.Tensor, w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        keys = torch.cat([torch.empty(0), (x @ w).view(2, 5, 2, 3).transpose(1, 2)], dim=-2)
        return (keys @ keys.transpose(-1, -2)).tanh().sum(), keys

    found, noted = [], Noted()
    for run in (function, djinn(function, INDUCTOR)):
        x, w = torch.linspace(-1, 1, 40).reshape(2, 5, 4), torch.linspace(0, 1, 24).reshape(4, 6).requires_grad_()
        loss, keys = run(x, w)
        assert keys.stride() == (30, 15, 3, 1)
        loss.backward(retain_graph=True)
        loss.backward()
        found.append((loss.detach(), keys.detach(), w.grad))
    same(found[1], found[0])
    assert {build.engine for graph in noted.graphs for build in graph.builds} == {"inductor"}


@pytest.mark.exam
def test_inductor_in_layers() -> None:
    training = Training(family="gpt2")
    noted = Noted()
    ours = training.run(lambda model: djinn(model, INDUCTOR_REPEATS))
    same(ours, training.run(lambda model: model), rtol=2e-3, atol=1e-5)
    assert {build.engine for graph in noted.graphs for build in graph.builds} == {"inductor"}


def test_saved_tensors_come_back_laid_out_otherwise() -> None:
    """A hook on saved tensors gives them back contiguous; the backward's views and products are still right."""

    def function(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return (x.transpose(0, 1).exp() @ w).tanh().sum()

    gradients = []
    for run in (function, djinn(function, {**CUT, "passes": cutting(2)})):
        x, w = torch.linspace(-1, 1, 12).reshape(3, 4).requires_grad_(), torch.ones(3, 2, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: t.clone(memory_format=torch.contiguous_format), _turned
        ):
            loss = run(x, w)
        loss.backward()
        gradients.append((loss.detach(), x.grad, w.grad))
    same(gradients[1], gradients[0])


def test_a_parameter_gets_other_strides_behind_dynamos_back() -> None:
    module = torch.nn.Linear(4, 4)
    compiled = djinn(module, {"engine": "inductor", "progress": False})
    x = torch.randn(3, 4)
    for _ in range(2):
        with torch.no_grad():
            same(compiled(x), module(x))
        module.weight.data = module.weight.data.t().contiguous().t()
