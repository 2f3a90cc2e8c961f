"""Graphs that write into their inputs, and results that share memory with inputs or with each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.backend.support import CUT_OR_WHOLE, INDUCTOR, REPEATS, WAYS, Noted, check, djinn, each_way, same


@pytest.fixture(params=[*CUT_OR_WHOLE, "inductor"])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Cut with the eager engine, in ``make exam`` whole with it too; whole with Inductor."""
    return {**WAYS, "inductor": INDUCTOR}[request.param]


def test_in_place_on_an_input(options: dict[str, Any]) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        x.add_(y)
        z = x * 2
        x.mul_(z.sin())
        return z + x

    with torch.no_grad():
        check(function, torch.randn(3, 4), torch.randn(3, 4), options=options)


@each_way
def test_read_write_read(options: dict[str, Any]) -> None:
    """The order of reads and writes of one memory is kept when they lie in different regions."""

    def function(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        a = x.sin().sum(0)
        x.copy_(y)
        b = x.cos().sum(0)
        x[1] = a
        c = x.exp().sum(0)
        x[:, 2].add_(3)
        return a, b, c, x.tanh().sum(0)

    with torch.no_grad():
        check(function, torch.randn(3, 4), torch.randn(3, 4), options=options)


def test_slice_assignment(options: dict[str, Any]) -> None:
    def function(x: Tensor, y: Tensor, at: Tensor) -> Tensor:
        x[1:3, ::2] = y[:2, :2] * 2
        x[at] = 7
        x.index_put_((at,), y[0], accumulate=True)
        return x.sum(0)

    with torch.no_grad():
        check(function, torch.randn(4, 4), torch.randn(4, 4), torch.tensor([0, 3]), options=options)


def test_resize_of_a_temporary(options: dict[str, Any]) -> None:
    def function(x: Tensor) -> Tensor:
        y = x.clone()
        y[0] = 1
        z = y.view(-1)
        z[3:] += 2
        return y * z.sum()

    check(function, torch.randn(3, 4), options=options)


def test_output_is_an_input(options: dict[str, Any]) -> None:
    def function(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x.add_(1)
        return x, x * y, y

    with torch.no_grad():
        compiled = check(function, torch.randn(3), torch.randn(3), options=options)
        x, y = torch.randn(3), torch.randn(3)
        first, _, third = compiled(x, y)
    assert first is x
    assert third is y


@each_way
def test_output_is_a_view_of_an_input(options: dict[str, Any]) -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.view(2, 6)[1], x.T + 1

    with torch.no_grad():
        compiled = check(function, torch.randn(3, 4), options=options)
        x = torch.randn(3, 4)
        view, _ = compiled(x)
        x.zero_()
    assert view.eq(0).all()


def test_outputs_share_memory(options: dict[str, Any]) -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = (x * 2).relu()
        return y, y.view(-1), y[0]

    with torch.no_grad():
        compiled = check(function, torch.randn(3, 4), options=options)
        whole, flat, row = compiled(torch.ones(3, 4))
        whole.fill_(5)
    assert flat.eq(5).all()
    assert row.eq(5).all()


def test_view_is_written_through(options: dict[str, Any]) -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        rows = x.unbind(0)
        rows[0].mul_(3)
        x.T[1].sub_(rows[2].sum())
        return rows[1] + 1, x * 2

    with torch.no_grad():
        check(function, torch.randn(3, 4), options=options)


@each_way
def test_two_inputs_share_memory(options: dict[str, Any]) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        x.add_(1)
        z = y * 2
        y.mul_(z)
        return x + z

    results = []
    with torch.no_grad():
        for run in (function, djinn(function, options)):
            base = torch.arange(8.0)
            results.append((run(base[:4], base[2:6]), base))
    same(results[1], results[0])


def test_gradient_flows_through_a_write(options: dict[str, Any]) -> None:
    def function(x: Tensor, w: Tensor) -> Tensor:
        h = x * w
        h[0] = h[1] * 2
        h += w
        return h.tanh()

    gradients = []
    for run in (function, djinn(function, options)):
        x, w = torch.linspace(-1, 1, 12).reshape(3, 4).requires_grad_(), torch.ones(4, requires_grad=True)
        run(x, w).sum().backward()
        gradients.append((x.grad, w.grad))
    same(gradients[1], gradients[0])


def test_input_that_needs_a_gradient_is_written(options: dict[str, Any]) -> None:
    def function(x: Tensor, w: Tensor) -> Tensor:
        x.add_(w.sin())
        return (x + 1).pow(2).sum()

    gradients = []
    for run in (function, djinn(function, options)):
        leaf, w = torch.linspace(-1, 1, 4).requires_grad_(), torch.full((4,), 2.0, requires_grad=True)
        x = leaf.clone()
        loss = run(x, w) + x.exp().sum()
        loss.backward()
        gradients.append((leaf.grad, w.grad, x.detach()))
    same(gradients[1], gradients[0])


@each_way
def test_buffers_change(options: dict[str, Any]) -> None:
    class Cache(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("cache", torch.zeros(6, 4))
            self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

        def forward(self, x: Tensor) -> Tensor:
            self.cache.index_copy_(0, self.filled.view(1), x)
            self.filled.add_(1)
            mask = torch.arange(6) < self.filled
            return (self.cache * mask[:, None]).sum(0)

    there, here = Cache(), Cache()
    compiled = djinn(here, options)
    with torch.no_grad():
        for step in range(4):
            x = torch.full((1, 4), float(step + 1))
            same(compiled(x), there(x))
            same(dict(here.named_buffers()), dict(there.named_buffers()))


class Attention(nn.Module):
    """One layer with a cache of keys and values of fixed size, written in place."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.project = nn.Linear(8, 24)
        self.register_buffer("keys", torch.zeros(1, 2, length, 4))
        self.register_buffer("values", torch.zeros(1, 2, length, 4))

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """x: [1, tokens, 8]; position: [tokens]."""
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.project(x).chunk(3, -1))
        self.keys[:, :, position] = k
        self.values[:, :, position] = v
        mask = torch.arange(self.keys.shape[2]) <= position[:, None]
        y = nn.functional.scaled_dot_product_attention(q, self.keys, self.values, attn_mask=mask)
        return x + y.transpose(1, 2).flatten(2)


@pytest.mark.parametrize("engine", ["eager", "repeats", "inductor"])
def test_decode_loop_with_a_cache_of_fixed_size(engine: str) -> None:
    """A prefill, then token by token; the caches of all layers are state that each step writes."""
    torch.manual_seed(0)
    layers = nn.ModuleList(Attention(9) for _ in range(6 if engine == "repeats" else 2))

    def step(x: Tensor, position: Tensor) -> Tensor:
        for layer in layers:
            x = layer(x, position)
        return x

    chosen = {"eager": WAYS["cut"], "repeats": REPEATS, "inductor": INDUCTOR}[engine]
    noted = Noted()
    compiled = djinn(step, chosen)
    outputs = []
    with torch.no_grad():
        for run in (step, compiled):
            for buffer in layers.buffers():
                buffer.zero_()
            torch.manual_seed(1)
            made = [run(torch.randn(1, 4, 8), torch.arange(4))]
            made += [run(torch.randn(1, 1, 8), torch.tensor([at])) for at in range(4, 8)]
            outputs.append((made, [buffer.clone() for buffer in layers.buffers()]))
    same(outputs[1], outputs[0], rtol=1e-4, atol=1e-5)
    assert len(noted.graphs) == 2, "one graph for the prefill, one for all decode steps"
    if engine == "repeats":
        assert noted.regions() > 4
