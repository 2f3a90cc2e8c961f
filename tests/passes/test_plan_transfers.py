"""plan-transfers: nothing on one device; on several, each value that crosses."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from djinn_fx.passes.base import PassContext, PassResult
from djinn_fx.passes.plan_transfers import PlanTransfers
from djinn_fx.reasons import ReasonKind
from djinn_fx.srg import SRG
from djinn_fx.srg.plan import Transfer
from tests import graphs


def place(srg: SRG, *devices: str) -> SRG:
    """Each region, its ops and what only it reads on its own device; other inputs on the first."""
    srg.regions = tuple(replace(region, device=device) for region, device in zip(srg.regions, devices, strict=True))
    for node in srg.inputs:
        users = {srg.record(user).region for user in node.users}
        index = users.pop() if len(users) == 1 else 0
        srg.update(node, device=devices[index or 0])
    for region in srg.regions:
        for name in region.nodes:
            srg.update(srg.node(name), device=region.device)
    srg.order = tuple(range(len(devices)))
    return srg


def planned(srg: SRG) -> PassResult:
    return PlanTransfers().run(srg, PassContext())


def test_one_device_needs_none_and_says_so() -> None:
    srg = place(graphs.cut(graphs.lowered(graphs.repeated_layers(2)), 4), "cpu", "cpu")
    (reason,) = planned(srg).reasons
    assert srg.transfers == ()
    assert reason.kind is ReasonKind.TRANSFER


def test_a_value_that_crosses_is_moved_before_its_reader() -> None:
    srg = place(graphs.cut(graphs.lowered(graphs.repeated_layers(2)), 4), "cpu", "cuda:0")
    result = planned(srg)
    size = graphs.BATCH * graphs.WIDTH * torch.float32.itemsize
    assert srg.transfers == (Transfer(value="add", source="cpu", target="cuda:0", before_region=1, nbytes=size),)
    assert result.modified
    assert [reason.kind for reason in result.reasons] == [ReasonKind.TRANSFER]


def test_a_value_moves_once_to_each_device() -> None:
    def model(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = x * 2
        return y + 1, y + 2, y + 3

    srg = graphs.cut(graphs.lowered(graphs.trace(model, torch.empty(4))), 1, 1, 1)
    planned(place(srg, "cpu", "cuda:0", "cuda:0", "cuda:1"))
    assert [(transfer.target, transfer.before_region) for transfer in srg.transfers] == [("cuda:0", 1), ("cuda:1", 3)]


def test_a_value_that_is_written_to_moves_before_every_reader() -> None:
    def model(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x * 2
        first = y + 1
        y.add_(1)
        return first, y + 2

    srg = graphs.cut(graphs.lowered(graphs.trace(model, torch.empty(4))), 1, 1, 1)
    planned(place(srg, "cpu", "cuda:0", "cpu", "cuda:0"))
    assert [(transfer.value, transfer.before_region) for transfer in srg.transfers] == [("mul", 1), ("add_", 3)]


def test_copies_the_user_wrote_are_not_planned_again() -> None:
    def model(x: Tensor) -> Tensor:
        return torch.ops.aten._to_copy.default(x * 2, dtype=torch.float64) + 1

    srg = graphs.cut(graphs.lowered(graphs.trace(model, torch.empty(4))), 1)
    planned(place(srg, "cpu", "cuda:0"))
    assert srg.transfers == ()


def test_a_scalar_on_the_cpu_needs_no_transfer() -> None:
    srg = graphs.cut(graphs.lowered(graphs.trace(lambda x, y: x.sum() * y, torch.empty(4), torch.empty(4))), 1)
    planned(place(srg, "cpu", "cuda:0"))
    assert srg.transfers == ()
