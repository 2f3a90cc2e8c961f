"""A session on the CPU: torch.compile with a backend that converts each graph and runs its model in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx
import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from djinn_fx.engines.base import Declined, RegionGraph
from djinn_fx.engines.eager import EagerEngine
from djinn_fx.engines.tensorrt.building.rehearsal import Rehearsal
from djinn_fx.engines.tensorrt.mapping import GROWTH, Conversion, convert
from djinn_fx.engines.tensorrt.run import session as sessions
from djinn_fx.reasons import Reason
from djinn_fx.runtime.executor import executable
from djinn_fx.runtime.program import program_of
from djinn_fx.srg import GraphKind, lower
from djinn_fx.srg.extract import extract, input_value
from tests.engines.tensorrt.fake_gpu import ALIGNMENT, FakeDriver
from tests.running import cut_by_labels, plan_in_order

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")


def session_of(found: Conversion, twist: Callable[[Any], Any] = lambda made: made) -> sessions.Session:
    """A session of a conversion whose plan is its model, run by ONNX Runtime."""
    sessions.ALIGNMENT = ALIGNMENT
    model = Rehearsal(found.model)
    driver = FakeDriver(found.calling, lambda given: twist(model(given)))
    return sessions.Session(b"plan", found.calling, driver, device_type="cpu", label="region")


def ops(found: Conversion) -> list[str]:
    """The operators of a model, in order."""
    return [node.op_type for node in onnx.load_from_string(found.model).graph.node]


@dataclass
class Session:
    """What became of the graphs of one torch.compile."""

    growth: int = GROWTH
    conversions: list[Conversion] = field(default_factory=list)
    refusals: list[Reason] = field(default_factory=list)
    calls: int = 0
    declined: int = 0

    def backend(self, gm: GraphModule, example_inputs: list[Any]) -> Any:
        """For torch.compile."""
        return aot_autograd(
            fw_compiler=self._compile, inference_compiler=self._compile, keep_inference_input_mutations=True
        )(gm, example_inputs)

    def _compile(self, aten: GraphModule, _: Sequence[Any]) -> Any:
        srg = lower(aten, GraphKind.INFERENCE)
        ops = list(srg.ops)
        if not ops:
            return make_boxed_func(aten.forward)
        cut_by_labels(srg, [0] * len(ops))
        plan = plan_in_order(srg)
        (cut,) = plan.regions
        region = RegionGraph(
            gm=extract(srg, cut),
            structural_hash="",
            canonical=None,
            example_inputs=tuple(input_value(srg, srg.node(name)) for name in cut.inputs),
            label="region",
            kind="inference",
        )
        found = convert(region, growth=self.growth)
        engine = EagerEngine()
        eager: Any = engine.load(engine.compile(region))
        if isinstance(found, Reason):
            self.refusals.append(found)
            run = eager
        else:
            self.conversions.append(found)
            run = self._counted(session_of(found), eager)
        program, constants = program_of(srg, plan)
        call: Any = executable(program, [run], constants)
        call._boxed_call = True
        return call

    def _counted(self, run: Callable[[list[Any]], Any], eager: Callable[[list[Any]], Any]) -> Any:
        def counted(args: list[Any]) -> Any:
            self.calls += 1
            try:
                return run(args)
            except Declined:
                self.declined += 1
                return eager(args)

        return counted


def run(
    function: Callable[..., Any],
    *calls: Sequence[Any],
    dynamic: bool | None = False,
    growth: int = GROWTH,
    copies: bool = True,
) -> tuple[Session, list[Any], list[Any]]:
    """Compile a function and call it; what became of it, its results, eager's, arguments after the call behind them."""
    torch._dynamo.reset()
    session = Session(growth)
    compiled = torch.compile(function, backend=session.backend, dynamic=dynamic, fullgraph=True)
    actual, expected = [], []
    with torch.no_grad():
        for args in calls:
            mine = theirs = tuple(args)
            if copies:
                mine, theirs = (pytree.tree_map_only(torch.Tensor, torch.clone, tuple(args)) for _ in range(2))
            expected.append((function(*theirs), theirs))
            actual.append((compiled(*mine), mine))
    torch._dynamo.reset()
    return session, actual, expected


#: What results may be off by: additions in another order, and halves rounded where TensorRT rounds them.
LIMITS = {
    torch.float32: {"rtol": 2e-5, "atol": 2e-6},
    torch.float16: {"rtol": 3e-3, "atol": 3e-3},
    torch.bfloat16: {"rtol": 2e-2, "atol": 2e-2},
}


def same(actual: Any, expected: Any, loose: float = 1) -> None:
    """Results and written arguments are eager's, with its types, sizes and strides; limits are times ``loose``."""
    mine, other = pytree.tree_leaves(actual), pytree.tree_leaves(expected)
    assert len(mine) == len(other)
    for place, (one, wanted) in enumerate(zip(mine, other, strict=True)):
        if not isinstance(wanted, torch.Tensor):
            assert one == wanted
            continue
        limits = {name: loose * limit for name, limit in LIMITS.get(wanted.dtype, {}).items()}
        torch.testing.assert_close(
            one, wanted, equal_nan=True, msg=lambda text, place=place: f"result {place}: {text}", **limits
        )


def check(
    function: Callable[..., Any],
    *calls: tuple[Any, ...],
    dynamic: bool | None = False,
    loose: float = 1,
    declined: int = 0,
) -> None:
    """A function's graph is converted whole, and gives what eager gives; so many calls are left to eager."""
    session, actual, expected = run(function, *calls, dynamic=dynamic)
    assert not session.refusals, session.refusals
    assert session.calls == len(calls)
    assert session.declined == declined
    assert len(session.conversions) <= len(calls), "Dynamo may trace again for sizes it has a guard on"
    assert bool(session.conversions[0].ranges) == bool(dynamic)
    for mine, other in zip(actual, expected, strict=True):
        same(mine, other, loose)


def noise(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + len(shape))).to(dtype)


try:
    import tensorrt_rtx as trt
except ImportError:
    trt = None

needs_tensorrt = pytest.mark.skipif(
    trt is None, reason="tensorrt_rtx is missing: pip install --no-build-isolation tensorrt_rtx"
)
