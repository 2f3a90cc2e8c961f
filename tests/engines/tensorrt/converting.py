"""A session on the CPU: torch.compile with a backend that converts each graph and runs its network in torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from djinn_fx.engines.base import RegionGraph
from djinn_fx.engines.eager import EagerEngine
from djinn_fx.engines.tensorrt.assemble import assemble
from djinn_fx.engines.tensorrt.conversion import (
    Constant,
    Conversion,
    FromInput,
    FromNetwork,
    FromSizes,
    Options,
    SameAs,
    ViewOfInput,
    evaluate_all,
)
from djinn_fx.engines.tensorrt.conversion import evaluate as number
from djinn_fx.engines.tensorrt.convert import convert
from djinn_fx.engines.tensorrt.evaluate import evaluate
from djinn_fx.engines.tensorrt.flavour import logger
from djinn_fx.reasons import Reason
from djinn_fx.runtime.executor import executable, program_of
from djinn_fx.srg import GraphKind, lower
from djinn_fx.srg.extract import extract, input_value
from tests.running import cut_by_labels, plan_in_order

try:
    import tensorrt_rtx as trt
except ImportError:
    trt = None


@dataclass
class Session:
    """What became of the graphs of one torch.compile."""

    options: Options = field(default_factory=Options)
    conversions: list[Conversion] = field(default_factory=list)
    refusals: list[Reason] = field(default_factory=list)
    calls: int = 0

    def backend(self, gm: GraphModule, example_inputs: list[Any]) -> Any:
        """For torch.compile."""
        return aot_autograd(
            fw_compiler=self._compile, inference_compiler=self._compile, keep_inference_input_mutations=True
        )(gm, example_inputs)

    def _compile(self, aten: GraphModule, _: Sequence[Any]) -> Any:
        srg = lower(aten, GraphKind.INFERENCE)
        ops = [node for node in srg.ops]
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
        found = convert(region, options=self.options)
        if isinstance(found, Reason):
            self.refusals.append(found)
            engine = EagerEngine()
            run: Any = engine.load(engine.compile(region))
        else:
            self.conversions.append(found)
            run = self._runner(found)
        program, constants = program_of(srg, plan)
        call: Any = executable(program, [run], constants)
        call._boxed_call = True
        return call

    def _runner(self, conversion: Conversion) -> Callable[[list[Any]], list[Any]]:
        builder = trt.Builder(logger(trt))
        definition = assemble(trt, conversion.network, builder)

        def run(args: list[Any]) -> list[Any]:
            self.calls += 1
            given = [args[index].contiguous() for index in conversion.inputs]
            symbols = {name: given[place].shape[axis] for name, (place, axis) in conversion.symbols.items()}
            for tensor, told in zip(given, conversion.network.inputs, strict=True):
                for size, wanted in zip(tensor.shape, told.shape, strict=True):
                    assert size == (symbols[wanted] if isinstance(wanted, str) else wanted)
            for name, known in conversion.network.symbols.items():
                assert known.least <= symbols[name] <= known.most, f"{name} is {symbols[name]}: {known}"
            made = evaluate(trt, definition, given)
            for copy in conversion.copies:
                args[copy.input].copy_(made[copy.output])
            outputs: list[Any] = []
            for one in conversion.outputs:
                if isinstance(one, FromNetwork):
                    assert tuple(made[one.output].shape) == evaluate_all(one.shape, symbols)
                    strided = torch.empty_strided(
                        made[one.output].shape, evaluate_all(one.strides, symbols), dtype=getattr(torch, one.dtype)
                    )
                    # Places of one memory that several elements share get equal values.
                    outputs.append(_copied(strided, made[one.output]))
                elif isinstance(one, FromInput):
                    outputs.append(args[one.input])
                elif isinstance(one, ViewOfInput):
                    source = args[one.input]
                    shape, strides = evaluate_all(one.shape, symbols), evaluate_all(one.strides, symbols)
                    offset = source.storage_offset() + number(one.offset, symbols)
                    outputs.append(torch.as_strided(source, shape, strides, offset))
                elif isinstance(one, FromSizes):
                    outputs.append(number(one.value, symbols))
                elif isinstance(one, Constant):
                    outputs.append(one.value)
                else:
                    assert isinstance(one, SameAs)
                    outputs.append(outputs[one.output])
            return outputs

        return run


def _copied(target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    own = [
        index
        for index, (size, stride) in enumerate(zip(target.shape, target.stride(), strict=True))
        if stride or size == 1
    ]
    view, values = target, source
    for axis in range(target.dim()):
        if axis not in own:
            view, values = view.narrow(axis, 0, 1), values.narrow(axis, 0, 1)
    view.copy_(values)
    return target


def run(
    function: Callable[..., Any],
    *calls: Sequence[Any],
    dynamic: bool | None = False,
    options: Options | None = None,
) -> tuple[Session, list[Any], list[Any]]:
    """Compile a function and call it; what became of it, its results, eager's, arguments after the call behind them."""
    torch._dynamo.reset()
    session = Session(options or Options())
    compiled = torch.compile(function, backend=session.backend, dynamic=dynamic, fullgraph=True)
    actual, expected = [], []
    with torch.no_grad():
        for args in calls:
            mine, theirs = (pytree.tree_map_only(torch.Tensor, torch.clone, tuple(args)) for _ in range(2))
            expected.append((function(*theirs), theirs))
            actual.append((compiled(*mine), mine))
    torch._dynamo.reset()
    return session, actual, expected
