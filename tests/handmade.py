"""Small models written by hand, without names that say what they are: weights in dicts, layers in loops."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]
WIDTH, HEADS, VOCAB, LAYERS = 32, 4, 96, 3


def _weights(seed: int = 0, layers: int = LAYERS) -> tuple[Tensor, list[Weights]]:
    """A table [vocab, width] and for each layer five square matrices [width, width]."""
    made = torch.Generator().manual_seed(seed)
    table = torch.randn(VOCAB, WIDTH, generator=made)
    scale = WIDTH**-0.5
    blocks = [
        {name: torch.randn(WIDTH, WIDTH, generator=made) * scale for name in ("a", "b", "c", "d", "e")}
        for _ in range(layers)
    ]
    return table, blocks


def _split(x: Tensor) -> Tensor:
    """[batch, tokens, width] to [batch, heads, tokens, head_dim]."""
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def _mix(x: Tensor, other: Tensor, w: Weights, mask: Tensor | None) -> Tensor:
    """Rows of x [batch, rows, width] read rows of other; mask [rows, other rows] is true where reading is allowed."""
    scores = _split(x @ w["a"]) @ _split(other @ w["b"]).transpose(-1, -2) * (WIDTH // HEADS) ** -0.5
    if mask is not None:
        scores = torch.where(mask, scores, float("-inf"))
    mixed = torch.softmax(scores, -1) @ _split(other @ w["c"])
    return mixed.transpose(1, 2).flatten(-2) @ w["d"]


def _tokens(count: int, batch: int = 2) -> Tensor:
    return torch.randint(0, VOCAB, (batch, count), generator=torch.Generator().manual_seed(count))


def functional_prefill() -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """A loop of blocks over a dict of weights, under a lower triangle."""

    def f(x: Tensor, table: Tensor, blocks: list[Weights]) -> Tensor:
        h = table[x]
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        for w in blocks:
            h = h + _mix(h, h, w, mask)
            h = h + torch.tanh(h @ w["e"])
        return h @ table.t()

    return f, (_tokens(9), *_weights()), {}


def functional_encode() -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The same without a mask."""

    def f(x: Tensor, table: Tensor, blocks: list[Weights]) -> Tensor:
        h = F.embedding(x, table)
        for w in blocks:
            h = h + _mix(h, h, w, None)
            h = h + torch.tanh(h @ w["e"])
        return h

    table, blocks = _weights()
    leaves = [table.requires_grad_(), *(t.requires_grad_() for w in blocks for t in w.values())]
    assert leaves
    return f, (_tokens(9), table, blocks), {}


def functional_decode() -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """One token against old keys and values [batch, heads, tokens, head_dim], which grow and are returned."""

    def f(x: Tensor, table: Tensor, blocks: list[Weights], old: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        h, new = table[x], []
        for i, w in enumerate(blocks):
            k = torch.cat([old[2 * i], _split(h @ w["b"])], dim=2)
            v = torch.cat([old[2 * i + 1], _split(h @ w["c"])], dim=2)
            mixed = torch.softmax(_split(h @ w["a"]) @ k.transpose(-1, -2), -1) @ v
            h = h + mixed.transpose(1, 2).flatten(-2) @ w["d"]
            h = h + torch.tanh(h @ w["e"])
            new += [k, v]
        return h @ table.t(), new

    table, blocks = _weights()
    old = [torch.randn(2, HEADS, 11, WIDTH // HEADS) for _ in range(2 * LAYERS)]
    return f, (_tokens(1), table, blocks, old), {}


def functional_decode_written() -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """One token; keys and values are written into tensors of the caller at a given place."""

    def f(x: Tensor, at: Tensor, table: Tensor, blocks: list[Weights], old: list[Tensor]) -> Tensor:
        h = table[x]
        seen = torch.arange(old[0].shape[2]) <= at
        for i, w in enumerate(blocks):
            old[2 * i].index_copy_(2, at, _split(h @ w["b"]))
            old[2 * i + 1].index_copy_(2, at, _split(h @ w["c"]))
            mixed = F.scaled_dot_product_attention(_split(h @ w["a"]), old[2 * i], old[2 * i + 1], attn_mask=seen[None])
            h = h + mixed.transpose(1, 2).flatten(-2) @ w["d"]
            h = h + torch.tanh(h @ w["e"])
        return h @ table.t()

    table, blocks = _weights()
    old = [torch.zeros(2, HEADS, 24, WIDTH // HEADS) for _ in range(2 * LAYERS)]
    return f, (_tokens(1), torch.tensor([5]), table, blocks, old), {}


def functional_pair() -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Two sequences over one table: the first looks both ways, the second back, and at the first."""

    def f(x: Tensor, y: Tensor, table: Tensor, blocks: list[Weights]) -> Tensor:
        g, h = table[x], table[y]
        for w in blocks:
            g = g + _mix(g, g, w, None)
        rows = torch.arange(y.shape[1])
        mask = rows[None, :] <= rows[:, None]
        for w in blocks:
            h = h + _mix(h, h, w, mask)
            h = h + _mix(h, g, w, None)
        return h @ table.t()

    return f, (_tokens(11), _tokens(6), *_weights()), {}


def plain_mlp() -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Three matrices and two bends."""

    def f(x: Tensor, weights: list[Tensor]) -> Tensor:
        for w in weights:
            x = torch.relu(x @ w)
        return x

    return f, (torch.randn(5, 32), [torch.randn(32, 32) for _ in range(3)]), {}


def plain_cnn() -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """Two convolutions over images and a matrix."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 16, 3, stride=2),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(16, 10),
    )
    return module.eval(), (torch.randn(2, 3, 20, 20),), {}
