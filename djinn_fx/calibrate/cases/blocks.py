"""Cases of layers together: what Transformers and convolutional models are made of, written for this purpose.

Every engine runs them: how much a runtime gains by fusing, and what a region costs beside its ops, shows only here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from djinn_fx.calibrate.cases.case import COMPILED, INTERPRETED, Case
from djinn_fx.calibrate.program import CaseProgram, fill_module, filled, indices, module_program


@dataclass(frozen=True, kw_only=True)
class Size:
    """Of a stack of layers and what it is called with.

    Attributes:
        width: of the residual stream.
        heads: of attention.
        layers: how many.
        batch: sequences.
        length: new positions of each.
        past: positions in the cache; 0 for none.
        key_heads: as many as ``heads`` if 0.
        words: rows of the embedding; 0 for none: the input is vectors then.
        growth: width of the hidden layer over ``width``.
    """

    width: int
    heads: int
    layers: int
    batch: int
    length: int
    past: int = 0
    key_heads: int = 0
    words: int = 0
    growth: int = 4

    def __str__(self) -> str:
        past = f" past={self.past}" if self.past else ""
        words = f" words={self.words}" if self.words else ""
        groups = f"/{self.key_heads}" if self.key_heads else ""
        return f"d={self.width} h={self.heads}{groups} l={self.layers} b={self.batch} s={self.length}{past}{words}"


class EncoderLayer(nn.Module):
    """Attention and a hidden layer, with biases; norms before or after; attention as one op or written out."""

    def __init__(
        self,
        size: Size,
        *,
        norm_first: bool,
        written_out: bool = False,
        activation: str = "gelu",
        fused: bool = False,
    ) -> None:
        super().__init__()
        d = size.width
        # One matrix for queries, keys and values, stored as inputs x outputs.
        self.qkv = nn.Parameter(torch.empty(d, 3 * d)) if fused else None
        self.qkv_bias = nn.Parameter(torch.empty(3 * d)) if fused else None
        self.heads, self.norm_first, self.written_out, self.activation = size.heads, norm_first, written_out, activation
        self.o = nn.Linear(d, d)
        if not fused:
            self.q, self.k, self.v = (nn.Linear(d, d) for _ in range(3))
        self.up, self.down = nn.Linear(d, size.growth * d), nn.Linear(size.growth * d, d)
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)

    def attend(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Attention over ``[batch, length, width]``."""
        batch, length, width = x.shape
        if self.qkv is not None and self.qkv_bias is not None:
            made = (
                torch.addmm(self.qkv_bias, x.view(-1, width), self.qkv).view(batch, length, 3 * width).split(width, 2)
            )
        else:
            made = (self.q(x), self.k(x), self.v(x))
        q, k, v = (one.view(batch, length, self.heads, -1).transpose(1, 2) for one in made)
        if self.written_out:
            scores = torch.matmul(q, k.transpose(2, 3)) * q.shape[-1] ** -0.5
            scores = scores if mask is None else scores + mask
            y = torch.matmul(F.softmax(scores, dim=-1), v)
        else:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        result: torch.Tensor = self.o(y.transpose(1, 2).reshape(batch, length, width))
        return result

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        """The hidden layer."""
        x = self.up(x)
        if self.activation == "tanh":  # as some models write it, op by op
            x = 0.5 * x * (1.0 + torch.tanh(0.7978845608 * (x + 0.044715 * torch.pow(x, 3.0))))
        else:
            x = F.relu(x) if self.activation == "relu" else F.gelu(x)
        result: torch.Tensor = self.down(x)
        return result

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        if self.norm_first:
            x = x + self.attend(self.norm1(x), mask)
            return x + self.hidden(self.norm2(x))
        x = self.norm1(x + self.attend(x, mask))
        x = self.norm2(x + self.hidden(x))
        return x  # noqa: RET504  (its type is known here)


class Encoder(nn.Module):
    """Embeddings or vectors, layers, and a head on the first position."""

    def __init__(self, size: Size, **form: bool | str) -> None:
        super().__init__()
        self.embed = nn.Embedding(size.words, size.width) if size.words else None
        self.places = nn.Embedding(size.length, size.width)
        self.norm = nn.LayerNorm(size.width)
        self.layers = nn.ModuleList(EncoderLayer(size, **form) for _ in range(size.layers))  # type: ignore[arg-type]
        self.head = nn.Linear(size.width, size.width)

    def forward(self, x: torch.Tensor, keep: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        if self.embed is not None:
            x = self.embed(x)
        x = self.norm(x + self.places(torch.arange(x.shape[1], device=x.device)))
        mask = None
        if keep is not None:
            mask = torch.where(keep[:, None, None, :] > 0, 0.0, -1e9).expand(-1, 1, x.shape[1], -1)
        for layer in self.layers:
            x = layer(x, mask)
        return x, torch.tanh(self.head(x[:, 0]))


class RootMeanSquare(nn.Module):
    """Norm by the root of the mean square, written out as models write it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class DecoderLayer(nn.Module):
    """Rotated queries and keys, grouped heads, a cache that grows or is written in place, a gated hidden layer."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        d, self.heads, self.key_heads = size.width, size.heads, size.key_heads or size.heads
        keys = d // self.heads * self.key_heads
        self.q, self.o = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)
        self.k, self.v = nn.Linear(d, keys, bias=False), nn.Linear(d, keys, bias=False)
        self.gate, self.up = nn.Linear(d, size.growth * d, bias=False), nn.Linear(d, size.growth * d, bias=False)
        self.down = nn.Linear(size.growth * d, d, bias=False)
        self.norm1, self.norm2 = RootMeanSquare(d), RootMeanSquare(d)

    def forward(
        self,
        x: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor,
        past: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        batch, length, width = x.shape
        y = self.norm1(x)
        q = rotated(self.q(y).view(batch, length, self.heads, -1).transpose(1, 2), rotation)
        k = rotated(self.k(y).view(batch, length, self.key_heads, -1).transpose(1, 2), rotation)
        v = self.v(y).view(batch, length, self.key_heads, -1).transpose(1, 2)
        if past is not None:
            k, v = torch.cat((past[0], k), dim=2), torch.cat((past[1], v), dim=2)
        groups = self.heads // self.key_heads
        every_k, every_v = (repeated(one, groups) for one in (k, v))
        y = F.scaled_dot_product_attention(q, every_k, every_v, attn_mask=mask)
        x = x + self.o(y.transpose(1, 2).reshape(batch, length, width))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y)), k, v


def rotated(x: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Positions as rotations of pairs."""
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * rotation[0] + turned * rotation[1]


def repeated(x: torch.Tensor, groups: int) -> torch.Tensor:
    """Each key head once for every query head of its group."""
    if groups == 1:
        return x
    batch, heads, length, size = x.shape
    return x[:, :, None].expand(batch, heads, groups, length, size).reshape(batch, heads * groups, length, size)


class Decoder(nn.Module):
    """Embedding, layers with a cache, a head over all words."""

    speeds: torch.Tensor

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.embed = nn.Embedding(size.words, size.width)
        self.layers = nn.ModuleList(DecoderLayer(size) for _ in range(size.layers))
        self.norm = RootMeanSquare(size.width)
        self.head = nn.Linear(size.width, size.words, bias=False)
        head_size = size.width // size.heads
        self.register_buffer("speeds", 10000.0 ** (-torch.arange(0, head_size, 2) / head_size))

    def forward(self, words: torch.Tensor, *past: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = self.embed(words)
        before = past[0].shape[3] if past else 0
        places = torch.arange(x.shape[1], device=x.device) + before
        angles = (self.speeds[None, :, None] * places[None, None, :].float()).transpose(1, 2)
        angles = torch.cat((angles, angles), dim=-1)[:, None]
        rotation = angles.cos(), angles.sin()
        seen = torch.arange(before + x.shape[1], device=x.device)[None, :] <= places[:, None]
        mask = torch.where(seen, 0.0, -1e9)[None, None].expand(x.shape[0], 1, -1, -1)
        kept: list[torch.Tensor] = []
        for number, layer in enumerate(self.layers):
            x, k, v = layer(x, rotation, mask, past[number] if past else None)
            kept += (k, v)
        return (self.head(self.norm(x)), *kept)


class Convolutional(nn.Module):
    """A stem and bottlenecks with batch norm, as image models have them; or layers over sound with layer norms."""

    def __init__(self, channels: int, blocks: int, *, sound: bool) -> None:
        super().__init__()
        self.sound = sound
        if sound:
            kernels = (10, *[3] * blocks)
            widths = (1, *[channels] * (blocks + 1))
            self.convs = nn.ModuleList(
                nn.Conv1d(a, b, k, stride=k // 2 or 1) for a, b, k in zip(widths, widths[1:], kernels, strict=False)
            )
            self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in kernels)
        else:
            inner = channels // 4
            bottleneck = ((channels, inner, 1, 1), (inner, inner, 3, 1), (inner, channels, 1, 1))
            one = [(3, channels, 7, 4), *(shape for _ in range(blocks) for shape in bottleneck)]
            self.convs = nn.ModuleList(nn.Conv2d(a, b, k, stride=s, padding=k // 2, bias=False) for a, b, k, s in one)
            self.norms = nn.ModuleList(nn.BatchNorm2d(b) for _, b, _, _ in one)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.sound:
            for conv, norm in zip(self.convs, self.norms, strict=True):
                x = F.gelu(norm(conv(x).transpose(1, 2)).transpose(1, 2))
            return x
        x = F.relu(self.norms[0](self.convs[0](x)))
        for first in range(1, len(self.convs), 3):
            y = x
            for number in range(first, first + 3):
                y = self.norms[number](self.convs[number](y))
                y = F.relu(y) if number < first + 2 else y
            x = F.relu(x + y)
        return x.mean((2, 3))


class Patches(nn.Module):
    """An image cut into patches by a convolution, then an encoder."""

    def __init__(self, size: Size, patch: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, size.width, patch, stride=patch)
        self.encoder = Encoder(size, norm_first=True)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x: torch.Tensor = self.stem(image).flatten(2).transpose(1, 2)
        return self.encoder(x)  # type: ignore[no-any-return]


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _encoders()
    yield from _decoders()
    yield from _images()


#: Of the list below: few of these are built by Inductor, which takes seconds for each.
_ENCODERS = (
    Size(width=256, heads=4, layers=2, batch=1, length=32, words=1000),
    Size(width=512, heads=8, layers=2, batch=1, length=128, words=8000),
    Size(width=768, heads=12, layers=2, batch=1, length=64, words=8000),
    Size(width=256, heads=4, layers=4, batch=8, length=128, words=1000),
    Size(width=384, heads=6, layers=3, batch=2, length=200, words=1000),
    Size(width=512, heads=8, layers=2, batch=2, length=512, words=8000),
    Size(width=768, heads=12, layers=1, batch=8, length=128, words=1000),
    Size(width=1024, heads=16, layers=2, batch=1, length=16, words=1000),
    Size(width=128, heads=2, layers=2, batch=1, length=8, words=1000),
)
_DECODERS = (
    Size(width=512, heads=8, layers=2, batch=1, length=1, past=64, words=8000, growth=3),
    Size(width=1024, heads=16, key_heads=4, layers=2, batch=1, length=1, past=256, words=16000, growth=3),
    Size(width=256, heads=4, layers=3, batch=8, length=1, past=128, words=4000, growth=3),
    Size(width=768, heads=12, layers=2, batch=2, length=1, past=512, words=8000, growth=3),
    Size(width=256, heads=4, layers=2, batch=1, length=1, past=16, words=1000, growth=3),
    Size(width=512, heads=8, key_heads=2, layers=2, batch=1, length=128, words=8000, growth=3),
    Size(width=256, heads=4, layers=2, batch=1, length=32, words=1000, growth=3),
    Size(width=1024, heads=16, layers=1, batch=1, length=64, words=4000, growth=3),
    Size(width=512, heads=8, layers=2, batch=4, length=128, words=4000, growth=3),
    Size(width=768, heads=12, key_heads=4, layers=2, batch=1, length=512, words=4000, growth=3),
)
_COMPILED_ENCODERS, _COMPILED_DECODERS = (0, 1, 5), (0, 1, 5, 6)


def _encoders() -> Iterator[Case]:
    forms: dict[str, dict[str, bool | str]] = {
        "post": {"norm_first": False},
        "pre-tanh": {"norm_first": True, "activation": "tanh", "fused": True},
        "written-out": {"norm_first": False, "written_out": True, "activation": "relu"},
    }
    for name, form in forms.items():
        for number, size in enumerate(_ENCODERS):
            if name != "post" and number % 2 == (name == "pre-tanh"):
                continue
            compiled = COMPILED if number in _COMPILED_ENCODERS else ()
            yield Case(
                name=f"encoder {name} {size}",
                family=f"encoder-{name}",
                make=_encoder(size, form),
                engines=(*INTERPRETED, *compiled),
                one_thread=name == "post" and number in (0, 1, 4),
                quick=number in (0, 1, 4, 8),
                quick_build=name == "post" and number == 0,
            )


def _encoder(size: Size, form: dict[str, bool | str]) -> Callable[[], CaseProgram]:
    def make() -> CaseProgram:
        words = indices(size.words, size.batch, size.length)
        keep = torch.ones(size.batch, size.length, dtype=torch.int64)
        return module_program(fill_module(Encoder(size, **form)), words, keep)

    return make


def _decoders() -> Iterator[Case]:
    for number, size in enumerate(_DECODERS):
        compiled = COMPILED if number in _COMPILED_DECODERS else ()
        yield Case(
            name=f"decoder {size}",
            family="decode" if size.past else "prefill",
            make=_decoder(size),
            engines=(*INTERPRETED, *compiled),
            one_thread=number in (0, 1, 5, 6),
            quick=number in (0, 1, 2, 5, 6, 8),
            quick_build=number in (0, 5),
        )


def _decoder(size: Size) -> Callable[[], CaseProgram]:
    def make() -> CaseProgram:
        words = indices(size.words, size.batch, size.length)
        heads = size.key_heads or size.heads
        shape = (2, size.batch, heads, size.past, size.width // size.heads)
        past = tuple(filled(*shape) for _ in range(size.layers)) if size.past else ()
        return module_program(fill_module(Decoder(size)), words, *past)

    return make


def _images() -> Iterator[Case]:
    patches = (
        (Size(width=192, heads=3, layers=2, batch=1, length=196), 16, 224),
        (Size(width=384, heads=6, layers=2, batch=4, length=64), 16, 128),
        (Size(width=768, heads=12, layers=1, batch=1, length=49), 32, 224),
    )
    for number, (size, patch, side) in enumerate(patches):
        yield Case(
            name=f"patches {size} p={patch}",
            family="patches",
            make=_patches(size, patch, side),
            engines=(*INTERPRETED, *(COMPILED if number == 1 else ())),
        )
    for channels, blocks, sound, shape in (
        (128, 3, False, (1, 3, 128, 128)), (256, 2, False, (4, 3, 96, 96)), (256, 4, True, (1, 1, 8000)),
        (512, 3, True, (2, 1, 4000)),
    ):  # fmt: skip
        yield Case(
            name=f"convolutional {'sound' if sound else 'image'} c={channels} l={blocks} " + "x".join(map(str, shape)),
            family="convolutional",
            make=_convolutional(channels, blocks, sound, shape),
            engines=(*INTERPRETED, *(COMPILED if channels == 128 else ())),
        )


def _patches(size: Size, patch: int, side: int) -> Callable[[], CaseProgram]:
    return lambda: module_program(fill_module(Patches(size, patch)), filled(size.batch, 3, side, side))


def _convolutional(channels: int, blocks: int, sound: bool, shape: tuple[int, ...]) -> Callable[[], CaseProgram]:
    return lambda: module_program(fill_module(Convolutional(channels, blocks, sound=sound)), filled(*shape))
