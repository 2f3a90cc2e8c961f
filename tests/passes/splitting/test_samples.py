"""Graphs run on some samples at a time: those that may be give what they give at once, others say which op forbids it.

The oracle is the whole graph: what slices give is put together and compared with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from djinn_fx.passes.splitting.part import part_of, wholes_of
from djinn_fx.passes.splitting.samples import Batch, batch_of
from djinn_fx.runtime.slices import InSlices, Slices
from tests import graphs

COUNT, LONG, WIDE = 6, 5, 8
#: Some divide the batch, else the last slice begins earlier.
SIZES = (1, 2, 3)


def batch(function: Callable[..., Any], *args: Tensor, dims: Sequence[int] = (0, 1)) -> tuple[Any, Batch | str]:
    """The graph, and its samples or why it has none. Arguments named ``w...`` are weights."""
    srg = graphs.lowered(graphs.trace(function, *args))
    return srg, batch_of(srg, dims)


def as_a_whole_and_in_slices(function: Callable[..., Any], *args: Tensor) -> None:
    """Fails unless slices of each size make up what the graph gives at once."""
    srg, found = batch(function, *args)
    assert isinstance(found, Batch), found
    wanted = srg.gm(*args)
    listed = wanted if isinstance(wanted, (tuple, list)) else (wanted,)
    for size in SIZES:
        part = part_of(srg, found, size)
        inputs = tuple(map(found.at, srg.inputs))
        slices = Slices(count=found.count, size=size, inputs=inputs, results=wholes_of(srg, found))
        assert len(slices.starts) == -(-found.count // size)

        def run(given: list[Any], part: Any = part) -> Any:
            made = part(*given)
            return made if isinstance(made, (tuple, list)) else (made,)

        given = list(args)
        made = InSlices(run, slices)(given)
        assert not given
        for one, other in zip(made, listed, strict=True):
            assert (one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5, equal_nan=True)


def x(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


X3 = x(COUNT, LONG, WIDE)
X4 = x(COUNT, 4, 6, 6)
IDS = torch.randint(0, 9, (COUNT, LONG), generator=torch.Generator().manual_seed(0))
TABLE = x(9, WIDE)


def attention(x: Tensor, w: Tensor) -> Tensor:
    q, k, v = (x @ w).view(COUNT, LONG, 3, 2, WIDE // 2).permute(2, 0, 3, 1, 4).unbind(0)
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return mixed.transpose(1, 2).reshape(COUNT, LONG, WIDE)


def masked_by_number(x: Tensor, m: Tensor) -> Tensor:
    """As Transformers makes masks: padding is looked up by sample and place."""
    number, place = torch.arange(COUNT)[:, None, None], torch.arange(LONG)[None, None, :]
    return torch.where(m[number, place], x.transpose(1, 2), 0.0)


def uniform_mask(x: Tensor) -> Tensor:
    """A mask that is the same for all samples, widened to all of them."""
    mask = torch.full((LONG, LONG), -1.0).triu(1)[None].expand(COUNT, LONG, LONG)
    return torch.softmax(torch.bmm(x, x.transpose(1, 2)) + mask, -1)


def convolutions(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.max_pool2d(F.group_norm(F.conv2d(x, w, b, padding=1), 2), 2).flatten(1)


MAY: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "mlp": (lambda x, w, b: F.gelu(F.linear(x, w, b)), (X3, x(7, WIDE), x(7))),
    "attention": (attention, (X3, x(WIDE, 3 * WIDE))),
    "mask by number": (masked_by_number, (X3, IDS > 2)),
    "uniform mask": (uniform_mask, (X3,)),
    "embedding": (lambda x, w: F.embedding(x, w).mean(1), (IDS, TABLE)),
    "the same looked up": (
        lambda x, w: x + F.embedding(torch.zeros(1, LONG).long().expand(COUNT, LONG), w),
        (X3, TABLE),
    ),
    "the same counted": (lambda x: x * torch.arange(LONG)[None].expand(COUNT, LONG).cumsum(1)[..., None], (X3,)),
    "looked up": (lambda x, w: w[x], (IDS, TABLE)),
    "convolutions": (convolutions, (X4, x(8, 4, 3, 3), x(8))),
    "batch norm": (lambda x, w, b: F.batch_norm(x, w, b), (X4, x(4), x(4).abs())),
    "layer norm": (lambda x, w: F.layer_norm(x, (WIDE,), w), (X3, x(WIDE))),
    "last token": (lambda x: (x * 2)[:, -1], (X3,)),
    "second dimension": (lambda x, w: torch.tanh(x.transpose(0, 1) @ w), (x(1, COUNT, WIDE), x(WIDE, WIDE))),
    "second dimension, as the first is sorted": (lambda x: x.sort(0).values, (X3,)),
    "several results": (lambda x: (x.amax(-1), x.transpose(1, 2) * 2, x.topk(2).indices), (X3,)),
    "cat and stack": (lambda x: torch.stack([torch.cat([x, x * 2], 1), torch.cat([x, x], 1)], 1), (X3,)),
    "beside": (lambda x, y: x.gather(1, y[..., None].expand(COUNT, LONG, WIDE) % LONG), (X3, IDS)),
    "folded in": (lambda x, w: (x.reshape(COUNT * LONG, WIDE) @ w).view(COUNT, LONG, 3), (X3, x(WIDE, 3))),
    "by columns": (lambda x, w: w @ x.t(), (x(COUNT, WIDE), x(3, WIDE))),
    "the same for all": (lambda x, w: (x * 2, w * 3), (X3, x(WIDE))),
    "upsampled": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), (X4,)),
    "wheres": (lambda x: torch.where(x > 0, torch.zeros_like(x), x.new_full((COUNT, LONG, WIDE), 3.0)), (X3,)),
}


@pytest.mark.parametrize("name", MAY)
def test_slices_make_up_the_whole(name: str) -> None:
    function, args = MAY[name]
    as_a_whole_and_in_slices(function, *args)


def test_a_graph_for_fewer_samples_has_no_size_of_the_batch_left() -> None:
    srg, found = batch(attention, X3, x(WIDE, 3 * WIDE))
    assert isinstance(found, Batch)
    part = part_of(srg, found, 2)
    sizes = {size for node in part.graph.nodes for one in node.args if isinstance(one, (list, tuple)) for size in one}
    assert COUNT not in sizes


def writes(x: Tensor) -> Tensor:
    x.add_(1)
    return x * 2


MUST_NOT: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...], str]] = {
    "over the batch": (lambda x: x - x.mean(0, keepdim=True), (X3,), "aten.mean.dim"),
    "softmax over it": (lambda x: torch.softmax(x, 0), (X3,), "aten._softmax.default"),
    "sum of all": (lambda x: x / x.sum(), (X3,), "aten.sum.default"),
    "batch norm in training": (lambda x: F.batch_norm(x, None, None, training=True), (X4,), "batch_norm"),
    "random": (lambda x: torch.bernoulli(x.sigmoid()), (X3,), "aten.bernoulli.default"),
    "writes": (writes, (X3,), "writes"),
    "writes what is for all": (lambda x, w: (x * 2, w.copy_(x[:, 0, 0]))[0], (x(COUNT, 1, 1), x(COUNT)), "copy_"),
    "flipped": (lambda x: x.flip(0), (X3,), "aten.flip.default"),
    "neighbours": (lambda x: x[1:] - x[:-1], (X3,), "aten.slice.Tensor"),
    "one sample": (lambda x: x + x[0], (X3,), "aten.select.int"),
    "each with each": (lambda x: x @ x.t(), (x(COUNT, WIDE),), "aten.mm.default"),
    "summed over": (lambda x, w: x.t() @ w, (x(COUNT, WIDE), x(COUNT, 3)), "aten.mm.default"),
    "within": (lambda x: x.transpose(0, 1).reshape(-1, WIDE) * 2, (X3,), "view"),
    "cut up": (lambda x: x.view(2, COUNT // 2, LONG, WIDE).amax(0), (X3,), "aten.view.default"),
    "a weight for each": (lambda x, w: x * w, (X3, x(COUNT, 1, 1)), "aten.mul.Tensor"),
    "numbered": (lambda x: x * torch.arange(COUNT)[:, None, None], (X3,), "aten.mul.Tensor"),
    "shuffled": (lambda x, w: x[w], (X3, torch.arange(COUNT).flip(0)), "aten.index.Tensor"),
    "one number for all": (lambda x: x[torch.arange(1).expand(COUNT)] * 2, (X3,), "aten.index.Tensor"),
    "rounded numbers": (lambda x: x[torch.arange(COUNT).to(torch.bfloat16).long()] * 2, (X3,), "aten.index.Tensor"),
    "counted in halves": (lambda x: x[torch.arange(COUNT, dtype=torch.float16).long()] * 2, (X3,), "aten.index.Tensor"),
    "turned": (lambda x: x.roll(1, 0), (X3,), "aten.roll.default"),
    "how many": (lambda x: x[x > 0].sum() + x, (X3,), "from call to call"),
    "convolved over": (lambda x, w: F.conv1d(x[None], w), (x(COUNT, WIDE), x(2, COUNT, 3)), "convolution"),
    "repeated": (lambda x: x.repeat(2, 1, 1), (X3,), "aten.repeat.default"),
    "widened": (lambda x: x + x[:, None, :], (x(COUNT, COUNT),), "aten.add.Tensor"),
    "sorted": (lambda x: x.sort(0).values, (X3,), "aten.sort"),
    "nothing": (lambda x: x.sum(), (x(1, 1),), "no input has two samples"),
    "shares": (lambda x: (y := x * 2, y.view(-1)), (X3,), "shares its memory"),
}  # fmt: skip


@pytest.mark.parametrize("name", MUST_NOT)
def test_what_forbids_it_is_named(name: str) -> None:
    function, args, names = MUST_NOT[name]
    _, found = batch(function, *args, dims=(0,))
    assert isinstance(found, str)
    assert names in found


def test_an_op_of_somebody_elses_is_not_known() -> None:
    with torch.library._scoped_library("splitting", "DEF") as library:
        library.define("twice(Tensor x) -> Tensor", tags=torch.Tag.pointwise)
        library.impl("twice", lambda x: x * 2, "CompositeExplicitAutograd")
        library.impl("twice", torch.empty_like, "Meta")
        _, found = batch(lambda x: torch.ops.splitting.twice(x), X3)
    assert isinstance(found, str)
    assert "splitting.twice" in found


def test_symbolic_sizes_are_left_alone() -> None:
    found = batch_of(graphs.lowered(graphs.symbolic_mlp()))
    assert isinstance(found, str)
    assert "from call to call" in found


def test_caches_are_written_sample_by_sample_and_what_counts_once() -> None:
    def step(x: Tensor, cache: Tensor, count: Tensor) -> tuple[Tensor, ...]:
        places = torch.arange(2) + count
        filled = cache.index_copy(1, places, x)
        mixed = filled.cumsum(1)
        cache.copy_(filled)
        count.copy_(count + 2)
        return mixed.amax(1) * count, cache, count

    inputs = x(COUNT, 2, WIDE), torch.zeros(COUNT, LONG, WIDE), torch.tensor(1)
    srg, found = batch(step, *inputs)
    assert isinstance(found, Batch), found
    assert [node.name for node in found.written] == ["cache_1", "count_1"]
    one, other = ([each.clone() for each in inputs] for _ in range(2))
    wanted = srg.gm(*one)
    part = part_of(srg, found, 2)
    slices = Slices(
        count=COUNT,
        size=2,
        inputs=tuple(map(found.at, srg.inputs)),
        results=wholes_of(srg, found),
        copied=(2,),
    )
    made = InSlices(lambda given: part(*given), slices)(list(other))
    torch.testing.assert_close(tuple(made), tuple(wanted))
    for mine, theirs in zip(other, one, strict=True):
        assert torch.equal(mine, theirs)
    assert int(other[2]) == 3
