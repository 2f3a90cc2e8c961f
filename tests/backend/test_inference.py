"""Running models: modules, modes of autograd, dtypes, memory formats, and odd shapes of input and output."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tests.backend.support import (
    CUT_OR_WHOLE,
    INDUCTOR,
    INDUCTOR_REPEATS,
    REPEATS,
    WAYS,
    WHOLE,
    Noted,
    both_ways,
    check,
    djinn,
    same,
    stacked,
)


@pytest.fixture(params=CUT_OR_WHOLE)
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Each test runs with its graphs cut to pieces, some and those of ``make exam`` with whole ones too."""
    return WAYS[request.param]


@both_ways
def test_module(options: dict[str, Any]) -> None:
    check(stacked(), torch.randn(5, 6), options=options)


def test_equal_layers_are_one_distinct_region() -> None:
    noted = Noted()
    with torch.no_grad():
        check(stacked(layers=12), torch.randn(5, 6), options=REPEATS)
    (graph,) = noted.graphs
    hashes = [region.structural_hash for region in graph.plan.regions]
    assert len(hashes) > len(set(hashes)), "the layers were not found to be equal"
    assert len({id(build) for build in graph.builds}) == len(hashes), "one build a region is told"


def test_cut_graphs_have_several_regions() -> None:
    noted = Noted()
    check(stacked(), torch.randn(5, 6), options=WAYS["cut"])
    assert noted.regions() > 4


def test_no_grad(options: dict[str, Any]) -> None:
    with torch.no_grad():
        check(stacked(), torch.randn(5, 6), options=options)


@both_ways
def test_inference_mode(options: dict[str, Any]) -> None:
    with torch.inference_mode():
        check(stacked(), torch.randn(5, 6), options=options)


def test_inference_mode_then_training() -> None:
    """A graph compiled under inference_mode is not used for training."""
    module = stacked()
    compiled = djinn(module)
    x = torch.randn(5, 6)
    with torch.inference_mode():
        same(compiled(x), module(x))
    result = compiled(x)
    result.sum().backward()
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize("enabled", [True, False])
def test_autocast_outside(options: dict[str, Any], enabled: bool) -> None:
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
        check(stacked(), torch.randn(5, 6), options=options)


def test_autocast_inside(options: dict[str, Any]) -> None:
    module = stacked()

    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = module(x)
        return low, module(x)

    check(function, torch.randn(5, 6), options=options)


def test_autocast_is_not_applied_twice() -> None:
    """Inductor's region is compiled for the dtypes the graph has, whatever is in force around it."""
    module = stacked(layers=2)
    compiled = djinn(module, INDUCTOR)
    x = torch.randn(5, 6)
    with torch.no_grad():
        same(compiled(x), module(x), rtol=1e-4, atol=1e-5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            same(compiled(x), module(x), rtol=2e-2, atol=2e-2)
        same(compiled(x), module(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(options: dict[str, Any], dtype: torch.dtype) -> None:
    with torch.no_grad():
        check(stacked().to(dtype), torch.randn(5, 6, dtype=dtype), options=options)


def test_complex(options: dict[str, Any]) -> None:
    def function(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z = (x * y).conj() + 2j
        return z.abs(), torch.view_as_real(z.resolve_conj()), z @ y.T

    check(function, torch.randn(3, 4, dtype=torch.complex64), torch.randn(3, 4, dtype=torch.complex64), options=options)


def test_integers_only(options: dict[str, Any]) -> None:
    def function(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        z = (x // 3) ^ y
        return z.cumsum(0), z.argsort(0), (z > 2) & (y < 5), z.bincount(minlength=9)

    check(function, torch.arange(7), torch.arange(7).flip(0).clone(), options=options)


def test_empty_tensors(options: dict[str, Any]) -> None:
    def function(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return x * 2 + 1, x.sum(1), torch.cat([x, y]) - 1, y.softmax(-1)

    check(function, torch.randn(0, 4), torch.randn(3, 4), options=options)


def test_batch_of_zero(options: dict[str, Any]) -> None:
    with torch.no_grad():
        check(stacked(), torch.randn(0, 6), options=options)


@both_ways
def test_no_ops(options: dict[str, Any]) -> None:
    check(lambda x: x, torch.randn(3), options=options)
    check(lambda x, y: (y, x, y), torch.randn(3), torch.randn(4), options=options)


def test_no_tensor_inputs(options: dict[str, Any]) -> None:
    def function(n: int) -> Tensor:
        return torch.arange(n) * 2 + torch.ones(n, dtype=torch.int64).cumsum(0)

    check(function, 5, options=options)


@both_ways
def test_none_outputs(options: dict[str, Any]) -> None:
    check(lambda x: (None, x * 2 + 1, None, 3, "text"), torch.randn(3), options=options)


class Pair(NamedTuple):
    """A result with names."""

    first: Tensor
    second: list[Tensor]


@both_ways
def test_nested_outputs(options: dict[str, Any]) -> None:
    def function(x: Tensor) -> dict[str, Any]:
        a, b = x.sin(), x.cos() + 1
        return {"a": a, "pair": Pair(b, [a * b, x]), "deep": ({"b": (b - a,)}, [])}

    check(function, torch.randn(3, 4), options=options)


def test_same_value_returned_twice(options: dict[str, Any]) -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = x * 2 + 1
        return y, y, x

    compiled = check(function, torch.randn(3), options=options)
    first, second, _ = compiled(torch.randn(3))
    assert first is second


def test_non_tensor_inputs(options: dict[str, Any]) -> None:
    def function(x: Tensor, scale: float, times: int, name: str, flag: bool, parts: dict[str, Tensor]) -> Tensor:
        y = x * scale + parts["bias"]
        for _ in range(times):
            y = y.tanh() + 1
        return -y if flag and name == "minus" else y

    x, bias = torch.randn(3, 4), {"bias": torch.randn(4)}
    check(function, x, 0.5, 3, "minus", True, bias, options=options)
    compiled = djinn(function, options)
    for scale, times, name, flag in ((0.5, 2, "plus", True), (1.5, 2, "plus", True), (2.5, 4, "minus", False)):
        same(compiled(x, scale, times, name, flag, bias), function(x, scale, times, name, flag, bias))


def test_keyword_arguments_and_defaults(options: dict[str, Any]) -> None:
    def function(x: Tensor, *others: Tensor, factor: float = 2.0, bias: Tensor | None = None) -> Tensor:
        y = sum(others, x) * factor
        return y if bias is None else y + bias

    compiled = djinn(function, options)
    x, y = torch.randn(3), torch.randn(3)
    same(compiled(x), function(x))
    same(compiled(x, y, y, factor=3.0), function(x, y, y, factor=3.0))
    same(compiled(x, y, bias=y), function(x, y, bias=y))


def test_channels_last(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3), torch.nn.ReLU())
    module = module.to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 9, 9).to(memory_format=torch.channels_last)
    with torch.no_grad():
        compiled = check(module, x, options=options)
        assert compiled(x).stride() == module(x).stride()


def test_non_contiguous_inputs(options: dict[str, Any]) -> None:
    def function(x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        return x @ y + 1, (z * 2).relu()

    base = torch.randn(4, 10)
    args = (torch.randn(5, 4).T, base[:, ::2].T.contiguous()[:5], torch.randn(1, 3).expand(4, 3))
    check(function, *args, options=options)


@both_ways
def test_strides_of_results(options: dict[str, Any]) -> None:
    """A result has the strides eager gives it."""

    def function(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return (x + 1).mT, x.permute(2, 0, 1) * 2, (x * 3).transpose(0, 1)[..., ::2]

    x = torch.randn(3, 4, 5)
    compiled = check(function, x, options=options)
    assert [t.stride() for t in compiled(x)] == [t.stride() for t in function(x)]


def test_constants_in_the_graph(options: dict[str, Any]) -> None:
    table = torch.arange(6.0)

    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x + torch.tensor([1.0, 2.0, 3.0]) * 2
        return y * torch.tensor(4), table[:3] + y

    check(function, torch.randn(3), options=options)


@both_ways
def test_only_constants_are_returned(options: dict[str, Any]) -> None:
    check(lambda x: (torch.tensor([1, 2, 3]), torch.zeros(2), 5), torch.randn(3), options=options)


def test_scalars_as_results(options: dict[str, Any]) -> None:
    check(lambda x: (x.shape[0] * 2, x.dim(), x.numel() + 1, x * x.shape[1]), torch.randn(3, 4), options=options)


def test_large_number_of_outputs(options: dict[str, Any]) -> None:
    check(lambda x: [x + i for i in range(60)], torch.randn(3), options=options)


def test_call_with_inductor() -> None:
    """The default engine, whole and cut, on the same module."""
    module, x = stacked(layers=12), torch.randn(5, 6)
    with torch.no_grad():
        expected = module(x)
        for options, most in ((INDUCTOR, 1), (INDUCTOR_REPEATS, 4)):
            torch._dynamo.reset()
            noted = Noted()
            same(djinn(module, options)(x), expected, rtol=1e-4, atol=1e-5)
            (graph,) = noted.graphs
            distinct = len({region.structural_hash for region in graph.plan.regions})
            assert distinct <= most <= len(graph.plan.regions)
            assert len({build.key for build in graph.builds}) == distinct, "as many artefacts as distinct regions"


def test_tied_weights(options: dict[str, Any]) -> None:
    torch.manual_seed(0)

    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(11, 6)
            self.head = torch.nn.Linear(6, 11, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.embed(ids).tanh())

    with torch.no_grad():
        check(Tied(), torch.tensor([[1, 2, 3], [4, 5, 6]]), options=options)


@both_ways
def test_two_inputs_are_one_tensor(options: dict[str, Any]) -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        return x * 2 + y.sin()

    compiled = djinn(function, options)
    x, y = torch.randn(4), torch.randn(4)
    same(compiled(x, x), function(x, x))
    same(compiled(x, y), function(x, y))


def test_models_of_one_shape_share_no_weights() -> None:
    """Two models of equal structure have equal artefacts and different weights."""
    first, second = stacked(layers=12), stacked(layers=12)
    torch.nn.init.normal_(second.head.weight)
    x = torch.randn(5, 6)
    with torch.no_grad():
        same(djinn(first, REPEATS)(x), first(x))
        same(djinn(second, REPEATS)(x), second(x))
        same(djinn(first, WHOLE)(x), first(x))


def test_deep_copy_of_what_is_compiled(options: dict[str, Any]) -> None:
    import copy

    module = stacked()
    compiled = djinn(module, options)
    x = torch.randn(5, 6)
    with torch.no_grad():
        before = compiled(x)
        twin = copy.deepcopy(compiled)
        for parameter in twin.parameters():
            parameter.mul_(0.5)
        changed = twin(x)
        same(compiled(x), before)
        same(compiled(x), module(x))
    assert not torch.allclose(changed, before)


def test_mode_names() -> None:
    """torch.compile's own modes arrive and are accepted."""
    for mode in ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"):
        torch._dynamo.reset()
        assert torch.compile(lambda x: x + 1, backend="djinn", mode=mode)(torch.ones(2)).tolist() == [2, 2]
