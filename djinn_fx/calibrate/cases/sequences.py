"""Cases of attention: prefill, decode over a cache, grouped heads, with and without a mask."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

from djinn_fx.calibrate.cases.case import RUNTIMES, Case
from djinn_fx.calibrate.program import CaseProgram, Results, filled
from djinn_fx.settings.engines import EAGER

#: batch, heads, key heads, queries, keys, head size.
_SHAPES = (
    (1, 4, 4, 32, 32, 64), (1, 8, 8, 64, 64, 32), (1, 8, 8, 128, 128, 64), (2, 8, 8, 256, 256, 64),
    (1, 12, 12, 512, 512, 64), (8, 8, 8, 64, 64, 64), (8, 12, 12, 128, 128, 64), (4, 16, 16, 128, 128, 64),
    (1, 12, 12, 197, 197, 64), (1, 8, 2, 128, 128, 64), (2, 16, 4, 256, 256, 64), (1, 8, 8, 1024, 1024, 64),
    (1, 8, 8, 1, 64, 64), (1, 8, 8, 1, 512, 64), (8, 8, 8, 1, 128, 64), (1, 16, 4, 1, 256, 64),
    (8, 12, 12, 1, 512, 64), (2, 4, 4, 1, 1024, 128), (1, 6, 6, 100, 1500, 64), (32, 4, 4, 49, 49, 32),
)  # fmt: skip


def cases() -> Iterator[Case]:
    """All of them."""
    for number, (batch, heads, key_heads, queries, keys, size) in enumerate(_SHAPES):
        for form in ("plain", "mask", "causal"):
            if form == "causal" and queries != keys:
                continue
            yield Case(
                name=f"attention {form} b={batch} h={heads}/{key_heads} q={queries} k={keys} d={size}",
                family=f"attention-{form}",
                make=_attention(form, batch, heads, key_heads, queries, keys, size),
                engines=RUNTIMES if form == "mask" and key_heads == heads else (EAGER,),
                one_thread=form == "plain" and batch in (2, 8),
                quick=number % 2 == (form == "mask") or (form == "causal" and number == 2),
            )


def _attention(
    form: str, batch: int, heads: int, key_heads: int, queries: int, keys: int, size: int
) -> Callable[[], CaseProgram]:
    def function(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *mask: torch.Tensor) -> Results:
        for _ in range(2):
            # Layers keep heads beside each other in memory, so what attention reads is a transposed view.
            q = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask[0] if mask else None, is_causal=form == "causal", enable_gqa=heads != key_heads
            )
        return (q,)

    def make() -> CaseProgram:
        q = filled(batch, queries, heads, size).transpose(1, 2)
        cached = queries == 1  # a cache is stored by heads
        k, v = (
            filled(batch, key_heads, keys, size) if cached else filled(batch, keys, key_heads, size).transpose(1, 2)
            for _ in range(2)
        )
        mask = (torch.zeros(batch, 1, queries, keys),) if form == "mask" else ()
        return CaseProgram(function=function, weights=(), inputs=(q, k, v, *mask))

    return make
