"""Random graphs in which all sizes are the batch's: whatever is said to run in slices gives what it gives at once."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from djinn_fx.passes.splitting.samples import Batch
from tests.passes.splitting.test_samples import as_a_whole_and_in_slices, batch

#: One size for everything, and one that it divides: nothing can be told from sizes.
N, TWICE = 4, 8
Op = Callable[[random.Random, list[Tensor]], Tensor]


def _one(rng: random.Random, values: list[Tensor]) -> Tensor:
    return rng.choice(values)


def _dim(rng: random.Random, x: Tensor) -> int:
    return rng.randrange(x.dim())


def _like(rng: random.Random, values: list[Tensor], x: Tensor) -> Tensor:
    return rng.choice([one for one in values if one.shape == x.shape])


def _reshaped(rng: random.Random, values: list[Tensor]) -> Tensor:
    x = _one(rng, values)
    shapes = [(N, N, N), (N * N, N), (N, N * N), (TWICE, N // 2, N), (N, N // 2, TWICE), (N, N, 1, N), (1, N, N, N)]
    return x.reshape(rng.choice(shapes)) if x.numel() == N**3 else x.unsqueeze(_dim(rng, x))


def _permuted(rng: random.Random, values: list[Tensor]) -> Tensor:
    x = _one(rng, values)
    return x.permute(rng.sample(range(x.dim()), x.dim()))


def _reduced(rng: random.Random, values: list[Tensor]) -> Tensor:
    x = _one(rng, values)
    return x.mean(_dim(rng, x), keepdim=True).expand_as(x)


def _product(rng: random.Random, values: list[Tensor]) -> Tensor:
    x = _one(rng, values)
    y = _like(rng, values, x)
    if x.dim() == 3 and x.shape[1] == x.shape[2]:
        return torch.bmm(x, y) / N
    return x @ y.transpose(-1, -2) / N if x.dim() == 2 else x


def _folded(rng: random.Random, values: list[Tensor]) -> Tensor:
    x = _one(rng, values)
    weight = torch.linspace(-1, 1, N * N).view(N, N)
    return F.linear(x, weight) if x.shape[-1] == N else x.neg()


def _looked_up(rng: random.Random, values: list[Tensor]) -> Tensor:
    x = _one(rng, values)
    places = torch.arange(x.shape[0])
    if rng.random() < 0.5:
        places = places.flip(0)
    return x[places] if rng.random() < 0.5 else x.index_select(0, places)


def _by_places(rng: random.Random, values: list[Tensor]) -> Tensor:
    x = _one(rng, values)
    return x * torch.arange(x.shape[-1]).expand(x.shape) if rng.random() < 0.5 else x * torch.ones(x.shape)


def _joined(rng: random.Random, values: list[Tensor]) -> Tensor:
    x = _one(rng, values)
    dim = _dim(rng, x)
    halves = torch.cat([x, _like(rng, values, x)], dim).chunk(2, dim)
    return halves[rng.randrange(2)] + 1


OPS: list[Op] = [
    _reshaped,
    _permuted,
    _reduced,
    _product,
    _folded,
    _looked_up,
    _by_places,
    _joined,
    lambda rng, values: torch.tanh(_one(rng, values)),
    lambda rng, values: (x := _one(rng, values)) + _like(rng, values, x),
    lambda rng, values: (x := _one(rng, values)).softmax(_dim(rng, x)),
    lambda rng, values: (x := _one(rng, values)).cumsum(_dim(rng, x)) / N,
    lambda rng, values: (x := _one(rng, values)).sort(_dim(rng, x)).values,
    lambda rng, values: (x := _one(rng, values)).flip(_dim(rng, x)),
    lambda rng, values: (x := _one(rng, values)).select(d := _dim(rng, x), 0).unsqueeze(d).expand_as(x),
    lambda rng, values: _one(rng, values).tril(),
    lambda rng, values: torch.where((x := _one(rng, values)) > 0, _like(rng, values, x), x),
]


def graph(seed: int) -> Callable[..., Tensor]:
    """A function of two inputs and a weight, with a few ops; the same ones each time it is called."""

    def function(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
        rng = random.Random(seed)
        values = [x, y, w] if rng.random() < 0.3 else [x]
        for _ in range(rng.randint(2, 6)):
            values.append(rng.choice(OPS)(rng, values))
        return values[-1] * 2

    return function


@pytest.mark.parametrize("block", range(4))
def test_what_may_run_in_slices_gives_the_same(block: int) -> None:
    inputs = [torch.randn(N, N, N, generator=torch.Generator().manual_seed(one)) for one in range(3)]
    parted = 0
    for seed in range(block * 60, block * 60 + 60):
        function = graph(seed)
        _, found = batch(function, *inputs)
        if isinstance(found, Batch):
            parted += 1
            as_a_whole_and_in_slices(function, *inputs)
    assert parted > 10
