"""``djinn build``: TensorRT plans for a model's regions, for a GPU that need not be here, put into the cache.

A build farm: the model is traced on this machine's CPU, cut as it would be on the GPU, each distinct region is built
for the target, and ``djinn cache export`` carries the plans to the machines that run them. Nothing is run on a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import cast

import torch
from torch import nn
from torch.utils import _pytree as pytree

from djinn_fx.backend import capture
from djinn_fx.command_line import FOUND_WRONG, OK, add_json, add_model, carry_out, json_target
from djinn_fx.compiling.captured import CapturedGraph
from djinn_fx.compiling.choice import passes_for
from djinn_fx.compiling.pricing import pricing_for
from djinn_fx.dispatch.region import region_graph
from djinn_fx.dispatch.tier import MAX_PATIENCE_S, Prepared, Tier
from djinn_fx.engines.base import BuildRequest, Engine, RegionGraph
from djinn_fx.engines.keys import EngineKey, Guards
from djinn_fx.engines.rounding import may_round
from djinn_fx.engines.tensorrt.engine import TensorRTEngine
from djinn_fx.errors import DjinnError, ModelFailedError, ModelFileError, SettingsError, StoreError
from djinn_fx.explain.finding.file import beside, first_line
from djinn_fx.explain.finding.model import FoundModel, find_model
from djinn_fx.passes.base import PassContext, run_passes
from djinn_fx.passes.pipeline import plan_of
from djinn_fx.pool.jobs import BuildDone, BuildJob, BuildOutcome
from djinn_fx.pool.supervisor import shared_pool
from djinn_fx.reasons import Reason
from djinn_fx.settings.engines import TENSORRT
from djinn_fx.settings.table import Settings
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.lower import lower
from djinn_fx.srg.plan import Plan
from djinn_fx.store.opening import open_store
from djinn_fx.units import format_bytes

SCHEMA = "djinn-build/1"
#: What the regions are cut for; the trace itself says "cpu".
DEVICE = "cuda:0"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class RegionOutcome:
    """What became of one distinct region.

    Attributes:
        graph: number of the graph, from 1.
        label: of the first region that is like it.
        repeats: how many regions of the graph it serves.
        ops: how many ops it has.
        state: ``built``, ``there`` (in the cache already), ``refused`` or ``failed``.
        seconds: the build took.
        nbytes: size of the plan.
        key: of the cache entry; empty if there is none.
        why: of a refusal or failure.
    """

    graph: int
    label: str
    repeats: int
    ops: int
    state: str
    seconds: float = 0.0
    nbytes: int = 0
    key: str = ""
    why: str = ""


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(
        prog="djinn build",
        description="Build a model's regions with TensorRT, for a GPU that need not be here, into the cache.",
        epilog="Exit code: 0 all distinct regions are in the cache, 1 some were refused or failed, 2 usage, "
        "3 no model or several, 4 the model fails.",
    )
    add_model(made)
    made.add_argument("--target", metavar="SM", help="what to build for, such as sm89; default: the GPU that is here")
    made.add_argument("--flavour", choices=("tensorrt", "tensorrt_rtx"), help="default: the first that can build here")
    made.add_argument("--dtype", choices=tuple(DTYPES), help="convert the model and its floating-point inputs first")
    add_json(made)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return carry_out(parser(), _run, argv, "djinn build")


def _run(arguments: argparse.Namespace) -> int:
    target = json_target(arguments.json)
    settings = Settings.load(None, {"engine": TENSORRT, **({"target": arguments.target} if arguments.target else {})})
    store, reason = open_store(settings)
    if store is None:
        raise StoreError(
            reason.detail if reason is not None else "the cache is switched off: there is nowhere to build to"
        )
    engine = TensorRTEngine(target=settings.target, library=arguments.flavour, store=store)
    capability = engine.capability()
    if not capability.can_build:
        raise SettingsError(str(capability.why_not))
    found = find_model(arguments.model)
    # The user's file may have set float32's precision, as it will on the machine that runs it.
    engine = replace(engine, tf32=may_round(torch.backends.cuda.matmul))
    fingerprint = engine.fingerprint()
    if not target.quiet:
        print(f"{fingerprint['flavour']} {fingerprint['version']}, target {fingerprint['target']}, into {store.root}")
    tier = Tier(cast(Engine, engine), store)
    outcomes = []
    for outcome in build_model(found, tier, settings, dtype=arguments.dtype, dynamic=arguments.dynamic):
        outcomes.append(outcome)
        if not target.quiet:
            print(_line(outcome), flush=True)
    date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    told = {"schema": SCHEMA, "fingerprint": dict(fingerprint), "regions": [*map(asdict, outcomes)], "date": date}
    target.write(json.dumps(told, indent=1))
    if not target.quiet:
        print(_summary(outcomes))
    return OK if all(one.state in ("built", "there") for one in outcomes) else FOUND_WRONG


def build_model(
    found: FoundModel, tier: Tier, settings: Settings, *, dtype: str | None = None, dynamic: bool = False
) -> Iterator[RegionOutcome]:
    """Trace a model in evaluation mode, and build its distinct regions side by side.

    Args:
        found: the model and one call's arguments.
        tier: the engine and its part of the cache.
        settings: how graphs are cut.
        dtype: a key of :data:`DTYPES` to convert to; None leaves the model as it is.
        dynamic: every size may vary.

    Yields:
        One outcome a distinct region: what needs no building first, then the others as they are ready.

    Raises:
        ModelFailedError: the model cannot be traced.
    """
    store = tier.store
    assert store is not None, "there is somewhere to put plans"
    waiting: list[_Build] = []
    for number, captured in enumerate(_traced(found, settings, dtype, dynamic), start=1):
        for graph, outcome in _distinct(number, *cut_for_gpu(captured, settings)):
            prepared = tier.prepare(graph, for_child=True)
            if isinstance(prepared, Reason):
                yield replace(outcome, state="refused", why=str(prepared.detail))
            elif prepared.key is not None and store.get(prepared.key.digest) is not None:
                yield replace(outcome, state="there", key=prepared.key.digest)
            else:
                waiting.append(_Build(tier, prepared, outcome))
    for build in waiting:
        build.start()
    for build in waiting:
        yield build.result()


def cut_for_gpu(captured: CapturedGraph, settings: Settings) -> tuple[SRG, Plan]:
    """The graph as the passes cut it for a GPU: where to cut depends on what ops cost, and that on the device."""
    old = captured.srg
    residency = {node.name: old.record(node).residency for node in old.inputs}
    srg = lower(old.gm, old.kind, {name: kind for name, kind in residency.items() if kind is not None})
    passes = passes_for(settings)
    pricing = pricing_for(settings, DEVICE, passes)
    run_passes(srg, passes, PassContext(device=DEVICE, expected_calls=settings.expected_calls, pricing=pricing))
    return srg, plan_of(srg)


class _Build:
    """One region on its way through the build pool."""

    def __init__(self, tier: Tier, prepared: Prepared, outcome: RegionOutcome) -> None:
        assert isinstance(prepared.request, BuildRequest), "this engine builds in a child"
        assert prepared.key is not None, "its requests have an identity"
        self._tier, self._prepared, self._outcome = tier, prepared, outcome
        self._request: BuildRequest = prepared.request
        self._key: EngineKey = prepared.key
        self._done = threading.Event()
        self._found: BuildOutcome | None = None

    def start(self) -> None:
        """Submit it."""
        shared_pool(waited_for=True).submit(
            BuildJob(
                key=self._key.digest,
                worker=self._request.worker,
                request=self._request.request,
                blobs=self._request.blobs,
                label=self._outcome.label,
                memory_bytes=self._request.memory_bytes,
                timeout_s=self._request.timeout_s,
                guard=self._alone,
            ),
            on_start=None,
            on_done=self._finished,
        )

    def result(self) -> RegionOutcome:
        """What became of it; waits, and keeps the plan."""
        while not self._done.wait(0.2):  # in slices, so that Ctrl-C is heard
            pass
        found = self._found
        assert found is not None, "it is set before the event"
        if not isinstance(found, BuildDone):
            where = f" [{found.node}]" if found.node else ""
            why = f"{found.kind.value}, {found.stage}: {found.detail}{where}"
            return replace(self._outcome, state="failed", seconds=found.seconds, why=why)
        kept = self._tier.write(self._prepared, found.header, found.payload, Guards(expression=None))
        if not kept:
            return replace(self._outcome, state="failed", why="the plan could not be put into the cache")
        return replace(
            self._outcome, state="built", seconds=found.seconds, nbytes=len(found.payload), key=kept
        )  # fmt: skip

    @contextlib.contextmanager
    def _alone(self) -> Iterator[BuildDone | None]:
        with self._tier.lock(self._key, MAX_PATIENCE_S):
            yield None

    def _finished(self, outcome: BuildOutcome) -> None:
        self._found = outcome
        self._done.set()


def _traced(found: FoundModel, settings: Settings, dtype: str | None, dynamic: bool) -> tuple[CapturedGraph, ...]:
    module, args, kwargs = found.module, found.args, found.kwargs
    if isinstance(module, nn.Module):
        module.eval()
    if dtype is not None:
        if not isinstance(module, nn.Module):
            raise ModelFileError(f"{found.file}: {found.attr} is a function: --dtype converts modules only")
        module.to(DTYPES[dtype])
        args, kwargs = pytree.tree_map_only(
            torch.Tensor, lambda t: t.to(DTYPES[dtype]) if t.is_floating_point() else t, (args, kwargs)
        )
    try:
        with beside(found.path), torch.no_grad():
            result = capture(module, args, kwargs, settings=settings, dynamic=dynamic or None)
    except DjinnError:
        raise
    except Exception as error:
        raise ModelFailedError(
            f"{found.file}: {found.attr} cannot be traced: {type(error).__name__}: {first_line(error)} "
            "(`djinn explain` says where)"
        ) from error
    if not result.graphs:
        raise ModelFailedError(f"{found.file}: {found.attr}: nothing was captured; `djinn explain` says why")
    return result.graphs


def _distinct(number: int, srg: SRG, plan: Plan) -> Iterator[tuple[RegionGraph, RegionOutcome]]:
    """Each distinct region that computes a tensor, with its outcome still open."""
    hashes = [region.structural_hash for region in plan.regions]
    seen: set[str] = set()
    for region in plan.regions:
        if region.structural_hash and region.structural_hash in seen:
            continue
        seen.add(region.structural_hash)
        if not any(srg.record(srg.node(name)).outputs for name in region.nodes):
            continue  # sizes only: reckoned in Python on every machine
        repeats = hashes.count(region.structural_hash) if region.structural_hash else 1
        outcome = RegionOutcome(
            graph=number, label=region.label, repeats=repeats, ops=len(region.nodes), state="waiting"
        )  # fmt: skip
        yield region_graph(srg, region), outcome


def _line(one: RegionOutcome) -> str:
    repeats = f" x{one.repeats}" if one.repeats > 1 else ""
    head = f"  {one.state:<8} graph {one.graph}, {one.label}{repeats}, {one.ops} ops"
    if one.state == "built":
        return f"{head}: {format_bytes(one.nbytes)} in {one.seconds:.2f} s, {one.key[:12]}"
    return f"{head}: {one.why or one.key[:12]}"


def _summary(outcomes: Sequence[RegionOutcome]) -> str:
    counts = {state: sum(one.state == state for one in outcomes) for state in ("built", "there", "refused", "failed")}
    nbytes = format_bytes(sum(one.nbytes for one in outcomes))
    seconds = sum(one.seconds for one in outcomes)
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return (
        f"{told or 'no region computes anything'}; {nbytes} in {seconds:.2f} s of building. Not run: no GPU takes part."
    )
