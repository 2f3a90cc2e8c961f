"""estimate-cost: every op has a cost; what has no price is listed, never silently nothing."""

from __future__ import annotations

import pytest
import torch

from djinn_fx.costmodels.choose import pricing
from djinn_fx.costmodels.estimate import Estimate
from djinn_fx.costmodels.work.work import Work, WorkGraph
from djinn_fx.errors import SettingsError
from djinn_fx.hardware.catalogue import find_device
from djinn_fx.hardware.device import Device
from djinn_fx.passes.base import PassContext, run_passes
from djinn_fx.passes.estimate_cost import EstimateCost
from djinn_fx.reasons import ReasonKind
from djinn_fx.srg.graph import fake_value
from tests import graphs

CONTEXT = PassContext()


@pytest.mark.parametrize("name", graphs.BUILDERS)
def test_every_op_is_costed(name: str) -> None:
    srg = graphs.lowered(graphs.BUILDERS[name]())
    result = run_passes(srg, [EstimateCost()], CONTEXT, check=True)
    costs = {node.name: srg.record(node).cost for node in srg.ops}
    assert not result.reasons
    assert all(cost is not None and cost.provenance == "datasheet" for cost in costs.values())


def test_views_are_free_and_ops_take_at_least_a_launch() -> None:
    srg = graphs.lowered(graphs.attention_block())
    run_passes(srg, [EstimateCost(device="t4")], CONTEXT)
    launch = find_device("t4").launch_overhead_s
    for node in srg.ops:
        record = srg.record(node)
        assert record.cost is not None
        if record.is_view or "getitem" in record.op:
            assert record.cost.time_s == 0
        else:
            assert record.cost.time_s > launch


def test_the_time_is_the_roofline() -> None:
    srg = graphs.lowered(graphs.two_layer_mlp())
    run_passes(srg, [EstimateCost(device="h100-sxm")], CONTEXT)
    device = find_device("h100-sxm")
    cost = srg.record(srg.node("addmm")).cost
    assert cost is not None
    flops = 2 * graphs.BATCH * graphs.WIDTH * graphs.HIDDEN
    read = 4 * (graphs.BATCH * graphs.WIDTH + graphs.WIDTH * graphs.HIDDEN + graphs.HIDDEN)
    write = 4 * graphs.BATCH * graphs.HIDDEN
    assert (cost.flops, cost.read_bytes, cost.write_bytes) == (flops, read, write)
    longest = max(flops / device.peak("float32"), (read + write) / device.bandwidth_bytes_s)
    assert cost.time_s == pytest.approx(longest + device.launch_overhead_s)


@torch.library.custom_op("djinn_pass_test::strange", mutates_args=())
def strange(x: torch.Tensor) -> torch.Tensor:
    """An op that nobody has a rule for."""
    return x.clone()


@strange.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def test_an_op_without_a_rule_is_listed_once_and_counts_its_bytes() -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = strange(strange(x))
        return result

    srg = graphs.lowered(graphs.trace(model, torch.empty(5, 5)))
    result = run_passes(srg, [EstimateCost()], CONTEXT, check=True)
    (reason,) = result.reasons
    assert reason.kind is ReasonKind.UNPRICED
    assert reason.node == "strange"
    for name in ("strange", "strange_1"):
        record = srg.record(srg.node(name))
        assert [r.kind for r in record.reasons] == [ReasonKind.UNPRICED]
        assert record.cost is not None
        assert record.cost.provenance == "unpriced"
        assert (record.cost.read_bytes, record.cost.write_bytes) == (4 * 25, 4 * 25)
        assert record.cost.time_s > 0


def test_symbolic_sizes_are_priced_by_their_hints_and_stay_symbolic() -> None:
    fixed, symbolic = graphs.lowered(graphs.two_layer_mlp()), graphs.lowered(graphs.symbolic_mlp())
    env = fake_value(symbolic.node("x_1")).shape[0].node.shape_env
    before = len(env.guards)
    for srg in (fixed, symbolic):
        run_passes(srg, [EstimateCost()], CONTEXT)
    assert [srg.record(n).cost for srg in (fixed,) for n in srg.ops] == [symbolic.record(n).cost for n in symbolic.ops]
    assert len(env.guards) == before


def test_the_device_follows_the_context_unless_it_is_named() -> None:
    def time(one: EstimateCost, device: str) -> float:
        srg = graphs.lowered(graphs.two_layer_mlp())
        run_passes(srg, [one], PassContext(device=device))
        cost = srg.record(srg.node("addmm")).cost
        assert cost is not None
        return cost.time_s

    assert time(EstimateCost(), "cuda:1") == time(EstimateCost(device="a100-80gb"), "cpu")
    assert time(EstimateCost(), "cpu") == time(EstimateCost(device="this-machine"), "cuda")


def test_a_gpu_that_nobody_named_leaves_a_reason_and_a_named_one_none() -> None:
    def kinds(one: EstimateCost) -> list[ReasonKind]:
        srg = graphs.lowered(graphs.two_layer_mlp())
        return [reason.kind for reason in run_passes(srg, [one], PassContext(device="cuda")).reasons]

    assert kinds(EstimateCost()) == [ReasonKind.ASSUMED]
    assert kinds(EstimateCost(device="h100-sxm")) == []


class Fixed:
    """A cost model that counts what it is asked."""

    name = "fixed"

    def __init__(self) -> None:
        self.asked: list[Work] = []

    def op(self, work: Work, device: Device) -> Estimate:
        self.asked.append(work)
        return Estimate(time_s=2.0, low_s=1.0, high_s=4.0, provenance="mine")

    def region(self, graph: WorkGraph, device: Device, engine: str) -> Estimate:
        return Estimate(time_s=7.0, low_s=6.0, high_s=8.0, provenance="mine")


def test_the_model_in_force_is_asked_once_for_each_distinct_op() -> None:
    model = Fixed()
    srg = graphs.lowered(graphs.repeated_layers(4))
    result = run_passes(srg, [EstimateCost()], PassContext(pricing=pricing(model)), check=True)
    assert len(model.asked) == len(set(model.asked)) < len(list(srg.ops))
    assert [reason.kind for reason in result.reasons] == [ReasonKind.PRICED]
    for node in srg.ops:
        cost = srg.record(node).cost
        assert cost is not None
        assert (cost.low_s, cost.time_s, cost.high_s, cost.provenance) == (1.0, 2.0, 4.0, "mine")


def test_a_device_that_the_pass_names_comes_before_the_contexts() -> None:
    srg = graphs.lowered(graphs.two_layer_mlp())
    run_passes(srg, [EstimateCost(device="t4")], PassContext(pricing=pricing(Fixed(), device="l4")))
    assert {cost.provenance for node in srg.ops if (cost := srg.record(node).cost)} == {"datasheet"}


def test_an_unknown_device_is_named() -> None:
    with pytest.raises(SettingsError, match="no device 'h1000'"):
        run_passes(graphs.lowered(graphs.two_layer_mlp()), [EstimateCost(device="h1000")], CONTEXT)
