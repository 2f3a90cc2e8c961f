"""Regions for which engines compete, in a saved function or a kept graph: the contest is held where it runs.

A saved function carries every artefact. A graph that torch keeps names those of the cache, and is used once one of them
has answered rightly (:func:`known_winner`): what of the trial was not over by then goes on in the next process.

Such engines open sessions with copies of the weights, which takes longer than a call. So the first call is answered by
the regions' own ops, with nothing beside it that would slow it down; then a thread loads the engines' libraries and
artefacts and opens sessions with that call's weights, while own ops answer. Where ``compile`` is ``"blocking"`` and an
earlier trial has found a winner, or a best so far, or sizes differ from call to call, the first call waits a second for
the engine that is to be the first (:data:`PATIENCE_S`): calls beside an engine that is being opened take many times as
long as usual. Where the settings name one engine it waits for as long as it takes.
"""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule

from djinn_fx.dispatch.build import Builder
from djinn_fx.dispatch.checks import has_passed, note_key
from djinn_fx.dispatch.contests.contest import Contest
from djinn_fx.dispatch.contests.contestants import ContestBySize, Made, contest_between
from djinn_fx.dispatch.contests.decisions import Decision, Outcomes, decision_key, fingerprints_of, guess_key, recall
from djinn_fx.dispatch.entrant import CHANGED, State
from djinn_fx.dispatch.memory import BUILDING, MEMORY, Loaded, load_entry
from djinn_fx.dispatch.region import RegionBuild, RegionWork
from djinn_fx.dispatch.tier import Prepared, Tier
from djinn_fx.engines.base import Artefact, RegionCallable, RegionGraph, Runner, as_runner
from djinn_fx.engines.keys import EngineKey
from djinn_fx.engines.registry import engine
from djinn_fx.errors import EngineError
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.saved.carried import Carried
from djinn_fx.settings.engines import BOUND, EAGER, WHOLE
from djinn_fx.settings.table import Settings
from djinn_fx.srg.form.rebuild import CannotRebuild, SizeHint, rebuild, size_hints
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.plan import Plan, Region
from djinn_fx.store.opening import open_store
from djinn_fx.store.store import Store
from djinn_fx.threads import new_lock, old_objects_left_alone, start_thread, tell_of_fork

log = logging.getLogger("djinn_fx.runtime")

#: Seconds that a first call waits for the engine that is to be the first: own ops beside an engine that is being opened
#: take several times as long as alone.
PATIENCE_S = 1.0


# Writing


def is_contested(build: RegionBuild) -> bool:
    """Whether engines that bind weights take the region."""
    return build.engine in BOUND


def entrants_of(srg: SRG, plan: Plan, region: Region, settings: Settings, carried: Carried) -> list[dict[str, str]]:
    """The engines whose artefacts can be carried, each with its artefact's key."""
    names = WHOLE if settings.engine == "auto" else [name for name in BOUND if name in settings.engines]
    names = [name for name in names if engine(name, settings).capability().can_run]
    found = []
    for one in Builder(settings, mode="blocking").each(RegionWork.of(srg, plan, region), names):
        if one.loaded.key and carried.get(one.loaded.key) is not None:
            found.append({"engine": one.tier.name, "key": one.loaded.key})
        else:
            log.warning("region %s is saved without %s: its artefact cannot be carried", region.label, one.tier.name)
    return found


def contest_row(
    graph: RegionGraph, entrants: Sequence[Mapping[str, str]], competing: Sequence[str] = ()
) -> dict[str, Any]:
    """What a contest needs besides the region's form.

    Args:
        graph: the region.
        entrants: engines that are there, with their artefacts' keys.
        competing: of a kept graph, all engines under which the outcome of the trial is noted.
    """
    try:
        hints = [[hint.value, hint.positive] for hint in size_hints(graph.canonical, graph.example_inputs)]
    except CannotRebuild as error:
        raise EngineError(f"region {graph.label} cannot be saved: {error}") from error
    return {
        "entrants": [dict(one) for one in entrants],
        "hints": hints,
        "hash": graph.structural_hash,
        "kind": graph.kind,
        "weights": list(graph.weights),
        "competing": list(competing),
    }


# Reading


def waits_for_engine(settings: Settings) -> bool:
    """Whether the first call is to be answered by the engine."""
    return settings.compile == "blocking" and settings.engine != "auto" and len(settings.engines) == 1


#: A graph on engines, and the contests in it, each with the places of its arguments among those of the graph.
OnEngines = tuple[RegionCallable, Sequence[tuple[Contest | ContestBySize, Sequence[int]]]]


class EnginesLater:
    """A graph whose first call runs on the regions' own ops, and later ones on what is made after it.

    Args:
        own: the graph on its regions' own ops.
        make: the graph on engines; called in a thread, once. Raises EngineError where it cannot be made.
        waits: the first call waits for the engines for up to :data:`PATIENCE_S`.
    """

    def __init__(self, own: RegionCallable, make: Callable[[], OnEngines], *, waits: bool = False) -> None:
        self._own, self._make, self._waits = own, make, waits
        #: The graph on engines, and the same once calls go to it.
        self._loaded: RegionCallable | None = None
        self._run: RegionCallable | None = None
        self._started = self._called = self._unwanted = False
        self._lock = new_lock()
        #: Why the engines cannot be used.
        self.reason: Reason | None = None
        self._contests: tuple[Contest | ContestBySize, ...] = ()
        tell_of_fork(self)

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        """Run the graph; empties the list."""
        if self._run is not None:
            return self._run(args)
        if self._called or not self._first():
            return self._own(args)
        if not self._waits:
            given = list(args)
            results = self._own(args)
            self._start(given)
            return results
        run = self._awaited() if self._start(args) else None
        self._run = self._loaded
        return self._own(args) if run is None else run(args)

    def begin(self, args: Sequence[Any]) -> None:
        """Have the engines made ready before the first call, if it would wait for them; with arguments such as its."""
        if self._waits:
            self._start(args)

    def _start(self, args: Sequence[Any]) -> bool:
        """Have the engines loaded in a thread, unless that is done already; whether there is something to wait for."""
        with self._lock:
            started, self._started = self._started, True
        prepare, waits = functools.partial(self._prepare, list(args)), self._waits
        return started or start_thread(prepare, "djinn loads engines", beside=True, awaited=waits) is not None

    def _awaited(self) -> RegionCallable | None:
        """The graph on engines, if they are ready soon."""
        until = time.monotonic() + PATIENCE_S
        with CHANGED:
            while self._loaded is None or any(one.pending for one in self.distinct):
                left = until - time.monotonic()
                if left <= 0 or self.reason is not None:
                    return None
                CHANGED.wait(left)
        return self._loaded

    def _first(self) -> bool:
        """Whether this call is the first: of several at once, one is."""
        with self._lock:
            called, self._called = self._called, True
        return not called

    def load(self, args: Sequence[Any] | None = None) -> None:
        """Make the graph on engines, here and now; with the arguments of a call, have them made ready for such calls.

        Raises:
            EngineError: it cannot be made.
        """
        self._started = True
        run, contests = self._make()
        self._contests = tuple(one for one, _ in contests)
        if args is not None and not self._unwanted:
            for contest, places in contests:
                contest.make_ready([args[place] for place in places])
        self._loaded = run
        if self._called or args is None:  # else the first call waits for what was begun before it
            self._run = run

    def let_go(self) -> None:
        """It was made in vain: release the copies of weights that it made, if it made any."""
        self._unwanted = True
        for contest in self.distinct:
            for entrant in contest.entrants:
                entrant.state = State.BEATEN  # who is being opened is let go of when that is done
                entrant.run.release()

    @property
    def distinct(self) -> list[Contest]:
        """Its contests; none until the engines are loaded."""
        return [one for each in self._contests for one in ([each] if isinstance(each, Contest) else each.distinct)]

    @property
    def loading(self) -> bool:
        """Whether calls run on own ops while the engines are loaded."""
        return self._started and self._loaded is None and self.reason is None

    def after_fork(self) -> None:
        """In a forked process: whoever was loading the engines is not there."""
        self._started = self._called = self.reason is not None

    def _prepare(self, args: list[Any]) -> None:
        try:
            with old_objects_left_alone():
                self.load(args)
        except Exception as error:  # noqa: BLE001  (becomes the Reason; the regions' own ops are always right)
            self.reason = Reason(kind=ReasonKind.FALLBACK, detail=f"a loaded graph stays on its own ops: {error}")
            log.warning("%s", self.reason.detail)
        with CHANGED:
            CHANGED.notify_all()


def known_winner(row: Mapping[str, Any], settings: Settings) -> Decision | None:
    """What an earlier trial of a kept graph found, or was about to; None if there was none or Inductor won.

    Where the settings name but one engine, that one, if it has answered rightly here.

    Of a graph whose sizes differ from call to call each size has its trial: any entrant stands for them.
    """
    names = [str(one["engine"]) for one in row["entrants"]]
    anyone = Decision(engine=names[0], seconds={}, created="")
    if row["form"]["symbols"]:
        return anyone
    store, _ = open_store(settings)
    if waits_for_engine(settings):  # no trial: it must have answered rightly
        return anyone if has_passed(store, row["entrants"][0]["key"]) else None
    fingerprints = fingerprints_of(row["competing"], settings)
    known = Outcomes(store, decision_key(row["hash"], row["weights"], (), fingerprints), row["label"]).known
    return known if known is not None and known.engine in (*names, EAGER) else None


def contest_of(
    row: Mapping[str, Any], gm: GraphModule, reference: RegionCallable, carried: Carried, settings: Settings
) -> Contest | ContestBySize:
    """The contest of a row's engines.

    Args:
        row: of a graph's table, see :func:`contest_row`.
        gm: the region's own ops.
        reference: the same as a callable.
        carried: the artefacts.
        settings: the function was compiled with.

    Raises:
        EngineError: an artefact or the form does not fit this process.
    """
    graph, kept = _graph(row, gm), bool(row.get("competing"))
    mode = "blocking" if waits_for_engine(settings) else "background"
    settings = settings.model_copy(update={"compile": mode})
    store, _ = open_store(settings if kept else Settings.load())
    made = [_loaded(one, carried, settings, store if kept else None).of(graph) for one in row["entrants"]]
    if kept:
        fingerprints = fingerprints_of(row["competing"], settings)
    else:
        fingerprints = [one.tier.engine.fingerprint() for one in made]

    proofs = tuple(note_key(one["key"]) for one in row["entrants"]) if kept else ()

    def outcomes(sizes: Sequence[int]) -> Outcomes:
        key = decision_key(graph.structural_hash, graph.weights, sizes, fingerprints)
        guess = guess_key(graph.structural_hash, graph.weights) if kept and not sizes else ""
        return Outcomes(store, key, graph.label, proofs, guess)

    return contest_between(graph, made, reference, settings, outcomes=outcomes)


@dataclass(frozen=True, kw_only=True)
class _Entrant:
    """An engine's artefact, loaded."""

    tier: Tier
    key: EngineKey
    loaded: Loaded

    def of(self, graph: RegionGraph) -> Made:
        """As a contest wants it."""
        return Made(tier=self.tier, prepared=Prepared(graph=graph, key=self.key), loaded=self.loaded)


def _loaded(one: Mapping[str, str], carried: Carried, settings: Settings, store: Store | None) -> _Entrant:
    tier = Tier(engine(one["engine"], settings), store)
    entry = carried.get(one["key"])
    assert entry is not None, "looked for before"
    key = EngineKey(digest=one["key"], fields=entry.header.get("fields", {}))
    wrong = tier.quarantined(key)
    if wrong is not None:
        raise EngineError(wrong.detail)
    artefact = Artefact(header=entry.header, payload=entry.payload)
    with BUILDING.of(key.digest):
        known = MEMORY.exactly(key.digest) or load_entry(tier.engine, artefact, key.digest)
    return _Entrant(tier=tier, key=key, loaded=known)


def open_winner(row: Mapping[str, Any], args: Sequence[Any], settings: Settings) -> Runner | None:
    """Open the engine that won an earlier trial of a kept graph, or was the best so far, for these arguments of its.

    Takes as long as that takes, nearly all of it in the engine's library. Which engine won is guessed, so that nothing
    of the others is imported before.

    Returns:
        It; None if none has, or the guess was wrong.

    Raises:
        EngineError: it cannot be opened.
    """
    store, _ = open_store(settings)
    carried, known = Carried(store), recall(store, guess_key(row["hash"], row["weights"]))
    guess = known.engine if known is not None else row["entrants"][0]["engine"] if waits_for_engine(settings) else None
    one = next((one for one in row["entrants"] if one["engine"] == guess), None)
    if one is None or carried.get(one["key"]) is None:
        return None
    run = as_runner(_loaded(one, carried, settings, store).loaded.run)
    work = run.prepare(args)
    if work is not None:
        work()
    known = known_winner(row, settings)
    if known is None or known.engine != guess:
        run.release()
        return None
    return run


def _graph(row: Mapping[str, Any], gm: GraphModule) -> RegionGraph:
    """The region as the guard wants it: with what each op gives, as far as its type, sizes and strides go."""
    form = row["form"]
    if form["symbols"]:
        try:
            hints = [SizeHint(value=value, positive=positive) for value, positive in row["hints"]]
            made = rebuild(form, hints=hints, devices=row["devices"])
        except CannotRebuild as error:
            raise EngineError(f"region {row['label']} cannot run here: {error}") from error
        gm, inputs = made.gm, made.example_inputs
    else:
        inputs = tuple(_like(value) for value, _ in form["inputs"])
        nodes = [node for node in gm.graph.nodes if node.op in ("placeholder", "call_function")]
        # Layers repeat: what ops give is made once for all that give the like. Each of torch's ops hands over the
        # interpreter, for which the caller may be waiting.
        texts = [json.dumps(op[3]) for op in form["ops"]]
        given = {text: _like(json.loads(text)) for text in dict.fromkeys(texts)}
        for node, value in zip(nodes, (*inputs, *map(given.__getitem__, texts)), strict=True):
            node.meta["val"] = value
    return RegionGraph(
        gm=gm,
        structural_hash=row["hash"],
        canonical=form,
        example_inputs=inputs,
        label=row["label"],
        kind=row["kind"],
        weights=tuple(row["weights"]),
    )


def _like(value: Any) -> Any:
    """A tensor without memory that has the type, sizes and strides a canonical form tells; None for what is none."""
    if value[0] == "values":
        return tuple(_like(part) for part in value[1:])
    if len(value) < 5:
        return None
    dtype, shape, strides = value[:3]
    return torch.empty_strided(shape, strides, dtype=getattr(torch, dtype), device="meta")
