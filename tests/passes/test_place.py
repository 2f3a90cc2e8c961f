"""place: one device, or the devices the graph itself names."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

from djinn_fx.passes.base import PassContext, run_passes
from djinn_fx.passes.colocate import Colocate
from djinn_fx.passes.place import Place, devices_of
from djinn_fx.reasons import ReasonKind
from djinn_fx.srg import SRG
from tests import graphs


def placed(gm: GraphModule, first: int, device: str = "cpu") -> SRG:
    srg = graphs.lowered(gm)
    result = run_passes(
        srg, [graphs.CutByHand(first=first), Colocate(), Place()], PassContext(device=device), check=True
    )
    assert [reason.kind for reason in result.reasons].count(ReasonKind.PLACED) == 1
    return srg


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_everything_goes_to_the_device_of_the_plan(device: str) -> None:
    srg = placed(graphs.two_layer_mlp(), 2, device)
    assert {srg.record(node).device for node in srg.nodes} == {device}
    assert {region.device for region in srg.regions} == {device}


def test_a_graph_that_mixes_devices_is_respected() -> None:
    gm = graphs.two_layer_mlp()
    srg = graphs.lowered(gm)
    graphs.on_device(srg, "cuda:0", "gelu", "t_1", "addmm_1")
    run_passes(srg, [graphs.CutByHand(first=2), Colocate(), Place()], PassContext(), check=True)
    assert devices_of(srg) == ("cpu", "cuda:0")
    assert srg.record(srg.node("addmm")).device == "cpu"
    assert srg.record(srg.node("gelu")).device == "cuda:0"
    assert [region.device for region in srg.regions] == ["cpu", "cuda:0"]
    assert srg.reasons[-1].kind is ReasonKind.PLACED


def test_an_op_without_a_tensor_is_placed_with_its_inputs() -> None:
    def model(x: Tensor) -> Tensor:
        return x.new_zeros(x.shape[0] + 1)

    gm = graphs.trace(model, torch.empty(5, 3), symbolic=True)
    srg = graphs.lowered(gm)
    sizes = [node.name for node in srg.ops if not srg.record(node).outputs]
    assert sizes
    graphs.on_device(srg, "cuda:0", "x_1")
    run_passes(srg, [graphs.CutByHand(first=1), Colocate(), Place()], PassContext(), check=True)
    assert srg.record(srg.node(sizes[0])).device == "cuda:0"
