"""The ONNX Runtime engine."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch

from djinn_fx.engines.onnx_engine import OnnxEngine
from djinn_fx.engines.onnxruntime import OnnxRuntimeEngine, make
from djinn_fx.settings import Settings
from tests.engines import onnx_engine_cases
from tests.engines.onnx_engine_cases import WIDTH, Traced, close, linear, parameters

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


class TestOnnxRuntime(onnx_engine_cases.Cases):
    """What is asked of every such engine."""

    @pytest.fixture
    def make(self) -> Callable[..., OnnxEngine]:
        return OnnxRuntimeEngine


def test_settings_are_handed_on() -> None:
    engine = make(Settings(weights="input", precision="allow-bf16"))
    assert (engine.weights, engine.precision) == ("input", "allow-bf16")


@torch.no_grad()
def test_bfloat16_goes_in_and_out() -> None:
    region = Traced(lambda x, y: (x.to(torch.bfloat16), y.float() + 1), torch.randn(3), torch.randn(3).bfloat16())
    x, y = torch.randn(3), torch.randn(3).bfloat16()
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
