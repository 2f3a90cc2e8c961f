"""Cases that move memory or hardly do anything: copies, gathers, scatters, small ops, views."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

from djinn_fx.calibrate.cases.case import INTERPRETED, RUNTIMES, Case
from djinn_fx.calibrate.program import CaseProgram, Results, filled, in_turn, indices
from djinn_fx.settings.engines import EAGER

#: batch, heads, length, head size.
_HEADS = ((1, 4, 1, 64), (1, 8, 64, 64), (2, 8, 128, 64), (8, 8, 128, 64), (8, 12, 512, 64))


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _copies()
    yield from _gathers()
    yield from _small()
    yield from _caches()
    yield from _pools()


def _copies() -> Iterator[Case]:
    functions: dict[str, Callable[[torch.Tensor], Results]] = {
        "transposed": lambda x: tuple(x.transpose(1, 2).contiguous() for _ in range(3)),
        "clone": lambda x: in_turn(torch.clone, x, 4),
        "rotate-half": lambda x: in_turn(_rotate_half, x, 3),
        "repeat-heads": lambda x: tuple(_repeat_heads(x) for _ in range(2)),
        "stack": lambda x: (torch.stack((x, x, x)),),
        "split-cat": lambda x: in_turn(lambda y: torch.cat(y.split(x.shape[-1] // 4, -1), -1), x, 3),
        "to-double-and-back": lambda x: (x.double().float(),),
        "to-bool": lambda x: ((x > 0).float(),),
        "to-bfloat16": lambda x: (x.bfloat16().float(),),
        "roll": lambda x: (torch.roll(x, 3, 2),),
        "pad": lambda x: (F.pad(x, (0, 0, 1, 2)),),
    }
    for name, function in functions.items():
        for shape in _HEADS:
            yield Case(
                name=f"{name} " + "x".join(map(str, shape)),
                family=f"copy-{name}",
                make=_one_input(function, *shape),
                one_thread=name in ("transposed", "clone") and shape[0] == 8,
                quick=shape == (2, 8, 128, 64) or (name in ("transposed", "rotate-half") and shape[0] == 1),
            )


def _one_input(function: Callable[..., Results], *shape: int) -> Callable[[], CaseProgram]:
    return lambda: CaseProgram(function=function, weights=(), inputs=(filled(*shape),))


def _rotate_half(x: torch.Tensor) -> torch.Tensor:
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def _repeat_heads(x: torch.Tensor) -> torch.Tensor:
    batch, heads, length, size = x.shape
    return x[:, :, None].expand(batch, heads, 4, length, size).reshape(batch, heads * 4, length, size)


def _gathers() -> Iterator[Case]:
    for rows, width, count in ((1000, 256, 1), (32000, 512, 32), (32000, 768, 512), (32000, 1024, 2048), (50, 64, 64)):
        yield Case(
            name=f"embedding {rows}x{width} of {count}",
            family="embedding",
            make=_embedding(rows, width, count),
            engines=RUNTIMES if count in (1, 512) else (EAGER,),
        )
    functions: dict[str, Callable[..., Results]] = {
        "index": lambda x, i: (x[i], x[i]),
        "index-select": lambda x, i: (x.index_select(0, i),),
        "gather": lambda x, i: (x.gather(0, i[:, None].expand(-1, x.shape[1])),),
        "index-put": lambda x, i: (x.index_put((i,), x[: i.shape[0]]),),
        "scatter": lambda x, i: (x.scatter(0, i[:, None].expand(-1, x.shape[1]), x[: i.shape[0]]),),
        "index-add": lambda x, i: (x.index_add(0, i, x[: i.shape[0]]),),
        "sort": lambda x, i: (x.sort(-1)[0],),
        "topk": lambda x, i: x.topk(4, -1),
        "one-hot": lambda x, i: (F.one_hot(i, x.shape[0]).float(),),
    }
    for name, function in functions.items():
        for rows, width in ((64, 32), (512, 256), (2048, 768)):
            yield Case(
                name=f"{name} {rows}x{width}",
                family=f"gather-{name}",
                make=_with_indices(function, rows, width),
                quick=rows == 512,
            )


def _embedding(rows: int, width: int, count: int) -> Callable[[], CaseProgram]:
    def make() -> CaseProgram:
        table, words = filled(rows, width), indices(rows, 4, count)
        # Four looks at other rows: a table's rows are not in the caches.
        function: Callable[..., Results] = lambda t, w: tuple(F.embedding(one, t) for one in w)  # noqa: E731
        return CaseProgram(function=function, weights=(table,), inputs=(words,))

    return make


def _with_indices(function: Callable[..., Results], rows: int, width: int) -> Callable[[], CaseProgram]:
    return lambda: CaseProgram(function=function, weights=(), inputs=(filled(rows, width), indices(rows, rows // 2)))


def _small() -> Iterator[Case]:
    """Ops on a few elements and views: what a call itself costs."""
    functions: dict[str, Callable[[torch.Tensor], Results]] = {
        "views": _views,
        "slices": lambda x: (x[0, :1, :2, :3] + x[0, 1:, 2:4, 3:6] + x[..., 0, None, None].select(0, 0)[:1, :1, :1],),
        "masks": _mask_making,
        "positions": _positions,
        "compare": lambda x: ((x[0, 0] > 0) & (x[0, 0] < 1) | (x[0, 0] == 2),),
        "integers": lambda x: in_turn(lambda i: (i + 1) * 2 % 7, torch.arange(16), 4),
    }
    for name, function in functions.items():
        yield Case(name=f"small {name}", family="small", make=_one_input(function, 1, 4, 16, 64), one_thread=True)
    for count in (1, 16, 96):
        yield Case(
            name=f"arguments {count}",
            family="small",
            make=_arguments(count),
            engines=INTERPRETED,
        )


def _views(x: torch.Tensor) -> Results:
    for _ in range(4):
        x = x.view(4, 16, 64).unsqueeze(0).transpose(1, 2).transpose(1, 2).permute(0, 1, 2, 3).view(1, 4, 16, 64)
    return (x + 1,)


def _mask_making(x: torch.Tensor) -> Results:
    length = x.shape[2]
    places = torch.arange(length)
    causal = places[None, :] <= places[:, None]
    mask = torch.full((length, length), -1e9)
    mask = mask.masked_fill(causal, 0.0)[None, None].expand(1, 1, length, length)
    return (mask, torch.where(causal, 0.0, -1e9), causal.triu(1))


def _positions(x: torch.Tensor) -> Results:
    places = torch.arange(x.shape[2], dtype=torch.float32)[:, None]
    inverse = 1.0 / 10000 ** (torch.arange(0, 64, 2, dtype=torch.float32) / 64)
    angles = torch.cat((places * inverse, places * inverse), -1)
    return (x * angles.cos() + x * angles.sin(),)


def _arguments(count: int) -> Callable[[], CaseProgram]:
    """A small layer and many weights that are added: what each argument of a call costs."""

    def function(*arguments: torch.Tensor) -> Results:
        matrix, *others, x = arguments
        x = F.linear(x, matrix)
        for other in others:
            x = x + other
        return (x,)

    def make() -> CaseProgram:
        weights = (filled(64, 64, scale=0.1), *(filled(64) for _ in range(count)))
        return CaseProgram(function=function, weights=weights, inputs=(filled(1, 64),))

    return make


def _caches() -> Iterator[Case]:
    """Keys and values of a step put into a cache: appended, or written in place."""
    for batch, heads, length, size in ((1, 8, 64, 64), (1, 8, 512, 64), (8, 8, 128, 64), (2, 4, 1024, 128)):
        for name, function in (("append", _append), ("write", _write)):
            yield Case(
                name=f"cache-{name} b={batch} h={heads} k={length} d={size}",
                family=f"cache-{name}",
                make=_cache(function, batch, heads, length, size),
                quick=heads == 8,
            )


def _append(cache: torch.Tensor, new: torch.Tensor, place: torch.Tensor) -> Results:
    return tuple(torch.cat((cache, new), dim=2) for _ in range(4))


def _write(cache: torch.Tensor, new: torch.Tensor, place: torch.Tensor) -> Results:
    # As AOTAutograd writes a change of an input: a new value, copied back at the end.
    cache.copy_(torch.index_copy(cache, 2, place, new))
    return (new + 1,)


def _cache(
    function: Callable[..., Results], batch: int, heads: int, length: int, size: int
) -> Callable[[], CaseProgram]:
    def make() -> CaseProgram:
        inputs = (filled(batch, heads, length, size), filled(batch, heads, 1, size), torch.tensor([length // 2]))
        return CaseProgram(function=function, weights=(), inputs=inputs)

    return make


def _pools() -> Iterator[Case]:
    functions: dict[str, Callable[[torch.Tensor], Results]] = {
        "max-pool": lambda x: (F.max_pool2d(x, 3, 2, 1),),
        "avg-pool": lambda x: (F.avg_pool2d(x, 2),),
        "global-pool": lambda x: (F.adaptive_avg_pool2d(x, 1),),
        "bilinear": lambda x: (F.interpolate(x, scale_factor=2.0, mode="bilinear"),),
        "nearest": lambda x: (F.interpolate(x, scale_factor=2.0, mode="nearest"),),
        "bicubic": lambda x: (F.interpolate(x, size=(16, 16), mode="bicubic"),),
    }
    for name, function in functions.items():
        for shape in ((1, 64, 56, 56), (2, 128, 28, 28)):
            yield Case(
                name=f"{name} " + "x".join(map(str, shape)),
                family=f"pool-{name}",
                make=_one_input(function, *shape),
                quick=shape[0] == 1,
            )
