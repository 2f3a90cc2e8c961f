"""Dynamic shapes: results, and as many recompilations as with aot_eager; data-dependent sizes and values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from tests.backend.support import CUT_OR_WHOLE, INDUCTOR, WAYS, Noted, both_ways, check, djinn, same, stacked


@pytest.fixture(params=CUT_OR_WHOLE)
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Each test runs with its graphs cut to pieces, some and those of ``make exam`` with whole ones too."""
    return WAYS[request.param]


def frames(function: Callable[..., Any], calls: list[tuple[Any, ...]], dynamic: bool | None = None) -> int:
    """How many graphs aot_eager compiles over these calls."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, backend=counter, dynamic=dynamic)
    for args in calls:
        compiled(*args)
    torch._dynamo.reset()
    return sum(any(node.op.startswith("call_") for node in graph.graph.nodes) for graph in counter.graphs)


def check_calls(
    function: Callable[..., Any], calls: list[tuple[Any, ...]], options: dict[str, Any], dynamic: bool | None = None
) -> int:
    """Each call's result is eager's, and no more graphs are compiled than by aot_eager. Returns how many."""
    with torch.no_grad():
        wanted = frames(function, calls, dynamic)
        noted = Noted()
        compiled = djinn(function, options, dynamic=dynamic)
        for args in calls:
            same(compiled(*args), function(*args), rtol=1e-4, atol=1e-5)
    assert len(noted.graphs) == wanted
    return wanted


@both_ways
def test_automatic(options: dict[str, Any]) -> None:
    """The second size makes the dimension dynamic, all later ones reuse that graph."""
    calls = [(torch.randn(batch, 6),) for batch in (3, 5, 7, 11, 2)]
    assert check_calls(stacked(), calls, options) == 2


def test_dynamic_from_the_start(options: dict[str, Any]) -> None:
    module = stacked()

    def function(x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([module(x), module(y)]).softmax(0) * x.shape[0]

    calls = [(torch.randn(a, 6), torch.randn(b, 6)) for a, b in ((3, 5), (7, 9), (4, 8))]
    assert check_calls(function, calls, options, dynamic=True) == 1


def test_never_dynamic(options: dict[str, Any]) -> None:
    calls = [(torch.randn(batch, 6),) for batch in (3, 5, 3)]
    assert check_calls(stacked(), calls, options, dynamic=False) == 2


def test_zero_and_one_are_special(options: dict[str, Any]) -> None:
    calls = [(torch.randn(batch, 6),) for batch in (3, 5, 1, 0, 1, 8)]
    check_calls(stacked(), calls, options)


def test_mark_dynamic(options: dict[str, Any]) -> None:
    module = stacked()
    compiled = djinn(module, options)
    noted = Noted()
    with torch.no_grad():
        for batch in (3, 9, 4):
            x = torch.randn(batch, 6)
            torch._dynamo.mark_dynamic(x, 0, min=2, max=100)
            same(compiled(x), module(x))
    assert len(noted.graphs) == 1


@both_ways
def test_mark_unbacked(options: dict[str, Any]) -> None:
    compiled = djinn(lambda x: (x * 2).sum(1) + 1, options)
    noted = Noted()
    for batch in (3, 1, 0):
        x = torch.randn(batch, 6)
        torch._dynamo.decorators.mark_unbacked(x, 0)
        same(compiled(x), (x * 2).sum(1) + 1)
    assert len(noted.graphs) == 1


def test_sizes_in_arithmetic(options: dict[str, Any]) -> None:
    """Sizes that are computed, returned, and used as numbers, across cuts."""

    def function(x: Tensor, n: int) -> tuple[Any, ...]:
        half = x.shape[0] // 2
        left, right = x[:half].sin(), x[half:].cos()
        y = torch.cat([right, left]) * (x.shape[1] + n)
        z = y.new_zeros(half + n, 3) + y.mean()
        return half, z, y.reshape(-1, 2).sum(0), x.shape[0] * x.shape[1]

    calls = [(torch.randn(a, b), n) for a, b, n in ((6, 4, 3), (8, 10, 5), (10, 12, 7), (12, 6, 9))]
    check_calls(function, calls, options)


def test_floats_that_change(options: dict[str, Any]) -> None:
    calls = [(torch.ones(3), scale) for scale in (0.5, 1.5, 2.5, 3.5)]
    check_calls(lambda x, scale: (x * scale).exp() + scale, calls, options)


def test_views_of_dynamic_sizes(options: dict[str, Any]) -> None:
    def function(x: Tensor) -> Tensor:
        batch, length, width = x.shape
        heads = x.view(batch, length, 2, width // 2).transpose(1, 2)
        scores = (heads @ heads.mT) / width**0.5
        mask = torch.ones(length, length, dtype=torch.bool).tril()
        scores = scores.masked_fill(~mask, float("-inf")).softmax(-1)
        return (scores @ heads).transpose(1, 2).reshape(batch, length, width).flatten(0, 1)

    calls = [(torch.randn(a, b, 8),) for a, b in ((2, 5), (3, 7), (4, 6))]
    assert check_calls(function, calls, options, dynamic=True) == 1


@both_ways
def test_guards_on_sizes_hold(options: dict[str, Any]) -> None:
    """A branch on a size: each side gets its graph, and the right one is called."""

    def function(x: Tensor) -> Tensor:
        return x.sin() * 2 if x.shape[0] > 6 else x.cos() + 3

    calls = [(torch.randn(n),) for n in (3, 5, 8, 4, 9, 6, 7)]
    check_calls(function, calls, options)


def test_inductor_guards_are_kept_with_the_artefact() -> None:
    """What Inductor assumed of a size holds for whoever gets the artefact next, from memory or from disk."""
    from djinn_fx.backend import reset

    def function(x: Tensor, y: Tensor) -> Tensor:
        return (x.sin() @ y).relu() + x.shape[0]

    def run(sizes: list[int]) -> list[str]:
        torch._dynamo.reset()
        noted = Noted()
        compiled = djinn(function, INDUCTOR, dynamic=True)
        for n in sizes:
            x, y = torch.randn(n, n + 1), torch.randn(n + 1, 3)
            same(compiled(x, y), function(x, y), rtol=1e-4, atol=1e-5)
        return noted.outcomes()

    assert set(run([5, 7])) == {"built"}
    assert set(run([9, 600])) <= {"memory", "store", "built"}
    reset()
    run([300, 4])
    reset()
    run([4, 300, 2000])


def test_nonzero_inside_the_graph(options: dict[str, Any]) -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        at = (x > 0).nonzero()
        return x[at[:, 0], at[:, 1]] * 2, at.sum(0)

    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        noted = Noted()
        check(function, torch.randn(4, 5), options=options, fullgraph=True)
        check(function, -torch.ones(4, 5), options=options, fullgraph=True)
    assert len(noted.graphs) >= 1


@both_ways
def test_item_inside_the_graph(options: dict[str, Any]) -> None:
    def function(x: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        length = n.item()
        torch._check(length >= 0)
        torch._check(length <= x.shape[0])
        head = x.narrow(0, 0, length)
        return head.sin().sum(0), torch.arange(length) * 2

    with torch._dynamo.config.patch(capture_scalar_outputs=True):
        noted = Noted()
        compiled = djinn(function, options, fullgraph=True)
        x = torch.randn(6, 3)
        for n in (3, 5, 2):
            same(compiled(x, torch.tensor(n)), function(x, torch.tensor(n)))
    assert len(noted.graphs) == 1


def test_item_as_a_number(options: dict[str, Any]) -> None:
    with torch._dynamo.config.patch(capture_scalar_outputs=True):
        compiled = djinn(lambda x, s: (x * s.item()).sin() + s.item(), options, fullgraph=True)
        for value in (0.5, 2.5):
            same(compiled(torch.ones(3), torch.tensor(value)), (torch.ones(3) * value).sin() + value)


def test_failed_check_raises(options: dict[str, Any]) -> None:
    def function(x: Tensor, n: Tensor) -> Tensor:
        length = n.item()
        torch._check(length >= 3)
        return x * length

    with torch._dynamo.config.patch(capture_scalar_outputs=True):
        compiled = djinn(function, options, fullgraph=True)
        same(compiled(torch.ones(2), torch.tensor(4)), torch.full((2,), 4.0))
        with pytest.raises(RuntimeError):
            compiled(torch.ones(2), torch.tensor(2))


def test_data_dependent_sizes_with_inductor() -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        at = (x > 0).nonzero().squeeze(1)
        return x[at] * 2, at + 1

    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        compiled = djinn(function, INDUCTOR, fullgraph=True)
        for seed in (0, 1):
            x = torch.randn(9, generator=torch.Generator().manual_seed(seed))
            same(compiled(x), function(x))
