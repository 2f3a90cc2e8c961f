"""The OpenVINO engine."""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from djinn_fx.engines import registry
from djinn_fx.engines.base import Declined
from djinn_fx.engines.onnx.serving.engine import OnnxEngine
from djinn_fx.engines.openvino.engine import OpenVinoEngine
from djinn_fx.errors import EngineError
from djinn_fx.reasons import ReasonKind
from djinn_fx.settings.table import Settings
from tests.engines.onnx import engine_cases as onnx_engine_cases
from tests.engines.onnx.engine_cases import WIDTH, Traced, close, linear, parameters
from tests.exam.values import difference

pytest.importorskip("openvino")
pytest.importorskip("onnx")


class TestOpenVino(onnx_engine_cases.Cases):
    """What is asked of every such engine."""

    @pytest.fixture
    def make(self) -> Callable[..., OnnxEngine]:
        return OpenVinoEngine


def test_settings_are_handed_on() -> None:
    engine = registry.engine("openvino", Settings(weights="input", precision="allow-bf16"))
    assert isinstance(engine, OpenVinoEngine)
    assert (engine.weights, engine.precision) == ("input", "allow-bf16")


@torch.no_grad()
@pytest.mark.parametrize("kind", ["plain", "causal", "scaled", "masked"])
def test_attention_is_openvinos_own(kind: str) -> None:
    def function(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        given = {
            "plain": {},
            "causal": {"is_causal": True},
            "scaled": {"scale": 0.3, "is_causal": True},
            "masked": {"attn_mask": mask},
        }[kind]
        return F.scaled_dot_product_attention(q, k, v, **given) + mask.sum()

    args = [*(torch.randn(2, 4, 7, 16) for _ in range(3)), torch.randn(2, 1, 7, 7)]
    region = Traced(function, *args)
    artefact = OpenVinoEngine().compile(region.graph)
    assert artefact.payload is not None
    assert b"ScaledDotProductAttention" in artefact.payload
    close(region.call(region.opened(OpenVinoEngine()), *args), function(*args))


@torch.no_grad()
def test_numbers_beyond_32_bits_are_refused_wherever_they_come_from() -> None:
    for function in (lambda x: x + 2**40, lambda x: torch.full_like(x, -(2**31) - 1)):
        refusal = OpenVinoEngine().supports(Traced(function, torch.arange(3)).graph)
        assert refusal is not None
        assert refusal.kind is ReasonKind.ENGINE_REFUSED
    for size in (3, 300):
        region = Traced(lambda x: x[1:] + 1, torch.arange(size))
        run = region.opened(OpenVinoEngine())
        for good in (torch.arange(size), torch.full((size,), 2**31 - 2), torch.full((size,), -(2**31))):
            close(region.call(run, good), region.function(good))
        for wrong in (2**31, -(2**31) - 1, 2**62):
            args = [torch.arange(size)]
            args[0][size // 2] = wrong
            with pytest.raises(Declined):
                run(args)
            assert len(args) == 1
    weight = torch.tensor([2**33, 1, 2])
    region = Traced(lambda x, w: x + w, torch.arange(3), weight, weights=(1,))
    with pytest.raises(EngineError):
        region.call(region.opened(OpenVinoEngine()), torch.arange(3), weight)


@torch.no_grad()
@pytest.mark.parametrize("scale", [0.1, -0.0, 1e-300, 1e300, 16777217.0, math.inf, math.nan])
def test_a_number_in_double_precision_is_rounded_by_the_caller(scale: float) -> None:
    """With ``dynamic=True`` a Python number is one, such as an attention's scale."""

    def function(x: Tensor, scale: Tensor) -> Tensor:
        return x * scale.double().float()

    x, of_trace = torch.randn(4, 5), torch.tensor(0.3, dtype=torch.float64)
    region = Traced(function, x, of_trace)
    run = region.opened(OpenVinoEngine())
    given = torch.tensor(scale, dtype=torch.float64)
    assert difference(region.call(run, x, given), [function(x, given)]) is None
    with pytest.raises(EngineError, match=r"float16, not torch\.float32"):
        region.call(run, x, given.to(torch.float16))


@torch.no_grad()
@pytest.mark.parametrize(
    "function",
    [
        lambda x, scale: x * (scale * scale).float(),
        lambda x, scale: (x * scale.float(), scale + 1),
        lambda x, scale: x.double() * scale,
        lambda x, scale: x * scale.long(),
        lambda x, scale: x * x[0, 0].int().double().float() * scale.float(),
    ],
    ids=["computed with", "given back", "of a tensor", "as a whole number", "of a whole number"],
)
def test_what_needs_double_precision_is_refused(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    x, scale = torch.randn(4, 5), torch.tensor(0.3, dtype=torch.float64)
    refusal = OpenVinoEngine().supports(Traced(function, x, scale).graph)
    assert refusal is not None
    assert "float64" in refusal.detail


@torch.no_grad()
def test_a_weight_in_double_precision_is_refused() -> None:
    x, scale = torch.randn(4, 5), torch.tensor(0.3, dtype=torch.float64)
    weight = Traced(lambda x, scale: x * scale.float(), x, scale, weights=(1,))
    assert OpenVinoEngine().supports(weight.graph) is not None


@torch.no_grad()
def test_an_argument_that_is_not_used_and_one_under_several_names() -> None:
    def function(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x.reshape(1, 4, 5).transpose(1, 2) * 2, y.reshape(5, 4) @ x.reshape(4, 5)

    x, y = torch.randn(4, 5), torch.randn(4, 5)
    region = Traced(function, x, y)
    close(region.call(region.opened(OpenVinoEngine()), x, y), function(x, y))


@torch.no_grad()
def test_memory_is_used_again_when_nobody_reads_it() -> None:
    region = Traced(lambda x: x + 1, torch.randn(64, 64))
    run = region.opened(OpenVinoEngine())
    x = torch.randn(64, 64)
    first = region.call(run, x)[0]
    second = region.call(run, x)[0]
    assert first.data_ptr() != second.data_ptr()
    view, where = first[3], first.data_ptr()
    del first
    assert region.call(run, x)[0].data_ptr() != where
    del view
    places = {region.call(run, x)[0].data_ptr() for _ in range(4)}
    assert where in places
    assert torch.equal(second, x + 1)


@torch.no_grad()
def test_a_forked_child_is_told_that_it_does_not_work() -> None:
    x, (w, b) = torch.randn(5, WIDTH), parameters()
    region = Traced(linear, x, w, b, weights=(1, 2))
    run = region.opened(OpenVinoEngine())
    region.call(run, x, w, b)
    child = os.fork()
    if not child:
        try:
            args = region.arguments(x, w, b)
            unserved = run.attempt(args) is None
            try:
                run(args)
            except EngineError:
                os._exit(0 if unserved and len(args) == 3 else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    close(region.call(run, x, w, b), linear(x, w, b))


@torch.no_grad()
def test_bfloat16_is_rounded_with_one_thread_too() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        x = torch.randn(4, 16)
        for function in (lambda x: x.bfloat16().float(), lambda x: x.bfloat16(), lambda x: x.bfloat16().exp()):
            region = Traced(function, x)
            assert torch.equal(region.call(region.opened(OpenVinoEngine()), x)[0], function(x))
        two = Traced(lambda x, w: (x @ w @ w).relu(), x.bfloat16(), torch.randn(16, 16).bfloat16())
        with pytest.raises(EngineError):
            two.call(two.opened(OpenVinoEngine()), x.bfloat16(), torch.randn(16, 16).bfloat16())
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def test_on_one_thread_nan_stays_and_differences_keep_the_sign_of_zero() -> None:
    """There OpenVINO makes no kernels for a model, and what it does as one it does otherwise."""

    def function(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        return (x + y).relu(), (x * y).relu().sqrt(), x - y, x.diff(), (x - y) / 1.0, F.batch_norm(x, y[0], y[1]).relu()

    region = Traced(function, torch.rand(2, 2), torch.rand(2, 2))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        opened = region.opened(OpenVinoEngine())
        telling = torch.tensor([[math.nan, 0.0], [-0.0, 0.0]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
        assert difference(region.call(opened, *telling), function(*telling)) is None
    finally:
        torch.set_num_threads(before)
