"""The engine without a GPU: what it takes, what a plan's key holds, what it builds, and how it says what went wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import types
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from djinn_fx.engines import registry
from djinn_fx.engines.base import Artefact, BuildRequest, RegionGraph
from djinn_fx.engines.keys import engine_key
from djinn_fx.engines.tensorrt import engine as module
from djinn_fx.engines.tensorrt.building import builder, torch_tensorrt_builder, worker
from djinn_fx.engines.tensorrt.engine import TensorRTEngine, describe
from djinn_fx.engines.tensorrt.run.calling import Calling
from djinn_fx.errors import EngineError
from djinn_fx.pool.jobs import WORKERS, BuildError
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.settings.table import Settings
from djinn_fx.srg.form.hashing import canonical_form, structural_hash
from djinn_fx.srg.lower import lower

trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a GPU")


def region_of(function: Callable[..., Any], *args: torch.Tensor, device: str = "cpu") -> RegionGraph:
    """The function as a region; its inputs are fake, so that they may be on a GPU that is not there."""
    with FakeTensorMode() as mode:
        fakes = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=device) for t in args]
        del mode
    with torch.no_grad():
        gm = make_fx(lambda *given: tuple(function(*given)), tracing_mode="fake")(*fakes)
    graph = gm.graph
    lower(gm)
    placeholders = graph.find_nodes(op="placeholder")
    ops = [node for node in graph.nodes if node.op == "call_function"]
    form = canonical_form(ops, placeholders, graph.output_node().args[0])  # type: ignore[arg-type]
    return RegionGraph(
        gm=gm,
        structural_hash=structural_hash(form),
        canonical=form,
        example_inputs=tuple(node.meta["val"] for node in placeholders),
        label="layer",
        kind="inference",
    )


def mlp(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> Sequence[torch.Tensor]:
    return [torch.relu(torch.addmm(b, x, w))]


ARGS = (torch.randn(4, 8), torch.randn(8, 16), torch.randn(16))


def built_for(target: str | None = "sm89", **options: Any) -> TensorRTEngine:
    return TensorRTEngine(target=target, **options)


def wanted(engine: TensorRTEngine, region: RegionGraph) -> BuildRequest:
    request = engine.request(region)
    assert isinstance(request, BuildRequest), request
    return request


class TestSupports:
    @without_gpu
    def test_nothing_without_a_target_where_there_is_no_gpu(self) -> None:
        engine = built_for(None)
        assert not engine.capability().can_build
        reason = engine.supports(region_of(mlp, *ARGS))
        assert reason is not None
        assert reason.kind is ReasonKind.ENGINE_REFUSED

    @without_gpu
    @pytest.mark.parametrize("device", ["cpu", "cuda:0"])
    def test_with_a_target_it_builds_and_does_not_run(self, device: str) -> None:
        engine = built_for()
        found = engine.capability()
        assert (found.can_build, found.can_run) == (True, False)
        assert found.why_not
        assert found.versions["tensorrt_rtx"] == trt.__version__
        assert engine.supports(region_of(mlp, *ARGS, device=device)) is None

    def test_on_a_machine_with_a_gpu_a_cpu_region_is_not_for_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "gpu_problem", lambda: "")
        reason = built_for().supports(region_of(mlp, *ARGS))
        assert reason is not None
        assert reason.kind is ReasonKind.ENGINE_REFUSED

    def test_hopper_is_not_promised(self) -> None:
        assert not built_for("sm90").capability().can_build

    def test_what_the_converter_does_not_take_is_refused_with_its_node(self) -> None:
        reason = built_for().supports(region_of(lambda x: [torch.rand_like(x) + x], torch.randn(4)))
        assert reason is not None
        assert reason.kind is ReasonKind.ENGINE_REFUSED
        assert "rand" in str(reason.node)

    def test_a_region_that_takes_no_tensor(self) -> None:
        assert built_for().supports(region_of(lambda x: [torch.ones(3)], torch.randn(4))) is not None

    def test_an_unknown_library(self) -> None:
        with pytest.raises(EngineError, match="nothing_rt"):
            built_for(library="nothing_rt").capability()


class TestKey:
    def key(self, engine: TensorRTEngine, region: RegionGraph) -> str:
        return engine_key(region, engine.fingerprint(), wanted(engine, region).identity).digest

    def test_is_the_same_on_a_farm_and_on_the_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        farm, on_cpu, on_gpu = built_for(), region_of(mlp, *ARGS), region_of(mlp, *ARGS, device="cuda:0")
        assert on_cpu.structural_hash != on_gpu.structural_hash
        there = built_for(None)
        expected = self.key(farm, on_cpu)
        monkeypatch.setattr(module, "present", lambda: "sm89")
        assert self.key(there, on_gpu) == expected
        assert dict(there.fingerprint()) == dict(farm.fingerprint())
        mine, theirs = (
            {key: one for key, one in wanted(*pair).request.items() if key not in ("form", "hints")}
            for pair in ((there, on_gpu), (farm, on_cpu))
        )
        assert mine == theirs

    def test_attention_is_the_same_in_the_forms_of_both_devices(self) -> None:
        q = torch.randn(1, 2, 4, 8, dtype=torch.float16)

        def cpu(*given: torch.Tensor) -> Sequence[torch.Tensor]:
            return [torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*given, 0.0, True)[0]]

        def gpu(*given: torch.Tensor) -> Sequence[torch.Tensor]:
            return [torch.ops.aten._scaled_dot_product_flash_attention(*given, 0.0, True)[0]]

        def identity(region: RegionGraph) -> str | None:
            return wanted(built_for(), region).identity

        assert identity(region_of(cpu, q, q, q)) == identity(region_of(gpu, q, q, q, device="cuda:0"))

    def test_what_must_differ(self) -> None:
        region = region_of(mlp, *ARGS)
        keys = {
            self.key(built_for(), region),
            self.key(built_for("sm86"), region),
            self.key(built_for(tf32=True), region),
            self.key(built_for(), region_of(mlp, torch.randn(5, 8), *ARGS[1:])),
            self.key(built_for(), region_of(mlp, *(t.half() for t in ARGS))),
            self.key(built_for(), region_of(lambda x, w, b: [torch.tanh(torch.addmm(b, x, w))], *ARGS)),
        }
        assert len(keys) == 6

    def test_the_same_network_called_otherwise_is_another_plan(self) -> None:
        x, y = torch.randn(3, 3), torch.randn(3, 3)
        one, other = region_of(lambda a, b: [a - b], x, y), region_of(lambda b, a: [a - b], x, y)
        assert wanted(built_for(), one).identity != wanted(built_for(), other).identity
        through = region_of(lambda a, b: [a - b, a], x, y)
        assert wanted(built_for(), one).identity != wanted(built_for(), through).identity

    def test_names_and_the_label_say_nothing(self) -> None:
        def other(alpha: torch.Tensor, beta: torch.Tensor, gamma: torch.Tensor) -> Sequence[torch.Tensor]:
            return [torch.relu(torch.addmm(gamma, alpha, beta))]

        assert (
            wanted(built_for(), region_of(mlp, *ARGS)).identity == wanted(built_for(), region_of(other, *ARGS)).identity
        )


class TestBuild:
    def test_request_is_plain_data_for_a_known_worker(self) -> None:
        request = wanted(built_for(), region_of(mlp, *ARGS))
        assert request.worker in WORKERS
        assert json.loads(json.dumps(request.request)) == request.request
        assert request.memory_bytes > sum(map(len, request.blobs))

    def test_compile_gives_a_plan_and_how_to_call_it(self) -> None:
        engine, region = built_for(), region_of(mlp, *ARGS)
        artefact, again = engine.compile(region), engine.compile(region)
        assert artefact.payload
        assert artefact.payload == again.payload
        header = json.loads(json.dumps(artefact.header))
        assert (header["engine"], header["target"], header["version"]) == ("tensorrt", "sm89", trt.__version__)
        calling = Calling.from_json(header["calling"])
        assert [one.argument for one in calling.inputs] == [0, 1, 2]
        assert [one.name for one in calling.inputs] == [name for name, _, _ in header["inputs"]]

    def test_twelve_layers_are_one_plan(self) -> None:
        layers = [nn.Linear(8, 8) for _ in range(12)]
        regions = [region_of(mlp, torch.randn(4, 8), one.weight.detach(), one.bias.detach()) for one in layers]
        assert len({wanted(built_for(), region).identity for region in regions}) == 1

    def test_an_error_has_stage_node_and_line_also_from_a_child(self) -> None:
        region = region_of(mlp, *ARGS)
        node = next(node for node in region.gm.graph.nodes if node.op == "call_function")
        plain = wanted(built_for(), region)
        node.stack_trace = '  File "user.py", line 12, in forward\n    return torch.addmm(b, x, w)'
        with_line = wanted(built_for("sm75"), region)
        assert with_line.identity == plain.identity  # what is said of a node is no part of the plan
        with pytest.raises(BuildError) as caught:  # sm75 multiplies no float32
            worker.build(with_line.request, with_line.blobs)
        text = describe(caught.value, region)
        for part in ("support", node.name, "user.py:12"):
            assert part in text

    def test_what_tensorrt_refuses_is_an_engine_error(self) -> None:
        with pytest.raises(EngineError, match="sm75"):
            built_for("sm75").compile(region_of(mlp, *ARGS))

    def test_a_model_is_run_beside_its_graph_where_nobody_else_looks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
        region = region_of(mlp, *ARGS)
        request = wanted(built_for(), region)
        assert request.worker == module.CHECKED_WORKER
        monkeypatch.setattr(module, "gpu_problem", lambda: "")
        assert wanted(built_for(), region).worker == module.PLAN_WORKER, "the first answer is compared with eager's"
        unguarded = built_for(verify="off")
        assert wanted(unguarded, region).worker == module.CHECKED_WORKER
        assert wanted(unguarded, region).identity == request.identity
        header, plan = builder.build(request.request, request.blobs)
        assert (header, plan) == worker.build(request.request, request.blobs)

    def test_a_model_that_gives_other_numbers_is_found_by_running_it(self) -> None:
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
        region, other = region_of(mlp, *ARGS), region_of(lambda x, w, b: [torch.addmm(b, x, w) * 1.01], *ARGS)
        request = wanted(built_for(), region)
        with pytest.raises(BuildError) as caught:
            builder.build(request.request, wanted(built_for(), other).blobs)
        assert caught.value.stage == "convert"


class TestLoad:
    def artefact(self) -> Artefact:
        return built_for().compile(region_of(mlp, *ARGS))

    @without_gpu
    def test_says_that_it_cannot_run_here(self) -> None:
        with pytest.raises(EngineError, match="load"):
            built_for().load(self.artefact())

    def test_another_version_and_a_damaged_header_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "gpu_problem", lambda: "")
        monkeypatch.setattr(module, "_torch_problem", lambda: "")
        monkeypatch.setattr(module, "_driver", lambda *_: None)
        good = self.artefact()
        assert built_for().load(good).accepts is None  # type: ignore[attr-defined]
        for change in ({"version": "0.1"}, {"calling": {}}, {"calling": None}, {"flavour": "none"}):
            with pytest.raises(EngineError):
                built_for().load(Artefact(header={**good.header, **change}, payload=good.payload))
        with pytest.raises(EngineError):
            built_for().load(Artefact(header=good.header, payload=None))


class TestTorchTensorrt:
    @pytest.fixture
    def library(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """A torch_tensorrt that answers as the real one does, and notes what it is asked."""
        asked: list[Any] = []

        def interpret(gm: Any, inputs: Any, settings: Any) -> Any:
            asked.append((inputs, settings))
            return types.SimpleNamespace(
                serialized_engine=b"plan", input_names=[one["name"] for one in inputs], output_names=["output0"]
            )

        for name, content in (
            ("torch_tensorrt", {"Input": dict}),
            ("torch_tensorrt.dynamo", {"CompilationSettings": dict}),
            ("torch_tensorrt.dynamo.conversion", {"interpret_module_to_result": interpret}),
            ("tensorrt", {"__version__": "10.0"}),
        ):
            fake = types.ModuleType(name)
            fake.__spec__ = ModuleSpec(name, None)  # whoever looks for the library meanwhile must be able to
            vars(fake).update(content)
            monkeypatch.setitem(sys.modules, name, fake)
        monkeypatch.setattr(torch_tensorrt_builder, "why_not", lambda: None)
        monkeypatch.setattr(torch_tensorrt_builder, "_present", lambda: "sm89")
        return asked

    def test_is_the_second_way(self, library: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
        refusal = Reason(kind=ReasonKind.ENGINE_REFUSED, detail="not this", node="n")
        monkeypatch.setattr(TensorRTEngine, "converted", lambda self, region: refusal)
        artefact = built_for().compile(region_of(mlp, *ARGS))
        assert artefact.header["builder"] == "torch_tensorrt"
        (inputs, settings) = library[0]
        assert settings["disable_tf32"] is True
        assert [tuple(one["shape"]) for one in inputs] == [tuple(t.shape) for t in ARGS]
        calling = Calling.from_json(artefact.header["calling"])
        assert calling.outputs[0].shape == (4, 16)

    def test_builds_for_no_other_gpu_and_no_writes(self, library: list[Any]) -> None:
        region = region_of(mlp, *ARGS)
        assert isinstance(torch_tensorrt_builder.compile_region(region, target="sm86", tf32=False), str)
        writes = region_of(lambda x: [x.add_(1)], torch.randn(3))
        assert isinstance(torch_tensorrt_builder.compile_region(writes, target=None, tf32=False), str)
        assert library == []

    @without_gpu
    def test_absent_it_says_why(self) -> None:
        assert "torch_tensorrt" in str(
            torch_tensorrt_builder.compile_region(region_of(mlp, *ARGS), target=None, tf32=False)
        )


def test_the_registry_knows_it() -> None:
    made = registry.engine("tensorrt", Settings(target="sm89"))
    assert made.name == "tensorrt"
    assert made.fingerprint()["target"] == "sm89"


def test_a_child_that_builds_imports_no_torch() -> None:
    code = "import sys, djinn_fx.engines.tensorrt.building.worker; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(("precision", "tf32"), [("tf32", "True"), ("ieee", "False")])
def test_torchs_newer_switch_for_tf32_is_heard(precision: str, tf32: str) -> None:
    switch = torch.backends.cuda.matmul
    before = switch.fp32_precision
    try:
        switch.fp32_precision = precision
        assert registry.engine("tensorrt", Settings(target="sm89")).fingerprint()["tf32"] == tf32
    finally:
        switch.fp32_precision = before
