"""Arithmetic, comparisons and selection where ONNX, the runtimes and torch differ."""

from __future__ import annotations

import math

import pytest
import torch

from djinn_fx.engines.base import Declined
from djinn_fx.engines.onnx.values import Refused
from tests.engines.onnx.running import Converted, check, check_sizes, region_of

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

WILD = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 0.0, 1.5, -1.5, 2.5, 3.4e38, 0.1, -7.0])
OTHER = torch.tensor([1.0, math.nan, 2.0, 0.0, -0.0, -1.5, 0.5, 2.5, -1.0, 0.3, 2.0])
WHOLE = torch.tensor([7, -7, 8, -8, 5, 0, 1, -1])


def test_sums_promote_as_torch_does() -> None:
    check(lambda x, y: (x + y, x - y, x * 2.5, torch.add(x, y, alpha=3), 1 - x), WHOLE, WHOLE.to(torch.int32) * 3)
    check(lambda x, y: (x + y, x * y, x + 1, y * 2.5), WHOLE > 0, WHOLE % 2 == 0)


def test_division_of_integers() -> None:
    def divisions(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        modes = ("floor", "trunc", None)
        return (*(torch.div(x, d, rounding_mode=m) for d in (3, -3) for m in modes), x % 3, x % -3, torch.fmod(x, -3))

    check(divisions, WHOLE)
    check(divisions, WHOLE.to(torch.int32))
    check(lambda x, y: (x // y, x % y), WHOLE, torch.full((8,), -3), flavours=["onnxruntime"])


@pytest.mark.parametrize("flavour", ["openvino", "onnxruntime"])
def test_a_call_that_divides_whole_numbers_by_zero_is_declined(flavour: str) -> None:
    for function in (lambda x, y: x // y, lambda x, y: x % y, lambda x, y: torch.div(x, y, rounding_mode="trunc")):
        converted = Converted(region_of(function, [WHOLE, WHOLE + 20]), flavour)
        torch.testing.assert_close(converted(WHOLE, WHOLE + 20)[0], function(WHOLE, WHOLE + 20))
        with pytest.raises(Declined):
            converted(WHOLE, WHOLE)


def test_division_of_floats_rounded() -> None:
    check(lambda x, y: torch.div(x, y, rounding_mode="trunc"), WILD, OTHER)
    one = torch.tensor([1.0, -1.0, 5.5, -5.5, 0.0, -0.0, 7.0])
    tenth = torch.tensor([0.1, 0.1, -2.0, 2.0, 3.0, 3.0, 0.0])
    check(
        lambda x, y: (torch.floor_divide(x, y), x % y, torch.fmod(x, y), x % 0.3), one, tenth, flavours=["onnxruntime"]
    )
    check(lambda x, y: (torch.floor_divide(x, y), x % y), WILD, OTHER, flavours=["onnxruntime"])


def test_powers() -> None:
    def powers(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(x**e for e in (2, 3, 0.5, -0.5, -1, -2, 1.3, 0, 1, -3))

    check(powers, WILD)
    check(lambda x: (x**2, x**3, x**0, x**1), WHOLE)
    check(lambda x: 2.0**x, torch.linspace(-3, 3, 7))
    with pytest.raises(Refused):
        Converted(region_of(lambda x, y: x**y, [WHOLE, WHOLE.abs()]), "onnxruntime")


def test_comparisons_hold_for_no_nan() -> None:
    def all_of(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x < y, x <= y, x > y, x >= y, x == y, x != y, x > 0, x <= 1.5, x != 0

    check(all_of, WILD, OTHER)
    check(all_of, WHOLE, WHOLE.flip(0))
    check(all_of, WHOLE > 0, WHOLE > 3)
    check(all_of, WHOLE.to(torch.uint8), WHOLE.flip(0).to(torch.uint8))
    check(lambda x: (x < 2.5, x == 7.0), WHOLE)


def test_bounds_keep_nan() -> None:
    some = (WILD != 0) & (OTHER != 0)  # which of 0 and -0 is the larger is not the runtimes' to say
    check(lambda x, y: (torch.maximum(x, y), torch.minimum(x, y)), WILD[some], OTHER[some])
    check(lambda x: (x.clamp(-1, 1), x.clamp(min=0.5), x.clamp(max=-0.5), x.clamp(3, 1)), WILD)
    check(lambda x: (x.clamp(-1, 1), x.clamp(min=2), x.clamp(max=2.5)), WHOLE)
    check(lambda x, y: x.clamp(y, y + 1), WILD[some], OTHER[some])


def test_where_of_each_type() -> None:
    condition = torch.tensor([[True], [False]])
    for dtype in (torch.float32, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool):
        x, y = torch.arange(3).to(dtype), torch.arange(3, 6).to(dtype)
        check(lambda c, x, y: (torch.where(c, x, y), x.masked_fill(x == 1, 0)), condition, x, y)
    check(lambda c, x: torch.where(c, x, -math.inf), condition, torch.randn(2, 3))


def test_casts() -> None:
    check(lambda x: (x.bool(), x.half(), x.bfloat16().float()), WILD)
    check(lambda x: (x.int(), x.long(), x.to(torch.int8)), torch.tensor([1.9, -1.9, 0.5, -0.0, 100.0]))
    check(lambda x: (x.float(), x.bool(), x.half()), WHOLE)
    check(lambda x: x.to(torch.int8), WHOLE * 100, flavours=["onnxruntime"])


def test_narrow_integers_wrap_around_or_are_refused() -> None:
    x = torch.tensor([100, -100, 3], dtype=torch.int8)
    check(lambda x: (x + x, x * 3), x, flavours=["onnxruntime"])
    with pytest.raises(Refused, match="wrap"):
        Converted(region_of(lambda x: x + x, [x]), "openvino")


def halves(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return x * x + x, x / 3, x.exp(), x.sum()


def test_halves() -> None:
    x = torch.randn(64, generator=torch.Generator().manual_seed(0))
    for dtype in (torch.float16, torch.bfloat16):
        # A runtime may leave out a rounding between two ops: what it gives is then nearer to the truth.
        limit = 8 * torch.finfo(dtype).eps
        check(lambda x, dtype=dtype: tuple(y.float() for y in halves(x.to(dtype))), x, rtol=limit, atol=limit)


def test_double_is_computed_as_such_or_refused() -> None:
    x = torch.tensor([1e-300, 1.0 + 1e-12, 1e200], dtype=torch.float64)
    check(lambda x: (x * 2, x.sqrt(), x - 1), x, flavours=["onnxruntime"], rtol=0, atol=0)
    with pytest.raises(Refused, match="float64"):
        Converted(region_of(lambda x: x * 2, [x]), "openvino")


def test_openvino_is_given_no_integer_that_it_does_not_hold() -> None:
    check(lambda x: x + 2**40, WHOLE, flavours=["onnxruntime"])
    with pytest.raises(Refused, match="int32"):
        Converted(region_of(lambda x: x + 2**40, [WHOLE]), "openvino")


def test_logic() -> None:
    x, y = torch.tensor([True, True, False]), torch.tensor([True, False, False])
    check(lambda x, y: (x & y, x | y, x ^ y, ~x, torch.logical_not(y), torch.logical_and(x, y)), x, y)
    check(lambda x: (torch.logical_and(x, x > 0), torch.logical_not(x), x & 3, x | 8, x ^ 5, ~x), WHOLE)
    check(lambda x: torch.logical_or(x, x), WILD)


def test_activations() -> None:
    calm = torch.linspace(-6, 6, 41)

    def some(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        f = torch.nn.functional
        names = ("gelu", "silu", "relu", "hardswish", "hardsigmoid", "mish", "softplus", "elu", "leaky_relu", "relu6")
        return (*(getattr(f, name)(x) for name in names), f.gelu(x, approximate="tanh"), x.rsqrt(), x.erf(), x.tanh())

    check(some, calm)
    check(lambda x: (torch.nn.functional.elu(x, 1.5), torch.nn.functional.softplus(x, 2.0, 3.0), torch.selu(x)), calm)
    check(lambda x: (x.sigmoid(), x.tanh(), x.sqrt(), x.rsqrt(), x.erf(), x.log(), x.abs(), -x), WILD)


def test_softmax() -> None:
    x = torch.tensor([[1.0, 2.0, -math.inf], [1000.0, 999.0, 0.0]])
    check(lambda x: (x.softmax(-1), x.log_softmax(0)), x)
    check(lambda x: x.softmax(1), torch.randn(2, 5, 3).transpose(0, 2))
    check(lambda x: x.softmax(-1, dtype=torch.float32), torch.randn(2, 5).half())


def test_sizes_may_differ_from_call_to_call() -> None:
    check_sizes(
        lambda x, y: ((x + y).relu() * x.shape[0], x + x.shape[1] // 2, x.mean(1) / (x.shape[0] - 1)),
        [torch.randn(3, 5), torch.randn(5)],
        [torch.randn(7, 9), torch.randn(9)],
    )
