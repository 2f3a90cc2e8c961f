"""Models through torch.compile over two devices: pins, training, engines, and what is refused."""

from __future__ import annotations

import contextlib
import copy
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from djinn_fx.backend import compilations
from djinn_fx.compiling.captured import CapturedGraph
from djinn_fx.passes.placing.pins import module_path
from djinn_fx.reasons import ReasonKind
from djinn_fx.runtime.devices.wear import count_of_later_threads
from djinn_fx.runtime.sampled import GAP, SAMPLES, WARM
from tests.compiling.devices.layered import Model
from tests.runtime.devices.two import DEVICES, OPTIONS, needs_two
from tests.waiting import until

pytestmark = needs_two


#: Half of the layers on each device, whatever they cost.
HALVES = {"layers.0-1": "cpu:0", "layers.2-3": "cpu:1"}


@pytest.fixture(autouse=True)
def afresh() -> Iterator[None]:
    torch._dynamo.reset()
    torch.manual_seed(0)
    yield
    torch._dynamo.reset()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many as a device of one processor has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def compiled(model: nn.Module, **options: Any) -> Any:
    return torch.compile(model, backend="djinn", options={**OPTIONS, "pin": HALVES, **options})


def newest() -> CapturedGraph:
    return compilations()[-1]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("engine", ["eager", "onnxruntime", "openvino"])
def test_each_half_on_its_device_gives_what_one_device_gives(engine: str) -> None:
    model, x = Model(), torch.randn(8, 64)
    with torch.no_grad():
        run = compiled(model, engine=engine, cache_limit=0)
        found = [run(x) for _ in range(3)][-1]
        devices = [region.device for region in newest().plan.regions]
        assert devices == sorted(devices)
        assert set(devices) == {"cpu:0", "cpu:1"}
        assert {build.engine for build in newest().builds} == {engine}
        torch._dynamo.reset()
        pins = {"layers": "cpu:0"}
        alone = compiled(model, engine=engine, cache_limit=0, pin=pins)
        wanted = [alone(x) for _ in range(3)][-1]
        assert {region.device for region in newest().plan.regions} == {"cpu:0"}
    if engine == "eager":
        assert torch.equal(found, model(x))
    assert torch.equal(found, wanted)


@pytest.mark.usefixtures("one_thread")
def test_training_is_equal_to_the_bit_and_backward_runs_where_forward_did() -> None:
    model = Model()
    other = copy.deepcopy(model)
    x = torch.randn(8, 64)
    for one, run in ((model, compiled(model, engine="eager")), (other, torch.compile(other, backend="aot_eager"))):
        optimizer = torch.optim.SGD(one.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            run(x).pow(2).mean().backward()
            optimizer.step()
    assert all(map(torch.equal, model.parameters(), other.parameters()))
    forward, backward = compilations()[-2:]
    for graph in (forward, backward):
        found = {region.device for region in graph.plan.regions}
        assert found == {"cpu:0", "cpu:1"}
    placed = {node.meta["seq_nr"]: forward.srg.record(node).device for node in forward.srg.ops}
    products = [node for node in backward.srg.ops if "mm" in node.name]
    assert products
    assert all(backward.srg.record(node).device == placed[node.meta["seq_nr"]] for node in products)


def test_nobody_else_s_threads_or_processors_are_touched() -> None:
    before = torch.get_num_threads(), count_of_later_threads(), os.sched_getaffinity(0)
    run, x = compiled(Model(), engine="eager"), torch.randn(8, 64)
    wanted = {(one.name, frozenset(one.cores)) for one in DEVICES}
    found: set[tuple[str, frozenset[int]]] = set()

    def both_are_there() -> bool:
        run(x)  # the first one is watched by torch, so that it runs in this thread
        for one in threading.enumerate():
            if one.name.startswith("djinn cpu:") and one.native_id:
                with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                    found.add((one.name[len("djinn ") :], frozenset(os.sched_getaffinity(one.native_id))))
        return wanted <= found

    with torch.no_grad():
        assert until(both_are_there), found
    assert before == (torch.get_num_threads(), count_of_later_threads(), os.sched_getaffinity(0))


def test_the_next_plan_knows_what_regions_take_on_a_device(tmp_path: Path) -> None:
    model, x = Model(), torch.randn(8, 64)

    def provenances() -> set[str]:
        torch._dynamo.reset()
        with torch.no_grad():
            run = compiled(model, engine="onnxruntime", cache_dir=str(tmp_path))
            for _ in range(WARM + GAP * SAMPLES + 1):
                run(x)
        assert until(lambda: not any(one.name == "djinn learns" for one in threading.enumerate()))
        return {region.cost.provenance for region in newest().plan.regions}

    assert "measured" not in provenances()
    assert provenances() == {"measured"}


def test_one_device_runs_all_where_a_second_is_not_worth_it() -> None:
    with torch.no_grad():
        found = compiled(Model(), engine="eager", pin=None)(torch.randn(8, 64))
    assert found.shape == (8, 64)
    assert {region.device for region in newest().plan.regions} == {"cpu:0"}
    told = next(reason for reason in newest().plan.reasons if reason.kind is ReasonKind.PLACED)
    assert told.runner_up_cost is not None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pin": {"layer.0": "cpu:0"}}, ["layer.0", "layers.0"]),
        ({"pin": {"transformer.h.0": "cpu:0"}}, ["transformer.h.0", "it has layers"]),
        ({"pin": {"layers.0-2": "cpu:0", "layers.2": "cpu:1"}}, ["contradict", "layers.0-2", "cpu:1"]),
        ({"pin": {"layers.0": "cpu:0"}, "device_map": {"layers.0": 1}}, ["contradict", "device_map"]),
        ({"devices": {name: {**row, "memory": "10kB"} for name, row in OPTIONS["devices"].items()}}, ["least"]),
    ],
)
def test_what_cannot_be_is_one_clear_error(options: dict[str, Any], words: list[str]) -> None:
    with torch.no_grad(), pytest.raises(Exception, match=words[0]) as caught:
        compiled(Model(), engine="eager", **options)(torch.randn(8, 64))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("whole", [True, False])
def test_a_graph_break_leaves_pins_to_the_rest_of_the_model_alone(whole: bool) -> None:
    class Broken(Model):
        def forward(self, x: Tensor) -> Tensor:
            for place, layer in enumerate(self.layers):
                if place == 2:
                    torch._dynamo.graph_break()
                x = layer(x)
            return x

    class Skipped(Model):
        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = torch._dynamo.disable(lambda y: y)(x)
                x = layer(x)
            return x

    model, x = (Broken if whole else Skipped)(), torch.randn(8, 64)
    with torch.no_grad():
        torch.testing.assert_close(compiled(model, engine="eager")(x), model(x))


def test_sizes_may_differ_from_call_to_call() -> None:
    model = Model()
    with torch.no_grad():
        run = torch.compile(model, backend="djinn", dynamic=True, options={**OPTIONS, "pin": HALVES, "engine": "eager"})
        for rows in (5, 9, 17):
            x = torch.randn(rows, 64)
            torch.testing.assert_close(run(x), model(x))
    assert {region.device for region in newest().plan.regions} == {"cpu:0", "cpu:1"}


def transformer() -> nn.Module:
    """Its forward is wrapped by decorators that take ``*args``."""
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2, vocab_size=100
    )
    made: nn.Module = transformers.LlamaForCausalLM(config).eval()
    return made


def test_modules_of_transformers_are_pinned_by_their_paths() -> None:
    model, ids = transformer(), torch.arange(16)[None]
    run = compiled(model, engine="eager", pin={"model.layers.0-2": "cpu:1", "model.layers.3": "cpu:0", "": "cpu:0"})
    with torch.no_grad():
        assert torch.allclose(run(ids).logits, model(ids).logits, atol=1e-5)
    srg = newest().srg
    devices = {
        layer: {srg.record(node).device for node in srg.ops if module_path(node).startswith(f"model.layers.{layer}.")}
        for layer in range(4)
    }
    assert devices == {0: {"cpu:1"}, 1: {"cpu:1"}, 2: {"cpu:1"}, 3: {"cpu:0"}}


def test_a_pin_to_no_module_of_transformers_is_an_error() -> None:
    with torch.no_grad(), pytest.raises(Exception, match=r"no module 'model.layer.0-3'.*model.layers.0-3"):
        compiled(transformer(), engine="eager", pin={"model.layer.0-3": "cpu:0"})(torch.arange(16)[None])
