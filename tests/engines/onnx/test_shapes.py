"""Views, joins, choosing and replacing of elements, with numbers and with symbols for sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as f

from djinn_fx.engines.onnx.convert import convert
from djinn_fx.engines.onnx.values import Refused
from tests.engines.onnx.running import check, check_sizes, region_of

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

CUBE = torch.arange(60.0).reshape(3, 4, 5)


def test_views() -> None:
    check(lambda x: (x.view(12, 5) + 1, x.permute(2, 0, 1) + 1, x.transpose(0, 2).reshape(-1) * 2), CUBE)
    check(lambda x: ((x + 1).permute(2, 0, 1), (x + 1)[:, None].expand(3, 2, 4, 5), (x + 2)[:, ::2]), CUBE)
    check(lambda x: (x.repeat(2, 1, 1, 2), x[None].squeeze(0) + 1, x.flatten(1) + 1), CUBE)


def test_results_that_are_arguments_or_views_of_them_are_such() -> None:
    def views(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x[1:], x.t(), x + 1

    check(views, torch.randn(4, 6))


def test_slices() -> None:
    check(lambda x: (x[1:] + 1, x[:, -2:] + 1, x[..., 1:4:2] + 1, x[:, :-1] + 1, x[-1] + 1), CUBE)


def test_tensors_without_elements() -> None:
    check(lambda x: (x[5:] + 1, x + 1), CUBE, flavours=("onnxruntime",))
    with pytest.raises(Refused, match="without elements"):
        convert(region_of(lambda x: (x[5:] + 1, x + 1), [CUBE]), "openvino")
    check(lambda x: torch.cat([x[:0], x]) + 1, CUBE)


def test_joins_and_parts() -> None:
    check(lambda x: (torch.cat([x, x + 1], 1), torch.stack([x, x * 2], -1)), CUBE)
    check(lambda x: tuple(one + 1 for one in (*x.split(2, 1), *x.chunk(3, 2), *x.unbind(0), *x.split([1, 3], 1))), CUBE)
    check(lambda x, y: torch.cat([x, y]), torch.arange(3), torch.randn(2))


def test_choosing() -> None:
    index, wide = torch.tensor([2, 0, -1]), torch.tensor([[0, 1], [2, 1]])
    check(lambda x, i: (x[i], x[:, i], x[..., i], x[i, i], x[i, :, i], x[:, i, i]), CUBE, index)
    check(lambda x, i, w: (x[w], x[i[:, None], i[None, :]], x[w, w], x.index_select(1, i.abs())), CUBE, index, wide)
    check(lambda x, w: (x.gather(1, w[:, :, None]), x[0].gather(0, w), f.embedding(w, x[0])), CUBE, wide)


def test_replacing() -> None:
    index = torch.tensor([2, 0])
    new = torch.randn(3, 2, 5)

    def put(x: torch.Tensor, i: torch.Tensor, n: torch.Tensor) -> tuple[torch.Tensor, ...]:
        a = x.index_copy(1, i, n)
        b = x.index_put((i, i), n[0, 0])
        c = x.index_put((i,), n[:2, :1], accumulate=True)
        d = x.scatter(1, i.view(1, 2, 1).expand(3, 2, 5), n)
        e = x.slice_scatter(n, 1, 1, 3)
        g = x.select_scatter(n[:, 0], 1, -1)
        h = x.masked_fill(x > 3, 7.0).scatter(0, i.view(2, 1, 1), 4.0)
        return a, b, c, d, e, g, h, x.slice_scatter(n, 1, 0, 4, 2), torch.index_put(x, (x > 2,), n[0, 0, 0])

    check(put, CUBE, index, new)


def test_a_cache_is_written_in_place() -> None:
    cache, new, place = torch.zeros(2, 3, 8, 4), torch.randn(2, 3, 2, 4), torch.tensor([3, 4])

    def step(cache: torch.Tensor, new: torch.Tensor, place: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cache.index_copy_(2, place, new)
        cache[:, :, place] += 1
        return cache.sum(2), cache

    check(step, cache, new, place)


def test_made_of_numbers() -> None:
    def make(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        n = x.shape[0]
        made = torch.full((n, 2), 3), torch.arange(n), torch.arange(1, 9, 3), torch.arange(0, 1, 0.25), x.new_ones(n)
        return (*made, torch.zeros_like(x), torch.full_like(x, 2.5), torch.arange(5, 0, -2), x + torch.tensor([1.0, 2]))

    check(make, torch.randn(3, 2))


def test_padding() -> None:
    check(lambda x: (f.pad(x, (1, 2)), f.pad(x, (-1, 0, 2, -1), value=7.0), f.pad(x > 3, (0, 1), value=True)), CUBE)


def test_reductions() -> None:
    wild = torch.tensor([[1.0, torch.nan, 3.0], [4.0, 6.0, 6.0], [torch.inf, 7.0, -torch.inf]])

    def reduce(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        extremes = (
            x.amax(1),
            x.amin(0, keepdim=True),
            x.max(),
            x.min(),
            x.argmax(1),
            x.argmin(1),
            x.argmax(),
            x.argmin(),
        )
        return (*extremes, x.sum(1), x.cumsum(1), (x > 5).any(1), (x > 0).all(), (x > 5).sum())

    check(reduce, wild)
    check(lambda x: x.mean((0, 1)), torch.randn(3, 3))
    check(lambda x: (x.sum(), x.amax(1), x.cumsum(0), x.argmax(0), x.float().mean()), torch.randint(-9, 9, (4, 5)))


def test_sizes_may_differ_from_call_to_call() -> None:
    def many(x: torch.Tensor, i: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rows, columns, width = x.shape
        heads = x.view(rows, columns, 2, width // 2).transpose(1, 2)
        joined = torch.cat([heads, heads + 1], 2)
        line = torch.arange(columns) + rows
        chosen = x[torch.arange(rows), i], x[:, -1], x[:, 1:] + 1, x[:, : columns - 2].sum(1)
        shown = x[:, None].expand(rows, 3, columns, width).reshape(rows * 3, columns, width)
        made = torch.full((rows, columns), 2.0), torch.ones(columns, rows).cumsum(0), x.new_zeros(rows)
        mask = line[None, :] <= line[:, None]
        return (
            joined.reshape(rows, -1) + 1,
            joined.transpose(1, 2),
            line,
            mask,
            *chosen,
            *made,
            shown,
            f.pad(x, (0, 1)),
        )

    calls = [[torch.randn(r, c, 6), torch.arange(r) % c] for r, c in ((3, 5), (2, 9), (7, 4))]
    check_sizes(many, *calls)


def test_a_cache_of_any_size_is_written() -> None:
    def step(cache: torch.Tensor, new: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        cache.index_copy_(2, place, new)
        return cache.mean(2)

    calls = [
        [torch.zeros(b, 2, s, 4), torch.randn(b, 2, t, 4), torch.arange(t) + 1] for b, s, t in ((2, 8, 3), (3, 9, 5))
    ]
    check_sizes(step, *calls)
