"""Converted ops give what eager gives: the model, run by ONNX Runtime, behind torch.compile."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.engines.tensorrt.converting import check, needs_tensorrt, noise, ops, run

pytestmark = needs_tensorrt

NAN, INF = float("nan"), float("inf")
FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def hostile(dtype: torch.dtype) -> Tensor:
    """What goes wrong easily: both zeros, both infinities, NaN, halves to be rounded, the type's ends. [2, 11]"""
    ends = torch.finfo(dtype)
    values = [0.0, -0.0, INF, -INF, NAN, 0.5, -0.5, 1.5, 2.5, ends.max, ends.min]
    return torch.tensor([values, values[::-1]], dtype=dtype)


def whole(dtype: torch.dtype) -> Tensor:
    """Integers of both signs. [2, 7]"""
    return torch.tensor([[-7, -3, -1, 1, 2, 5, 9], [9, -9, 4, -4, 1, -2, 3]], dtype=dtype)


def functions_of_one(x: Tensor) -> list[Tensor]:
    return [
        x.exp(), x.log(), x.sqrt(), x.rsqrt(), x.reciprocal(), x.sin(), x.cos(), x.tanh(), x.sigmoid(), x.erf(),
        x.abs(), -x, x.floor(), x.ceil(), x.round(), x.trunc(), x.sign(), x.isnan(), x.isinf(), x.isfinite(),
        F.relu(x), F.silu(x), F.gelu(x), F.gelu(x, approximate="tanh"), F.leaky_relu(x, 0.1), F.softplus(x),
        F.hardswish(x), F.hardsigmoid(x), F.hardtanh(x), F.relu6(x), x.clamp(-0.3, 0.7), x.clamp(min=0.1),
        x.pow(2), x.pow(3), x.pow(0.5), x.pow(-0.5), x.pow(-1), x.pow(1.7), x.pow(-2), 2.0**x, x.exp2(), x.log2(),
        x.square(), x.logical_not(), torch.atan(x), torch.asinh(x), torch.sinh(x),
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", FLOATS)
def test_functions_of_one_tensor(dtype: torch.dtype) -> None:
    check(functions_of_one, (noise(3, 5, dtype=dtype),), (noise(3, 5, dtype=dtype, seed=9) * 6,))


def exact_ones(x: Tensor) -> list[Tensor]:
    return [
        x.sqrt(), x.rsqrt(), x.reciprocal(), x.abs(), -x, x.floor(), x.ceil(), x.round(), x.trunc(), x.sign(),
        x.isnan(), x.isinf(), x.isfinite(), F.relu(x), F.silu(x), F.leaky_relu(x, 0.1), F.hardtanh(x), F.relu6(x),
        x.clamp(-0.3, 0.7), x.clamp(min=0.1), x.clamp(max=0.1), x.pow(2), x.pow(3), x.pow(-1), x.pow(1.5),
        x.pow(-2), x.logical_not(), x.bool(), x.maximum(x.flip(0)), x.minimum(x.flip(1)), x == x, x != x, x < 0.5,
        x >= x.flip(0), x <= 0, x > -INF, torch.where(x > 0, x, 1.0), x.amax(1), x.amin(0), x.max(), x.argmax(1),
        x.argmin(1), x.max(dim=1).values, x.min(dim=0).indices, x.any(1), x.all(0), x.softmax(0), x.log_softmax(1),
        x.logsumexp(1), x * 0, x - x, x.clamp(torch.zeros_like(x), x.flip(0)), x**x.flip(0), x.topk(3, dim=1).values,
        x.sum(), x.mean(0), x.masked_fill(x.isnan(), -1.0), x.bool().any(), 1.5**x,
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", FLOATS)
def test_zeros_infinities_and_nan(dtype: torch.dtype) -> None:
    check(exact_ones, (hostile(dtype),))


def of_two(x: Tensor, y: Tensor) -> list[Tensor]:
    return [
        x + y, x - y, x * y, x / y, torch.add(x, y, alpha=0.3), torch.rsub(x, y, alpha=2), x + 0.1, 3 - x, x * 0.1,
        x / 3, 2 / x, x.maximum(y), x.minimum(y), x == y, x < y, x >= y, torch.where(x > y, x, y), x.lerp(y, 0.3),
        torch.addcmul(x, x, y, value=0.7), torch.addcdiv(x, x, y.abs() + 1), x**y.abs(), (x.abs() + 0.1) ** y,
        torch.div(x, y, rounding_mode="trunc"), torch.div(x, y), x.lerp(y, y.sigmoid()),
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", FLOATS)
def test_two_tensors_are_broadcast(dtype: torch.dtype) -> None:
    check(of_two, (noise(2, 1, 5, dtype=dtype), noise(3, 1, dtype=dtype, seed=3)))


def promoted(x: Tensor, i: Tensor, b: Tensor, h: Tensor) -> list[Tensor]:
    return [
        x + i, x * b, i + b, i / 2, i / i, i.sqrt(), b + b, b * b, i * 2.5, h * x.sum(), h + i, x.to(torch.float16),
        i.float(),
        x.to(torch.int64), b.long(), i.bool(), h.to(torch.bfloat16), i < 2.5, b == 1, x > i, b.sum(), b.float().mean(),
        i.sum(1), i.sum(dtype=torch.float32), b & (i > 0), b | ~b, b ^ (i > 0), torch.where(b, i, 0),
        i.to(torch.int32) + 1,
        h.sum(dtype=torch.float32), h.float() + x, b.cumsum(1), i.clamp(-2, 3), i.abs(), -i, i.sign(), ~i, h > 0.5,
    ]  # fmt: skip


def test_types_are_promoted_as_torch_does() -> None:
    i = whole(torch.int64)
    check(promoted, (noise(2, 7), i, i > 1, noise(2, 7, dtype=torch.float16)))


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_integers_divide_as_in_torch(dtype: torch.dtype) -> None:
    def divide(a: Tensor, b: Tensor) -> list[Tensor]:
        return [
            a // b, a % b, torch.fmod(a, b), torch.div(a, b, rounding_mode="trunc"), a // 3, a % 3, a // -3, a % -3,
            a * b, a - b, a**2, a.maximum(b), a.minimum(b), a.max(dim=1).values, a.argmin(1), a.prod(1),
            a.sort().values,
        ]  # fmt: skip

    check(divide, (whole(dtype), whole(dtype).flip(1)))


def reduced(x: Tensor) -> list[Tensor]:
    return [
        x.sum(), x.sum(1), x.sum((0, 2), keepdim=True), x.mean(-1), x.mean((0, 1)), x.prod(1), x.amax((1, 2)),
        x.amin(0),
        x.var(1), x.var((0, 2), correction=0), x.std(2), *torch.var_mean(x, 1), x.norm(dim=1), x.norm(p=1), x.argmax(),
        x.argmax(2, keepdim=True), *x.max(dim=1), *x.min(dim=0, keepdim=True), x.softmax(1), x.log_softmax(-1),
        x.logsumexp((0, 1)), x.cumsum(1), (x > 0).any(0), (x > -3).all(), *x.topk(2, dim=1), x.topk(2,
        largest=False).values,
        x.sort(descending=True).values, x.argsort(dim=1), F.softmax(x, 2, dtype=torch.float32), x[0, 0].softmax(0),
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", FLOATS)
def test_reductions(dtype: torch.dtype) -> None:
    check(reduced, (noise(2, 3, 5, dtype=dtype),))


def products(a: Tensor, b: Tensor, m: Tensor, v: Tensor, bias: Tensor) -> list[Tensor]:
    return [
        a @ b, a @ m, a[0] @ m, m.t() @ v, a @ v, v @ v, torch.addmm(bias, a[0], m), F.linear(a, m.t(), bias),
        torch.baddbmm(a @ b, a, b, beta=0.5, alpha=2), torch.einsum("bij,bjk->bik", a, b), a.transpose(1, 2) @ a,
        torch.addmm(bias, a[0], m, beta=0), F.linear(a, m.t()), torch.outer(v, v),
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", FLOATS)
def test_products(dtype: torch.dtype) -> None:
    shapes = ((2, 3, 4), (2, 4, 5), (4, 6), (4,), (6,))
    check(products, tuple(noise(*shape, dtype=dtype) for shape in shapes))


def test_a_transposed_operand_is_multiplied_as_it_lies() -> None:
    session, _, _ = run(lambda a, w: F.linear(a, w), (noise(3, 4), noise(5, 4)))
    assert ops(session.conversions[0]) == ["Gemm"], "the weight's transposition is the product's flag"


def images(x: Tensor, w: Tensor, b: Tensor, deep: Tensor, line: Tensor, thin: Tensor) -> list[Tensor]:
    return [
        F.conv2d(x, w, b, stride=2, padding=1), F.conv2d(x, w, padding=(0, 2), dilation=2), F.conv2d(x, deep, groups=4),
        F.conv1d(line, thin, b, padding=1), F.conv1d(line, thin, stride=2), F.conv_transpose2d(x, w.transpose(0, 1),
        stride=2),
        F.conv_transpose2d(x, w.transpose(0, 1), stride=2, padding=1, output_padding=1), F.max_pool2d(x, 3, 2, 1),
        F.avg_pool2d(x, 2), F.avg_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        F.adaptive_avg_pool2d(x, 1), F.adaptive_avg_pool2d(x, (4, 2)), F.avg_pool1d(line, 3), F.conv2d(x[0], w, b),
        F.interpolate(x, scale_factor=2), F.pixel_shuffle(x, 2), F.pad(x, (1, 2, 0, 1)), F.pad(x, (-1, 2), value=NAN),
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", FLOATS)
def test_convolutions_and_pooling(dtype: torch.dtype) -> None:
    shapes = ((2, 4, 8, 8), (6, 4, 3, 3), (6,), (8, 1, 3, 3), (2, 4, 9), (6, 4, 3))
    # Eager's float16 convolutions on the CPU add up less exactly than ONNX Runtime's.
    check(images, *[tuple(noise(*shape, dtype=dtype) for shape in shapes)], loose=4)


def test_the_largest_of_a_window_is_nan_if_one_is() -> None:
    x = noise(1, 1, 4, 4)
    x[0, 0, 1, 1] = NAN
    x[0, 0, 3, 3] = -INF
    check(lambda x: F.max_pool2d(x, 2), (x,))


def normalized(x: Tensor, w: Tensor, b: Tensor, mean: Tensor, var: Tensor) -> list[Tensor]:
    return [
        F.layer_norm(x, (6,), w, b), F.layer_norm(x, (6,)), F.layer_norm(x, (6,), w), F.layer_norm(x, (4, 6)),
        F.batch_norm(x.transpose(1, 2), mean, var, w, b), F.batch_norm(x.transpose(1, 2), mean, var, eps=0.1),
        F.group_norm(x.transpose(1, 2), 3, w, b), F.group_norm(x.transpose(1, 2), 2), F.rms_norm(x, (6,), w, 1e-6),
        *torch.native_layer_norm(x, (6,), w, b, 1e-5), F.rms_norm(x, (6,)),
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", FLOATS)
def test_normalization(dtype: torch.dtype) -> None:
    w, b, mean = (noise(6, dtype=dtype, seed=seed) for seed in (1, 2, 3))
    check(normalized, (noise(2, 4, 6, dtype=dtype), w, b, mean, noise(6, dtype=dtype, seed=4).abs() + 0.5))


def attended(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor, added: Tensor) -> list[Tensor]:
    return [
        F.scaled_dot_product_attention(q, k, v),
        F.scaled_dot_product_attention(q, k, v, scale=0.2),
        F.scaled_dot_product_attention(q, k, v, attn_mask=allowed),
        F.scaled_dot_product_attention(q, k, v, attn_mask=added),
        F.scaled_dot_product_attention(q, k, v, is_causal=True),
        F.scaled_dot_product_attention(q, k[:, :2], v[:, :2], enable_gqa=True),
    ]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", [16, 6])
def test_attention_and_rows_that_may_look_at_nothing(dtype: torch.dtype, size: int) -> None:
    q, k, v = noise(2, 4, 3, size, dtype=dtype), noise(2, 4, 5, size, dtype=dtype), noise(2, 4, 5, size, dtype=dtype)
    allowed = torch.ones(2, 1, 3, 5, dtype=torch.bool)
    allowed[0, 0, 1] = False
    allowed[1, 0, 2, 3:] = False
    added = torch.zeros(2, 1, 3, 5, dtype=dtype)
    added[0, 0, 0] = -INF
    added[1, 0, 1] = torch.finfo(dtype).min
    added[1, 0, 2, 2:] = torch.finfo(dtype).min
    check(attended, (q, k, v, allowed, added))
