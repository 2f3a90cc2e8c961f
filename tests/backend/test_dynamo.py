"""What Dynamo does around a backend: graph breaks, stances, resets, threads, higher-order and custom ops."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from djinn_fx.backend import compilations, reset
from tests.backend.support import (
    CUT_OR_WHOLE,
    INDUCTOR,
    REPEATS,
    WAYS,
    WHOLE,
    Noted,
    both_ways,
    check,
    check_training,
    djinn,
    same,
    several_trace,
    stacked,
)


@pytest.fixture(params=CUT_OR_WHOLE)
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Each test runs with its graphs cut to pieces, some and those of ``make exam`` with whole ones too."""
    return WAYS[request.param]


def test_graph_breaks(options: dict[str, Any]) -> None:
    seen: list[float] = []

    def function(x: Tensor) -> Tensor:
        y = x.sin() + 1
        torch._dynamo.graph_break()
        seen.append(float(y.sum()))
        z = y * x
        return z.tanh() if z.sum() > 0 else -z

    noted = Noted()
    for sign in (1, -1):
        check(function, sign * torch.ones(3, 4), options=options)
    assert len(noted.graphs) >= 3


def test_graph_break_while_training(options: dict[str, Any]) -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = stacked(layers=2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.inner.layers[0](x)
            torch._dynamo.graph_break()
            return self.inner.layers[1](x)

    noted = Noted()
    check_training(Broken(), torch.randn(5, 6), options=options)
    assert [graph.srg.kind.value for graph in noted.graphs].count("backward") == 2


def test_fullgraph(options: dict[str, Any]) -> None:
    check(stacked(), torch.randn(5, 6), options=options, fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        djinn(lambda x: torch._dynamo.graph_break() or x, options, fullgraph=True)(torch.ones(2))


def test_error_of_the_users_code_comes_through(options: dict[str, Any]) -> None:
    def function(x: Tensor) -> Tensor:
        if x.shape[0] == 3:
            raise ValueError("three is not allowed")
        return x * 2

    compiled = djinn(function, options)
    with pytest.raises(ValueError, match="three is not allowed"):
        compiled(torch.ones(3))
    same(compiled(torch.ones(2)), torch.full((2,), 2.0))


@both_ways
def test_error_at_run_time_comes_through(options: dict[str, Any]) -> None:
    """An index out of range is eager's IndexError, and the compiled function goes on working."""
    compiled = djinn(lambda x, at: x[at] * 2, options)
    x = torch.arange(4.0)
    same(compiled(x, torch.tensor([1])), torch.tensor([2.0]))
    with pytest.raises((IndexError, RuntimeError)):
        compiled(x, torch.tensor([9]))
    same(compiled(x, torch.tensor([3])), torch.tensor([6.0]))


def test_force_eager() -> None:
    module, x = stacked(), torch.randn(5, 6)
    compiled = djinn(module)
    noted = Noted()
    with torch.no_grad():
        with torch.compiler.set_stance("force_eager"):
            same(compiled(x), module(x))
        assert not noted.graphs
        same(compiled(x), module(x))
        assert len(noted.graphs) == 1


def test_eager_on_recompile() -> None:
    module = stacked()
    compiled = djinn(module)
    noted = Noted()
    with torch.no_grad():
        compiled(torch.randn(5, 6))
        with torch.compiler.set_stance("eager_on_recompile"):
            for batch in (5, 7, 9):
                x = torch.randn(batch, 6)
                same(compiled(x), module(x))
    assert len(noted.graphs) == 1


def test_fail_on_recompile() -> None:
    compiled = djinn(stacked())
    with torch.no_grad():
        compiled(torch.randn(5, 6))
        with torch.compiler.set_stance("fail_on_recompile"), pytest.raises(RuntimeError, match="recompile"):
            compiled(torch.randn(7, 6))


def test_reset_forgets() -> None:
    x = torch.randn(3)
    compiled = djinn(lambda x: x.sin() + 1)
    compiled(x)
    assert compilations()
    torch.compiler.reset()
    assert not compilations()
    noted = Noted()
    same(compiled(x), x.sin() + 1)
    assert len(noted.graphs) == 1


def test_reset_while_a_graph_is_in_use() -> None:
    module, x = stacked(), torch.randn(5, 6)
    compiled = djinn(module)
    loss = compiled(x).sum()
    reset()
    loss.backward()
    assert module.head.weight.grad is not None


@several_trace
@pytest.mark.parametrize("engine", ["eager", "inductor"])
def test_two_threads(engine: str) -> None:
    """Threads that compile and call at the same time all get right results."""
    modules = [stacked(layers=12), copy.deepcopy(stacked(layers=12))]
    with torch.no_grad():
        modules[1].head.weight.mul_(3)
    compiled = [djinn(module, REPEATS if engine == "eager" else INDUCTOR) for module in modules]
    wrong: list[str] = []

    def work(number: int) -> None:
        try:
            with torch.no_grad():
                for batch in (5, 5, 5):
                    for module, run in zip(modules, compiled, strict=True):
                        x = torch.randn(batch, 6)
                        same(run(x), module(x), rtol=1e-4, atol=1e-5)
        except BaseException as error:  # noqa: BLE001 - handed over to the test's own thread
            wrong.append(f"thread {number}: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_nested_compile_region(options: dict[str, Any]) -> None:
    """torch's own mark for equal parts: the graph holds invoke_subgraph."""

    class Marked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = stacked(layers=3)

        @torch.compiler.nested_compile_region
        def part(self, layer: nn.Module, x: Tensor) -> Tensor:
            return layer(x)

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.inner.layers:
                x = self.part(layer, x)
            return self.inner.head(x)

    noted = Noted()
    with torch.no_grad():
        check(Marked(), torch.randn(5, 6), options=options, fullgraph=True)
    ops = {graph.srg.record(node).op for graph in noted.graphs for node in graph.srg.ops}
    assert "higher_order.invoke_subgraph" in ops
    check_training(Marked(), torch.randn(5, 6), options=options, fullgraph=True)


def test_nested_compile_region_with_inductor() -> None:
    layer = stacked(layers=1).layers[0]

    @torch.compiler.nested_compile_region
    def part(x: Tensor) -> Tensor:
        return layer(x)

    def function(x: Tensor) -> Tensor:
        return part(part(x)).sum(0)

    x = torch.randn(5, 6)
    with torch.no_grad():
        same(djinn(function, INDUCTOR, fullgraph=True)(x), function(x), rtol=1e-4, atol=1e-5)


@both_ways
def test_cond(options: dict[str, Any]) -> None:
    w = torch.randn(4)

    def function(x: Tensor) -> Tensor:
        y = torch.cond(x.sum() > 0, lambda x: (x * w).sin(), lambda x: x.cos() + 1, (x * 2,))
        return y + x

    with torch.no_grad():
        compiled = check(function, torch.ones(3, 4), options=options, fullgraph=True)
        same(compiled(-torch.ones(3, 4)), function(-torch.ones(3, 4)))


def test_while_loop_and_scan(options: dict[str, Any]) -> None:
    from torch._higher_order_ops.while_loop import while_loop

    def function(n: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        return while_loop(lambda n, x: n > 0, lambda n, x: (n - 1, x * 1.5 + 1), (n, x.sin()))

    with torch.no_grad():
        compiled = check(function, torch.tensor(3), torch.ones(4), options=options, fullgraph=True)
        same(compiled(torch.tensor(5), torch.ones(4)), function(torch.tensor(5), torch.ones(4)))


@torch.library.custom_op("djinn_tests::shifted_sine", mutates_args=())
def shifted_sine(x: Tensor, shift: float) -> Tensor:
    """sin(x + shift), by numpy: no compiler can look inside."""
    import numpy as np

    return torch.from_numpy(np.sin(x.detach().numpy() + np.float32(shift)))


@shifted_sine.register_fake
def _(x: Tensor, shift: float) -> Tensor:
    return torch.empty_like(x)


shifted_sine.register_autograd(
    lambda ctx, g: (g * torch.cos(ctx.saved_tensors[0] + ctx.shift), None),
    setup_context=lambda ctx, inputs, output: (ctx.save_for_backward(inputs[0]), setattr(ctx, "shift", inputs[1])),
)


@torch.library.custom_op("djinn_tests::add_into", mutates_args={"into"})
def add_into(into: Tensor, x: Tensor) -> None:
    """Write into + x into ``into``."""
    into.copy_(into + x)


@torch.library.custom_op("djinn_tests::two_results", mutates_args=())
def two_results(x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """A tensor and a list of tensors."""
    return x + 1, [x * 2, x * 3]


@two_results.register_fake
def _(x: Tensor) -> tuple[Tensor, list[Tensor]]:
    return torch.empty_like(x), [torch.empty_like(x), torch.empty_like(x)]


@pytest.mark.parametrize("engine", ["whole", "cut", "inductor"])
def test_custom_ops(engine: str) -> None:
    def function(x: Tensor, into: Tensor) -> tuple[Tensor, Tensor]:
        y = shifted_sine(x * 2, 0.5) + 1
        add_into(into, y)
        a, (b, c) = two_results(into.cos())
        add_into(into, a)
        return a + b, into * c

    options = INDUCTOR if engine == "inductor" else WAYS[engine]
    with torch.no_grad():
        check(function, torch.randn(3, 4), torch.randn(3, 4), options=options, fullgraph=True)


def test_gradient_of_a_custom_op(options: dict[str, Any]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return shifted_sine(self.linear(x), 0.25).tanh()

    torch.manual_seed(0)
    check_training(Net(), torch.randn(5, 6), options=options)


@both_ways
def test_compiled_inside_compiled(options: dict[str, Any]) -> None:
    inner = djinn(lambda x: x.sin() + 1, options)
    check(lambda x: inner(x) * 2, torch.randn(3), options=options)


def test_beside_other_backends() -> None:
    module, x = stacked(), torch.randn(5, 6)
    with torch.no_grad():
        for backend in ("eager", "djinn", "aot_eager", "djinn"):
            options = dict(WHOLE) if backend == "djinn" else None
            same(torch.compile(module, backend=backend, options=options)(x), module(x))


def test_nn_module_compile_method(options: dict[str, Any]) -> None:
    module, x = stacked(), torch.randn(5, 6)
    with torch.no_grad():
        expected = module(x)
        module.compile(backend="djinn", options=options)
        noted = Noted()
        same(module(x), expected)
    assert len(noted.graphs) == 1


def test_layers_compiled_one_by_one(options: dict[str, Any]) -> None:
    """Regional compilation, as torch's manual recommends it: one graph serves all layers."""
    module, x = stacked(), torch.randn(5, 6)
    with torch.no_grad():
        expected = module(x)
        noted = Noted()
        for layer in module.layers:
            layer.compile(backend="djinn", options=options)
        same(module(x), expected)
    assert 1 <= len(noted.graphs) <= len(module.layers)


def test_optimizer_step_compiled(options: dict[str, Any]) -> None:
    results = []
    for compile_it in (False, True):
        module = stacked(layers=2)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        step = djinn(optimizer.step, options) if compile_it else optimizer.step
        for _ in range(3):
            optimizer.zero_grad()
            module(torch.ones(5, 6)).pow(2).sum().backward()
            step()
        results.append(list(module.parameters()))
    same([p.detach() for p in results[1]], [p.detach() for p in results[0]], rtol=1e-4, atol=1e-5)


def test_subclass_of_tensor(options: dict[str, Any]) -> None:
    from torch.testing._internal.two_tensor import TwoTensor

    def function(x: Tensor) -> Tensor:
        return (x * 2).sin() + 1

    compiled = djinn(function, options)
    x = TwoTensor(torch.ones(3), torch.full((3,), 2.0))
    with torch.no_grad():
        result, expected = compiled(x), function(x)
    same((result.a, result.b), (expected.a, expected.b))
