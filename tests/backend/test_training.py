"""Training: loss, every gradient and every buffer are eager's; what eager refuses is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.backend.support import (
    CUT_OR_WHOLE,
    INDUCTOR,
    INDUCTOR_REPEATS,
    REPEATS,
    WAYS,
    Noted,
    both_ways,
    check,
    check_training,
    djinn,
    same,
    stacked,
)


@pytest.fixture(params=CUT_OR_WHOLE)
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Each test runs with its graphs cut to pieces, some and those of ``make exam`` with whole ones too."""
    return WAYS[request.param]


@both_ways
def test_stack_of_layers(options: dict[str, Any]) -> None:
    check_training(stacked(), torch.randn(5, 6), options=options)


def test_backward_is_cut_too() -> None:
    noted = Noted()
    check_training(stacked(layers=12), torch.randn(5, 6), options=REPEATS)
    kinds = {graph.srg.kind.value: len(graph.plan.regions) for graph in noted.graphs}
    assert set(kinds) == {"forward", "backward"}
    assert min(kinds.values()) > 2, kinds


def test_gradients_of_inputs(options: dict[str, Any]) -> None:
    check_training(stacked(), torch.randn(5, 6, requires_grad=True), options=options)


@both_ways
def test_batch_norm_and_its_counters(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Flatten()
    )
    check_training(module, torch.randn(3, 3, 7, 7), options=options, steps=3)


def test_own_counter(options: dict[str, Any]) -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
            self.register_buffer("mean", torch.zeros(4))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.mean.lerp_(x.detach().mean(0), 0.1)
            return self.linear(x - self.mean) / len(self.mean)

    torch.manual_seed(0)
    check_training(Counting(), torch.randn(3, 4), options=options, steps=3)


def test_dropout_draws_what_eager_draws(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 8), nn.Dropout(0.3), nn.Linear(8, 2))
    check_training(module, torch.randn(9, 6), options=options)


@both_ways
def test_random_numbers(options: dict[str, Any]) -> None:
    def function(x: Tensor) -> tuple[Tensor, ...]:
        a = torch.rand_like(x)
        b = x + torch.randn(3, 4)
        return a, b, torch.bernoulli(a), torch.randint(0, 9, (5,)), nn.functional.dropout(x, 0.5), torch.rand(2)

    check(function, torch.randn(3, 4), options=options)


def test_random_numbers_inductor() -> None:
    """By default Inductor's regions draw eager's numbers too."""
    check(lambda x: nn.functional.dropout(x.sin(), 0.5) + torch.rand(4), torch.randn(3, 4), options=INDUCTOR)


def test_tied_weights(options: dict[str, Any]) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(11, 6)
            self.head = nn.Linear(6, 11, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.embed(ids).tanh())

    torch.manual_seed(0)
    check_training(Tied(), torch.tensor([[1, 2, 3], [4, 5, 1]]), options=options)


def test_frozen_parameters(options: dict[str, Any]) -> None:
    module = stacked()
    for layer in list(module.layers)[:2]:
        layer.requires_grad_(False)
    check_training(module, torch.randn(5, 6), options=options)


def test_part_without_gradient(options: dict[str, Any]) -> None:
    module = stacked()

    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                scale = self.inner(x).sum()
            return self.inner(x) * scale + self.inner(x).detach()

    check_training(Detached(), torch.randn(5, 6), options=options)


def test_autocast(options: dict[str, Any]) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = stacked(layers=2)

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return self.inner(x)

    check_training(Mixed(), torch.randn(5, 6), options=options, tolerance={"rtol": 1e-2, "atol": 1e-2})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes(options: dict[str, Any], dtype: torch.dtype) -> None:
    limits = {"rtol": 2e-2, "atol": 2e-2} if dtype is torch.bfloat16 else {"rtol": 1e-9, "atol": 1e-9}
    module = stacked(layers=2).to(dtype)
    check_training(module, torch.randn(5, 6, dtype=dtype), options=options, tolerance=limits)


def test_several_losses_and_retained_graph(options: dict[str, Any]) -> None:
    module, x = stacked(), torch.randn(5, 6)
    compiled = djinn(module, options)
    results = []
    for run in (module, compiled):
        module.zero_grad()
        y = run(x)
        y.sum().backward(retain_graph=True)
        y.pow(2).mean().backward()
        results.append([p.grad.clone() for p in module.parameters()])
    same(results[1], results[0])


@both_ways
def test_only_one_of_two_results_is_used(options: dict[str, Any]) -> None:
    def function(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        h = (x @ w).tanh()
        return h.sum(), h.cos() * 2

    gradients = []
    for run in (function, djinn(function, options)):
        torch.manual_seed(0)
        x, w = torch.randn(3, 4), torch.randn(4, 4, requires_grad=True)
        run(x, w)[1].sum().backward()
        gradients.append(w.grad)
    same(gradients[1], gradients[0])


def test_double_backward_is_as_with_aot_eager(options: dict[str, Any]) -> None:
    def outcome(run: Any) -> str:
        x = torch.randn(3, requires_grad=True)
        (gradient,) = torch.autograd.grad(run(x).sum(), x, create_graph=True)
        try:
            gradient.sum().backward()
        except RuntimeError as error:
            return str(error)
        return "no error"

    theirs = outcome(torch.compile(lambda x: x.sin() * x, backend="aot_eager"))
    assert "double" in theirs
    assert outcome(djinn(lambda x: x.sin() * x, options)) == theirs


def test_backward_hooks_and_optimizer(options: dict[str, Any]) -> None:
    """Adam with momentum over several steps, gradients clipped in between."""
    losses = []
    for compile_it in (False, True):
        module, x = stacked(), torch.linspace(-1, 1, 30).reshape(5, 6)
        run = djinn(module, options) if compile_it else module
        optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
        trace = []
        for _ in range(4):
            optimizer.zero_grad()
            loss = run(x).pow(2).mean()
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 0.5)
            optimizer.step()
            trace.append(loss.item())
        losses.append(trace)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0][-1] < losses[0][0]


def test_train_and_eval(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    compiled = djinn(module, options)
    x = torch.randn(6, 4)
    for training in (True, False, True, False):
        module.train(training)
        states, results = [], []
        start = {name: value.clone() for name, value in module.state_dict().items()}
        for run in (module, compiled):
            module.load_state_dict(start)
            torch.manual_seed(3)
            results.append(run(x))
            states.append({name: value.clone() for name, value in module.state_dict().items()})
        same(results[1], results[0])
        same(states[1], states[0])


def test_checkpointing(options: dict[str, Any]) -> None:
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = stacked(layers=2)

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.inner.layers:
                x = checkpoint(layer, x, use_reentrant=False)
            return x

    check_training(Checkpointed(), torch.randn(5, 6), options=options)


def test_own_autograd_function(options: dict[str, Any]) -> None:
    class Clipped(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return x.clamp(-1, 1)

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            (x,) = ctx.saved_tensors
            return gradient * 0.5 * (x.abs() < 2)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return Clipped.apply(self.linear(x) * 3)

    torch.manual_seed(0)
    check_training(Net(), torch.randn(5, 6), options=options)


def test_dynamic_batch(options: dict[str, Any]) -> None:
    module = stacked()
    compiled = djinn(module, options, dynamic=True)
    for batch in (3, 7, 4):
        x = torch.randn(batch, 6)
        gradients = []
        for run in (module, compiled):
            module.zero_grad()
            run(x).pow(2).sum().backward()
            gradients.append([p.grad.clone() for p in module.parameters()])
        same(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ways", ["whole", "repeats"])
def test_inductor(ways: str) -> None:
    options = INDUCTOR if ways == "whole" else INDUCTOR_REPEATS
    noted = Noted()
    check_training(stacked(layers=2 if ways == "whole" else 12), torch.randn(5, 6), options=options)
    assert [len(graph.plan.regions) > 2 for graph in noted.graphs] == [ways == "repeats"] * 2


def test_functional_transforms(options: dict[str, Any]) -> None:
    w = torch.randn(4, 3)

    def loss(x: Tensor) -> Tensor:
        return (x @ w).sin().pow(2).sum()

    def function(x: Tensor) -> tuple[Tensor, ...]:
        gradient = torch.func.grad(loss)(x)
        rows = torch.func.vmap(torch.func.grad(loss))(x)
        value, tangent = torch.func.jvp(loss, (x,), (torch.ones_like(x),))
        return gradient, rows, value, tangent

    check(function, torch.randn(5, 4), options=options)


def test_state_can_be_loaded_after_compiling(options: dict[str, Any]) -> None:
    """load_state_dict, writing into weights, and exchanging a parameter all show in the next call."""
    module, other, x = stacked(), stacked(), torch.randn(5, 6)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.3)
    compiled = djinn(module, options)
    assert list(compiled.state_dict()) == ["_orig_mod." + name for name in module.state_dict()]
    with torch.no_grad():
        same(compiled(x), module(x))
        module.load_state_dict(other.state_dict())
        same(compiled(x), other(x))
        module.head.weight.mul_(2)
        same(compiled(x), module(x))
        module.head.bias.data = torch.ones(3)
        same(compiled(x), module(x))
        module.head.weight = nn.Parameter(torch.ones(3, 6))
        same(compiled(x), module(x))
        module.layers[1] = torch.nn.Identity()
        same(compiled(x), module(x))
