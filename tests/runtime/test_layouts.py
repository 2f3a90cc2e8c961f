"""Strides between regions: what passes from one to another has those that were traced, whoever made it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from djinn_fx.engines.base import RegionCallable
from djinn_fx.reasons import ReasonKind
from djinn_fx.runtime.executor import executable
from djinn_fx.runtime.layouts import Layouts, Strays, Strides, laid_out
from djinn_fx.runtime.program import Program, Step
from djinn_fx.saved.torch_cache import program_from_json, program_to_json


def two_steps(strides: Sequence[Strides], written: tuple[int, ...] = (), sizes: Any = ()) -> Program:
    """Argument 0 → value 1 → value 2."""
    return Program(
        arguments=1,
        slots=3,
        steps=(
            Step(region=0, inputs=(0,), outputs=(1,), frees=(0,)),
            Step(region=1, inputs=(1,), outputs=(2,), frees=(1,)),
        ),
        results=(2,),
        layouts=Layouts(strides=tuple(strides), written=written, sizes=sizes),
    )


def noting(seen: list[Tensor], function: Callable[[Tensor], Tensor] = lambda x: x) -> RegionCallable:
    def region(args: list[Any]) -> Sequence[Any]:
        seen.append(args[0])
        return (function(args[0]),)

    return region


def test_a_result_laid_out_otherwise_is_copied_and_told() -> None:
    seen: list[Tensor] = []
    program = two_steps([(3, 1), (3, 1), (1, 2)])
    strays = Strays()
    run: Any = executable(program, [noting(seen, lambda x: x.t().contiguous().t()), noting(seen)], {}, strays)
    x = torch.arange(6.0).reshape(2, 3)
    for _ in range(2):
        (result,) = run([x])
        assert [one.stride() for one in seen] == [(3, 1), (3, 1)]
        assert result.stride() == (1, 2)
        assert torch.equal(result, x)
        seen.clear()
    assert [reason.kind for reason in strays.reasons.values()] == [ReasonKind.RELAID] * 2


def test_values_as_traced_are_the_very_same() -> None:
    seen: list[Tensor] = []
    strays = Strays()
    run: Any = executable(two_steps([(3, 1), (3, 1), (3, 1)]), [noting(seen), noting(seen)], {}, strays)
    x = torch.zeros(2, 3)
    assert run([x])[0] is x
    assert all(one is x for one in seen)
    assert not strays.reasons


def test_a_dimension_of_one_element_has_no_stride() -> None:
    strays = Strays()
    run: Any = executable(two_steps([(3, 3, 1), (9, 3, 1), (7, 3, 1)]), [noting([]), noting([])], {}, strays)
    x = torch.zeros(1, 2, 3).as_strided((1, 2, 3), (5, 3, 1))
    assert run([x])[0] is x
    assert not strays.reasons


def test_what_is_written_into_a_copied_argument_is_written_back() -> None:
    run = executable(two_steps([(2, 1), (2, 1), None], written=(0,)), [noting([], lambda x: x.add_(1)), noting([])], {})
    x = torch.zeros(2, 2).t()
    y = torch.arange(4.0).reshape(2, 2).t()
    for given in (x, y):
        wanted = given + 1
        run([given])
        assert torch.equal(given, wanted)


def test_strides_over_sizes_are_those_of_the_call() -> None:
    seen: list[Tensor] = []
    program = two_steps([None, "(3*k0, 1,)", "(1, Max(1, k0),)"], sizes=((0, 0),))
    program = program_from_json(program_to_json(program))
    run = executable(program, [noting(seen, lambda x: x.as_strided((2, 2), (1, 2))), noting(seen)], {})
    for size in (2, 4, 2):
        (result,) = run([torch.arange(3.0 * size).reshape(size, 3)])
        assert seen[-1].stride() == (3 * size, 1)
        assert result.stride() == (1, size)
        assert result.tolist() == [[0, 2], [1, 3]]


@pytest.mark.parametrize(
    ("shape", "strides"), [((2, 3), (1, 2)), ((2, 3), (0, 1)), ((2, 3), (8, 2)), ((2, 1, 3), (3, 99, 1)), ((), ())]
)
def test_laid_out(shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
    value = torch.randn(shape[1:]).expand(shape)
    made = laid_out(value, strides)
    assert torch.equal(made, value)
    assert all(a == b for a, b, size in zip(made.stride(), strides, shape, strict=True) if size > 1)
    assert made is not value


def test_elements_that_would_overlap_are_left_alone() -> None:
    value = torch.randn(3, 4)
    assert laid_out(value, (1, 1)) is value


def test_the_token_of_an_effect_which_a_call_has_none_of_is_not_looked_at() -> None:
    def function(x: Tensor) -> Tensor:
        return torch.linalg.cholesky(x @ x.t() + torch.eye(3)) + 1

    x = torch.rand(3, 3)
    compiled = torch.compile(function, backend="djinn", options={"engine": "eager"})
    assert torch.equal(compiled(x), function(x))
