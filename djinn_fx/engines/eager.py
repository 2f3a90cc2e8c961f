"""Eager: the region's own code, op by op. The engine that always works; nothing is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import GraphModule

from djinn_fx.engines.base import Artefact, BuildRequest, Capability, RegionCallable, RegionGraph
from djinn_fx.errors import EngineError
from djinn_fx.reasons import Reason, ReasonKind


@dataclass(frozen=True, kw_only=True)
class EagerEngine:
    """Runs a region's ATen ops one by one, as ``backend="aot_eager"`` does."""

    name: str = field(default="eager", init=False)

    def capability(self) -> Capability:
        """Eager builds and runs everywhere."""
        return Capability(can_build=True, can_run=True, versions={"torch": str(torch.__version__)})

    def supports(self, region: RegionGraph) -> Reason | None:
        """Every region."""
        return None

    def compile(self, region: RegionGraph, *, alone: bool = False) -> Artefact:
        """Nothing to build; the artefact lives in memory only."""
        return Artefact(header={"engine": self.name}, payload=None, ready=as_callable(region.gm))

    def request(self, region: RegionGraph) -> BuildRequest | Reason:
        """There is nothing to build."""
        return Reason(
            kind=ReasonKind.ENGINE_REFUSED, detail="eager: there is nothing to build elsewhere", node=region.label
        )

    def load(self, artefact: Artefact) -> RegionCallable:
        """Give back what compile made.

        Raises:
            EngineError: the artefact comes from disk; eager stores none.
        """
        if artefact.ready is None:
            raise EngineError("the eager engine stores nothing, so there is nothing to load")
        return artefact.ready

    def fingerprint(self) -> Mapping[str, str]:
        """Eager depends on torch alone."""
        return {"engine": self.name, "torch": str(torch.__version__)}


def as_callable(module: GraphModule) -> RegionCallable:
    """A graph's ops, run one by one."""

    def run(args: list[Any]) -> Sequence[Any]:
        given = tuple(args)
        args.clear()
        results: Sequence[Any] = module(*given)
        return results

    return run
