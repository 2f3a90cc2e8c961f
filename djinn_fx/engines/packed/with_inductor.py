"""Inductor with products on packed weights: the rest of the region is fused, and all layers share one artefact.

A packed weight is one more input of what Inductor compiles. At compile time it is a plain fake tensor in the weight's
sizes; at run time the packed tensor is handed over in its place. Inductor is told to call torch's packed kernels
straight from the code it generates, so a product costs one call and no dispatch through Python.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from djinn_fx.engines.base import Artefact, BuildRequest, RegionCallable, RegionGraph
from djinn_fx.engines.bound.region import BoundRegion
from djinn_fx.engines.bound.signature import Fed, Signature
from djinn_fx.engines.here import here_digest
from djinn_fx.engines.inductor.engine import InductorEngine
from djinn_fx.engines.packed import ops as packed_ops
from djinn_fx.engines.packed.engine import PackedEngine, fed_of, speeds_in
from djinn_fx.engines.packed.graph import product_fields, products, rewritten
from djinn_fx.engines.packed.session import is_exact, rows_of, shape_of
from djinn_fx.engines.packed.shared import Packs
from djinn_fx.engines.packed.speed import ProductSpeed
from djinn_fx.errors import EngineError
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.srg.effects import written_places
from djinn_fx.srg.graph import fake_value

#: Raised when what this module hands to Inductor changes; part of every key.
CONVERTER_VERSION = 1

_LIBRARY = "djinn_fx"
_SCHEMAS = (
    "onednn_linear(Tensor x, Tensor packed, Tensor? bias, str attribute, str algorithm) -> Tensor",
    "mkl_linear(Tensor x, Tensor packed, Tensor weight, Tensor? bias, int rows) -> Tensor",
)


@dataclass(frozen=True, kw_only=True)
class Packing:
    """One packed weight that an artefact is handed.

    Attributes:
        place: of the weight among the region's inputs.
        transposed: the weight is [n, k]; else it is [k, n].
        how: ``"mkl"`` or ``"onednn"``.
        rows: how many rows it is packed for.
    """

    place: int
    transposed: bool
    how: str
    rows: int

    def pack(self, weight: torch.Tensor, packs: Packs | None = None) -> torch.Tensor:
        """The packed weight; among these packs, if they are given and can have it."""
        plain = weight if self.transposed else weight.t()
        if self.how == "mkl":
            return packed_ops.pack_mkl_op()(plain, self.rows)
        return packs.pack(plain, self.rows) if packs is not None else packed_ops.pack_onednn_op()(plain, self.rows)


@dataclass(frozen=True, kw_only=True)
class PackedInductorEngine:
    """See the module's text.

    Attributes:
        inductor: compiles.
        plain: decides what it takes.
        speed: tells the fastest way of doing a product.
        weights: the setting of that name.
    """

    inductor: InductorEngine
    plain: PackedEngine
    speed: ProductSpeed = field(compare=False, repr=False)
    weights: str = "auto"
    name: str = field(default="inductor-packed", init=False)

    def capability(self) -> Any:
        """It can where Inductor can and this torch has the packed kernels."""
        ours, theirs = self.plain.capability(), self.inductor.capability()
        return ours if ours.why_not is not None else theirs

    def supports(self, region: RegionGraph) -> Reason | None:
        """What the packed engine takes, if packing pays for one product at least."""
        refusal = self.plain.supports(region) or self.inductor.supports(region)
        if refusal is not None:
            detail = refusal.detail.removeprefix("packed: ").removeprefix("inductor: ")
            return replace(refusal, detail=f"{self.name}: {detail}")
        if not self._packed(region)[1]:
            detail = f"{self.name}: no product of the region is faster with a packed weight"
            return Reason(kind=ReasonKind.ENGINE_REFUSED, detail=detail, node=region.label)
        return None

    def compile(self, region: RegionGraph, *, alone: bool = False) -> Artefact:
        """Compile a region with its packed weights as further inputs.

        Raises:
            EngineError: Inductor failed; the cause is chained.
        """
        teach_inductor()
        gm, packings = self._packed(region)
        placeholders = gm.graph.find_nodes(op="placeholder")
        examples = (*region.example_inputs, *(n.meta["val"] for n in placeholders[len(region.example_inputs) :]))
        made = self.inductor.compile(replace(region, gm=gm, example_inputs=examples, canonical=None), alone=alone)
        header = {
            **made.header,
            "engine": self.name,
            "packings": [[one.place, one.transposed, one.how, one.rows] for one in packings],
            "fed": [[one.place, one.dtype, list(one.sizes)] for one in fed_of(region.gm)],
            "written": list(written_places(region.gm.graph)),
        }
        assert made.ready is not None, "Inductor's compile gives a callable"
        return Artefact(header=header, payload=made.payload, ready=self._bound(header, region.label, made.ready))

    def request(self, region: RegionGraph) -> BuildRequest | Reason:
        """It is made in this process: a child would have to measure what this one knows."""
        detail = f"{self.name}: converted in this process"
        return Reason(kind=ReasonKind.ENGINE_REFUSED, detail=detail, node=region.label)

    def load(self, artefact: Artefact) -> RegionCallable:
        """Make a stored artefact callable.

        Raises:
            EngineError: the bytes do not fit this torch.
        """
        run = self.inductor.load(artefact)
        try:
            return self._bound(artefact.header, str(artefact.header.get("label", "a stored region")), run)
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(f"{self.name} could not load an artefact: {type(error).__name__}: {error}") from error

    def fingerprint(self) -> Mapping[str, str]:
        """Inductor's, and the machine whose measurements decided what is packed."""
        own = {"engine": self.name, "packed": str(CONVERTER_VERSION), "machine": here_digest()}
        return {**self.inductor.fingerprint(), **own}

    def _packed(self, region: RegionGraph) -> tuple[GraphModule, list[Packing]]:
        return with_packed_inputs(rewritten(region.gm, region.weights, compiled=True), self.speed)

    def _bound(self, header: Mapping[str, Any], label: str, run: RegionCallable) -> BoundRegion:
        packings = [
            Packing(place=place, transposed=transposed, how=how, rows=rows)
            for place, transposed, how, rows in header["packings"]
        ]
        fed = tuple(Fed(name="", place=place, dtype=dtype, sizes=tuple(sizes)) for place, dtype, sizes in header["fed"])
        return BoundRegion(
            engine=self.name,
            label=label,
            signature=Signature(fed=fed, results=(), mutated=tuple((place, 0) for place in header["written"])),
            weights=sorted({one.place for one in packings}),
            opener=functools.partial(_open, run, packings),
            mode=self.weights,
            filed=self.plain.filed,
        )


class _Session:
    """An artefact with packed weights; see ``engines.bound.Session``."""

    def __init__(
        self, run: RegionCallable, packings: Sequence[Packing], packed: Sequence[Any], own_bytes: int, packs: Packs
    ) -> None:
        self._run, self._packings, self._packed = run, packings, packed
        self._own_bytes, self._packs = own_bytes, packs

    @property
    def memory_bytes(self) -> int:
        """Of packed weights, counted from their sizes; of what sessions share, its share."""
        return self._own_bytes + self._packs.memory_bytes

    def run(self, args: list[Any]) -> list[Any]:
        """The region's results. Leaves the list as it is."""
        if self._packed:
            return list(self._run([*args, *self._packed]))
        # Weights that change too often to be watched: packed for this call alone.
        with torch.no_grad():
            return list(self._run([*args, *(one.pack(args[one.place].detach()) for one in self._packings)]))


def _open(run: RegionCallable, packings: Sequence[Packing], given: Mapping[int, torch.Tensor]) -> _Session:
    packs = Packs()
    if any(one.place not in given for one in packings):
        return _Session(run, packings, (), 0, packs)
    with packed_ops.real_values():
        if any(one.how == "mkl" for one in packings):
            packed_ops.make_room_for_mkl()
        packed = [one.pack(given[one.place], packs) for one in packings]
    own = [given[one.place] for one in packings if one.how == "mkl"]
    return _Session(run, packings, packed, sum(one.numel() * one.element_size() for one in own), packs)


# -- the graph for Inductor ---------------------------------------------------------------------------------------


def with_packed_inputs(gm: GraphModule, speed: ProductSpeed) -> tuple[GraphModule, list[Packing]]:
    """Give a rewritten graph one more input for each weight to be packed, and call the packed kernels with them."""
    define_operators()
    graph = gm.graph
    placeholders = graph.find_nodes(op="placeholder")
    places = {node: place for place, node in enumerate(placeholders)}
    last = placeholders[-1]
    packings: list[Packing] = []
    for node in products(graph):
        weight, transposed = _weight_of(node.args[1])
        how = speed.best(shape_of(node)) if rows_of(node) and weight in places else "aten"
        if how == "aten" or (how == "onednn" and not is_exact(node)):
            continue  # a weight that oneDNN packed for other rows would be packed anew in every call
        packings.append(Packing(place=places[weight], transposed=transposed, how=how, rows=rows_of(node)))
        with graph.inserting_after(last):
            last = graph.placeholder(f"packed_{len(packings)}")
        right = fake_value(product_fields(node)[1])
        with right.fake_mode:
            last.meta["val"] = torch.empty(right.shape[1], right.shape[0], dtype=right.dtype)
        _call_packed(graph, node, last, how)
    graph.eliminate_dead_code()
    gm.recompile()
    return gm, packings


def _weight_of(right: Any) -> tuple[Any, bool]:
    """The input that a product's right operand shows, and whether it shows it transposed."""
    return (right.args[0], True) if right.target is torch.ops.aten.t.default else (right, False)


def _call_packed(graph: Graph, node: Node, packed: Node, how: str) -> None:
    x, right, bias, after, other = product_fields(node)
    ops = torch.ops.djinn_fx
    with graph.inserting_before(node):
        if how == "onednn":
            _, name, algorithm = packed_ops.UNARY.get(after, (None, "none", ""))
            result = graph.call_function(ops.onednn_linear.default, (x, packed, bias, name, algorithm))
        else:
            weight = graph.call_function(torch.ops.aten.t.default, (right,))
            result = graph.call_function(ops.mkl_linear.default, (x, packed, weight, bias, rows_of(node)))
            if after in packed_ops.UNARY:
                function = packed_ops.UNARY[after][0]
                keywords = dict(getattr(function, "keywords", {}))  # a graph cannot call a functools.partial
                result = graph.call_function(getattr(function, "func", function), (result,), keywords)
        if after in packed_ops.BINARY:
            result = graph.call_function(packed_ops.BINARY[after], (result, other))
    node.replace_all_uses_with(result)
    result.meta = dict(node.meta)
    graph.erase_node(node)


# -- operators that Inductor writes as torch's ---------------------------------------------------------------------

_LIBRARIES: list[Any] = []


@functools.cache
def define_operators() -> None:
    """Define the two products on packed weights as operators, with what they give for fake tensors."""
    library = torch.library.Library(_LIBRARY, "FRAGMENT")
    _LIBRARIES.append(library)  # an operator lives as long as its library
    for schema in _SCHEMAS:
        library.define(schema)
    for key in ("CPU", "MkldnnCPU"):
        library.impl("onednn_linear", _onednn, key)
        library.impl("mkl_linear", _mkl, key)
    torch.library.register_fake(f"{_LIBRARY}::onednn_linear", _fake, lib=library)
    torch.library.register_fake(f"{_LIBRARY}::mkl_linear", _fake, lib=library)


def _onednn(x: Any, packed: Any, bias: Any, attribute: str, algorithm: str) -> Any:
    return packed_ops.run_onednn_op()(x, packed, bias, attribute, [], algorithm)


def _mkl(x: Any, packed: Any, weight: Any, bias: Any, rows: int) -> Any:
    return packed_ops.run_mkl_op()(x, packed, weight, bias, rows)


def _fake(x: Any, packed: Any, *_: Any) -> Any:
    return x.new_empty((*x.shape[:-1], packed.shape[0]))


@functools.cache
def teach_inductor() -> None:
    """Have Inductor call torch's own kernels where it finds our operators.

    Raises:
        EngineError: Inductor's table of lowerings has moved.
    """
    define_operators()
    try:
        from torch._inductor import ir
        from torch._inductor.lowering import register_lowering
        from torch.utils._pytree import tree_map
    except ImportError as error:
        raise EngineError(f"inductor-packed: torch {torch.__version__} has moved what it needs: {error}") from error

    def call(kernel: Any, *args: Any) -> Any:
        return tree_map(ir.TensorBox.create, ir.FallbackKernel.create(kernel, *args))

    def onednn(x: Any, packed: Any, bias: Any, attribute: str, algorithm: str) -> Any:
        return call(torch.ops.mkldnn._linear_pointwise.default, x, packed, bias, attribute, [], algorithm)

    def mkl(x: Any, packed: Any, weight: Any, bias: Any, rows: int) -> Any:
        return call(torch.ops.mkl._mkl_linear.default, x, packed, weight, bias, rows)

    register_lowering(torch.ops.djinn_fx.onednn_linear.default, type_promotion_kind=None)(onednn)
    register_lowering(torch.ops.djinn_fx.mkl_linear.default, type_promotion_kind=None)(mkl)


@dataclass(frozen=True, kw_only=True)
class _Inductor(InductorEngine):
    """Inductor that asks nothing of its inputs' strides: a packed tensor has none. Its own ops are not the region's."""

    answers_itself: bool = field(default=False, init=False)

    def _options(self) -> dict[str, Any]:
        return {**super()._options(), "size_asserts": False, "alignment_asserts": False}


def make(
    *,
    mode: str = "default",
    fallback_random: bool = True,
    weights: str = "auto",
    folder: Path | None = None,
    filed: Path | None = None,
) -> PackedInductorEngine:
    """The engine, with the figures in a cache folder, or in memory."""
    speed = speeds_in(folder)
    return PackedInductorEngine(
        inductor=_Inductor(mode=mode, fallback_random=fallback_random),
        plain=PackedEngine(weights=weights, filed=filed, speed=speed),
        speed=speed,
        weights=weights,
    )
