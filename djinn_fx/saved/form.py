"""A graph compiled ahead of time: a JSON text from which it is made again, with the artefacts that travel beside it.

Where a region has no artefact, or one that needs the region's own ops beside it, its canonical form is in the text.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.fx import GraphModule

from djinn_fx.dispatch.checks import Beside
from djinn_fx.dispatch.memory import MEMORY, load_entry
from djinn_fx.dispatch.region import RegionBuild, region_graph
from djinn_fx.engines.base import Artefact, RegionCallable, RegionGraph, Runner, as_runner
from djinn_fx.engines.eager import as_callable
from djinn_fx.engines.keys import device_names, device_order
from djinn_fx.engines.registry import engine
from djinn_fx.errors import EngineError, StoreError
from djinn_fx.guard.making import guarded_alone
from djinn_fx.reasons import Reason
from djinn_fx.runtime.executor import executable
from djinn_fx.runtime.program import Program, program_from_json, program_of, program_to_json
from djinn_fx.saved.carried import Carried
from djinn_fx.saved.contested import (
    EnginesLater,
    OnEngines,
    contest_of,
    contest_row,
    entrants_of,
    is_contested,
    known_winner,
    waits_for_engine,
)
from djinn_fx.settings.engines import EAGER
from djinn_fx.settings.table import Settings
from djinn_fx.srg.form.rebuild import CannotRebuild
from djinn_fx.srg.form.replay import first_loss, replay
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.plan import Plan
from djinn_fx.store.opening import open_store

log = logging.getLogger("djinn_fx.runtime")

#: What the function that is being compiled or loaded carries.
_CARRIED: ContextVar[Carried | None] = ContextVar("djinn_fx_carried", default=None)


@contextlib.contextmanager
def carrying(carried: Carried) -> Iterator[None]:
    """Graphs that are made or loaded inside take their artefacts from here."""
    token = _CARRIED.set(carried)
    try:
        yield
    finally:
        _CARRIED.reset(token)


def carried_now() -> Carried | None:
    """What is carried here and now; None outside of ahead-of-time compilation and loading."""
    return _CARRIED.get()


# Writing


def settings_json(settings: Settings) -> dict[str, Any]:
    """Settings as they travel: where the cache is and who is shown what is another machine's matter."""
    return settings.model_dump(mode="json", exclude={"passes", "cache_dir", "cache_limit", "progress"})


def form_of(srg: SRG, plan: Plan, builds: Sequence[RegionBuild], settings: Settings, asked: Settings) -> str:
    """The text a graph can be made from again; its artefacts are carried from now on.

    Args:
        srg: the graph.
        plan: its regions.
        builds: how they were built.
        settings: with which they were.
        asked: as the user gave them.

    Raises:
        EngineError: a region has neither an artefact nor a canonical form, or a constant cannot be written down.
    """
    carried = carried_now()
    assert carried is not None, "graphs are written only while something is being carried"
    devices = device_order(node.meta.get("val") for node in srg.gm.graph.nodes)
    carried.devices.update(devices)
    program, constants = program_of(srg, plan)
    table: list[dict[str, Any]] = []
    known: dict[tuple[str, str], int] = {}
    callables = []
    for region, build in zip(plan.regions, builds, strict=True):
        same = (build.key, region.structural_hash)
        if not region.structural_hash or same not in known:
            known[same] = len(table)
            entrants = entrants_of(srg, plan, region, settings, carried) if is_contested(build) else []
            table.append(_row(region_graph(srg, region), build, carried, entrants))
        callables.append(known[same])
    try:
        return _text(settings_json(asked), program, callables, table, devices, constants)
    except TypeError as error:
        raise EngineError(f"the graph cannot be saved: it returns a value that is no JSON value ({error})") from error


def _text(
    settings: Mapping[str, Any],
    program: Program,
    callables: Sequence[int],
    table: Sequence[Mapping[str, Any]],
    devices: Sequence[str],
    constants: Mapping[int, Any],
) -> str:
    """What :func:`restore` reads.

    Raises:
        TypeError: the program returns a value that is no JSON value.
        EngineError: a constant cannot be written down.
    """
    form = {
        "settings": settings,
        "program": program_to_json(program),
        "callables": callables,
        "table": table,
        "constants": [[place, *_constant(value)] for place, value in constants.items()],
        "devices": list(devices),
    }
    return json.dumps(form)


def form_of_contest(
    srg: SRG,
    plan: Plan,
    program: Program,
    entrants: Sequence[Mapping[str, str]],
    competing: Sequence[str],
    settings: Settings,
) -> str | None:
    """The text of a graph for which engines compete, as one region; None if it has none.

    Args:
        srg: the graph.
        plan: with the whole graph as its one region.
        program: what runs it.
        entrants: engines whose artefacts are in the cache, with these artefacts' keys.
        competing: all engines under which the outcome of the trial is noted.
        settings: in force.
    """
    graph = region_graph(srg, plan.regions[0])
    devices = device_order(node.meta.get("val") for node in srg.gm.graph.nodes)
    try:
        row = {"label": graph.label, "engine": entrants[0]["engine"], **contest_row(graph, entrants, competing)}
        row["devices"] = device_names(graph)
        row["form"] = _proved_form(graph, row["devices"], with_values=True)
        return _text(settings.model_dump(mode="json", exclude={"passes"}), program, [0], [row], devices, {})
    except (CannotRebuild, EngineError, TypeError) as error:  # each process plans it anew
        log.debug("graph not kept: %s", error)
        return None


def _row(
    graph: RegionGraph, build: RegionBuild, carried: Carried, entrants: Sequence[Mapping[str, str]]
) -> dict[str, Any]:
    row: dict[str, Any] = {"label": graph.label, "engine": build.engine}
    entry = carried.get(build.key) if build.key and not is_contested(build) else None
    if entrants:
        row |= contest_row(graph, entrants)
    elif entry is not None:
        row["key"] = build.key
    elif build.engine != EAGER:
        log.warning("region %s is saved as its own ops: %s's artefact cannot be carried", graph.label, build.engine)
        row["engine"] = EAGER
    try:
        row["devices"] = device_names(graph)
        row["form"] = _proved_form(graph, row["devices"], with_values=bool(entrants))
    except CannotRebuild as error:
        if entry is None:
            raise EngineError(
                f"region {graph.label} cannot be saved: {error}; torch.compile without aot_compile runs it"
            ) from error
        log.debug("region %s has no form beside its artefact: %s", graph.label, error)
    return row


def _proved_form(graph: RegionGraph, devices: Mapping[str, str], with_values: bool) -> Any:
    """The region's canonical form as it will be read back.

    Args:
        graph: the region.
        devices: that its form numbers.
        with_values: keep what each op gives; running it does not need that.

    Raises:
        CannotRebuild: it has none, or what is made of it is not the region.
    """
    if graph.canonical is None:
        raise CannotRebuild("it calls something that has no stable name")
    form = json.loads(json.dumps(graph.canonical))
    lost = first_loss(graph.gm, replay(form, devices))
    if lost is not None:
        raise CannotRebuild(f"its graph cannot be written down: {lost}")
    if not with_values:
        for op in form["ops"]:
            op[3] = None
        form["inputs"] = [None] * len(form["inputs"])
    return form


def _constant(value: Any) -> tuple[dict[str, Any], str]:
    """A constant tensor as JSON: what it is, and its bytes.

    Raises:
        EngineError: it is no plain tensor.
    """
    plain = type(value) in (torch.Tensor, torch.nn.Parameter) and value.layout is torch.strided
    if not plain or value.is_conj() or value.is_neg() or value.is_quantized:
        raise EngineError(f"the graph cannot be saved: it holds a constant {type(value).__name__}")
    reach = 1 + sum((size - 1) * step for size, step in zip(value.shape, value.stride(), strict=True))
    with unset_fake_temporarily():  # torch traces while this is written
        memory = value.detach().as_strided((reach if value.numel() else 0,), (1,)).to("cpu").contiguous()
        raw = memory.view(torch.uint8).numpy().tobytes() if memory.numel() else b""
    header = {
        "dtype": str(value.dtype).removeprefix("torch."),
        "shape": list(value.shape),
        "strides": list(value.stride()),
        "device": str(value.device),
    }
    return header, base64.b64encode(raw).decode()


# Reading


def restore(form: Mapping[str, Any]) -> RegionCallable:
    """The boxed callable of a text.

    Raises:
        StoreError: an artefact is neither carried nor in the cache.
        EngineError: an artefact or a form does not fit this process.
    """
    settings = Settings(**form["settings"])
    carried = carried_now() or Carried(open_store(settings)[0])
    carried.devices.update(form["devices"])
    table = [_of_the_winner(row, settings) if row.get("competing") else row for row in form["table"]]
    keys = [one["key"] for row in table for one in (row, *row.get("entrants", ())) if "key" in one]
    missing = [key[:12] for key in keys if carried.get(key) is None]
    if missing:
        raise StoreError(f"artefacts are neither carried nor in the cache: {', '.join(missing)}")
    program = program_from_json(form["program"])
    constants = {place: _tensor(header, text) for place, header, text in form["constants"]}

    def graph(made: Sequence[RegionCallable]) -> RegionCallable:
        return executable(program, [made[one] for one in form["callables"]], constants)

    graphs = {number: _replayed(row) for number, row in enumerate(table) if "entrants" in row}
    loaded = [
        as_callable(graphs[number]) if number in graphs else _region(row, carried, settings)
        for number, row in enumerate(table)
    ]

    def with_contests() -> OnEngines:
        contests = {
            number: contest_of(table[number], gm, loaded[number], carried, settings) for number, gm in graphs.items()
        }
        fed = {
            form["callables"][step.region]: step.inputs
            for step in reversed(program.steps)
            if all(place < program.arguments for place in step.inputs)
        }
        run = graph([contests.get(number, own) for number, own in enumerate(loaded)])
        return run, [(one, fed[number]) for number, one in contests.items() if number in fed]

    if not graphs:
        return graph(loaded)
    waits = settings.compile == "blocking" and all("leader" in row for row in table if "entrants" in row)
    later = EnginesLater(graph(loaded), with_contests, waits=waits)
    if waits_for_engine(settings):
        later.load()
    return later


def _of_the_winner(row: Mapping[str, Any], settings: Settings) -> Mapping[str, Any]:
    """A row of a kept graph with the entrants that are to answer, and one that the first call may wait for ("leader").

    Raises:
        StoreError: none of them has answered in a trial.
    """
    found = known_winner(row, settings)
    if found is None:
        raise StoreError("no engine of the graph's has answered yet")
    if found.engine == EAGER:
        return row
    all_of_them = row["form"]["symbols"] or not found.over
    entrants = [one for one in row["entrants"] if all_of_them or one["engine"] == found.engine]
    return {**row, "entrants": entrants, "leader": found.engine}


def _tensor(header: Mapping[str, Any], text: str) -> torch.Tensor:
    dtype = getattr(torch, header["dtype"])
    raw = bytearray(base64.b64decode(text))
    with unset_fake_temporarily():
        memory = torch.frombuffer(raw, dtype=dtype) if raw else torch.empty(0, dtype=dtype)
        return memory.to(header["device"]).as_strided(header["shape"], header["strides"])


def _region(row: Mapping[str, Any], carried: Carried, settings: Settings) -> RegionCallable:
    if "key" not in row:
        return as_callable(_replayed(row))
    run = _artefact(row, carried, settings)
    runner = as_runner(run)
    return _checked(row, runner, settings) if runner.wants_reference else run


def _checked(row: Mapping[str, Any], run: Runner, settings: Settings) -> RegionCallable:
    """An artefact whose first answer is held against the region's own ops, which take the calls that it cannot."""
    own = as_callable(_replayed(row))
    dropped: list[Reason] = []

    def drop(reason: Reason) -> None:
        dropped.append(reason)
        log.warning("region %s no longer runs on %s: %s", row["label"], row["engine"], reason.detail)

    if isinstance(run, Beside):
        checked = run.checked(drop)
    else:
        checked = guarded_alone(run, own, drop, engine=row["engine"], verify=settings.verify)
    accepts = checked.accepts

    def call(args: list[Any]) -> Sequence[Any]:
        serves = not dropped and (accepts is None or accepts(args))
        results: Sequence[Any] = checked(args) if serves else own(args)
        return results

    return call


def _replayed(row: Mapping[str, Any]) -> GraphModule:
    """The region's own ops."""
    try:
        return replay(row["form"], row["devices"])
    except CannotRebuild as error:
        raise EngineError(f"region {row['label']} cannot run here: {error}") from error


def _artefact(row: Mapping[str, Any], carried: Carried, settings: Settings) -> RegionCallable:
    key = row["key"]
    known = MEMORY.exactly(key)
    if known is not None:
        return known.run
    entry = carried.get(key)
    assert entry is not None, "looked for before"
    artefact = Artefact(header=entry.header, payload=entry.payload)
    return load_entry(engine(str(entry.header.get("engine")), settings), artefact, key).run
