"""Graphs over CUDA devices that are not here: placed, moved, built and run, with notes in the devices' place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from djinn_fx.compiling.captured import CapturedGraph
from djinn_fx.compiling.choice import passes_for
from djinn_fx.compiling.devices import cuda
from djinn_fx.compiling.graph import GraphCompiler
from djinn_fx.dispatch.region import region_graph
from djinn_fx.engines.keys import device_names, engine_key
from djinn_fx.errors import DeviceLostError, InfeasibleError, SettingsError
from djinn_fx.passes.placing.wanted import tied_to_home
from djinn_fx.reasons import ReasonKind
from djinn_fx.runtime.devices.cuda import make
from djinn_fx.runtime.devices.cuda.executor import CudaSpread
from djinn_fx.runtime.devices.moving import Moving
from djinn_fx.settings.table import Settings
from djinn_fx.srg.form.rebuild import rebuild
from djinn_fx.srg.graph import fake_value
from djinn_fx.srg.record import GraphKind, Residency
from tests.runtime.devices.cuda.standing import Notes

TWO = {"cuda:0": {}, "cuda:1": {}}


@pytest.fixture(autouse=True)
def notes(monkeypatch: pytest.MonkeyPatch) -> Notes:
    found = Notes(2)
    monkeypatch.setattr(cuda, "DRIVER", found)
    monkeypatch.setattr(make, "DRIVER", found)
    return found


def traced(function: Callable[..., Any], *args: Tensor, device: str = "cuda:0") -> GraphModule:
    """The graph of a function whose arguments are on a device."""
    with FakeTensorMode():
        fakes = [torch.empty_strided(one.shape, one.stride(), dtype=one.dtype, device=device) for one in args]
    with torch.no_grad():
        return make_fx(lambda *given: (function(*given),), tracing_mode="fake")(*fakes)


def compiler(kinds: Sequence[Residency], **options: Any) -> GraphCompiler:
    chosen = {"devices": TWO, "engine": "eager", "objective": "throughput", "regions": "auto:1", **options}
    settings = Settings.load(None, chosen, environ={})
    return GraphCompiler(settings, passes_for(settings), kinds, keeps=False)


WIDTH = 512


def layers(x: Tensor, *weights: Tensor) -> Tensor:
    for up, down in zip(weights[::2], weights[1::2], strict=True):
        x = x + torch.tanh(x @ up) @ down
    return x


def arguments(count: int = 4) -> list[Tensor]:
    shapes = [(WIDTH, WIDTH), *((WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH)) * count]
    return [torch.randn(shape) / 16 for shape in shapes]


KINDS = (Residency.INPUT, *[Residency.PARAMETER] * 8)


def planned(kinds: Sequence[Residency], gm: GraphModule, kind: GraphKind = GraphKind.INFERENCE, **options: Any) -> Any:
    return compiler(kinds, **options).plan(kind, gm)


def told(captured: CapturedGraph) -> str:
    return " ".join(reason.detail for reason in captured.plan.reasons if reason.kind is ReasonKind.PLACED)


def test_layers_are_shared_out_and_what_passes_is_listed() -> None:
    found = planned(KINDS, traced(layers, *arguments()))
    devices = [region.device for region in found.plan.regions]
    assert devices == sorted(devices)
    assert set(devices) == {"cuda:0", "cuda:1"}
    assert found.srg.home == "cuda:0"
    assert {found.srg.record(node).device for node in found.srg.inputs} == {"cuda:0"}
    placement = found.plan.placement
    assert placement is not None
    assert not placement.elsewhere
    assert {share.row for share in placement.shares} == {"h100-sxm"}
    ways = [(one.source, one.target) for one in placement.passages]
    assert ways == [("cuda:0", "cuda:1"), ("cuda:1", "cuda:0")]
    nbytes = 4 * WIDTH * WIDTH
    assert [(one.source, one.target, one.nbytes) for one in found.plan.transfers] == [("cuda:0", "cuda:1", nbytes)]


def test_one_call_needs_one_device_which_is_that_of_the_tensors() -> None:
    found = planned(KINDS, traced(layers, *arguments(), device="cuda:1"), objective="latency")
    assert {region.device for region in found.plan.regions} == {"cuda:1"}
    assert compiler(KINDS)._placer.built(found, Settings.load(None, {"devices": TWO}, environ={}), ()) is None


def test_a_region_elsewhere_is_built_for_its_device() -> None:
    def model(x: Tensor, w: Tensor) -> Tensor:
        return torch.full_like(x, 2.0) * x + torch.arange(8, device=x.device) + torch.zeros(4, 8, device="cuda") @ w.t()

    gm = traced(model, torch.empty(4, 8), torch.empty(8, 8))
    kinds = (Residency.INPUT, Residency.PARAMETER)
    here = planned(kinds, gm, devices={"cuda:0": {}}, regions="whole")
    found = planned(kinds, gm, pin={"": "cuda:1"}, objective="latency", regions="whole")
    (region,) = found.plan.regions
    assert region.device == "cuda:1"
    assert region.structural_hash
    graph = region_graph(found.srg, region)
    values = [value for node in graph.gm.graph.nodes if isinstance(value := fake_value(node), Tensor)]
    assert {str(value.device) for value in (*values, *graph.example_inputs)} == {"cuda:1"}
    literals = {str(node.kwargs["device"]) for node in graph.gm.graph.nodes if "device" in node.kwargs}
    assert literals == {"cuda:1"}
    assert {str(fake_value(node).device) for node in found.srg.ops} == {"cuda:0"}, "the graph itself is as it was"
    home = region_graph(here.srg, here.plan.regions[0])
    assert engine_key(graph, {}).digest != engine_key(home, {}).digest
    assert engine_key(graph, {}, "itself").digest == engine_key(home, {}, "itself").digest
    assert device_names(graph) == {"cuda#0": "cuda:1"}
    again = rebuild(graph.canonical, devices=device_names(graph))
    assert {str(value.device) for value in again.example_inputs if isinstance(value, Tensor)} == {"cuda:1"}


def test_views_share_memory_after_the_move() -> None:
    gm = traced(lambda x: x.t() + x.view(4, 4) @ x.permute(1, 0), torch.empty(4, 4))
    found = planned((Residency.INPUT,), gm, pin={"": "cuda:1"}, objective="latency", regions="whole")
    (region,) = found.plan.regions
    graph = region_graph(found.srg, region)
    (value,) = graph.gm.graph.find_nodes(op="placeholder")
    views = [node for node in graph.gm.graph.nodes if "view" in node.name or "permute" in node.name]
    assert len(views) == 2
    for view in views:
        assert fake_value(view).untyped_storage()._cdata == fake_value(value).untyped_storage()._cdata


def test_what_is_written_stays_with_whoever_touches_it_whatever_pins_say() -> None:
    def step(x: Tensor, cache: Tensor, w: Tensor) -> Tensor:
        torch.ops.aten.copy_.default(cache, torch.roll(cache, 1, 0))
        return torch.tanh((cache.narrow(0, 1, 8) + x) @ w) @ w

    gm = traced(step, torch.empty(8, 8), torch.empty(9, 8), torch.empty(8, 8))
    kinds = (Residency.INPUT, Residency.STATE, Residency.PARAMETER)
    found = planned(kinds, gm, pin={"": "cuda:1"}, objective="latency")
    srg = found.srg
    tied = tied_to_home(srg)
    assert {node.target for node in tied} >= {torch.ops.aten.copy_.default, torch.ops.aten.roll.default}
    assert {srg.record(node).device for node in tied} == {"cuda:0"}
    assert {srg.record(node).device for node in srg.ops if node.target is torch.ops.aten.mm.default} == {"cuda:1"}
    assert "against pins" in told(found)


def test_random_numbers_are_drawn_at_home() -> None:
    gm = traced(lambda x, w: torch.rand_like(x) @ w @ w, torch.empty(8, 8), torch.empty(8, 8))
    found = planned((Residency.INPUT, Residency.PARAMETER), gm, pin={"": "cuda:1"}, objective="latency")
    devices = {str(node.target): found.srg.record(node).device for node in found.srg.ops}
    assert devices["aten.rand_like.default"] == "cuda:0"
    assert devices["aten.mm.default"] == "cuda:1"


@pytest.mark.parametrize(
    ("device", "kind", "options", "words"),
    [
        ("cpu", GraphKind.INFERENCE, {}, "tensors are on cpu"),
        ("cuda:1", GraphKind.INFERENCE, {"devices": {"cuda:0": {}}}, "tensors are on cuda:1"),
        ("cuda:0", GraphKind.FORWARD, {}, "forward"),
        ("cuda:0", GraphKind.INFERENCE, {"devices": {"cpu:0": {"cores": [0]}}}, "processors"),
    ],
)
def test_what_is_not_spread_says_why(device: str, kind: GraphKind, options: dict[str, Any], words: str) -> None:
    found = planned(KINDS, traced(layers, *arguments(), device=device), kind, **options)
    assert {region.device for region in found.plan.regions} == {device}
    assert words in told(found)
    assert found.srg.home is None


def test_a_device_that_is_not_here_is_one_clear_error(notes: Notes) -> None:
    with pytest.raises(SettingsError, match=r"no cuda:7 here; torch finds cuda:0 \(NVIDIA H100.*cuda:1"):
        planned(KINDS, traced(layers, *arguments()), devices={"cuda:0": {}, "cuda:7": {}})
    notes.count = 0
    with pytest.raises(SettingsError, match="torch finds no CUDA device"):
        planned(KINDS, traced(layers, *arguments()))


def test_too_little_memory_is_an_error_that_names_the_least() -> None:
    small = {name: {"memory": "1MB"} for name in TWO}
    with pytest.raises(InfeasibleError, match="least"):
        planned(KINDS, traced(layers, *arguments()), devices=small)


def test_an_unknown_sort_of_gpu_is_said_to_be_priced_as_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "known_device", lambda title: None)
    found = planned(KINDS, traced(layers, *arguments()))
    assert any(reason.kind is ReasonKind.ASSUMED and "cuda:1" in reason.detail for reason in found.plan.reasons)


def test_what_was_placed_is_built_and_runs_and_goes_on_without_a_device_that_is_lost(notes: Notes) -> None:
    one = compiler(KINDS)
    given = arguments()
    captured, run, kept = one._built(GraphKind.INFERENCE, one.plan(GraphKind.INFERENCE, traced(layers, *given)))
    assert kept is None
    assert {build.engine for build in captured.builds} == {"eager"}
    assert isinstance(run, Moving)
    assert isinstance(run._settled.run, CudaSpread)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(run(list(given))[0], layers(*given))
        given[-1].data.mul_(3)
        torch.testing.assert_close(run(list(given))[0], layers(*given))
        assert {where for _, where, _ in notes.log} >= {"compute0", "copy0", "compute1", "copy1", "caller"}
        run._settled.threads["cuda:1"].lose()
        notes.log.clear()
        torch.testing.assert_close(run(list(given))[0], layers(*given))
    assert {where for _, where, _ in notes.log} <= {"caller"}
    assert run._settled.threads == {}


def test_nothing_runs_without_the_device_of_the_tensors() -> None:
    one, given = compiler(KINDS), arguments()
    _, run, _ = one._built(GraphKind.INFERENCE, one.plan(GraphKind.INFERENCE, traced(layers, *given)))
    run._settled.threads["cuda:0"].lose()
    for _ in range(2):
        with pytest.raises(DeviceLostError, match="cuda:0"):
            run(list(given))
