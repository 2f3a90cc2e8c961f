"""Weights that are lent on a CUDA device: answers, the budget, and copies beside computing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import djinn_fx
from tests.runtime.offload.saved import Stack, bytes_of, lender, save

pytestmark = pytest.mark.gpu

WORKING = 256 << 20


@pytest.mark.parametrize("host", [0, 1 << 30])
def test_answers_are_those_of_the_model_on_the_device(host: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Stack(width=2048, depth=6).eval().cuda()
    save(model, tmp_path)
    ids = torch.randint(0, 1000, (2, 64), device="cuda")
    with torch.no_grad():
        wanted = model(ids)
        with torch.device("meta"):
            twin = Stack(width=2048, depth=6)
        budget = bytes_of(model) // 2 + WORKING
        streamed = djinn_fx.load_offloaded(
            twin, tmp_path, budget=budget, working=WORKING, held=0, device="cuda", host=host
        )
        for _ in range(10):  # room of the ring is written again many times
            torch.testing.assert_close(streamed(ids), wanted)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # another stream's loans are waited for, too
            for _ in range(5):
                torch.testing.assert_close(streamed(ids), wanted)
    assert lender(streamed).ring is not None
    status = djinn_fx.offload_status(streamed)
    assert status.pinned + status.ring <= bytes_of(model) // 2
    assert not status.reasons
