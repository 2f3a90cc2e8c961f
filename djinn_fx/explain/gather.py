"""Make the report of graphs that were captured."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from djinn_fx.explain.detail.measured import measured
from djinn_fx.explain.detail.pieces import continued
from djinn_fx.explain.detail.sources import without_way
from djinn_fx.explain.finding.inputs import signature_of
from djinn_fx.explain.finding.typed import tensor_text
from djinn_fx.explain.graph import graph_info, group_reasons
from djinn_fx.explain.report import (
    SCHEMA,
    SHORT_HASH,
    WITH_VALUES,
    BuildInfo,
    CacheInfo,
    CacheLookup,
    Check,
    ContestInfo,
    EntrantInfo,
    GraphRun,
    ModelInfo,
    PassTime,
    Report,
    RunInfo,
    Scenario,
    ScenarioRun,
)
from djinn_fx.hardware.machine import machine_identity
from djinn_fx.reasons import ReasonKind
from djinn_fx.settings.engines import INDUCTOR
from djinn_fx.srg.record import Residency
from djinn_fx.units import now_text

if TYPE_CHECKING:
    from djinn_fx.compiling.captured import CapturedGraph
    from djinn_fx.dispatch.entrant import DispatchStatus
    from djinn_fx.dispatch.region import RegionBuild

_MOST_NAMES = 4
#: A build's outcome that says its artefact was there.
_HITS = ("memory", "store")
#: Those that say it was looked for and was not.
_MISSES = ("built", "fallback", "waiting")


@dataclass(frozen=True, kw_only=True)
class Examined:
    """A scenario, what was measured of it, and what the disk cache had of it."""

    scenario: Scenario
    run: ScenarioRun
    lookups: tuple[CacheLookup, ...] = ()


def make_report(
    model: ModelInfo,
    graphs: Sequence[CapturedGraph],
    graph_breaks: Sequence[str] = (),
    check: Check | None = None,
    *,
    engine: str = INDUCTOR,
) -> Report:
    """The report on graphs that were captured or, as by ``djinn_fx.backend.compilations()``, compiled."""
    return joined(model, [examined(model.name, graphs, graph_breaks, check, engine=engine)])


def examined(
    model: str,
    graphs: Sequence[CapturedGraph],
    graph_breaks: Sequence[str] = (),
    check: Check | None = None,
    *,
    engine: str = INDUCTOR,
    name: str = "",
    rule: str = "",
    inputs: Mapping[str, str] | None = None,
    rung: int = WITH_VALUES,
    partial: str | None = None,
    failed: str | None = None,
    capture_s: float = 0.0,
    first_s: float | None = None,
    contests: Sequence[DispatchStatus] = (),
    expected_calls: int = 1000,
    lookups: Sequence[CacheLookup] = (),
) -> Examined:
    """One scenario of a report; see :class:`~djinn_fx.explain.report.Scenario`.

    Args:
        engine: the one that regions are for, where none competes.
        capture_s: seconds that it took; ``first_s``: its first call.
        contests: the trials between engines, as they stood at the end.
        lookups: what the disk cache has, where nothing was asked for while building.
    """
    scenario = Scenario(
        name=name,
        model=model,
        rule=rule,
        inputs=tuple(f"{name}: {text}" for name, text in (inputs or {}).items()),
        rung=rung,
        partial=partial,
        graphs=continued(graph_info(graph, engine) for graph in graphs),
        graph_breaks=tuple(map(without_way, graph_breaks)),
        failed=failed,
        expected_calls=expected_calls,
    )
    run = ScenarioRun(
        name=name,
        capture_s=capture_s,
        graphs=tuple(map(_graph_run, graphs)),
        check=check,
        first_s=first_s,
        contests=tuple(map(_contest, contests)),
    )
    asked = [lookup for place, graph in enumerate(graphs) for lookup in _lookups(place, graph)]
    return Examined(scenario=scenario, run=run, lookups=(*asked, *lookups))


def joined(model: ModelInfo, found: Sequence[Examined], find_s: float = 0.0) -> Report:
    """One report on all scenarios of a model."""
    lookups = tuple(replace(lookup, scenario=place) for place, one in enumerate(found) for lookup in one.lookups)
    hits, misses = (sum(one.outcome in outcomes for one in lookups) for outcomes in (_HITS, _MISSES))
    return Report(
        schema=SCHEMA,
        model=model,
        versions=_versions(),
        scenarios=tuple(one.scenario for one in found),
        run=RunInfo(
            when=now_text(), machine=machine_identity(), find_s=find_s, scenarios=tuple(one.run for one in found)
        ),
        cache=CacheInfo(hits=hits, misses=misses, lookups=lookups),
    )


def model_info(
    modules: Sequence[Callable[..., Any]],
    *,
    file: str,
    attr: str,
    rule: str,
    mode: str,
    words: Sequence[str] = (),
) -> ModelInfo:
    """What is to be said about the model itself, or about all those that scenarios call."""
    distinct = {id(module): module for module in modules}.values()
    parameters = {
        id(parameter): parameter
        for module in distinct
        for parameter in (module.parameters() if isinstance(module, nn.Module) else ())
    }.values()
    names = list(dict.fromkeys(name_of(module, attr) for module in distinct))
    return ModelInfo(
        file=file,
        attr=attr,
        rule=rule,
        name=", ".join(names[:_MOST_NAMES])
        + (f", +{len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""),
        mode=mode,
        parameter_count=sum(parameter.numel() for parameter in parameters),
        parameter_bytes=sum(parameter.numel() * parameter.element_size() for parameter in parameters),
        words=tuple(words),
    )


def name_of(module: Callable[..., Any], attr: str) -> str:
    """The class of a module, the name of a function."""
    return type(module).__name__ if isinstance(module, nn.Module) else getattr(module, "__name__", attr)


def input_texts(module: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, str]:
    """What a call is given, a short text for each parameter: ``{"tokens": "int64[2, 16]"}``."""
    signature = signature_of(module)
    names = list(signature.parameters) if signature is not None else []
    named = [(names[place] if place < len(names) else f"#{place}", value) for place, value in enumerate(args)]
    return {name: _value_text(value) for name, value in [*named, *kwargs.items()]}


def graph_inputs(captured: CapturedGraph) -> dict[str, str]:
    """What a graph is given besides weights and state, as :func:`input_texts` has it."""
    srg = captured.srg
    given = [node for node in srg.nodes if node.op == "placeholder" and srg.record(node).residency is Residency.INPUT]
    return {node.name: tensor_text(meta.dtype, meta.shape) for node in given for meta in srg.record(node).outputs[:1]}


def _value_text(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return tensor_text(value.dtype, value.shape)
    if isinstance(value, (list, tuple)):
        some = ", ".join(_value_text(item) for item in value[:3])
        return f"{type(value).__name__}({some}{f', +{len(value) - 3} more' if len(value) > 3 else ''})"
    if isinstance(value, Mapping):
        some = ", ".join(f"{key}: {_value_text(item)}" for key, item in list(value.items())[:3])
        return f"{type(value).__name__}({some}{f', +{len(value) - 3} more' if len(value) > 3 else ''})"
    if value is None or isinstance(value, (bool, int, float, complex)):
        return repr(value)
    return f"{value!r:.40}" if isinstance(value, str) else type(value).__name__


def _versions() -> dict[str, str]:
    try:
        ours = version("djinn-fx")
    except PackageNotFoundError:
        ours = "run from source"
    return {"djinn_fx": ours, "torch": str(torch.__version__), "python": platform.python_version()}


def _graph_run(captured: CapturedGraph) -> GraphRun:
    return GraphRun(
        passes=tuple(PassTime(name=one.name, seconds=one.seconds) for one in captured.pass_timings),
        builds=tuple(map(_build_info, captured.builds)),
        reasons=group_reasons(reason for build in captured.builds for reason in build.reasons),
        times=measured(captured),
    )


def _contest(status: DispatchStatus) -> ContestInfo:
    return ContestInfo(
        label=status.label,
        engine=status.engine,
        decided=status.decided,
        entrants=tuple(
            EntrantInfo(
                engine=one.engine,
                state=one.state.value,
                median_s=one.median_s,
                memory_bytes=one.memory_bytes,
                reason=one.reason.detail if one.reason is not None else None,
            )
            for one in status.entrants
        ),
    )


def _lookups(place: int, captured: CapturedGraph) -> Iterable[CacheLookup]:
    for build in captured.builds:
        if build.outcome != "shared":
            why = tuple(one.detail for one in build.reasons if one.kind is ReasonKind.CACHE_MISS)
            yield CacheLookup(
                scenario=0,
                graph=place,
                region=build.region,
                engine=build.engine,
                outcome=build.outcome,
                key=build.key,
                why=why,
            )


def _build_info(build: RegionBuild) -> BuildInfo:
    return BuildInfo(
        region=build.region,
        engine=build.engine,
        outcome=build.outcome,
        key=(build.key or "")[:SHORT_HASH],
        seconds=build.seconds,
    )
