"""Slices of the batch under a budget of a CUDA device's memory."""

from __future__ import annotations

import pytest
import torch

import djinn_fx
from djinn_fx.reasons import ReasonKind
from tests.backend.support import Noted, djinn
from tests.backend.test_memory_slices import OPTIONS, Wide

pytestmark = pytest.mark.gpu


def test_half_the_memory_is_enough() -> None:
    torch.manual_seed(0)
    model = Wide().eval().cuda()
    inputs = torch.randn(64, 3, 128, 128, device="cuda"), torch.rand(1, device="cuda")
    with torch.no_grad():
        wanted = model(*inputs)
        compiled = djinn(model, {**OPTIONS, "memory_budget": {"cuda:0": "100GB"}})
        compiled(*inputs)
        (planned,) = djinn_fx.status(compiled).memory
        torch._dynamo.reset()
        noted, budget = Noted(), planned.need.peak.nbytes // 2
        compiled = djinn(model, {**OPTIONS, "memory_budget": {"cuda:0": f"{budget}B"}})
        for _ in range(2):
            torch.testing.assert_close(compiled(*inputs), wanted, rtol=1e-3, atol=1e-4)
    assert any(one.kind is ReasonKind.BUDGET and "slices" in one.detail for one in noted.reasons())
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    with torch.no_grad():
        compiled(*inputs)
    assert torch.cuda.max_memory_allocated() - held < planned.need.peak.nbytes // 2
