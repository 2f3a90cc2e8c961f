"""Products, norms, attention, convolutions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import onnx
import pytest
import torch
import torch.nn.functional as f

from djinn_fx.engines.onnx.convert import convert
from tests.engines.onnx.running import FLAVOURS, check, check_sizes, region_of

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def ops_of(function: Callable[..., Any], *tensors: torch.Tensor, flavour: str = "onnxruntime") -> list[str]:
    model = onnx.load_from_string(convert(region_of(function, tensors), flavour).model)
    return [node.op_type for node in model.graph.node]


def test_products() -> None:
    check(
        lambda x, w, b: (f.linear(x, w, b), f.linear(x, w), x[0] @ w.t()),
        noise(2, 3, 4),
        noise(5, 4),
        noise(5),
        **CLOSE,
    )
    check(
        lambda x, y, b: (torch.addmm(b, x, y, beta=0.5, alpha=2), x @ y, x[0] @ y),
        noise(3, 4),
        noise(4, 5),
        noise(5),
        **CLOSE,
    )
    check(
        lambda x, y: (x @ y, torch.baddbmm(x @ y, x, y, alpha=2)),
        noise(2, 3, 4),
        noise(2, 4, 3),
        **CLOSE,
    )


def test_a_weight_is_read_as_it_lies() -> None:
    ops = ops_of(lambda x, w, b: f.linear(x, w, b), noise(3, 4), noise(5, 4), noise(5))
    assert "Gemm" in ops
    assert "Transpose" not in ops


def test_norms() -> None:
    x, w, b = noise(2, 3, 8), noise(8), noise(8) * 2
    check(
        lambda x, w, b: (f.layer_norm(x, (8,), w, b), f.layer_norm(x, (3, 8)), f.rms_norm(x, (8,), w, 1e-6)),
        x,
        w,
        b,
        **CLOSE,
    )
    image = noise(2, 8, 4, 4)
    check(lambda x, w, b: (f.group_norm(x, 4, w, b), f.batch_norm(x, w, b.abs(), w, b)), image, w, b, **CLOSE)
    check(lambda x, w: f.batch_norm(x, w, w.abs()), noise(4, 8), w, **CLOSE)


def rms(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return w * (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def test_a_root_mean_square_norm_written_out_is_one_op() -> None:
    check(rms, noise(2, 3, 8), noise(8), **CLOSE)
    assert "SimplifiedLayerNormalization" in ops_of(rms, noise(2, 3, 8), noise(8))


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *mask: torch.Tensor, **how: Any) -> torch.Tensor:
    return f.scaled_dot_product_attention(q, k, v, *mask, **how)


def test_attention() -> None:
    q, k, v = noise(2, 4, 5, 8), noise(2, 4, 7, 8), noise(2, 4, 7, 8) * 2
    check(
        lambda q, k, v: (attend(q, k, v), attend(q, k, v, is_causal=True), attend(q, k, v, scale=0.3)), q, k, v, **CLOSE
    )
    check(lambda q, k, v: attend(q, k[:, :2], v[:, :2], enable_gqa=True), q, k, v, **CLOSE)
    check(lambda q, k, v: attend(q.half(), k.half(), v.half()), q, k, v, rtol=1e-2, atol=1e-2)


def test_a_query_without_keys_gets_zeros() -> None:
    q, k, v = noise(2, 4, 5, 8), noise(2, 4, 7, 8), noise(2, 4, 7, 8) * 2
    allowed = noise(2, 1, 5, 7) > 0
    allowed[1, 0, 2] = False
    added = torch.where(allowed, noise(2, 1, 5, 7), -math.inf)
    check(attend, q, k, v, allowed, **CLOSE)
    check(attend, q, k, v, added, **CLOSE)
    check(attend, q, k, v, added.clamp(min=torch.finfo(torch.float32).min), **CLOSE)


def test_masks_of_all_shapes() -> None:
    x, w = noise(2, 5, 32), noise(32, 32)

    def layer(x: torch.Tensor, w: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q, k, v = (((x + shift) @ w).view(2, 5, 4, 8).transpose(1, 2) for shift in range(3))
        return attend(q, k, v, mask).transpose(1, 2).reshape(2, 5, 32)

    for shape in ((2, 1, 5, 5), (2, 1, 1, 5), (5, 5), (1, 4, 5, 5), (2, 4, 5, 1)):
        check(layer, x, w, noise(*shape), **CLOSE)
    allowed = torch.ones(5, 5).tril() > 0
    check(layer, x, w, allowed, **CLOSE)
    kinds = ops_of(layer, x, w, allowed)
    assert "MultiHeadAttention" in kinds
    assert kinds.count("Transpose") == 1  # of the small mask


def test_attention_of_any_size() -> None:
    def step(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # The sizes of heads are numbers, all others symbols.
        wide_q, wide_k = (x[:, None, :, None] * torch.arange(32.0).view(4, 1, 8).sin() for x in (q, k))
        return attend(wide_q, wide_k, wide_k * 2, mask), attend(wide_q, wide_k, wide_k, is_causal=True)

    calls = [[noise(b, n), noise(b, m), noise(b, 1, n, m) > 0.5] for b, n, m in ((2, 5, 7), (3, 2, 6), (2, 9, 9))]
    check_sizes(step, *calls, **CLOSE)


def test_convolutions() -> None:
    def many(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, ...]:
        grouped = f.conv2d(x, w[:, :1], b, groups=4, padding=1)
        return (
            f.conv2d(x, w, b, stride=2, padding=1, dilation=2),
            grouped,
            f.conv_transpose2d(x, w, stride=2, padding=1),
        )

    check(many, noise(2, 4, 9, 8), noise(4, 4, 3, 3), noise(4), **CLOSE)
    check(lambda x, w: (f.conv1d(x, w), f.conv1d(x[0], w, padding=2)), noise(2, 4, 9), noise(3, 4, 3), **CLOSE)


def test_the_same_region_gives_the_same_bytes() -> None:
    def layer(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return f.gelu(f.layer_norm(x @ w, (8,))) + x.mean()

    regions = [region_of(layer, [noise(3, 8), noise(8, 8)]) for _ in range(2)]
    for flavour in FLAVOURS:
        first, second = (convert(one, flavour) for one in regions)
        assert first == second


def test_pools() -> None:
    def many(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        odd = f.max_pool2d(x, 3, 2, 1), f.max_pool2d(x, 2, 2, ceil_mode=True), f.max_pool2d(x[0], 2, 1, dilation=2)
        means = f.avg_pool2d(x, 3, 2, 1), f.avg_pool2d(x, 3, 2, 1, count_include_pad=False), f.avg_pool2d(x[0], 2)
        return (*odd, *means, f.adaptive_avg_pool2d(x, 1), f.adaptive_avg_pool2d(x, (3, 4)))

    check(many, noise(2, 4, 9, 8), **CLOSE)
