"""Reductions, order, and running results: NaN, equal elements, dimensions from the end, sizes that are symbols."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

from djinn_fx.engines.onnx.values import Refused
from tests.engines.onnx.running import FLAVOURS, Converted, check, check_sizes, region_of


def _rows() -> torch.Tensor:
    torch.manual_seed(0)
    x = torch.randn(4, 37)
    x[1, 20] = math.nan
    x[2, 5] = x[2, 11] = 9.0
    x[3, 36] = -math.inf
    return x


def test_extremes_and_their_places() -> None:
    check(lambda x: [*x.max(1), *x.min(-1, keepdim=True), *x.max(0)], _rows())


def test_rows_of_infinities() -> None:
    """OpenVINO's own extremes of them are the largest finite number."""
    x = torch.full((3, 5), -math.inf)
    x[1, 2] = torch.finfo(torch.float32).min
    check(lambda x: [x.amax(1), (-x).amin(1), *x.max(1), *(-x).min(1), x.max(), x.logsumexp(1), x.argmax(1)], x)


def test_nan_passes_through() -> None:
    x = torch.linspace(-2, 2, 40)
    x[7], x[8], x[9] = math.nan, math.inf, -math.inf
    check(lambda x: [x.relu(), x.exp(), torch.clamp(x, -1, 1), torch.maximum(x, -x), x.sigmoid(), x.tanh()], x)


def test_extremes_of_whole_numbers() -> None:
    x = torch.tensor([[3, 1, 3], [-5, -5, 2]])
    check(lambda x: [*x.max(1), *x.min(0), x.prod(1), x.count_nonzero(), x.count_nonzero(1)], x)


def test_extremes_of_truth() -> None:
    x = torch.tensor([[True, False, True], [False, False, False]])
    check(lambda x: [*x.max(1), *x.min(0)], x)


def test_spread() -> None:
    def spread(x: torch.Tensor) -> list[torch.Tensor]:
        return [
            x.var(), x.var(1), x.var(1, correction=0, keepdim=True), x.std((0, 1)), x.std(-1, correction=2),
            *torch.var_mean(x, 0), *torch.std_mean(x, 1, keepdim=True),
        ]  # fmt: skip

    torch.manual_seed(0)
    check(spread, torch.randn(6, 9) + 100.0, rtol=1e-4, atol=1e-5)


def test_spread_of_one_element_is_nan() -> None:
    check(lambda x: [x.var(1), x.std(1)], torch.ones(3, 1))


def test_norms() -> None:
    def norms(x: torch.Tensor) -> list[torch.Tensor]:
        orders: list[Any] = [0, 1, 2, 3, math.inf, -math.inf]
        return [torch.linalg.vector_norm(x, order, 1) for order in orders] + [torch.linalg.vector_norm(x)]

    check(norms, torch.randn(3, 5))
    check(lambda x: [torch.linalg.vector_norm(x, 3.0), torch.linalg.vector_norm(x, 0)], torch.tensor(-2.0))


def test_logsumexp() -> None:
    x = torch.tensor(
        [[1.0, 2.0, 1000.0], [-math.inf, -math.inf, -math.inf], [math.inf, 0.0, 1.0], [math.nan, 0.0, 1.0]]
    )
    check(lambda x: [x.logsumexp(1), x.logsumexp(0, keepdim=True), x.logsumexp((0, 1))], x)


def test_sums_without_nan() -> None:
    check(lambda x: [x.nansum(), x.nansum(1), x.median(), x[:1].median()], _rows().clamp(-8))


def test_sorted_with_nan_above_all() -> None:
    x = torch.tensor([[3.0, math.nan, math.inf, 1.0, -math.inf, 1.0, math.nan, 2.0]])
    check(lambda x: [x.sort(1)[0], x.sort(1, descending=True)[0], x.sort(0)[0]], x)
    check(lambda x: [*torch.sort(x, dim=1, stable=True)], x, flavours=["onnxruntime"])


def _ordered(x: torch.Tensor) -> list[torch.Tensor]:
    return [*torch.sort(x, dim=1, stable=True), *torch.sort(x, dim=1, descending=True, stable=True)]


def test_equal_elements_keep_their_order() -> None:
    torch.manual_seed(0)
    x = torch.randint(0, 5, (3, 200))
    check(_ordered, x, flavours=["onnxruntime"])
    check(_ordered, x.float(), flavours=["onnxruntime"])


def test_no_order_of_equal_elements_is_refused() -> None:
    """OpenVINO keeps none; torch, where it need not be stable, has one of its own."""
    x = torch.tensor([[1, 1, 0]])
    with pytest.raises(Refused):
        Converted(region_of(_ordered, [x]), "openvino")
    with pytest.raises(Refused):
        Converted(region_of(lambda x: list(x.sort()), [x]), "onnxruntime")


def test_there_and_back() -> None:
    """Tokens sorted by expert and back: which of equal ones is first makes no difference."""

    def routed(x: torch.Tensor, expert: torch.Tensor) -> torch.Tensor:
        order = expert.argsort()
        return (x[order] * 2.0)[order.argsort()]

    torch.manual_seed(0)
    check(routed, torch.randn(64, 3), torch.randint(0, 4, (64,)))


def test_largest() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 40)
    x[0, 7], x[1, 8] = math.nan, math.inf
    check(lambda x: [*x.topk(3), *x.topk(4, 0, largest=False), *x.kthvalue(2), *x.kthvalue(3, 0, keepdim=True)], x)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_largest_of_integers_is_refused(flavour: str) -> None:
    """Which of equal elements torch chooses is its own affair."""
    with pytest.raises(Refused):
        Converted(region_of(lambda x: list(x.topk(2)), [torch.tensor([1, 1, 1])]), flavour)


def test_running_results() -> None:
    def running(x: torch.Tensor) -> list[torch.Tensor]:
        return [x.cumprod(1), x.cumprod(0), *x.cummax(1), *x.cummin(1), x.logcumsumexp(1)]

    torch.manual_seed(0)
    x = torch.randn(3, 21)
    x[0, 4], x[1, 6], x[2, 3] = math.nan, 0.0, -math.inf
    check(running, x)
    check(lambda x: [x.cumprod(0), *x.cummax(0), *x.cummin(0)], torch.tensor([2, -3, -3, 4, 4, 1]))


def test_sizes_that_are_symbols() -> None:
    def several(x: torch.Tensor) -> list[torch.Tensor]:
        return [x.var(1), x.std(0), *x.max(1), x.logsumexp(-1), *x.sort(1), x.count_nonzero(0), *x.topk(2)]

    torch.manual_seed(0)
    check_sizes(several, [torch.randn(5, 7)], [torch.randn(3, 11)], [torch.randn(8, 4)])
