"""From a plan to callables: each distinct region is looked up in memory, then on disk, then compiled, once."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from djinn_fx.engines.base import Artefact, Engine, RegionCallable, RegionGraph
from djinn_fx.engines.keys import EngineKey, Guards, device_order, engine_key, symbolic_inputs
from djinn_fx.engines.progress import Progress
from djinn_fx.engines.registry import engine
from djinn_fx.engines.store import Store, default_cache_dir
from djinn_fx.errors import EngineError
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.settings import Settings
from djinn_fx.srg.extract import extract, input_value
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.hashing import canonical_form
from djinn_fx.srg.plan import Plan, Region

log = logging.getLogger("djinn_fx.engines")

#: How long a failed build is not tried again, in seconds.
NEGATIVE_EXPIRY_S = 24 * 3600.0
#: How long to wait for another process that builds the same key, in seconds.
LOCK_TIMEOUT_S = 600.0
#: More artefacts than this for one region (each valid for other sizes) are not looked for on disk.
MAX_VARIANTS = 8


@dataclass(frozen=True, kw_only=True)
class RegionBuild:
    """How one region got its callable.

    Attributes:
        region: index of the region.
        engine: name of the engine that runs it.
        outcome: ``memory``, ``store``, ``built``, ``fallback``, or ``shared`` with an earlier region of the graph.
        seconds: spent on it.
        key: of the artefact; empty if it is not kept.
        guards: expression over the region's symbolic inputs under which the artefact is valid, if any.
        reasons: misses, refusals, fallbacks.
    """

    region: int
    engine: str
    outcome: str
    seconds: float
    key: str = ""
    guards: str | None = None
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Built:
    """The callables of a plan's regions, by region index, and how each came about."""

    callables: tuple[RegionCallable, ...]
    builds: tuple[RegionBuild, ...]


@dataclass(frozen=True, kw_only=True)
class _Loaded:
    key: str
    run: RegionCallable
    guards: Guards
    engine: str


class Memory:
    """Artefacts loaded in this process, by key. Regions of any graph share them."""

    def __init__(self) -> None:
        self._loaded: dict[str, list[_Loaded]] = {}
        self._lock = threading.Lock()

    def variants(self, key: str) -> tuple[_Loaded, ...]:
        """What is loaded for a key, each valid for other sizes."""
        with self._lock:
            return tuple(self._loaded.get(key, ()))

    def add(self, key: str, loaded: _Loaded) -> None:
        """Keep one more."""
        with self._lock:
            self._loaded.setdefault(key, []).append(loaded)

    def clear(self) -> None:
        """Forget all; callables in use stay alive with their graphs."""
        with self._lock:
            self._loaded.clear()


MEMORY = Memory()


class _Building:
    """One lock a key: two threads that want one artefact build it once (the store's lock does so for processes)."""

    def __init__(self) -> None:
        self._locks: weakref.WeakValueDictionary[str, threading.RLock] = weakref.WeakValueDictionary()
        self._lock = threading.Lock()

    def of(self, key: str) -> threading.RLock:
        """The lock of a key; it lives as long as somebody holds it or waits for it."""
        with self._lock:
            return self._locks.setdefault(key, threading.RLock())


_BUILDING = _Building()


def open_store(settings: Settings) -> tuple[Store | None, Reason | None]:
    """The disk cache these settings ask for; None, with the Reason if there is one, when there is to be none."""
    if not settings.cache or torch.compiler.config.force_disable_caches:
        return None, None
    root = Path(settings.cache_dir) if settings.cache_dir else default_cache_dir()
    return Store.open(root, settings.cache_limit_bytes)


class Builder:
    """Gets the callables of plans, one settings' worth of engine and store."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._engine: Engine = engine(settings.engine, settings)
        self._eager: Engine = engine("eager", settings)
        self._store, self._store_reason = open_store(settings) if self._engine.name != "eager" else (None, None)
        self._fingerprint = self._engine.fingerprint()
        #: Keys of stored artefacts that the engine could not load; the next one built takes their place.
        self._unusable: set[str] = set()

    def build(self, srg: SRG, plan: Plan) -> Built:
        """One callable per region, in the order of the plan's regions.

        Raises:
            EngineError: the engine failed on a region and the settings say to raise.
        """
        callables: dict[int, RegionCallable] = {}
        builds: dict[int, RegionBuild] = {}
        same: dict[str, tuple[RegionCallable, RegionBuild]] = {}
        distinct = list(_distinct_first(plan.regions))
        # Compiling one region may find that a symbol is a number, so the symbols of all are noted before.
        symints = {region.index: symbolic_inputs(_values(srg, region)) for region in plan.regions}
        with Progress(len(distinct), self._settings.progress) as progress:
            for region in (*distinct, *plan.regions):
                if region.index in callables:
                    continue
                shared = same.get(region.structural_hash) if region.structural_hash else None
                if shared is not None and self._may_share(srg, region, symints[region.index], shared[1]):
                    run, build = shared
                    again = RegionBuild(
                        region=region.index, engine=build.engine, seconds=0.0,
                        outcome="fallback" if build.outcome == "fallback" else "shared",
                        key=build.key, guards=build.guards,
                        reasons=build.reasons if build.outcome == "fallback" else (),
                    )  # fmt: skip
                else:
                    progress.start(region.label)
                    run, again = self._region(srg, region, symints[region.index])
                    same[region.structural_hash] = (run, again)
                    progress.done()
                callables[region.index], builds[region.index] = run, again
        indices = range(len(plan.regions))
        return Built(callables=tuple(callables[i] for i in indices), builds=tuple(builds[i] for i in indices))

    def _may_share(self, srg: SRG, region: Region, symints: Sequence[torch.SymInt], build: RegionBuild) -> bool:
        """Whether a repeat may use the artefact of its twin: same device indices, and true size facts."""
        if _devices(srg, region) != _devices(srg, srg.regions[build.region]):
            return False
        return Guards(expression=build.guards).hold(symints)

    def _region(self, srg: SRG, region: Region, symints: Sequence[torch.SymInt]) -> tuple[RegionCallable, RegionBuild]:
        start = time.perf_counter()
        graph = region_graph(srg, region)
        refusal = self._engine.supports(graph)
        if refusal is not None:
            return self._fallback(graph, region, start, refusal)
        if not graph.structural_hash:
            return self._compile(graph, region, start, None, symints, ())
        key = engine_key(graph, self._fingerprint)
        with _BUILDING.of(key.digest):
            return self._keyed(graph, region, start, key, symints)

    def _keyed(
        self, graph: RegionGraph, region: Region, start: float, key: EngineKey, symints: Sequence[torch.SymInt]
    ) -> tuple[RegionCallable, RegionBuild]:
        known = self._from_memory(key, symints)
        outcome = "memory"
        if known is None:
            known = self._from_store(key, symints)
            outcome = "store"
        if known is not None:
            return known.run, RegionBuild(
                region=region.index, engine=known.engine, outcome=outcome, seconds=time.perf_counter() - start,
                key=known.key, guards=known.guards.expression,
            )  # fmt: skip
        return self._miss(graph, region, start, key, symints)

    def _from_memory(self, key: EngineKey, symints: Sequence[torch.SymInt]) -> _Loaded | None:
        return next((one for one in MEMORY.variants(key.digest) if one.guards.hold(symints)), None)

    def _from_store(self, key: EngineKey, symints: Sequence[torch.SymInt]) -> _Loaded | None:
        if self._store is None:
            return None
        for number in range(MAX_VARIANTS):
            variant = key.variant(number)
            entry = self._store.get(variant.digest)
            if entry is None:
                return None
            guards = Guards(expression=entry.header.get("guards"))
            if not guards.hold(symints):
                continue
            try:
                run = self._engine.load(Artefact(header=entry.header, payload=entry.payload))
            except EngineError as error:
                log.warning("a stored artefact is rebuilt: %s", error)
                self._unusable.add(variant.digest)
                continue
            loaded = _Loaded(key=variant.digest, run=run, guards=guards, engine=self._engine.name)
            MEMORY.add(key.digest, loaded)
            return loaded
        return None

    def _miss(
        self, graph: RegionGraph, region: Region, start: float, key: EngineKey, symints: Sequence[torch.SymInt]
    ) -> tuple[RegionCallable, RegionBuild]:
        if self._store is None:
            reasons = (self._store_reason,) if self._store_reason is not None else ()
            return self._compile(graph, region, start, key, symints, reasons)
        failed = self._store.get_negative(key.digest)
        if failed is not None:
            if self._settings.on_failure == "raise":
                raise EngineError(f"{failed.detail} (known from an earlier attempt; `djinn cache clear` forgets it)")
            return self._fallback(graph, region, start, failed)
        with self._store.lock(key.digest, LOCK_TIMEOUT_S):
            # Another process may have built it while we waited.
            known = self._from_store(key, symints)
            if known is not None:
                return known.run, RegionBuild(
                    region=region.index, engine=known.engine, outcome="store",
                    seconds=time.perf_counter() - start, key=known.key, guards=known.guards.expression,
                )  # fmt: skip
            self._store.record_miss(key.digest, dict(key.fields), graph.canonical)
            miss = Reason(
                kind=ReasonKind.CACHE_MISS,
                detail=f"no entry {key.digest[:12]}; `djinn cache why last-miss` shows the nearest",
                node=region.label,
            )
            return self._compile(graph, region, start, key, symints, (miss,))

    def _compile(
        self,
        graph: RegionGraph,
        region: Region,
        start: float,
        key: EngineKey | None,
        symints: Sequence[torch.SymInt],
        reasons: tuple[Reason, ...],
    ) -> tuple[RegionCallable, RegionBuild]:
        try:
            artefact = self._engine.compile(graph)
        except EngineError as error:
            if self._settings.on_failure == "raise":
                raise
            reason = Reason(kind=ReasonKind.FALLBACK, detail=str(error), node=region.label)
            if key is not None and self._store is not None:
                self._store.put_negative(key.digest, reason, NEGATIVE_EXPIRY_S)
            return self._fallback(graph, region, start, reason)
        run = artefact.ready if artefact.ready is not None else self._engine.load(artefact)
        guards = Guards.of(symints)
        kept = ""
        if key is not None:
            kept = self._keep(graph, key, artefact, run, guards)
        return run, RegionBuild(
            region=region.index, engine=self._engine.name, outcome="built", seconds=time.perf_counter() - start,
            key=kept, guards=guards.expression, reasons=reasons,
        )  # fmt: skip

    def _keep(self, graph: RegionGraph, key: EngineKey, artefact: Artefact, run: RegionCallable, guards: Guards) -> str:
        """Put a new artefact into memory and on disk. Returns its key, empty if it is not on disk."""
        variant = key.variant(self._free_variant(key))
        header = {
            **artefact.header,
            "schema": 1,
            "label": graph.label,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "structural_hash": graph.structural_hash,
            "fields": dict(variant.fields),
            "canonical": graph.canonical,
            "guards": guards.expression,
        }
        stored = (
            artefact.payload is not None
            and self._store is not None
            and self._store.put(variant.digest, header, artefact.payload)
        )
        self._unusable.discard(variant.digest)
        kept = variant.digest if stored else ""
        MEMORY.add(key.digest, _Loaded(key=kept, run=run, guards=guards, engine=self._engine.name))
        return kept

    def _free_variant(self, key: EngineKey) -> int:
        """The number of the next artefact for this key; the last one is replaced when all are taken."""
        if self._store is None:
            return 0
        taken = 0
        while taken < MAX_VARIANTS - 1:
            digest = key.variant(taken).digest
            if digest in self._unusable or self._store.get(digest) is None:
                break
            taken += 1
        return taken

    def _fallback(
        self, graph: RegionGraph, region: Region, start: float, reason: Reason
    ) -> tuple[RegionCallable, RegionBuild]:
        # A region no engine is meant for (sizes only) is no news; one that an engine failed on is.
        level = logging.WARNING if reason.kind is ReasonKind.FALLBACK else logging.INFO
        log.log(level, "region %s runs eagerly: %s", region.label, reason.detail)
        run = self._eager.load(self._eager.compile(graph))
        return run, RegionBuild(
            region=region.index, engine="eager", outcome="fallback", seconds=time.perf_counter() - start,
            reasons=(reason,),
        )  # fmt: skip


def load_artefact(settings: Settings, key: str) -> RegionCallable | None:
    """The callable of a stored artefact by its key alone; None if it is not there or cannot be loaded."""
    known = MEMORY.variants(key)
    exact = next((one for one in known if one.key == key), None)
    if exact is not None:
        return exact.run
    store, _ = open_store(settings)
    entry = store.get(key) if store is not None else None
    if entry is None:
        return None
    try:
        run = engine(str(entry.header.get("engine")), settings).load(
            Artefact(header=entry.header, payload=entry.payload)
        )
    except EngineError as error:
        log.warning("a stored artefact cannot be used: %s", error)
        return None
    guards = Guards(expression=entry.header.get("guards"))
    MEMORY.add(key, _Loaded(key=key, run=run, guards=guards, engine=settings.engine))
    return run


def region_graph(srg: SRG, region: Region) -> RegionGraph:
    """A region cut out of its graph, ready for an engine."""
    canonical: Any = None
    if region.structural_hash:
        nodes, inputs, outputs = (
            [srg.node(name) for name in names] for names in (region.nodes, region.inputs, region.outputs)
        )
        canonical = canonical_form(nodes, inputs, outputs)
    return RegionGraph(
        gm=extract(srg, region),
        structural_hash=region.structural_hash,
        canonical=canonical,
        example_inputs=_values(srg, region),
        label=region.label,
        kind=srg.kind.value,
    )


def _distinct_first(regions: Sequence[Region]) -> Iterator[Region]:
    seen: set[str] = set()
    for region in regions:
        if not region.structural_hash or region.structural_hash not in seen:
            seen.add(region.structural_hash)
            yield region


def _devices(srg: SRG, region: Region) -> tuple[str, ...]:
    return device_order(input_value(srg, srg.node(name)) for name in (*region.inputs, *region.nodes))


def _values(srg: SRG, region: Region) -> tuple[Any, ...]:
    """The compile-time values of a region's inputs."""
    return tuple(input_value(srg, srg.node(name)) for name in region.inputs)
