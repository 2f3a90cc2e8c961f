"""Eager: the region's own code, op by op. The engine that always works; nothing is stored."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Graph, GraphModule
from torch.fx.graph import CodeGen

from djinn_fx.engines.base import Arguments, Artefact, BuildRequest, Capability, RegionCallable, RegionGraph
from djinn_fx.engines.into import write_into
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
    """A graph's ops, run one by one; each value, an argument too, is let go after its last use.

    Called with :class:`Arguments` it writes results into the memory that is offered, by the ops that can. Its code
    is made by the first call: most graphs that an engine serves are never run this way.
    """
    made: dict[frozenset[int], tuple[RegionCallable, tuple[int, ...]]] = {}

    def writing(places: frozenset[int]) -> tuple[RegionCallable, tuple[int, ...]]:
        if places not in made:
            made[places] = _compiled(module, places)
        return made[places]

    def run(args: list[Any]) -> Sequence[Any]:
        if not isinstance(args, Arguments):
            return writing(_NOWHERE)[0](args)
        forward, places = writing(frozenset(args.into))
        given = [*args, *(args.into[place] for place in places)]
        args.clear()
        return forward(given)

    return run


#: No result is written into memory of the caller's.
_NOWHERE: frozenset[int] = frozenset()


def _compiled(module: GraphModule, places: Collection[int]) -> tuple[RegionCallable, tuple[int, ...]]:
    """A graph as a function of one list, and which results it writes into arguments that follow the graph's own."""
    graph = Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    taken = write_into(graph, places) if places else ()
    graph.set_codegen(_TakesList({node.name for node in graph.find_nodes(op="placeholder") if not node.users}))
    forward: RegionCallable = GraphModule(module, graph, class_name=type(module).__name__).forward
    return forward, taken


class _TakesList(CodeGen):
    """Writes a graph as a function of one list, which it empties: arguments handed over are its own to free.

    Args:
        unused: names of arguments that no op reads.
    """

    def __init__(self, unused: Collection[str]) -> None:
        super().__init__()
        self._unused = unused

    def gen_fn_def(self, free_vars: list[str], maybe_return_annotation: str, **_: Any) -> str:
        """The head of the function."""
        names = [text.split(":")[0].split("=")[0].strip() for text in free_vars if text != "self"]
        lines = [f"{', '.join(names)}, = args"] if names else []
        lines += ["args.clear()", *(f"{name} = None" for name in names if name in self._unused)]
        return f"def forward(self, args){maybe_return_annotation}:\n" + "".join(f"    {line}\n" for line in lines)
