"""The packed engine's memory plan against torch's own allocator."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from djinn_fx.calibrate.live_memory import measured
from djinn_fx.engines.packed.engine import PackedEngine, speeds_in
from djinn_fx.engines.packed.graph import rewritten
from djinn_fx.engines.packed.session import PackedPlan
from djinn_fx.srg.memory import Holds
from djinn_fx.srg.record import Residency
from tests import graphs


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
