"""What the backend's tests share: ways to cut a graph, running a function eagerly and compiled, and comparing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch.fx import Node
from torch.utils import _pytree as pytree

from djinn_fx.backend import compilations
from djinn_fx.compiling.captured import CapturedGraph
from djinn_fx.passes.base import Pass, PassContext, PassResult
from djinn_fx.passes.cutting.partition import OpList, op_list, to_groups
from djinn_fx.passes.find_regions import FindRegions
from djinn_fx.passes.pipeline import DEFAULT
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.srg.extract import boundary, symbol_sources, unbound_symbols
from djinn_fx.srg.form.hashing import NoCanonicalForm, canonical_form, structural_hash
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.plan import Region
from djinn_fx.srg.record import Cost

Options = dict[str, Any]
#: For tests in which several threads trace at once. Torch's own backends do the same.
several_trace = pytest.mark.skipif(
    torch.__version__ < (2, 12), reason="torch 2.11 dies where two threads trace at once"
)


@dataclass(frozen=True, kw_only=True)
class CutEvery:
    """Stands in for find-regions: cuts after every few ops, whether or not it makes sense."""

    name: ClassVar[str] = "find-regions"
    after: ClassVar[tuple[str, ...]] = ()
    requires: ClassVar[tuple[str, ...]] = ()
    ensures: ClassVar[tuple[str, ...]] = ("regions-partition",)

    size: int = 3

    def run(self, srg: SRG, context: PassContext) -> PassResult:
        """Set the regions: as small as asked, or larger where a smaller one could not stand alone."""
        ops = op_list(srg)
        size = self.size
        while ops.nodes:
            regions = _regions(srg, ops, size)
            if regions is not None:
                srg.regions = regions
                break
            size *= 2
        for region in srg.regions:
            for name in region.nodes:
                srg.update(srg.node(name), region=region.index)
        detail = f"{len(srg.regions)} regions of about {size} ops"
        return PassResult(modified=True, reasons=(Reason(kind=ReasonKind.SPLIT, detail=detail),))


def _regions(srg: SRG, ops: OpList, size: int) -> tuple[Region, ...] | None:
    groups = to_groups(ops, [place // size for place in range(len(ops.nodes))], join_gaps=True)
    members: list[list[Node]] = [[] for _ in range(max(groups) + 1)]
    for node, group in zip(ops.nodes, groups, strict=True):
        members[group].append(node)
    symbols = symbol_sources(srg)
    regions = []
    for index, nodes in enumerate(members):
        inputs, outputs = boundary(srg, nodes, symbols)
        if len(members) > 1 and unbound_symbols(srg, nodes, inputs):
            return None
        try:
            digest = structural_hash(canonical_form(nodes, inputs, outputs))
        except NoCanonicalForm:
            digest = ""
        costs = [cost for node in nodes if (cost := srg.record(node).cost) is not None]
        regions.append(
            Region(
                index=index,
                label=f"part {index}",
                nodes=tuple(node.name for node in nodes),
                inputs=tuple(node.name for node in inputs),
                outputs=tuple(node.name for node in outputs),
                structural_hash=digest,
                cost=sum(costs, Cost()),
            )
        )
    return tuple(regions)


def cutting(size: int = 3) -> tuple[Pass, ...]:
    """The default passes with cuts after every ``size`` ops."""
    return tuple(CutEvery(size=size) if one.name == CutEvery.name else one for one in DEFAULT)


WHOLE: Options = {"engine": "eager", "regions": "whole"}
CUT: Options = {"engine": "eager", "passes": cutting(), "check_passes": True}
#: The default passes, cutting where structure repeats, whatever that costs.
AT_REPEATS = tuple(
    FindRegions(min_ops=3, max_boundary_share=1e9) if one.name == FindRegions.name else one for one in DEFAULT
)
REPEATS: Options = {"engine": "eager", "passes": AT_REPEATS, "expected_calls": 1, "check_passes": True}
INDUCTOR: Options = {"progress": False}
INDUCTOR_REPEATS: Options = {"progress": False, "passes": AT_REPEATS, "expected_calls": 1}

WAYS: dict[str, Options] = {"whole": WHOLE, "cut": CUT}
#: As parameters of a fixture: each test runs with its graphs cut to pieces, in ``make exam`` with whole ones too.
CUT_OR_WHOLE = [pytest.param("whole", marks=pytest.mark.exam), "cut"]
#: A test that runs both ways in ``make test``.
both_ways = pytest.mark.parametrize("options", list(WAYS), indirect=True)
#: The same of one that runs on Inductor too.
each_way = pytest.mark.parametrize("options", [*WAYS, "inductor"], indirect=True)


def djinn(function: Callable[..., Any], options: Mapping[str, Any] = WHOLE, **others: Any) -> Callable[..., Any]:
    """The function compiled by name, as a user does it."""
    return torch.compile(function, backend="djinn", options=dict(options), **others)


def clones(values: Any) -> Any:
    """The same values, in tensors of their own with the same strides; what shares memory goes on sharing it."""
    return copy.deepcopy(values)


def same(actual: Any, expected: Any, **tolerance: Any) -> None:
    """Two results are the same: structure, dtype, sizes, and numbers (exactly, unless a tolerance is given).

    Raises:
        AssertionError: they are not.
    """
    ours, structure = pytree.tree_flatten(actual)
    theirs, wanted = pytree.tree_flatten(expected)
    assert structure == wanted, f"{structure} is not {wanted}"
    for mine, other in zip(ours, theirs, strict=True):
        if isinstance(other, torch.Tensor):
            assert isinstance(mine, torch.Tensor), f"{mine!r} is not a tensor"
            torch.testing.assert_close(mine, other, equal_nan=True, **(tolerance or {"rtol": 1e-5, "atol": 1e-6}))
            assert mine.requires_grad == other.requires_grad
        else:
            assert type(mine) is type(other), f"{mine!r} is not {other!r}"
            assert mine == other or (mine != mine and other != other)


def check(function: Callable[..., Any], *args: Any, options: Mapping[str, Any], calls: int = 2, **others: Any) -> Any:
    """Results of the compiled function, and what it does to its arguments, are those of the function itself.

    Each of the calls starts from copies of the arguments; random numbers start from the same seed.

    Returns:
        The compiled function.
    """
    compiled = djinn(function, options, **others)
    for _ in range(calls):
        given, ours = clones(args), clones(args)
        torch.manual_seed(7)
        expected = function(*given)
        torch.manual_seed(7)
        actual = compiled(*ours)
        same(actual, expected)
        same(ours, given)
    return compiled


def check_training(
    module: torch.nn.Module,
    *args: Any,
    options: Mapping[str, Any],
    loss: Callable[[Any], torch.Tensor] = lambda y: y.float().pow(2).sum(),
    steps: int = 2,
    tolerance: Mapping[str, float] | None = None,
    **others: Any,
) -> None:
    """Loss, every gradient (of parameters and of inputs) and every buffer, over a few steps of SGD."""
    limits = dict(tolerance or {"rtol": 1e-4, "atol": 1e-5})
    reference, ours = copy.deepcopy(module), copy.deepcopy(module)
    compiled = djinn(ours, options, **others)
    for _ in range(steps):
        there, here = _training_step(reference, reference, args, loss), _training_step(ours, compiled, args, loss)
        same(here, there, **limits)
        same(dict(ours.named_buffers()), dict(reference.named_buffers()), **limits)


def _training_step(
    module: torch.nn.Module, run: Callable[..., Any], args: Sequence[Any], loss: Callable[[Any], torch.Tensor]
) -> tuple[torch.Tensor, list[Any], dict[str, Any]]:
    given = clones(args)
    module.zero_grad()
    torch.manual_seed(7)
    value = loss(run(*given))
    value.backward()
    of_inputs = [a.grad for a in given if isinstance(a, torch.Tensor)]
    of_parameters = {name: p.grad for name, p in module.named_parameters()}
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad
    gradients = {name: None if g is None else g.clone() for name, g in of_parameters.items()}
    return value.detach(), of_inputs, gradients


class Noted:
    """The graphs compiled since it was made."""

    def __init__(self) -> None:
        self._before = len(compilations())

    @property
    def graphs(self) -> tuple[CapturedGraph, ...]:
        """Oldest first. Fails if more were compiled than are remembered."""
        assert self._before < 200, "call djinn_fx.backend.reset() first"
        return compilations()[self._before :]

    def regions(self) -> int:
        """How many regions they have together."""
        return sum(len(graph.plan.regions) for graph in self.graphs)

    def outcomes(self) -> list[str]:
        """How each distinct region got its callable."""
        outcomes = [build.outcome for graph in self.graphs for build in graph.builds]
        return [outcome for outcome in outcomes if outcome != "shared"]

    def reasons(self) -> Iterator[Reason]:
        """Every decision."""
        return (reason for graph in self.graphs for reason in graph.reasons)


class Stacked(torch.nn.Module):
    """A small network of equal layers: the shape of model that is worth cutting."""

    def __init__(self, layers: int = 4, width: int = 6) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(Layer(width) for _ in range(layers))
        self.head = torch.nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, width] → [batch, 3]."""
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class Layer(torch.nn.Module):
    """Norm, linear, GELU, linear, residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(width)
        self.up = torch.nn.Linear(width, 2 * width)
        self.down = torch.nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Same shape out as in."""
        return x + self.down(torch.nn.functional.gelu(self.up(self.norm(x))))


def stacked(layers: int = 4, width: int = 6) -> Stacked:
    """With seeded weights."""
    torch.manual_seed(0)
    return Stacked(layers, width)
