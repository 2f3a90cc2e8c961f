"""The packed engine's memory plan against torch's own allocator."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from djinn_fx.calibrate.live_memory import measured
from djinn_fx.engines.bound.closing import CLOSER
from djinn_fx.engines.packed.engine import PackedEngine, speeds_in
from djinn_fx.engines.packed.graph import rewritten
from djinn_fx.engines.packed.session import PackedPlan
from djinn_fx.srg.memory import Holds
from djinn_fx.srg.record import Residency
from tests import graphs
from tests.concrete import concrete
from tests.engines.packed.packing import engine_of, region_of


def test_live_bytes_are_those_of_the_rewritten_graph() -> None:
    def block(x: Tensor, w_up: Tensor, w_down: Tensor) -> tuple[Tensor, ...]:
        inner = nn.functional.linear(x, w_up)
        return (torch.relu(nn.functional.linear(inner * torch.sigmoid(inner), w_down)) + x,)

    args = [torch.randn(6, 32), torch.randn(64, 32), torch.randn(32, 64)]
    gm = graphs.trace(lambda *given: block(*given), *args)
    plan = PackedPlan(rewritten(gm, (1, 2)), (1, 2), speeds_in(None))
    residency = {"arg1_1": Residency.PARAMETER, "arg2_1": Residency.PARAMETER}
    found = plan.memory(residency, threads=1)
    called = sum(row.nbytes for row in found.rows if row.holds is Holds.COPY)
    session = plan.open({place: args[place] for place in plan.watched})
    with torch.no_grad():
        truth = measured(session.run, args)
    assert found.peak("cpu").nbytes - called == truth.peak
    assert PackedEngine().name == "packed"
    assert {row.name for row in found.rows if row.holds is Holds.WEIGHT} <= {"arg1_1", "arg2_1"}


@pytest.mark.parametrize("way", ["onednn", "mkl"])
def test_copies_go_with_their_session_and_need_no_garbage_collection(way: str) -> None:
    """A loser of a trial is let go of, and with it a copy of the weights."""
    region = region_of(nn.Sequential(nn.Linear(24, 40), nn.Linear(40, 24)), torch.randn(3, 24))
    args = concrete(region.example_inputs)
    run: Any = engine_of(way).compile(region).ready
    gc.collect()
    gc.disable()
    try:
        before = _packed()
        with torch.no_grad():
            run(list(args))
        assert run.memory_bytes > 0
        assert _packed() > before
        run.release()
        CLOSER.wait()
        assert _packed() == before
    finally:
        gc.enable()


def _packed() -> int:
    """How many packed tensors are alive."""
    return sum(type(one) is Tensor and one.layout is torch._mkldnn for one in gc.get_objects())
