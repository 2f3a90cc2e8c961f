"""The roofline: whichever is longer, arithmetic or memory; and the launch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.fx import Node

from djinn_fx.costmodels.choose import Pricing
from djinn_fx.costmodels.estimate import DATASHEET, UNPRICED
from djinn_fx.costmodels.laws.roofline import ROOFLINE
from djinn_fx.hardware.catalogue import find_device
from djinn_fx.hardware.device import Device
from djinn_fx.passes.base import PassContext, run_passes
from djinn_fx.passes.estimate_cost import EstimateCost
from djinn_fx.reasons import ReasonKind
from djinn_fx.srg import SRG
from djinn_fx.srg.record import Cost
from tests import graphs
from tests.capture import capture

SLOW_ARITHMETIC = Device(
    name="x",
    kind="cpu",
    peak_flops={"float32": 1.0, "bfloat16": 4.0},
    bandwidth_bytes_s=1e12,
    memory_bytes=1,
    launch_overhead_s=0.5,
    source="test",
)
SLOW_MEMORY = Device(
    name="y",
    kind="cpu",
    peak_flops={"float32": 1e12},
    bandwidth_bytes_s=1.0,
    memory_bytes=1,
    launch_overhead_s=0.5,
    source="test",
)
M, K, N = 3, 5, 7


def price(srg: SRG, node: Node, device: Device) -> tuple[Cost, str | None]:
    """What an op is said to cost, and why it is unpriced if it is."""
    run_passes(srg, [EstimateCost()], PassContext(pricing=Pricing(model=ROOFLINE, device=device)))
    record = srg.record(node)
    problem = next((one.detail for one in record.reasons if one.kind is ReasonKind.UNPRICED), None)
    return record.cost, problem


def matmul(dtype: torch.dtype = torch.float32) -> SRG:
    return graphs.lowered(graphs.trace(torch.mm, torch.ones(M, K, dtype=dtype), torch.ones(K, N, dtype=dtype)))


def test_slow_arithmetic_bounds_the_time() -> None:
    srg = matmul()
    cost, problem = price(srg, srg.node("mm"), SLOW_ARITHMETIC)
    assert problem is None
    assert cost.time_s == pytest.approx(2 * M * K * N + 0.5)


def test_slow_memory_bounds_the_time() -> None:
    srg = matmul()
    cost, _ = price(srg, srg.node("mm"), SLOW_MEMORY)
    assert cost.time_s == pytest.approx(4 * (M * K + K * N + M * N) + 0.5)


def test_the_peak_is_that_of_the_dtype() -> None:
    srg = matmul(torch.bfloat16)
    cost, _ = price(srg, srg.node("mm"), SLOW_ARITHMETIC)
    assert cost.time_s == pytest.approx(2 * M * K * N / 4 + 0.5)


def test_views_are_free_but_writes_through_them_are_not() -> None:
    srg = graphs.lowered(graphs.trace(lambda x: x.view(-1).add_(1), torch.ones(M, N)))
    assert price(srg, srg.node("view"), SLOW_MEMORY) == (Cost(provenance=DATASHEET), None)
    cost, _ = price(srg, srg.node("add_"), SLOW_MEMORY)
    assert cost.time_s == pytest.approx(2 * 4 * M * N + 0.5)


def test_a_called_subgraph_costs_what_its_ops_cost() -> None:
    @torch.compiler.nested_compile_region
    def layer(x: Tensor, w: Tensor) -> Tensor:
        return torch.tanh(x @ w)

    def model(x: Tensor, w: Tensor) -> Tensor:
        return layer(layer(x, w), w)

    device = find_device("a100-80gb")
    (srg,) = capture(model, (torch.ones(M, K), torch.ones(K, K)))
    calls = [node for node in srg.ops if "invoke_subgraph" in srg.record(node).op]
    assert len(calls) == 2
    for call in calls:
        cost, problem = price(srg, call, device)
        assert problem is None
        assert cost.flops == 2 * M * K * K + M * K
        assert cost.time_s > device.launch_overhead_s


def test_a_loop_of_unknown_length_is_unpriced() -> None:
    from torch._higher_order_ops.while_loop import while_loop

    def model(x: Tensor) -> Tensor:
        return while_loop(lambda i: i.sum() < 10, lambda i: (i + 1,), (x,))[0]

    (srg,) = capture(model, (torch.zeros(3),))
    (loop,) = (node for node in srg.ops if "while_loop" in srg.record(node).op)
    cost, problem = price(srg, loop, find_device("a100-80gb"))
    assert problem is not None
    assert cost.provenance == UNPRICED
    assert cost.time_s > 0
