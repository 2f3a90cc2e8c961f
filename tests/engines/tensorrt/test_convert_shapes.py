"""Converted ops that move, make and look up elements, with fixed sizes and with sizes that change."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.engines.tensorrt.converting import check, needs_tensorrt, noise

pytestmark = needs_tensorrt

DYNAMIC = pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])


def moved(x: Tensor) -> list[Tensor]:
    """x: [b, t, 12]"""
    b, t, _ = x.shape
    heads = x.view(b, t, 3, 4).transpose(1, 2)
    first, second = x.chunk(2, -1)
    return [
        heads + 0, heads.reshape(b, 3 * t, 4), x.reshape(b * t, 12) * 2, x.flatten() + 1, x.permute(2, 0, 1) + 1,
        torch.cat([second, first], -1), torch.cat([x, x * 2], 1), torch.stack([x, -x], 1), x[:, 1:] + 1,
        x[:, :-1] * 2, x[:, -1] + 1, x[:, 0] - x[:, -2], x[..., ::3] + 1, x[:, None] * x[:, :, None].sum(-1,
        keepdim=True),
        x.unsqueeze(1).expand(b, 5, t, 12) + 1, x.repeat(1, 2, 1) + 0, x.flip(1) + 0, x.unbind(-1)[3] + 1,
        x.split([5, 4, 3], -1)[1] + 1, x.split(4, -1)[2] * 2, x.squeeze() + 1, x.sum(1, keepdim=True).squeeze(1),
        x.repeat_interleave(2, 0), x.tril(), (x @ x.transpose(1, 2)).triu(1), F.pad(x, (0, 0, 1, 0)),
        x.movedim(1, 0).contiguous().view(t * b, 12), x.roll(2, -1),
        x.new_zeros(b, t) + x[..., 0], x.narrow(1, 1, 1) + 1, x.view(b, t, 2, 6).mean(-1), x[1] + x[0],
    ]  # fmt: skip


@DYNAMIC
def test_elements_are_moved(dynamic: bool) -> None:
    calls = [(noise(2, 5, 12),), (noise(3, 7, 12),)]
    check(moved, *calls[: 1 + dynamic], dynamic=dynamic)


def made(x: Tensor) -> list[Tensor]:
    """x: [b, t]"""
    b, t = x.shape
    positions = torch.arange(t)
    return [
        positions + 0, torch.arange(b, t + b), torch.arange(0, 2 * t, 2).float(), torch.full((b, t), 0.5) + x,
        torch.zeros(t, b) + x.t(), torch.ones_like(x) * x, x.new_full((t,), 2.0), torch.ones(b, t,
        dtype=torch.bool).tril(),
        positions[None] <= positions[:, None], torch.where(positions > 2, x, 0.0), torch.eye(t) @ x.t(),
        torch.zeros(b, 1, t).masked_fill(x[:, None] > 0, float("-inf")), torch.triu(torch.ones(t, t), 1),
        x * t, x / (b * t), x + (t - 1) // 2, torch.arange(0, 1, 0.25) + 0, torch.linspace(-1, 2, 7) + 0,
        torch.arange(t, dtype=torch.float32) * 0.5, torch.full((), t) + positions, torch.tensor(0.25) * x,
    ]  # fmt: skip


@DYNAMIC
def test_tensors_are_made_of_numbers_and_sizes(dynamic: bool) -> None:
    calls = [(noise(2, 5),), (noise(3, 7),)]
    check(made, *calls[: 1 + dynamic], dynamic=dynamic)


def looked_up(x: Tensor, table: Tensor, ids: Tensor, place: Tensor) -> list[Tensor]:
    """x: [b, t, 4], table: [9, 4], ids: [b, t] from -9 to 8, place: [t]"""
    b = x.shape[0]
    rows = torch.arange(b)
    plain = ids.abs() % 4
    return [
        F.embedding(ids % 9, table), table[ids], x[:, place], x[rows, plain[:, 0]], x[rows[:, None],
        plain % x.shape[1]],
        x[..., plain[0]], x.gather(2, plain[..., None]), x.gather(1, (plain % 2)[..., None].expand(-1, -1, 2)),
        table.index_select(1, place % 4), x.take_along_dim(plain[..., None], 2), table[ids[:1, 0]],
        plain[..., None] == torch.arange(5), table[place[:, None], plain[0][None]], x[:, :, [2, 0]], x[:, -1, [1, -1]],
        (plain == 2).int().argmax(-1), table[[0, -1]],
    ]  # fmt: skip


@DYNAMIC
def test_elements_are_looked_up(dynamic: bool) -> None:
    def call(b: int, t: int) -> tuple[Tensor, ...]:
        draw = torch.Generator().manual_seed(t)
        ids = torch.randint(-9, 9, (b, t), generator=draw)
        return noise(b, t, 4), noise(9, 4), ids, torch.arange(t - 1, -1, -1)

    calls = [call(2, 5), call(3, 7)]
    check(looked_up, *calls[: 1 + dynamic], dynamic=dynamic)


def written(x: Tensor, new: Tensor, place: Tensor, mask: Tensor) -> list[Tensor]:
    """x: [b, 8, 4], new: [b, t, 4], place: [t], mask: [b, 8]"""
    b, t = new.shape[:2]
    rows = torch.arange(b)
    ids = (place % 4)[None, :, None].expand(b, t, 1)
    return [
        x.index_copy(1, place, new), x.index_put((rows[:, None], place[None]), new), x.index_put((rows,), x.flip(0)),
        x.scatter(2, ids, 1.5), x.scatter(2, ids, new), x.index_fill(1, place, 2.0), x.index_put((mask,),
        torch.tensor(3.0)),
        torch.select_scatter(x, new[:, 0], 1, 2), x.index_put((rows[:, None], place[None] - 8), new[:, :1]),
        x.masked_fill(mask[..., None], -1),
    ]  # fmt: skip


@DYNAMIC
def test_elements_are_written(dynamic: bool) -> None:
    def call(b: int, t: int) -> tuple[Tensor, ...]:
        return noise(b, 8, 4), noise(b, t, 4, seed=5), torch.arange(t) + 1, noise(b, 8) > 0

    calls = [call(2, 3), call(3, 5)]
    check(written, *calls[: 1 + dynamic], dynamic=dynamic)


def parts_written(x: Tensor, new: Tensor) -> list[Tensor]:
    """x: [6, 8], new: [6, 3]"""
    first, second, third = x.clone(), x.clone(), x.clone()
    first[:, 2:5] = new
    second[1] = 0.5
    third[::2, 1:7:2] = new[:3]
    return [first, second, third, torch.slice_scatter(x, new, 1, 5)]


def test_parts_are_written() -> None:
    check(parts_written, (noise(6, 8), noise(6, 3)))


def test_nothing_is_joined_for_nothing() -> None:
    check(lambda empty, x: torch.cat([empty, x], 1) + 1, (torch.empty(2, 0, 3), noise(2, 5, 3)))


@DYNAMIC
def test_convolutions_and_attention_over_sizes_that_change(dynamic: bool) -> None:
    convolution, linear = torch.nn.Conv2d(4, 6, 3, padding=1, stride=2), torch.nn.Linear(6, 32)

    def model(x: Tensor) -> list[Tensor]:
        y = convolution(x)
        tokens = linear(y.flatten(2).transpose(1, 2))
        q = tokens.view(x.shape[0], -1, 2, 16).transpose(1, 2)
        k = torch.cat([q, q * 0.5], 2)
        return [
            tokens, F.max_pool2d(x, 2), F.adaptive_avg_pool2d(y, 1).flatten(1), F.group_norm(x, 2), q.var(2),
            q.mean((0, 2)),
            F.scaled_dot_product_attention(q, k, k), F.scaled_dot_product_attention(q, q, q, is_causal=True),
            F.layer_norm(tokens, (32,)), F.softmax(q @ k.transpose(2, 3), -1),
        ]  # fmt: skip

    calls = [(noise(2, 4, 16, 11),), (noise(3, 4, 20, 13),)]
    check(model, *calls[: 1 + dynamic], dynamic=dynamic)
