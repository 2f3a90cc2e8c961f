"""One packed copy of a weight for several sessions: held once, followed when it changes, freed with the last one."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import nn

from djinn_fx.engines.bound.closing import CLOSER
from djinn_fx.engines.packed import ops as packed_ops
from djinn_fx.engines.packed.shared import Packs
from tests.engines.packed.packing import differences, engine_of, region_of

pytestmark = pytest.mark.skipif(packed_ops.missing() is not None, reason=f"{packed_ops.missing()}")


def opened(model: nn.Module, rows: int) -> tuple[Any, Any]:
    """A loaded region of the model for so many rows, and how to call it."""
    x = torch.randn(rows, 32)
    region = region_of(model, x)
    run = engine_of("onednn").compile(region).ready
    weights = dict(model.named_parameters())
    order = [weights[name] for name in ("weight", "bias")]

    def call() -> None:
        with torch.no_grad():
            found = run([*order, x]) if region.weights == (0, 1) else run([x, *order])
            assert not differences(found, [model(x)])

    return run, call


def test_two_graphs_hold_one_copy() -> None:
    """Prefill's session and decode's: the bytes of one weight together, whoever of them goes."""
    model = nn.Linear(32, 48).eval().requires_grad_(False)
    (prefill, call_prefill), (decode, call_decode) = opened(model, 8), opened(model, 1)
    call_prefill()
    assert prefill.memory_bytes == model.weight.nbytes
    call_decode()
    assert prefill.memory_bytes + decode.memory_bytes == model.weight.nbytes
    prefill.release()
    CLOSER.wait()
    assert decode.memory_bytes == model.weight.nbytes
    call_decode()
    call_prefill()


@pytest.mark.parametrize("how", ["in place", "through data"])
def test_a_weight_that_changed_meanwhile_is_packed_anew(how: str) -> None:
    """The other session's copy is of what was there before: the values tell, whatever torch's counters say."""
    model = nn.Linear(32, 48).eval().requires_grad_(False)
    (_, call_prefill), (decode, call_decode) = opened(model, 8), opened(model, 1)
    call_prefill()
    (model.weight if how == "in place" else model.weight.data).mul_(3)
    call_decode()
    assert decode.memory_bytes == model.weight.nbytes
    call_prefill()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_the_same_bits_are_shared(dtype: torch.dtype) -> None:
    """Also where values compare as equal, as zeros of two signs do, or as nothing, as NaN does."""
    if not packed_ops.has_onednn(dtype):
        pytest.skip(f"oneDNN takes no {dtype} on this processor")
    weight = torch.zeros(16, 16, dtype=dtype)
    weight[0, 0] = float("nan")
    one, other, third = Packs(), Packs(), Packs()
    packed = one.pack(weight, 4)
    assert other.pack(weight, 1) is packed
    weight[1, 1] = -0.0
    assert third.pack(weight, 4) is not packed
    assert torch.signbit(third.pack(weight, 4).to_dense()[1, 1])


def test_another_view_of_the_same_memory_is_another_weight() -> None:
    """[n, k] and [k, n] over the same numbers."""
    weight = torch.randn(16, 16)
    packs = Packs()
    assert packs.pack(weight, 4) is not packs.pack(weight.t(), 4)


def test_it_is_freed_with_the_last_session() -> None:
    """And the next one packs anew."""
    weight, one, other = torch.randn(64, 64), Packs(), Packs()
    one.pack(weight, 4), other.pack(weight, 4)
    assert one.memory_bytes == other.memory_bytes == weight.nbytes // 2
    del one
    gc.collect()
    assert other.memory_bytes == weight.nbytes
