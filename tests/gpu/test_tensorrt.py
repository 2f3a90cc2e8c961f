"""TensorRT end to end on a GPU: torch.compile with djinn's engine against eager."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import djinn_fx.backend
from djinn_fx.engines.base import Artefact
from djinn_fx.engines.tensorrt.engine import TensorRTEngine
from djinn_fx.engines.tensorrt.run.session import Session
from djinn_fx.guard.compare import difference
from djinn_fx.guard.guarded import GuardedRegion
from djinn_fx.guard.making import guarded_alone
from djinn_fx.guard.tolerance import tolerance_in_single
from djinn_fx.reasons import Reason, ReasonKind
from tests.engines.tensorrt.test_engine import region_of
from tests.families import case_named

pytestmark = pytest.mark.gpu

OPTIONS = {"engine": "tensorrt", "compile": "blocking", "on_failure": "raise"}
FAMILIES = ("llama/prefill", "qwen3/prefill", "gemma2/prefill", "gpt2/prefill", "bert/encode", "vit/encode",
            "resnet/encode", "convnext/encode", "t5/whole")  # fmt: skip


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def compiled(model: Any, **options: Any) -> Any:
    """The model with djinn's TensorRT engine."""
    return torch.compile(model, backend=djinn_fx.backend.djinn, options={**OPTIONS, **options})


def engines() -> set[str]:
    """The engines that run the regions of all compilations so far."""
    return {build.engine for graph in djinn_fx.backend.compilations() for build in graph.builds}


def on_gpu(value: Any, dtype: torch.dtype | None = None) -> Any:
    """Tensors in it on the GPU, floating ones of the type."""

    def moved(t: torch.Tensor) -> torch.Tensor:
        return t.to("cuda", dtype if dtype is not None and t.is_floating_point() else t.dtype)

    return torch.utils._pytree.tree_map_only(torch.Tensor, moved, value)


def first_tensor(output: Any) -> torch.Tensor:
    """The main result of a model."""
    for name in ("logits", "last_hidden_state"):
        if isinstance(getattr(output, name, None), torch.Tensor):
            return getattr(output, name)  # type: ignore[no-any-return]
    return output if isinstance(output, torch.Tensor) else output[0]  # type: ignore[no-any-return]


class Layer(nn.Module):
    """A decoder's layer without a cache."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.unflatten(-1, (4, -1)).transpose(1, 2) for t in self.qkv(self.norms[0](x)).chunk(3, -1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


class TestFamilies:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("name", FAMILIES)
    def test_is_eager(self, name: str, dtype: torch.dtype) -> None:
        model, args, kwargs = case_named(name).make()
        model = model.eval().to("cuda", dtype)
        args, kwargs = on_gpu((args, kwargs), dtype)
        expected = first_tensor(model(*copy.deepcopy(args), **copy.deepcopy(kwargs)))
        run = compiled(model, on_failure="eager")
        for _ in range(3):  # the first is eager's own, compared; the others are the plan's
            found = first_tensor(run(*copy.deepcopy(args), **copy.deepcopy(kwargs)))
        assert difference([found.contiguous()], [expected.contiguous()], tolerance_in_single) is None
        assert "tensorrt" in engines()


class TestSizes:
    def test_one_plan_serves_many_sizes_and_eager_the_others(self) -> None:
        layer = Layer().cuda().eval()
        run = torch.compile(layer, backend=djinn_fx.backend.djinn, options=OPTIONS, dynamic=True)
        for rows in (16, 16, 24, 9, 100, 4000):
            x = torch.randn(2, rows, 128, device="cuda")
            torch.testing.assert_close(run(x), layer(x), rtol=1e-2, atol=1e-2)
        assert engines() == {"tensorrt"}


class TestWrites:
    def test_a_cache_is_updated(self) -> None:
        def step(cache: torch.Tensor, x: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
            cache.index_copy_(1, place, x)
            return F.softmax(cache @ x.transpose(1, 2), 1)

        run = compiled(step)
        mine, theirs = torch.zeros(2, 32, 16, device="cuda"), torch.zeros(2, 32, 16, device="cuda")
        for at in range(6):
            x, place = torch.randn(2, 1, 16, device="cuda"), torch.tensor([at], device="cuda")
            torch.testing.assert_close(run(mine, x, place), step(theirs, x, place), rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(mine, theirs)


class TestStreams:
    def test_each_stream_gives_eagers_answer_in_order(self) -> None:
        layer = Layer().cuda().eval()
        run = compiled(layer)
        run(torch.randn(2, 16, 128, device="cuda"))
        streams = [torch.cuda.Stream() for _ in range(4)]
        pairs = []
        for step in range(12):
            stream = streams[step % 4]
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                x = torch.randn(2, 16, 128, device="cuda")
                pairs.append((run(x), layer(x)))
        torch.cuda.synchronize()
        for found, expected in pairs:
            torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)

    def test_can_be_captured_into_a_cuda_graph(self) -> None:
        layer = Layer().cuda().eval()
        run = compiled(layer)
        x = torch.randn(2, 16, 128, device="cuda")
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                run(x)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=side):
            y = run(x)
        for _ in range(3):
            x.copy_(torch.randn_like(x))
            graph.replay()
            torch.testing.assert_close(y, layer(x), rtol=1e-2, atol=1e-2)


class TestMemory:
    def test_does_not_grow(self) -> None:
        layer = Layer().cuda().eval()
        run = compiled(layer)
        x = torch.randn(8, 64, 128, device="cuda")
        for _ in range(5):
            run(x)
        torch.cuda.synchronize()
        mine, free = torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[0]
        for _ in range(200):
            run(x)
        torch.cuda.synchronize()
        assert torch.cuda.memory_allocated() == mine
        assert torch.cuda.mem_get_info()[0] >= free - 2**20

    def test_twelve_layers_share_a_plan(self) -> None:
        model = nn.Sequential(*(Layer(512) for _ in range(12))).cuda().eval()
        x = torch.randn(4, 512, 512, device="cuda")
        run = compiled(model, regions="auto:1")
        run(x)
        torch.testing.assert_close(run(x), model(x), rtol=1e-2, atol=1e-2)
        (graph,) = djinn_fx.backend.compilations()
        assert sum(build.outcome == "built" for build in graph.builds) == graph.plan.distinct_regions


class TestFirstRun:
    """What keeps wrong numbers in: a plan of another function in the place of the right one."""

    def pair(self, right: Callable[..., Any], wrong: Callable[..., Any]) -> tuple[GuardedRegion, list[Reason]]:
        engine = TensorRTEngine()
        x = torch.randn(4, 8)
        mine, other = (engine.compile(region_of(one, x, x, device="cuda:0")) for one in (right, wrong))
        run = engine.load(Artefact(header=mine.header, payload=other.payload))
        assert isinstance(run, Session)
        dropped: list[Reason] = []
        return guarded_alone(run, lambda args: right(*args), dropped.append, engine="tensorrt", verify="first"), dropped

    def test_a_plan_of_another_function_is_dropped(self) -> None:
        run, dropped = self.pair(lambda a, b: [a + b], lambda a, b: [a - b])
        for _ in range(3):
            a, b = torch.randn(4, 8, device="cuda"), torch.randn(4, 8, device="cuda")
            torch.testing.assert_close(run([a, b])[0], a + b)
        assert [reason.kind for reason in dropped] == [ReasonKind.QUARANTINED]

    def test_a_damaged_plan_costs_nothing_but_the_engine(self) -> None:
        engine, x = TensorRTEngine(), torch.randn(4, 8)
        good = engine.compile(region_of(lambda a, b: [a * b], x, x, device="cuda:0"))
        assert good.payload is not None
        for payload in (good.payload[: len(good.payload) // 2], b"", good.payload[:100] + b"\0" * 100):
            run = engine.load(Artefact(header=good.header, payload=payload))
            assert isinstance(run, Session)
            dropped: list[Reason] = []

            def product(args: list[Any]) -> list[Any]:
                return [args[0] * args[1]]

            safe = guarded_alone(run, product, dropped.append, engine="tensorrt", verify="first")
            a = torch.randn(4, 8, device="cuda")
            torch.testing.assert_close(safe([a, a])[0], a * a)
            assert len(dropped) == 1

    def test_the_right_plan_is_kept(self) -> None:
        run, dropped = self.pair(lambda a, b: [a + b], lambda a, b: [a + b])
        for _ in range(3):
            a, b = torch.randn(4, 8, device="cuda"), torch.randn(4, 8, device="cuda")
            torch.testing.assert_close(run([a, b])[0], a + b)
        assert dropped == []


class TestFarm:
    def test_a_plan_named_for_this_gpu_is_the_one_built_for_it(self) -> None:
        major, minor = torch.cuda.get_device_capability()
        named = TensorRTEngine(target=f"sm{major}{minor}")
        if not named.capability().can_build:
            pytest.skip(f"this TensorRT has no target sm{major}{minor}")
        region = region_of(lambda a: [torch.relu(a)], torch.randn(4, 8), device="cuda:0")
        assert dict(named.fingerprint()) == dict(TensorRTEngine().fingerprint())
        assert named.request(region) == TensorRTEngine().request(region)
