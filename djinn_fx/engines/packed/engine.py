"""Packed: a region's own ops with its products done the fastest way this machine knows; nothing is compiled.

The graph is rewritten (:mod:`packed_graph`), each product with a weight is done by torch, MKL or oneDNN as was measured
for its shape (:mod:`product_speed`), with what follows fused where the library can, and everything is written as one
straight Python function (:mod:`packed_code`). It takes milliseconds. Weights that are packed are watched
(:mod:`bound`); all others are read where they are.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.fx import GraphModule

from djinn_fx.engines.base import Artefact, BuildRequest, Capability, RegionCallable, RegionGraph
from djinn_fx.engines.bound.region import BoundRegion
from djinn_fx.engines.bound.signature import Fed, Signature
from djinn_fx.engines.packed import ops as packed_ops
from djinn_fx.engines.packed.graph import convolutions, products, rewritten
from djinn_fx.engines.packed.refusal import why_nothing_is_packed
from djinn_fx.engines.packed.session import PackedPlan
from djinn_fx.engines.packed.speed import ProductSpeed
from djinn_fx.errors import EngineError
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.srg.effects import writes, written_places
from djinn_fx.srg.form.rebuild import CannotRebuild, SizeHint, rebuild, size_hints
from djinn_fx.srg.graph import fake_value, tensors_of

#: Raised when what is made of a region changes; part of every key.
CONVERTER_VERSION = 1


@functools.cache
def speeds_in(folder: Path | None) -> ProductSpeed:
    """The figures in a cache folder; None: in memory."""
    return ProductSpeed(folder)


@dataclass(frozen=True, kw_only=True)
class PackedEngine:
    """See the module's text.

    Attributes:
        weights: the setting of that name.
        filed: folder for a file in which the weights are to lie; None: they stay in memory.
        speed: tells the fastest way of doing a product.
    """

    weights: str = "auto"
    filed: Path | None = None
    speed: ProductSpeed = field(default_factory=lambda: speeds_in(None), compare=False, repr=False)
    name: str = field(default="packed", init=False)

    def capability(self) -> Capability:
        """It can where this torch has the packed kernels."""
        why_not = packed_ops.missing()
        able = why_not is None
        versions = {"torch": str(torch.__version__)}
        return Capability(can_build=able, can_run=able, versions=versions, why_not=why_not)

    def supports(self, region: RegionGraph) -> Reason | None:
        """Inference on the CPU, with at least one product with a weight, or a constant that can be made once."""
        why = packed_ops.missing() or self._why_not(region)
        if why is None:
            return None
        return Reason(kind=ReasonKind.ENGINE_REFUSED, detail=f"packed: {why}", node=region.label)

    def _why_not(self, region: RegionGraph) -> str | None:
        if self.weights == "input":
            return "weights are to stay inputs (setting `weights`)"
        if region.kind != "inference":
            return f"the region is of a {region.kind} graph; only inference is packed"
        for node in region.gm.graph.nodes:
            if node.op in ("call_module", "call_method") or isinstance(node.target, torch._ops.HigherOrderOperator):
                return f"{node.target} is not an ordinary operator"
            odd = next(
                (t for t in tensors_of(fake_value(node)) if t.device.type != "cpu" or t.layout is not torch.strided),
                None,
            )
            if odd is not None:
                return f"a tensor on {odd.device} with layout {odd.layout}"
            if writes(node) and node.target is not torch.ops.aten.copy_.default:
                return f"{node.target} writes in place"
        graph = rewritten(region.gm, region.weights).graph
        if not products(graph) and not convolutions(graph):
            return why_nothing_is_packed(region.gm, region.weights)
        return None

    def compile(self, region: RegionGraph, *, alone: bool = False) -> Artefact:
        """Rewrite a region.

        Raises:
            EngineError: it cannot be written as a function.
        """
        payload = None
        if region.canonical is not None:
            try:
                hints = [[one.value, one.positive] for one in size_hints(region.canonical, region.example_inputs)]
                payload = json.dumps({"form": region.canonical, "hints": hints}, sort_keys=True).encode()
            except CannotRebuild:
                payload = None  # it serves this process, and is made again in the next
        header = {"engine": self.name, "weights": list(region.weights)}
        return Artefact(header=header, payload=payload, ready=self._bound(region.gm, region.weights, region.label))

    def request(self, region: RegionGraph) -> BuildRequest | Reason:
        """It is made in this process, in milliseconds."""
        detail = "packed: made in this process, in milliseconds"
        return Reason(kind=ReasonKind.ENGINE_REFUSED, detail=detail, node=region.label)

    def load(self, artefact: Artefact) -> RegionCallable:
        """A stored region: its graph is made again from its canonical form.

        Raises:
            EngineError: the form is not one of this version.
        """
        assert artefact.payload is not None, "only stored artefacts are loaded"
        try:
            data = json.loads(artefact.payload)
            hints = [SizeHint(value=value, positive=positive) for value, positive in data["hints"]]
            weights = tuple(int(place) for place in artefact.header["weights"])
            gm = rebuild(data["form"], hints=hints).gm
            return self._bound(gm, weights, str(artefact.header.get("label", "a stored region")))
        except (CannotRebuild, KeyError, TypeError, ValueError) as error:
            raise EngineError(f"packed could not load an artefact: {type(error).__name__}: {error}") from error

    def fingerprint(self) -> Mapping[str, str]:
        """Only torch's version: which products are packed is decided when an artefact is loaded."""
        return {"engine": self.name, "converter": str(CONVERTER_VERSION), "torch": str(torch.__version__)}

    def _bound(self, gm: GraphModule, weights: Sequence[int], label: str) -> BoundRegion:
        made = rewritten(gm, tuple(weights))
        plan = PackedPlan(made, weights, self.speed)
        return BoundRegion(
            engine=self.name,
            label=label,
            signature=Signature(
                fed=fed_of(gm), results=(), mutated=tuple((place, 0) for place in written_places(gm.graph))
            ),
            weights=plan.watched,
            opener=plan.open,
            mode=self.weights,
            filed=self.filed,
            shares_copies=plan.shares_copies,
        )


def fed_of(gm: GraphModule) -> tuple[Fed, ...]:
    """The arguments as ``bound`` checks them."""
    found = []
    for place, node in enumerate(gm.graph.find_nodes(op="placeholder")):
        value = fake_value(node)
        if isinstance(value, torch.Tensor):
            sizes = tuple(size if type(size) is int else None for size in value.shape)
            dtype = str(value.dtype).removeprefix("torch.")
            found.append(Fed(name=node.name, place=place, dtype=dtype, sizes=sizes))
    return tuple(found)


def make(*, weights: str = "auto", folder: Path | None = None, filed: Path | None = None) -> PackedEngine:
    """The engine, with the figures in a cache folder, or in memory."""
    return PackedEngine(weights=weights, filed=filed, speed=speeds_in(folder))
