"""Functions of one and two tensors: special numbers, small numbers, whole numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

from tests.engines.onnx.running import check

SPECIAL = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 1.5, -2.5, 0.5, 1e-30, 3e38])
#: Longer than a vector register, so that the runtimes' fast paths are taken.
LONG = torch.cat([SPECIAL, torch.linspace(-3.0, 3.0, 40)])

ONE: dict[str, Callable[..., Any]] = {
    "rounding": lambda x: [x.floor(), x.ceil(), x.round(), x.trunc()],
    "signs": lambda x: [x.sign(), x.sgn(), x.angle()],
    "classes": lambda x: [x.isnan(), x.isinf(), x.isfinite(), torch.isposinf(x), torch.isneginf(x)],
    "logarithms": lambda x: [x.log2(), x.log10(), x.log1p()],
    "powers": lambda x: [x.exp2(), x.expm1()],
    "nan_to_num": lambda x: [x.nan_to_num(), x.nan_to_num(nan=2.0, posinf=3.0, neginf=-4.0)],
    "logit": lambda x: [x.logit(), x.logit(eps=0.1)],
    "sinc": lambda x: [x.clamp(-2, 2).sinc()],
    "arcs": lambda x: [x.asin(), x.acos(), x.atan(), x.atanh(), x.acosh()],
}


@pytest.mark.parametrize("name", sorted(ONE))
def test_of_one(name: str) -> None:
    check(ONE[name], LONG)


def test_digits_near_zero_are_kept() -> None:
    """Where the plain formulas lose them all."""
    small = torch.tensor([1e-7, -1e-7, 1e-5, -3e-4, 1e-20, 0.3, -0.4999, 0.5001])
    check(lambda x: [x.log1p(), x.expm1()], small, rtol=2e-6, atol=0.0)


def test_whole_numbers_round_to_themselves() -> None:
    check(lambda x: [x.floor() + 1, x.trunc() * 2, x.sign(), x.isnan(), x.isfinite()], torch.tensor([-3, 0, 5]))


TWO: dict[str, Callable[..., Any]] = {
    "atan2": torch.atan2,
    "copysign": torch.copysign,
    "fmax": torch.fmax,
    "fmin": torch.fmin,
    "hypot": torch.hypot,
    "logaddexp": torch.logaddexp,
    "xlogy": torch.xlogy,
}


@pytest.mark.parametrize("name", sorted(TWO))
def test_of_two(name: str) -> None:
    """Every pair of special numbers."""
    numbers = torch.tensor([math.inf, -math.inf, 0.0, -0.0, 1.5, -2.5, 100.0])
    if name != "copysign":  # whose sign a NaN has is anybody's guess
        numbers = torch.cat([numbers, torch.tensor([math.nan])])
    first, second = torch.cartesian_prod(numbers, numbers).unbind(1)
    check(TWO[name], first.clone(), second.clone())


def test_lerp_from_the_nearer_end() -> None:
    start, end = torch.tensor([1e8, 0.0, 3.0]), torch.tensor([1.0, 5.0, 3.0])
    check(lambda x, y: [torch.lerp(x, y, 0.25), torch.lerp(x, y, 0.999), torch.lerp(x, y, y / 5)], start, end)


def test_places_among_boundaries() -> None:
    bounds = torch.tensor([-1.0, 0.0, 0.0, 2.0])
    values = torch.tensor([[-2.0, -1.0, 0.0], [1.0, 2.0, 9.0], [math.nan, math.inf, -math.inf]])
    check(lambda x, y: [torch.bucketize(x, y), torch.bucketize(x, y, right=True, out_int32=True)], values, bounds)
    check(lambda x, y: [torch.searchsorted(y, x), torch.searchsorted(y, x, side="right")], values, bounds)


def test_distances() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(2, 5, 7), torch.randn(2, 4, 7)
    how = {"compute_mode": "donot_use_mm_for_euclid_dist"}
    check(lambda x, y: [torch.cdist(x, y, p, **how) for p in (1.0, 2.0, 3.0, math.inf)], first, second)
