"""Graphs of bench/cost/models.py on disk: captured once as djinn sees them, then built and timed without the model.

A graph's folder holds its canonical form, the values it was called with, and what each engine made of it. So a child
that only measures imports neither Transformers nor Dynamo, and an engine is timed in a process that holds no other.
"""

from __future__ import annotations

import json
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bench.cost.models import FAMILIES, call_of, called, family_of, make_model
from bench.harness.measuring import no_gc
from djinn_fx.costmodels.work.work import WorkGraph
from djinn_fx.costmodels.work.work_of import work_graph
from djinn_fx.engines.base import Artefact, Engine, RegionCallable, RegionGraph
from djinn_fx.engines.registry import engine as named_engine
from djinn_fx.passes.find_regions import whole_region
from djinn_fx.settings.table import Settings
from djinn_fx.srg.extract import attribute
from djinn_fx.srg.form.rebuild import SizeHint, rebuild, size_hints
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.lower import lower
from djinn_fx.srg.record import GraphKind, Residency

#: Blocks of calls, and the seconds that all of them take together, about.
BLOCKS, MEASURE_S = 5, 0.2
#: Blocks whose median is so much above the fastest one were disturbed: they are done again, once.
UNEVEN = 1.15
_MAX_CALLS = 100
#: Written inputs of at most so many numbers are put back before each call: they say how far a cache is filled.
_COUNTER = 64

Found = dict[str, Any]


@dataclass(frozen=True)
class Folder:
    """Where one graph is kept."""

    path: Path

    @classmethod
    def of(cls, root: Path | str, graph: str) -> Folder:
        """The folder of a graph, by its name."""
        return cls(Path(root, re.sub(r"[^a-z0-9_]+", "-", graph.lower())))

    def facts(self) -> Found:
        """What is known of the graph; ``{}`` if it was not captured yet."""
        file = self.path / "graph.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def arguments(self) -> list[Any]:
        """The values that the graph was called with."""
        values: list[Any] = torch.load(self.path / "arguments.pt", weights_only=True)
        return values

    def built(self, engine: str) -> Found:
        """What the engine made of it: ``{}`` if it was not asked; ``failed`` says why it made nothing."""
        file = self.path / f"{engine}.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def put(self, name: str, value: Found) -> None:
        """Write a JSON file, whole or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        beside = self.path / f"{name}.tmp"
        beside.write_text(json.dumps(value))
        beside.replace(self.path / f"{name}.json")


# -- capturing -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def capture(family: str, graphs: Sequence[str], root: str) -> None:
    """Capture some graphs of one family; a graph that cannot be captured is kept with the reason."""
    for graph in graphs:
        folder = Folder.of(root, graph)
        try:
            module, inputs = called(make_model(family), FAMILIES[family], call_of(graph))
            facts, arguments = captured(module, inputs)
        except Exception as error:  # noqa: BLE001 - whatever it is, the graph is listed with it
            folder.put("graph", {"graph": graph, "failed": first_line(error)})
            continue
        folder.path.mkdir(parents=True, exist_ok=True)
        torch.save(arguments, folder.path / "arguments.pt")
        folder.put("graph", {"graph": graph, "family": family_of(graph), **facts})


def captured(module: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> tuple[Found, list[Any]]:
    """The one inference graph of a module as djinn captures it, and the values it was called with.

    Raises:
        ValueError: it is more than one graph, or one that has no canonical form.
    """
    from torch._dynamo.backends.common import aot_autograd

    from djinn_fx.compiling.graph_inputs import input_kinds

    found: list[tuple[SRG, list[Any]]] = []

    def backend(gm: torch.fx.GraphModule, examples: Sequence[Any]) -> Any:
        kinds = input_kinds(gm, examples)

        def inference(aten: torch.fx.GraphModule, _: Sequence[Any]) -> Any:
            nodes = aten.graph.find_nodes(op="placeholder")
            places = [getattr(node.meta.get("desc"), "idx", place) for place, node in enumerate(nodes)]
            residency = {
                node.name: kinds[place] if place < len(kinds) else Residency.INPUT
                for node, place in zip(nodes, places, strict=True)
            }
            srg = lower(aten, GraphKind.INFERENCE, residency)

            def run(arguments: list[Any]) -> Any:
                found.append((srg, [_kept(one) for one in arguments]))
                return aten.forward(*arguments)

            run._boxed_call = True  # type: ignore[attr-defined]
            return run

        return aot_autograd(inference_compiler=inference, fw_compiler=inference, keep_inference_input_mutations=True)(
            gm, examples
        )

    torch._dynamo.reset()
    torch.compile(module, backend=backend, dynamic=False, fullgraph=True)(*inputs)
    if len(found) != 1:
        raise ValueError(f"{len(found)} graphs instead of one")
    return _facts(*found[0])


def _kept(value: Any) -> Any:
    """A value as it is before the call; weights are shared, all else is copied, for the call may write it."""
    if not isinstance(value, torch.Tensor):
        return value
    return value.detach() if isinstance(value, torch.nn.Parameter) else value.detach().clone()


def _facts(srg: SRG, values: Sequence[Any]) -> tuple[Found, list[Any]]:
    from djinn_fx.dispatch.region import region_graph

    region = whole_region(srg)
    if region is None or not region.structural_hash:
        raise ValueError("the graph has no ops, or no canonical form")
    graph = region_graph(srg, region)
    by_name = dict(zip((node.name for node in srg.inputs), values, strict=True))
    nodes = [srg.node(name) for name in region.inputs]
    arguments = [attribute(srg.gm, n.target) if n.op == "get_attr" else by_name[n.name] for n in nodes]
    facts = {
        "form": graph.canonical,
        "hints": [[hint.value, hint.positive] for hint in size_hints(graph.canonical, graph.example_inputs)],
        "hash": region.structural_hash,
        "residency": [srg.record(node).residency.value for node in nodes],
        "weights": list(graph.weights),
        "ops": len(region.nodes),
        "counters": _counters(graph),
    }
    return facts, [one.detach() if isinstance(one, torch.Tensor) else one for one in arguments]


def _counters(region: RegionGraph) -> list[int]:
    """The places of small inputs that the graph writes: how far a cache is filled. A call must find them unchanged."""
    from djinn_fx.srg.effects import written_places

    return [place for place in written_places(region.gm.graph) if region.example_inputs[place].numel() <= _COUNTER]


# -- a captured graph again ------------------------------------------------------------------------------------------


def region_of(facts: Mapping[str, Any]) -> RegionGraph:
    """The region of a captured graph."""
    hints = [SizeHint(value=value, positive=positive) for value, positive in facts["hints"]]
    made = rebuild(facts["form"], hints=hints)
    return RegionGraph(
        gm=made.gm,
        structural_hash=facts["hash"],
        canonical=facts["form"],
        example_inputs=made.example_inputs,
        label="whole graph",
        kind=GraphKind.INFERENCE.value,
        weights=tuple(facts["weights"]),
    )


def work_again(facts: Mapping[str, Any]) -> WorkGraph:
    """The work of a captured graph by the rules as they are now."""
    gm = region_of(facts).gm
    names = [node.name for node in gm.graph.find_nodes(op="placeholder")]
    residency = {name: Residency(kind) for name, kind in zip(names, facts["residency"], strict=True)}
    return work_graph(lower(gm, GraphKind.INFERENCE, residency))


def works(graphs: Sequence[str], root: str) -> dict[str, Found]:
    """The work of some captured graphs, as JSON values; called in a child process."""
    return {graph: work_again(Folder.of(root, graph).facts()).to_json() for graph in graphs}


# -- building ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def build(graphs: Sequence[str], engine: str, root: str, threads: int = 0, limit_s: float = 1e9) -> int:
    """Have an engine make artefacts of some graphs, until a time is over. Returns how many were made or refused."""
    began, done = time.perf_counter(), 0
    if threads:
        torch.set_num_threads(threads)
    made = named_engine(engine, Settings())
    for graph in graphs:
        if time.perf_counter() - began > limit_s:
            break
        folder = Folder.of(root, graph)
        folder.put(built_name(engine, threads), _build(made, folder, built_name(engine, threads)))
        done += 1
    return done


def built_name(engine: str, threads: int = 0) -> str:
    """Under which an artefact is kept: Inductor's code is made for a number of threads."""
    return f"{engine}-{threads}threads" if threads and engine.startswith("inductor") else engine


def _build(made: Engine, folder: Folder, name: str) -> Found:
    try:
        capability = made.capability()
        if not capability.can_run:
            return {"failed": str(capability.why_not)}
        region = region_of(folder.facts())
        refusal = made.supports(region)
        if refusal is not None:
            return {"failed": refusal.detail[:300]}
        if made.name == "eager":
            return {"header": {}}
        start = time.perf_counter()
        artefact = made.compile(region)
        seconds = time.perf_counter() - start
        if artefact.payload is None:  # it is compiled again where it is timed; its kernels are in the cache by then
            return {"header": None, "seconds": seconds}
        (folder.path / f"{name}.bin").write_bytes(artefact.payload)
        return {"header": dict(artefact.header), "seconds": seconds}
    except Exception as error:  # noqa: BLE001 - told in the report
        return {"failed": first_line(error)}


def callable_of(made: Engine, folder: Folder, name: str) -> RegionCallable:
    """The callable of what was built."""
    header = folder.built(name)["header"]
    if not header:
        ready = made.compile(region_of(folder.facts())).ready
        assert ready is not None, "what is not stored is there at once"
        return ready
    return made.load(Artefact(header=header, payload=(folder.path / f"{name}.bin").read_bytes()))


# -- timing --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def measure(graphs: Sequence[str], engine: str, root: str, threads: int = 0, seconds: float = MEASURE_S) -> Found:
    """Seconds of a call of each graph on one engine, in this process.

    Returns:
        By graph: ``time_s`` (median over blocks of the median call), ``blocks``, ``spread`` (half the distance of the
        quartiles of all calls, as a share of the median), ``calls``; or ``failed``.
    """
    if threads:
        torch.set_num_threads(threads)
    made = named_engine(engine, Settings())
    found: Found = {}
    for graph in graphs:
        folder = Folder.of(root, graph)
        try:
            run = callable_of(made, folder, built_name(engine, threads))
            found[graph] = timed(run, folder.arguments(), folder.facts()["counters"], seconds)
        except Exception as error:  # noqa: BLE001 - told in the report
            found[graph] = {"failed": first_line(error)}
    return found


def timed(run: RegionCallable, arguments: Sequence[Any], written: Sequence[int], seconds: float) -> Found:
    """Time a region's callable in blocks of calls, after warming up."""
    before = {place: arguments[place].clone() for place in written}

    def once() -> float:
        for place, value in before.items():
            arguments[place].copy_(value)
        given = list(arguments)
        start = time.perf_counter()
        run(given)
        return time.perf_counter() - start

    with no_gc():
        once()
        rough = min(once(), once())
        calls = max(1, min(_MAX_CALLS, int(seconds / BLOCKS / max(rough, 1e-6))))
        blocks = _blocks(once, calls)
    if _middle(blocks) > UNEVEN * min(map(statistics.median, blocks)):
        with no_gc():
            blocks = min(blocks, _blocks(once, calls), key=_middle)
    every = sorted(one for block in blocks for one in block)
    quarter = len(every) // 4
    return {
        "time_s": _middle(blocks),
        "blocks": [statistics.median(block) for block in blocks],
        "spread": (every[-1 - quarter] - every[quarter]) / 2 / _middle(blocks),
        "calls": calls,
    }


def _blocks(once: Callable[[], float], calls: int) -> list[list[float]]:
    return [[once() for _ in range(calls)] for _ in range(BLOCKS)]


def _middle(blocks: Sequence[Sequence[float]]) -> float:
    """The median over blocks of their medians."""
    return statistics.median(map(statistics.median, blocks))


def first_line(error: BaseException) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else 'no message'}"
