"""What a calibration case runs: a function of weights and inputs, and its path to a region an engine can take."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from djinn_fx.costmodels.work.work import WorkGraph
from djinn_fx.costmodels.work.work_of import work_graph
from djinn_fx.dispatch.region import region_graph
from djinn_fx.engines.base import RegionGraph
from djinn_fx.passes.find_regions import whole_region
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.lower import lower
from djinn_fx.srg.plan import Region
from djinn_fx.srg.record import GraphKind, Residency

Results = tuple[torch.Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class CaseProgram:
    """A function and what it is called with.

    Attributes:
        function: called with the weights, then the inputs; returns a tuple of tensors.
        weights: parameters and buffers of the model that it stands for.
        inputs: tensors.
    """

    function: Callable[..., Results]
    weights: tuple[torch.Tensor, ...]
    inputs: tuple[torch.Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class Traced:
    """A program as the ATen graph that ``torch.compile`` would give the backend, as one region.

    Attributes:
        srg: lowered, no pass has run.
        region: the whole graph.
        graph: the region for an engine.
        work: the region for a time model.
        arguments: real values of the region's inputs.
    """

    srg: SRG
    region: Region
    graph: RegionGraph
    work: WorkGraph
    arguments: tuple[torch.Tensor, ...]


def traced(program: CaseProgram) -> Traced:
    """Trace a program on fake tensors and make one region of it."""
    arguments = (*program.weights, *program.inputs)
    with torch.no_grad():
        gm = make_fx(program.function, tracing_mode="fake")(*arguments)
    placeholders = gm.graph.find_nodes(op="placeholder")
    weights = {node.name: Residency.PARAMETER for node in placeholders[: len(program.weights)]}
    srg = lower(gm, GraphKind.INFERENCE, weights)
    region = whole_region(srg)
    assert region is not None, "every program has ops"
    return Traced(
        srg=srg,
        region=region,
        graph=region_graph(srg, region),
        work=work_graph(srg, region.nodes),
        arguments=arguments,
    )


def module_program(module: nn.Module, *inputs: torch.Tensor) -> CaseProgram:
    """A module's forward, its parameters and buffers as weights."""
    module.eval()
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    names = list(state)

    def function(*arguments: torch.Tensor) -> Results:
        given = dict(zip(names, arguments, strict=False))
        results: Any = functional_call(module, given, arguments[len(names) :])
        return results if isinstance(results, tuple) else (results,)

    return CaseProgram(function=function, weights=tuple(t.detach() for t in state.values()), inputs=inputs)


def in_turn(step: Callable[[Any], torch.Tensor], start: torch.Tensor, times: int) -> Results:
    """``step`` applied to its own result; chains of it must neither overflow nor fade into subnormal numbers."""
    value = start
    for _ in range(times):
        value = step(value)
    return (value,)


@functools.cache
def _noise() -> torch.Tensor:
    return torch.randn(1 << 18, generator=torch.Generator().manual_seed(0))


#: Where the next tensor's values start, so that no two weights are the same.
_STARTS = itertools.count(step=997)


def filled(*shape: int, scale: float = 1.0, shift: float = 0.0, device: str = "cpu") -> torch.Tensor:
    """A float32 tensor of memory of its own with normal values; faster than drawing each of them."""
    noise = _noise()
    count = math.prod(shape)
    values = torch.empty(count)
    start = next(_STARTS) % noise.numel()
    source = torch.roll(noise, -start)
    for first in range(0, count, noise.numel()):
        part = values[first : first + noise.numel()]
        part.copy_(source[: part.numel()])
    return values.mul_(scale).add_(shift).view(shape).to(device)


def indices(bound: int, *shape: int) -> torch.Tensor:
    """An int64 tensor of indices below ``bound``."""
    return torch.randint(bound, shape, generator=torch.Generator().manual_seed(1))


def weight(n: int, k: int) -> torch.Tensor:
    """A matrix of which products keep their size."""
    return filled(n, k, scale=k**-0.5)


def fill_module(module: nn.Module) -> nn.Module:
    """Give a module values that keep activations at about 1: weights of matrices by their size, others near 0 or 1."""
    with torch.no_grad():
        for name, value in module.named_parameters():
            near_one = value.dim() == 1 and name.endswith("weight")
            fan_in = math.prod(value.shape[1:]) if value.dim() > 1 else 1
            scale = fan_in**-0.5 if value.dim() > 1 else 0.02
            value.copy_(filled(*value.shape, scale=scale, shift=float(near_one)))
    return module


def copies_for(target_bytes: int, one_bytes: int, most: int = 24) -> int:
    """How many weights of a size come to about so many bytes, from 2 to ``most``."""
    return max(2, min(most, round(target_bytes / one_bytes)))
