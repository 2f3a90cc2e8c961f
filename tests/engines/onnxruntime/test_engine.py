"""The ONNX Runtime engine."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from djinn_fx.engines import registry
from djinn_fx.engines.onnx.serving.engine import OnnxEngine
from djinn_fx.engines.onnxruntime import vectors as onnxruntime_vectors
from djinn_fx.engines.onnxruntime.engine import OnnxRuntimeEngine
from djinn_fx.settings.table import Settings
from tests.engines.onnx import engine_cases as onnx_engine_cases
from tests.engines.onnx.engine_cases import WIDTH, Traced, close, linear, parameters

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
onnxruntime_session = pytest.importorskip("djinn_fx.engines.onnxruntime.session")
session_options = onnxruntime_session.session_options


class TestOnnxRuntime(onnx_engine_cases.Cases):
    """What is asked of every such engine."""

    @pytest.fixture
    def make(self) -> Callable[..., OnnxEngine]:
        return OnnxRuntimeEngine


class TestByBindingsAlone(TestOnnxRuntime):
    """The same with a library whose inner layer is another one."""

    @pytest.fixture(autouse=True)
    def _no_vectors(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(onnxruntime_vectors, "usable", lambda: None)


def test_vectors_of_a_library_that_moved_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert onnxruntime_vectors.usable() is not None
    monkeypatch.setattr(onnxruntime_vectors, "optional", lambda name: object())
    assert onnxruntime_vectors.usable.__wrapped__() is None


def test_settings_are_handed_on() -> None:
    engine = registry.engine("onnxruntime", Settings(weights="input", precision="allow-bf16"))
    assert isinstance(engine, OnnxRuntimeEngine)
    assert (engine.weights, engine.precision) == ("input", "allow-bf16")


@torch.no_grad()
@pytest.mark.parametrize("weights", [(), (1,)])
def test_bfloat16_goes_in_and_out(weights: tuple[int, ...]) -> None:
    x, y = torch.randn(300), torch.randn(300).bfloat16()  # more bytes than are written into a model
    region = Traced(lambda x, y: (x.to(torch.bfloat16), y.float() + 1), x, y, weights=weights)
    close(region.call(region.opened(OnnxRuntimeEngine()), x, y), (x.to(torch.bfloat16), y.float() + 1))


@torch.no_grad()
def test_a_forked_child_answers_with_sessions_of_its_own() -> None:
    torch.set_num_threads(1)  # torch's own threads do not survive a fork
    x, (w, b) = torch.randn(5, WIDTH), parameters()
    region = Traced(linear, x, w, b, weights=(1, 2))
    run = region.opened(OnnxRuntimeEngine())
    expected = region.call(run, x, w, b)[0].clone()
    child = os.fork()
    if not child:
        try:
            right = run.sets == 1 and torch.allclose(region.call(run, x, w, b)[0], expected, atol=1e-5)
            os._exit(0 if right else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    close(region.call(run, x, w, b), linear(x, w, b))


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the model is that ONNX Runtime made of the latest one it was given."""
    file = tmp_path / "opened.onnx"

    def options(threads: int) -> Any:
        made = session_options(threads)
        made.optimized_model_filepath = str(file)
        return made

    monkeypatch.setattr(onnxruntime_session, "session_options", options)
    return file


@torch.no_grad()
def test_what_weights_alone_decide_is_decided_once(opened: Path) -> None:
    """Conditions of weights are one constant; a call computes those of its own numbers, and what joins them."""

    def function(x: Tensor, kernel: Tensor, *weights: Tensor) -> Tensor:
        for mean, variance in zip(weights[::2], weights[1::2], strict=True):
            x = F.relu(F.batch_norm(F.conv2d(x, kernel), mean, variance))
        return x

    x, weights = torch.randn(1, 8, 9, 9), [torch.rand(8) + 0.5 for _ in range(8)]
    weights.insert(0, torch.randn(8, 8, 1, 1))
    region = Traced(function, x, *weights, weights=range(1, 10))
    model = onnx.ModelProto.FromString(OnnxRuntimeEngine().compile(region.graph).payload or b"")
    run = region.opened(OnnxRuntimeEngine())
    close(region.call(run, x, *weights), function(x, *weights))
    before = [node.op_type for node in model.graph.node].count("And")
    after = [node.op_type for node in onnx.load(opened).graph.node].count("And")
    assert before >= 4
    assert after == 1


ODD = torch.tensor([math.nan, -0.0, 0.0, math.inf, -math.inf, 7, -3, 6, 5.5, 1e-40, -1e-40, 3e38])


@torch.no_grad()
@pytest.mark.parametrize("bounds", [(0, 6), (-1.0, 0.0), (-0.0, 0.1), (2, 2), (-math.inf, 1), (3, 1)])
@pytest.mark.parametrize("size", [1, 12, 37, 100_000])
def test_numbers_between_two_bounds(bounds: tuple[float, float], size: int) -> None:
    """In order or not; to the bit, NaN and the sign of zero too."""
    x = ODD.repeat(size // 12 + 1)[:size]
    region = Traced(lambda x: torch.clamp(x, *bounds), x)
    (found,) = region.call(region.opened(OnnxRuntimeEngine()), x)
    assert torch.equal(found.isnan(), x.isnan())
    wanted = torch.clamp(x, *bounds)
    assert torch.equal(found[~x.isnan()].view(torch.int32), wanted[~x.isnan()].view(torch.int32))


@torch.no_grad()
@pytest.mark.parametrize(("groups", "size"), [(1, 1), (1, 3), (16, 3)])
def test_a_convolution_and_its_bounds_are_one_operator(groups: int, size: int, opened: Path) -> None:
    def function(x: Tensor, weight: Tensor) -> Tensor:
        return F.relu6(F.conv2d(x, weight, groups=groups))

    weight = torch.randn(16, 16 // groups, size, size)
    x = 4 * torch.randn(1, 16, 13, 13)
    region = Traced(function, x, weight, weights=(1,))
    run = region.opened(OnnxRuntimeEngine())
    close(region.call(run, x, weight), function(x, weight))
    kinds = {node.op_type for node in onnx.load(opened).graph.node}
    assert not kinds & {"Clip", "Min", "Max", "Where"}
    weight[3, 0, 0, 0] = math.nan
    (found,), wanted = region.call(region.opened(OnnxRuntimeEngine()), x, weight), function(x, weight)
    assert torch.equal(found.isnan(), wanted.isnan())
    assert found.isnan().any()
