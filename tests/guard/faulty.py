"""Engines with faults, and what the guard is given beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from djinn_fx.engines.base import RegionGraph, Runner
from djinn_fx.guard.guarded import GuardedRegion
from djinn_fx.guard.making import guarded
from djinn_fx.guard.precise import fp64_reference
from djinn_fx.reasons import Reason
from djinn_fx.srg import lower
from djinn_fx.srg.form.hashing import canonical_form, structural_hash
from tests.graphs import trace

Fault = Callable[[list[Any], list[Any]], Sequence[Any]]


def region_of(function: Callable[..., Any], *args: Any, symbolic: bool = False) -> RegionGraph:
    """A function's graph as one region, its inputs in the order of the arguments."""
    gm = trace(function, *args, symbolic=symbolic)
    output = gm.graph.output_node()
    if not isinstance(output.args[0], (tuple, list)):
        output.args = ((output.args[0],),)
    gm.recompile()
    srg = lower(gm)
    form = canonical_form(list(srg.ops), srg.inputs, list(output.args[0]))  # type: ignore[arg-type]
    return RegionGraph(
        gm=gm,
        structural_hash=structural_hash(form),
        canonical=form,
        example_inputs=tuple(node.meta["val"] for node in srg.inputs),
        label="region",
        kind="inference",
    )


def layer(x: Tensor, w: Tensor, cache: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two results that differ in form from nothing, one that is an index, a view of the first, and a write."""
    y = torch.tanh(x @ w)
    z = y * 2 + cache
    cache.copy_(z)
    return y, z, y.argmax(-1), y.t()


def arguments(rows: int = 4, seed: int = 0) -> list[Any]:
    """For :func:`layer`."""
    made = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=made) for size in ((rows, 8), (8, 8), (rows, 8))]


def eager(region: RegionGraph) -> Callable[[list[Any]], Sequence[Any]]:
    """The region's own ops."""

    def run(args: list[Any]) -> Sequence[Any]:
        given = tuple(args)
        args.clear()
        results: Sequence[Any] = region.gm(*given)
        return results

    return run


@dataclass
class Faulty(Runner):
    """Answers as eager does, until a fault changes the answer: from which call on, and for which sizes."""

    region: RegionGraph
    fault: Fault | None = None
    starts: int = 1
    when: Callable[[list[Any]], bool] = lambda args: True
    calls: int = field(default=0)

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        """Run."""
        self.calls += 1
        given = list(args)
        args.clear()
        if self.fault is not None and self.calls >= self.starts and self.when(given):
            return self.fault(given, [])
        return list(self.region.gm(*given))


@dataclass
class Beside:
    """A guarded engine, and what became of it."""

    region: RegionGraph
    run: Any
    guard: GuardedRegion
    reasons: list[Reason]
    reproduced: list[tuple[list[Any], list[Any], list[Any], str]]
    eager_calls: list[int]


def beside(
    region: RegionGraph,
    run: Any,
    *,
    verify: str = "first",
    mutated: tuple[int, ...] = (),
    told: bool = True,
    precise: bool = True,
    **others: Any,
) -> Beside:
    """Guard an engine's callable."""
    reasons: list[Reason] = []
    reproduced: list[Any] = []
    calls = [0]
    own = eager(region)

    def reference(args: list[Any]) -> Sequence[Any]:
        calls[0] += 1
        return own(args)

    def reproduce(args: Sequence[Any], found: Sequence[Any], expected: Sequence[Any], why: str) -> Path:
        reproduced.append((list(args), list(found), list(expected), why))
        return Path("somewhere")

    guard = guarded(
        run,
        reference,
        label="region",
        engine="faulty",
        verify=verify,
        mutated=mutated,
        on_quarantine=reasons.append,
        reproduce=reproduce,
        high_precision=fp64_reference(region.gm) if precise else None,
        region=region if told else None,
        **others,
    )
    return Beside(region, run, guard, reasons, reproduced, calls)
