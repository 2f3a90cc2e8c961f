"""Cases whose time is in products and convolutions: linear layers with warm and cold weights, bmm, conv."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

from djinn_fx.calibrate.cases.case import COMPILED, INTERPRETED, Case
from djinn_fx.calibrate.program import CaseProgram, Results, copies_for, filled, weight

#: (k, n) of layers, and the rows that each is measured with; other widths lie between these.
_GRID: tuple[tuple[int, int, tuple[int, ...]], ...] = (
    (128, 128, (1, 8, 64, 512, 2048)),
    (128, 512, (2, 32, 256, 1024)),
    (256, 256, (1, 4, 32, 128, 512, 2048)),
    (256, 1024, (1, 8, 64, 256, 1024)),
    (384, 384, (2, 16, 200, 800)),
    (512, 512, (1, 2, 8, 32, 64, 128, 256, 512, 1024, 4096)),
    (512, 2048, (1, 4, 16, 64, 128, 512)),
    (2048, 512, (1, 8, 32, 64, 128, 512)),
    (768, 768, (1, 8, 64, 197, 512)),
    (768, 3072, (1, 32, 128, 512)),
    (3072, 768, (2, 32, 128, 512)),
    (1024, 256, (1, 16, 128, 1024)),
    (1024, 1024, (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)),
    (1024, 4096, (1, 8, 64, 256)),
    (4096, 1024, (1, 4, 64, 256)),
    (2048, 2048, (1, 32, 256)),
    (512, 16384, (1, 8, 64, 256)),
    (256, 32000, (1, 32, 128)),
    (768, 2, (1, 8)),
    (64, 64, (1, 32, 512)),
)
#: Of the grid: in the short list, with every other number of rows.
_QUICK = {(128, 128), (256, 1024), (512, 512), (512, 2048), (768, 768), (1024, 1024), (3072, 768), (512, 16384)}
#: Of the grid: measured with one thread too.
_ONE_THREAD = {(256, 256), (512, 512), (1024, 1024), (512, 2048), (2048, 512)}
#: Weights that follow each other come to this many bytes: more than caches hold, as in a model.
_COLD = 96_000_000


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _linear_grid()
    yield from _linear_forms()
    yield from _footprints()
    yield from _stacks()
    yield from _bmm()
    yield from _conv()


def _linear_grid() -> Iterator[Case]:
    for k, n, rows in _GRID:
        for number, m in enumerate(rows):
            copies = copies_for(_COLD, 4 * k * n) if m <= 64 else copies_for(24_000_000, 4 * (k * n + m * (k + n)), 6)
            yield Case(
                name=f"linear m={m} k={k} n={n} x{copies}",
                family="linear",
                make=_linears(m, k, n, copies),
                one_thread=(k, n) in _ONE_THREAD,
                quick=(k, n) in _QUICK and number % 2 == 0,
            )


def _linears(m: int, k: int, n: int, copies: int, *, bias: bool = True) -> Callable[[], CaseProgram]:
    """Layers side by side that read the same rows; every result is returned."""

    def function(*arguments: torch.Tensor) -> Results:
        *weights, x = arguments
        if bias:
            return tuple(F.linear(x, w, b) for w, b in zip(weights[::2], weights[1::2], strict=True))
        return tuple(F.linear(x, w) for w in weights)

    def make() -> CaseProgram:
        pairs = [(weight(n, k), filled(n)) if bias else (weight(n, k),) for _ in range(copies)]
        weights = tuple(one for pair in pairs for one in pair)
        return CaseProgram(function=function, weights=weights, inputs=(filled(m, k),))

    return make


def _linear_forms() -> Iterator[Case]:
    """Without a bias; with a batch dimension (a view before and after); weights stored the other way round."""
    for m, k, n in ((1, 512, 512), (1, 1024, 1024), (64, 512, 2048), (256, 768, 768), (8, 256, 1024)):
        copies = copies_for(_COLD, 4 * k * n) if m <= 64 else 4
        yield Case(
            name=f"linear-nobias m={m} k={k} n={n} x{copies}",
            family="linear-nobias",
            make=_linears(m, k, n, copies, bias=False),
        )
    for batch, m, k, n in ((1, 1, 512, 512), (2, 64, 512, 512), (8, 128, 256, 1024), (8, 1, 768, 768)):
        yield Case(
            name=f"linear-3d b={batch} m={m} k={k} n={n}",
            family="linear-3d",
            make=_batched_linears(batch, m, k, n, 6),
        )
    for m, k, n in ((1, 768, 768), (1, 256, 1024), (64, 768, 2304), (256, 512, 512)):
        copies = copies_for(48_000_000, 4 * k * n, 8)
        yield Case(
            name=f"conv1d-as-linear m={m} k={k} n={n} x{copies}", family="addmm-kn", make=_addmm_kn(m, k, n, copies)
        )


def _batched_linears(batch: int, m: int, k: int, n: int, copies: int) -> Callable[[], CaseProgram]:
    def make() -> CaseProgram:
        made = _linears(m, k, n, copies)()
        return CaseProgram(function=made.function, weights=made.weights, inputs=(filled(batch, m, k),))

    return make


def _addmm_kn(m: int, k: int, n: int, copies: int) -> Callable[[], CaseProgram]:
    def function(*arguments: torch.Tensor) -> Results:
        *weights, x = arguments
        return tuple(torch.addmm(b, x, w) for w, b in zip(weights[::2], weights[1::2], strict=True))

    def make() -> CaseProgram:
        weights = tuple(t for _ in range(copies) for t in (filled(k, n, scale=k**-0.5), filled(n)))
        return CaseProgram(function=function, weights=weights, inputs=(filled(m, k),))

    return make


def _footprints() -> Iterator[Case]:
    """The same layer with few rows, over more and more weights: where they stop fitting into each cache."""
    for m, k, counts in ((1, 512, (1, 2, 4, 8, 48)), (1, 1024, (1, 3, 6, 12)), (4, 256, (2, 8, 32)), (8, 512, (2, 8))):
        for copies in counts:
            yield Case(
                name=f"linear-footprint m={m} k={k} n={k} x{copies}",
                family="linear-footprint",
                quick=k == 512 and m == 1,
                make=_linears(m, k, k, copies),
                one_thread=k == 512 and copies in (2, 8, 48),
            )


def _stacks() -> Iterator[Case]:
    """Layers one after the other, up and down, as runtimes like to have them."""
    shapes = (
        (1, 256, 1024), (1, 512, 2048), (1, 1024, 4096), (8, 512, 2048), (8, 1024, 1024), (32, 256, 1024),
        (32, 768, 3072), (128, 256, 256), (128, 512, 2048), (128, 1024, 4096), (512, 256, 1024), (512, 512, 2048),
        (512, 768, 3072), (1024, 512, 512), (2048, 256, 1024), (4096, 512, 512),
    )  # fmt: skip
    for number, (m, k, n) in enumerate(shapes):
        pairs = copies_for(64_000_000, 8 * k * n, 8) if m <= 32 else 2
        yield Case(
            name=f"stack m={m} k={k} n={n} x{pairs}",
            family="stack",
            make=_stack(m, k, n, pairs),
            engines=INTERPRETED,
            one_thread=(m, k) in ((1, 512), (128, 512), (512, 768)),
            quick=number % 3 == 1,
        )
    for m, k, n in ((1, 1024, 4096), (64, 512, 2048)):
        for engine in COMPILED:
            yield Case(
                name=f"stack m={m} k={k} n={n} x3 for {engine}",
                family="stack",
                make=_stack(m, k, n, 3),
                engines=(engine,),
                quick=False,
            )


def _stack(m: int, k: int, n: int, pairs: int) -> Callable[[], CaseProgram]:
    def function(*arguments: torch.Tensor) -> Results:
        *weights, x = arguments
        for w, b in zip(weights[::2], weights[1::2], strict=True):
            x = F.linear(x, w, b)
        return (x,)

    def make() -> CaseProgram:
        up_down = [t for _ in range(pairs) for t in (weight(n, k), filled(n), weight(k, n), filled(k))]
        return CaseProgram(function=function, weights=tuple(up_down), inputs=(filled(m, k),))

    return make


def _bmm() -> Iterator[Case]:
    """The two products of attention that is written out: (batch x heads, queries, keys, head size)."""
    shapes = (
        (4, 32, 32, 64), (8, 128, 128, 64), (8, 512, 512, 64), (64, 64, 64, 32), (64, 128, 128, 64), (16, 1, 128, 64),
        (8, 1, 512, 64), (64, 1, 64, 32), (12, 197, 197, 64), (32, 16, 16, 16), (96, 128, 128, 64),
    )  # fmt: skip
    for number, (batch, m, n, d) in enumerate(shapes):
        yield Case(
            name=f"bmm b={batch} m={m} n={n} d={d}",
            family="bmm",
            make=_attention_products(batch, m, n, d),
            one_thread=batch == 8,
            quick=number % 2 == 1,
        )


def _attention_products(batch: int, m: int, n: int, d: int) -> Callable[[], CaseProgram]:
    def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Results:
        for _ in range(3):
            q = torch.bmm(torch.bmm(q, k.transpose(1, 2)), v)
        return (q,)

    def make() -> CaseProgram:
        scale = (n * d) ** -0.25
        inputs = (filled(batch, m, d), filled(batch, n, d, scale=scale), filled(batch, n, d, scale=scale))
        return CaseProgram(function=function, weights=(), inputs=inputs)

    return make


#: batch, in channels, out channels, kernel, stride, groups, size: images. Stems, bottlenecks, depthwise, patches.
_IMAGES = (
    (1, 3, 64, 7, 2, 1, 224), (1, 3, 256, 16, 16, 1, 224), (8, 3, 384, 16, 16, 1, 128), (1, 3, 32, 3, 2, 1, 224),
    (1, 64, 64, 3, 1, 1, 56), (1, 128, 128, 3, 1, 1, 28), (4, 256, 256, 3, 1, 1, 14), (1, 512, 512, 3, 1, 1, 7),
    (1, 64, 256, 1, 1, 1, 56), (2, 256, 512, 1, 2, 1, 28), (1, 128, 128, 3, 1, 128, 28), (1, 96, 96, 7, 1, 96, 56),
    (4, 32, 32, 3, 2, 32, 56), (1, 16, 64, 1, 1, 1, 14), (2, 64, 128, 3, 2, 1, 32), (1, 96, 192, 2, 2, 1, 28),
)  # fmt: skip
#: The same for sounds.
_SOUNDS = (
    (1, 1, 512, 10, 5, 1, 16000), (1, 512, 512, 3, 2, 1, 3199), (1, 80, 384, 3, 1, 1, 1000),
    (2, 384, 384, 3, 2, 1, 1000),
    (1, 512, 512, 63, 1, 16, 200), (4, 1, 128, 10, 5, 1, 8000), (4, 128, 128, 3, 2, 1, 1599),
    (2, 256, 256, 31, 1, 256, 200),
)  # fmt: skip


def _conv() -> Iterator[Case]:
    for batch, c_in, c_out, kernel, stride, groups, size in _IMAGES:
        yield Case(
            name=f"conv2d b={batch} {c_in}->{c_out} k={kernel} s={stride} g={groups} size={size}",
            family="conv2d-depthwise" if groups > 1 else "conv2d",
            make=_convolution((batch, c_in, size, size), c_out, kernel, stride, groups),
            engines=INTERPRETED,
            one_thread=c_in in (64, 128),
            quick=c_in in (3, 64, 128) and batch == 1 and kernel in (16, 3),
        )
    for batch, c_in, c_out, kernel, stride, groups, size in _SOUNDS:
        yield Case(
            name=f"conv1d b={batch} {c_in}->{c_out} k={kernel} s={stride} g={groups} size={size}",
            family="conv1d-grouped" if groups > 1 else "conv1d",
            make=_convolution((batch, c_in, size), c_out, kernel, stride, groups),
            engines=INTERPRETED,
            quick=batch == 1 and c_in != 80,
        )


def _convolution(
    shape: tuple[int, ...], c_out: int, kernel: int, stride: int, groups: int
) -> Callable[[], CaseProgram]:
    conv = F.conv2d if len(shape) == 4 else F.conv1d
    padding = 0 if stride == kernel else kernel // 2

    def function(*arguments: torch.Tensor) -> Results:
        *weights, x = arguments
        pairs = zip(weights[::2], weights[1::2], strict=True)
        return tuple(conv(x, w, b, stride, padding, 1, groups) for w, b in pairs)

    def make() -> CaseProgram:
        window = (shape[1] // groups, *[kernel] * (len(shape) - 2))
        weights = [t for _ in range(2) for t in (filled(c_out, *window, scale=0.05), filled(c_out))]
        return CaseProgram(function=function, weights=tuple(weights), inputs=(filled(*shape),))

    return make
