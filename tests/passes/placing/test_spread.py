"""place over several devices: one is enough or it is shared out; pins, memory and state are kept to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from djinn_fx.costmodels.choose import Pricing
from djinn_fx.costmodels.laws.roofline import ROOFLINE
from djinn_fx.costmodels.measured import Timing
from djinn_fx.errors import InfeasibleError, SettingsError
from djinn_fx.hardware.device import this_machine
from djinn_fx.hardware.local import local_topology
from djinn_fx.passes.base import PassContext, run_passes
from djinn_fx.passes.colocate import Colocate
from djinn_fx.passes.estimate_cost import EstimateCost
from djinn_fx.passes.find_regions import FindRegions
from djinn_fx.passes.lifetimes import Lifetimes
from djinn_fx.passes.order import Order
from djinn_fx.passes.place import Place
from djinn_fx.passes.placing.request import Placing, PricedDevice
from djinn_fx.passes.placing.wanted import placed_forward
from djinn_fx.passes.plan_memory import PlanMemory
from djinn_fx.passes.plan_transfers import PlanTransfers
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.settings.devices import DeclaredLink, LocalDevice, Pin
from djinn_fx.srg import SRG, GraphKind, Region
from tests import graphs

#: Cuts wherever the structure repeats.
EAGER_CUT = FindRegions(min_ops=2, max_boundary_share=1.0)
WHOLE = FindRegions(whole=True)


def two(memory: tuple[int | None, int | None] = (None, None), *links: DeclaredLink, **changes: Any) -> Placing:
    devices = tuple(
        LocalDevice(name=f"cpu:{place}", cores=(place,), memory_bytes=size) for place, size in enumerate(memory)
    )
    return Placing(devices=devices, topology=local_topology(devices, links, this_machine()), **changes)


def placed(srg: SRG, placing: Placing, cut: FindRegions = EAGER_CUT) -> Reason:
    """Runs the passes, each kept to its promises; what place said."""
    context = PassContext(expected_calls=1, placing=placing)
    passes = [EstimateCost(), Lifetimes(), cut, Colocate(), Place(), Order(), PlanTransfers(), PlanMemory()]
    result = run_passes(srg, passes, context, check=True)
    return next(reason for reason in result.reasons if reason.kind is ReasonKind.PLACED)


#: Bytes enough for the passing values of a layer below.
VALUES = 3 * 4 * 512 * 2048


def layers(count: int) -> SRG:
    """Layers of enough work that handing a value over is little beside it."""

    def model(x: Tensor, w: list[Tensor]) -> Tensor:
        for up, down in zip(w[::2], w[1::2], strict=True):
            x = x + torch.tanh(x @ up) @ down
        return x

    weights = [torch.empty(shape) for _ in range(count) for shape in ((512, 2048), (2048, 512))]
    return graphs.lowered(graphs.trace(model, torch.empty(512, 512), weights))


def in_modules(srg: SRG, **modules: str) -> SRG:
    """Say which module ops were called in, as Dynamo does."""
    for name, path in modules.items():
        srg.node(name).meta["nn_module_stack"] = {"0": (f"L['self'].{path}", torch.nn.Module)}
    return srg


def devices_of(srg: SRG) -> list[str]:
    return [region.device for region in srg.regions]


def test_one_call_at_a_time_needs_one_device_and_the_other_way_is_told() -> None:
    srg = layers(4)
    told = placed(srg, two())
    assert set(devices_of(srg)) == {"cpu:0"}
    assert {srg.record(node).device for node in srg.nodes} == {"cpu:0"}
    assert "cpu:1" in str(told.runner_up)
    assert told.runner_up_cost is not None


def test_many_calls_in_a_row_are_shared_out_evenly_and_layers_stay_whole() -> None:
    srg = layers(4)
    told = placed(srg, two(objective="throughput"))
    assert devices_of(srg) == ["cpu:0"] * 2 + ["cpu:1"] * 2
    assert len({region.structural_hash for region in srg.regions}) == 1
    assert told.runner_up == "cpu:0"
    assert [(one.source, one.target, one.before_region) for one in srg.transfers] == [("cpu:0", "cpu:1", 2)]


def test_a_layer_is_cut_where_balance_needs_it() -> None:
    srg = layers(3)
    placed(srg, two(objective="throughput"))
    spent = dict.fromkeys(("cpu:0", "cpu:1"), 0.0)
    for node in srg.ops:
        record = srg.record(node)
        assert record.device is not None
        assert record.cost is not None
        spent[record.device] += record.cost.time_s
    assert max(spent.values()) <= 1.2 * min(spent.values())
    assert len(srg.regions) == 4


def test_engines_that_want_it_whole_get_each_device_s_part_as_one_region() -> None:
    srg = layers(4)
    placed(srg, two(objective="throughput", whole=True))
    assert devices_of(srg) == ["cpu:0", "cpu:1"]
    assert srg.regions[1].inputs[0] in srg.regions[0].outputs


def test_a_graph_that_repeats_nothing_is_cut_where_it_balances() -> None:
    srg = layers(4)
    placed(srg, two(objective="throughput"), WHOLE)
    assert devices_of(srg) == ["cpu:0", "cpu:1"]


def test_a_graph_with_symbolic_sizes_is_cut_too() -> None:
    weights = [torch.empty(512, 512) for _ in range(4)]
    gm = graphs.trace(lambda x, *w: x @ w[0] @ w[1] @ w[2] @ w[3], torch.empty(600, 512), *weights, symbolic=True)
    srg = graphs.lowered(gm)
    placed(srg, two(objective="throughput"), WHOLE)
    assert devices_of(srg) == ["cpu:0", "cpu:1"]


def test_a_slow_link_is_not_worth_it() -> None:
    link = DeclaredLink(ends=("cpu:0", "cpu:1"), bandwidth_bytes_s=1e3, latency_s=1.0)
    srg = layers(4)
    placed(srg, two((None, None), link, objective="throughput"))
    assert set(devices_of(srg)) == {"cpu:0"}


def held_by(srg: SRG, device: str) -> int:
    """Bytes of the weights that a device's regions read."""
    mine = {name for region in srg.regions if region.device == device for name in region.inputs}
    return sum(srg.record(node).nbytes for node in srg.inputs[1:] if node.name in mine)


@pytest.mark.parametrize("share", [0.45, 0.7])
def test_a_device_gets_no_more_than_it_can_hold(share: float) -> None:
    """A layer is a quarter of the weights."""
    srg = layers(4)
    weights = sum(srg.record(node).nbytes for node in srg.inputs[1:])
    rooms = {"cpu:0": int(weights * share), "cpu:1": int(weights * 0.9)}
    placed(srg, two((rooms["cpu:0"] + VALUES, rooms["cpu:1"] + VALUES)))
    for device, room in rooms.items():
        assert 0 < held_by(srg, device) <= room


def test_a_layer_is_cut_where_memory_needs_it() -> None:
    srg = layers(3)
    room = 0.6 * sum(srg.record(node).nbytes for node in srg.inputs[1:])
    placed(srg, two((int(room) + VALUES, int(room) + VALUES)))
    assert set(devices_of(srg)) == {"cpu:0", "cpu:1"}


def test_what_no_device_can_hold_is_refused_with_the_least_that_would_do() -> None:
    with pytest.raises(InfeasibleError, match="least that would do") as caught:
        placed(layers(4), two((1000, 1000)))
    assert "1.0 kB" in str(caught.value)


def test_pins_are_kept_to_and_the_rest_follows() -> None:
    ops = [node.name for node in layers(2).ops]
    half = len(ops) // 2
    pinned = in_modules(layers(2), **{n: f"layers.{place // half}" for place, n in enumerate(ops)})
    placed(pinned, two(pins=(Pin(module="layers.0", device="cpu:1"), Pin(module="layers.1", device="cpu:0"))))
    assert devices_of(pinned) == ["cpu:1", "cpu:0"]
    alone = in_modules(layers(2), **{n: f"layers.{place // half}" for place, n in enumerate(ops)})
    placed(alone, two(pins=(Pin(module="layers.1", device="cpu:1"),)))
    assert set(devices_of(alone)) == {"cpu:1"}


def test_a_region_is_cut_where_pins_part_it() -> None:
    ops = [node.name for node in layers(2).ops]
    srg = in_modules(layers(2), **{ops[1]: "a", ops[2]: "b"})
    placed(srg, two(pins=(Pin(module="a", device="cpu:0"), Pin(module="b", device="cpu:1"))), WHOLE)
    assert srg.record(srg.node(ops[1])).device == "cpu:0"
    assert srg.record(srg.node(ops[2])).device == "cpu:1"
    assert len(srg.regions) == 2


def test_pins_to_and_fro_are_followed() -> None:
    ops = [node.name for node in layers(2).ops]
    srg = in_modules(layers(2), **{name: f"op{place}" for place, name in enumerate(ops)})
    pins = tuple(Pin(module=f"op{place}", device=f"cpu:{place % 2}") for place in range(4))
    placed(srg, two(pins=pins), WHOLE)
    assert [srg.record(srg.node(name)).device for name in ops[:4]] == ["cpu:0", "cpu:1"] * 2


def test_pins_that_contradict_each_other_are_refused() -> None:
    srg = in_modules(layers(2), **{next(iter(layers(2).ops)).name: "layers.0"})
    pins = (Pin(module="layers.0", device="cpu:0"), Pin(module="layers.0-3", device="cpu:1"))
    with pytest.raises(SettingsError, match="contradict"):
        placed(srg, two(pins=pins))


def cached_layers() -> SRG:
    """Two layers, each with a cache that it writes and reads."""

    def model(x: Tensor, w0: Tensor, w1: Tensor, cache0: Tensor, cache1: Tensor) -> Tensor:
        for weight, cache in ((w0, cache0), (w1, cache1)):
            cache.copy_(x @ weight)
            x = torch.tanh(cache) @ weight
        return x

    size = (512, 512)
    return graphs.lowered(graphs.trace(model, *(torch.empty(size) for _ in range(5))))


def test_a_cache_stays_with_the_layer_that_uses_it_unless_a_pin_parts_them() -> None:
    srg = cached_layers()
    placed(srg, two(objective="throughput"), WHOLE)
    assert devices_of(srg) == ["cpu:0", "cpu:1"]
    for name in ("cache0_1", "cache1_1"):
        assert len({srg.record(user).device for user in srg.node(name).users}) == 1
    writer, reader = [node.name for node in cached_layers().ops if "copy" in node.name or "tanh" in node.name][:2]
    apart = in_modules(cached_layers(), **{writer: "a", reader: "b"})
    placed(apart, two(pins=(Pin(module="a", device="cpu:0"), Pin(module="b", device="cpu:1"))), WHOLE)
    assert apart.record(apart.node(writer)).device == "cpu:0"
    assert apart.record(apart.node(reader)).device == "cpu:1"


def test_a_view_of_a_weight_is_made_where_the_weight_is_used() -> None:
    def model(x: Tensor, w: list[Tensor]) -> Tensor:
        last = w[-1].t()  # as a tracer may put it, before everything else
        for weight in w[:-1]:
            x = torch.tanh(x @ weight)
        return x @ last

    for cut in (WHOLE, EAGER_CUT):
        srg = graphs.lowered(graphs.trace(model, torch.empty(512, 512), [torch.empty(512, 512) for _ in range(6)]))
        placed(srg, two(objective="throughput"), cut)
        assert set(devices_of(srg)) == {"cpu:0", "cpu:1"}
        view = next(node for node in srg.ops if node.name.startswith("t"))
        assert [srg.record(view).device] == [srg.record(user).device for user in view.users] == ["cpu:1"]
        assert len(srg.transfers) == 1


def test_backward_follows_forward() -> None:
    forward, backward = layers(2), layers(2)
    for srg in (forward, backward):
        for place, node in enumerate(srg.ops):
            node.meta["seq_nr"] = place
            node.meta["nn_module_stack"] = {"0": (f"L['self'].layers.{place}", torch.nn.Module)}
    placed(forward, two(objective="throughput"))
    backward.kind = GraphKind.BACKWARD
    request = replace(two(objective="throughput"), followed=placed_forward(forward))
    placed(backward, request)
    assert [backward.record(node).device for node in backward.ops] == [forward.record(n).device for n in forward.ops]
    assert set(devices_of(backward)) == {"cpu:0", "cpu:1"}


class Measured:
    """Times by structural hash, and by one that says so."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds = seconds

    def time(self, structural_hash: str, engine: str) -> Timing | None:
        seconds = self._seconds.get(structural_hash)
        return Timing.of([seconds]) if seconds is not None else None


def cut_by(times: dict[str, float]) -> tuple[list[Region], str]:
    """The parts of seven layers on two devices where these times are known, and what is told."""
    srg = layers(7)  # no two halves alike
    pricing = Pricing(model=ROOFLINE, device=this_machine(), times=Measured(times))
    context = PassContext(expected_calls=1, pricing=pricing, placing=two(objective="throughput", whole=True, threads=1))
    passes = [EstimateCost(), Lifetimes(), EAGER_CUT, Colocate(), Place(), Order(), PlanTransfers(), PlanMemory()]
    result = run_passes(srg, passes, context, check=True)
    told = next(reason for reason in result.reasons if reason.kind is ReasonKind.PLACED)
    assert sorted(name for region in srg.regions for name in region.nodes) == sorted(node.name for node in srg.ops)
    return list(srg.regions), told.detail


def test_parts_that_took_longer_than_was_thought_are_cut_anew_by_the_next_plan() -> None:
    (first, second), told = cut_by({})
    assert "cut anew" not in told
    even = len(first.nodes) / (len(first.nodes) + len(second.nodes))
    known = {first.structural_hash: 3e-3, second.structural_hash: 1e-3}
    (shorter, longer), told = cut_by(known)
    assert "cut anew by measured times" in told
    share = len(shorter.nodes) / (len(shorter.nodes) + len(longer.nodes))
    assert share < even - 0.05
    assert [shorter.device, longer.device] == ["cpu:0", "cpu:1"]
    # When the new parts were measured too, the better cut of the two stays: the new one, or the first one again.
    better = known | {shorter.structural_hash: 2e-3, longer.structural_hash: 2.2e-3}
    assert [region.structural_hash for region in cut_by(better)[0]] == [shorter.structural_hash, longer.structural_hash]
    worse = known | {shorter.structural_hash: 2e-3, longer.structural_hash: 3.5e-3}
    found, told = cut_by(worse)
    assert [region.structural_hash for region in found] == [first.structural_hash, second.structural_hash]
    assert "cut anew" not in told
    assert "(cpu:0 3.0 ms, cpu:1 1.0 ms): 3.0 ms for a call in a row" in told  # as measured, not as thought


def test_parts_that_took_as_long_as_each_other_stay() -> None:
    (first, second), _ = cut_by({})
    (again, other), told = cut_by({first.structural_hash: 5e-3, second.structural_hash: 5.1e-3})
    assert (again.structural_hash, other.structural_hash) == (first.structural_hash, second.structural_hash)
    assert "cut anew" not in told


def test_of_two_workers_none_is_fuller_than_it_need_be() -> None:
    layer = 4 * 2 * 512 * 2048
    for abroad, weights in ((False, {2, 6}), (True, {4})):
        srg = layers(6)
        placed(srg, two((int(5.2 * layer) + VALUES,) * 2, abroad=abroad))
        assert srg.placement is not None
        assert {share.memory_bytes // layer for share in srg.placement.shares} == weights


def test_parts_on_workers_that_were_timed_are_foretold_by_that() -> None:
    def plan(times: dict[str, float]) -> SRG:
        srg = layers(7)
        pricing = Pricing(model=ROOFLINE, device=this_machine(), times=Measured(times))
        local = two((int(5.2 * 4 * 2 * 512 * 2048) + VALUES,) * 2, abroad=True, whole=True)
        devices = tuple(
            PricedDevice(name=one.name, memory_bytes=one.memory_bytes, pricing=pricing, here=True)
            for one in local.devices
        )
        context = PassContext(expected_calls=1, pricing=pricing, placing=replace(local, devices=devices))
        passes = [EstimateCost(), Lifetimes(), EAGER_CUT, Colocate(), Place(), Order(), PlanTransfers(), PlanMemory()]
        run_passes(srg, passes, context, check=True)
        return srg

    known = {region.structural_hash: 1e-3 + place for place, region in enumerate(plan({}).regions)}
    placement = plan(known).placement
    assert placement is not None
    assert [share.time_s for share in placement.shares] == [1e-3, 1 + 1e-3]
    assert placement.figure_s == pytest.approx(1 + 2e-3 + sum(one.time_s for one in placement.passages))
