"""Eager: a region's own ops, each value let go after its last use."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from djinn_fx.engines.eager import as_callable

#: The storages that were alive when `seen` was called last.
WATCHED: list[weakref.ref[torch.UntypedStorage]] = []
SEEN: list[int] = []


@torch.library.custom_op("djinn_test::seen", mutates_args=())
def seen(x: Tensor) -> Tensor:
    """Count the watched storages that are alive."""
    SEEN.append(sum(one() is not None for one in WATCHED))
    return x.clone()


@seen.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def called(gm: GraphModule, count: int) -> tuple[list[int], object]:
    """How many of the arguments were alive at each ``seen``, and the result."""
    args = [torch.randn(3) for _ in range(count)]
    WATCHED[:] = [weakref.ref(one.untyped_storage()) for one in args]
    SEEN.clear()
    result = as_callable(gm)(args)
    assert args == []
    return list(SEEN), result


def test_an_argument_is_let_go_after_its_last_use() -> None:
    def model(x: Tensor, y: Tensor) -> Tensor:
        first = seen(x + 1)
        return seen(first * y)

    gm = make_fx(model)(torch.randn(3), torch.randn(3))
    assert called(gm, 2)[0] == [1, 0]


def test_an_argument_that_nobody_reads_is_let_go_at_once() -> None:
    gm = make_fx(lambda x, y: seen(x))(torch.randn(3), torch.randn(3))
    assert called(gm, 2)[0] == [1]


def test_a_graph_without_arguments_and_one_with_a_constant() -> None:
    constant = torch.arange(3.0)
    assert torch.equal(as_callable(make_fx(lambda: constant + 1)())([]), constant + 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 2])
def test_what_is_returned_and_what_is_written_are_the_arguments_themselves(count: int) -> None:
    def model(*given: Tensor) -> tuple[Tensor, ...]:
        given[0].add_(1)
        return given

    args = [torch.zeros(3) for _ in range(count)]
    result = as_callable(make_fx(model)(*map(torch.clone, args)))(list(args))
    assert all(one is other for one, other in zip(result, args, strict=True))
    assert torch.equal(args[0], torch.ones(3))
