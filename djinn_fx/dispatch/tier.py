"""One engine's part of the cache: the key of what it makes of a region, looked for in memory and on disk, and kept."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from djinn_fx.dispatch.memory import MEMORY, Loaded, load_entry
from djinn_fx.engines.base import LIVE_BYTES, Artefact, BuildRequest, Engine, RegionCallable, RegionGraph
from djinn_fx.engines.keys import EngineKey, Guards, engine_key
from djinn_fx.engines.registry import engine
from djinn_fx.errors import DjinnError, EngineError, useful_line
from djinn_fx.guard.quarantine import QUARANTINE
from djinn_fx.pool.jobs import BuildDone
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.settings.engines import BOUND, EAGER, STANDBY, TRAITS, traits_of
from djinn_fx.settings.table import Settings
from djinn_fx.store.opening import open_store
from djinn_fx.store.store import Store
from djinn_fx.units import now_text

log = logging.getLogger("djinn_fx.dispatch")

#: How long a failed build is not tried again, in seconds.
NEGATIVE_EXPIRY_S = 24 * 3600.0
#: Another process that builds the same key is waited for this many predicted build times, in seconds no less than the
#: second figure (predictions are rough) and no more than the third: it may be stopped, or stuck.
PATIENCE, MIN_PATIENCE_S, MAX_PATIENCE_S = 4.0, 10.0, 600.0
#: More artefacts than this for one region (each valid for other sizes) are not looked for on disk.
MAX_VARIANTS = 8


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A region as one engine sees it.

    Attributes:
        graph: the region.
        key: of its artefact; None if it cannot be kept.
        request: what a child process needs to build it, or why none can; None if it was not asked for.
    """

    graph: RegionGraph
    key: EngineKey | None
    request: BuildRequest | Reason | None = None

    @property
    def for_child(self) -> bool:
        """Whether a child process can build it."""
        return self.key is not None and isinstance(self.request, BuildRequest)


class Found(NamedTuple):
    """An artefact that needed no building, and where it was: ``memory`` or ``store``."""

    loaded: Loaded
    outcome: str


#: In the header of what was found on disk instead of being built: the key of its entry.
STORED_AS = "stored_as"

#: Says whether an artefact's size facts are true of the sizes at hand.
Holds = Callable[[Guards], bool]


def patience_s(predicted_s: float) -> float:
    """How long to wait for another process that builds the same, in seconds; then double work is better than none."""
    return min(MAX_PATIENCE_S, max(MIN_PATIENCE_S, PATIENCE * predicted_s))


class Tier:
    """See the module's text.

    Args:
        engine: whose it is.
        store: the disk cache, or None.
        store_reason: why there is none, if it was asked for.
    """

    def __init__(self, engine: Engine, store: Store | None, store_reason: Reason | None = None) -> None:
        self.engine = engine
        self.store = store
        self._store_reason = store_reason
        #: Keys of stored artefacts that the engine could not load; the next one built takes their place.
        self._unusable: set[str] = set()

    @property
    def name(self) -> str:
        """The engine's."""
        return self.engine.name

    @functools.cached_property
    def _fingerprint(self) -> Mapping[str, str]:
        # Not before a region is supported: an engine whose library is missing has none.
        return self.engine.fingerprint()

    @property
    def _keyed_by_request(self) -> bool:
        return traits_of(self.name).keyed_by_request

    def prepare(self, graph: RegionGraph, *, for_child: bool) -> Prepared | Reason:
        """The region's key and, if it is to be built in a child process, the request; or why not this engine."""
        refusal = self.engine.supports(graph)
        if refusal is not None:
            return refusal
        request = self.engine.request(graph) if for_child or self._keyed_by_request else None
        if self._keyed_by_request and isinstance(request, Reason):
            return request
        identity = request.identity if isinstance(request, BuildRequest) else None
        bound = graph.weights if traits_of(self.name).binds_weights else ()
        known = graph.structural_hash or identity
        key = engine_key(graph, self._fingerprint, identity, bound) if known else None
        return Prepared(graph=graph, key=key, request=request)

    # Looking

    def find(self, key: EngineKey, holds: Holds) -> Found | None:
        """The artefact in memory, else on disk."""
        known = self.in_memory(key, holds)
        if known is not None:
            return Found(known, "memory")
        known = self.in_store(key, holds)
        return Found(known, "store") if known is not None else None

    def in_memory(self, key: EngineKey, holds: Holds) -> Loaded | None:
        """The artefact, if this process has loaded it."""
        return next((one for one in MEMORY.variants(key.digest) if holds(one.guards)), None)

    def in_store(self, key: EngineKey, holds: Holds) -> Loaded | None:
        """The artefact, loaded from disk."""
        if self.store is None or not self.engine.capability().can_run:
            return None
        for number in range(MAX_VARIANTS):
            variant = key.variant(number)
            entry = self.store.get(variant.digest)
            if entry is None:
                return None
            if not holds(Guards(expression=entry.header.get("guards"))):
                continue
            try:
                artefact = Artefact(header=entry.header, payload=entry.payload)
                return load_entry(self.engine, artefact, variant.digest, known_as=key.digest)
            except EngineError as error:
                log.warning("a stored artefact is rebuilt: %s", error)
                self._unusable.add(variant.digest)
        return None

    def stored_result(self, key: EngineKey, holds: Holds) -> BuildDone | None:
        """The artefact as it is on disk, not loaded: what another process built while we waited."""
        if self.store is None:
            return None
        for number in range(MAX_VARIANTS):
            digest = key.variant(number).digest
            entry = self.store.get(digest)
            if entry is None:
                return None
            if digest not in self._unusable and holds(Guards(expression=entry.header.get("guards"))):
                return BuildDone(header={**entry.header, STORED_AS: digest}, payload=entry.payload)
        return None

    @property
    def cannot_lock(self) -> bool:
        """Whether the cache folder has refused something: then nobody's lock is waited for."""
        return self.store is None or self.store.troubled

    def not_runnable(self, key: EngineKey, graph: RegionGraph, holds: Holds) -> Reason | None:
        """The Reason, if the artefact is on disk but this machine cannot run it."""
        if self.engine.capability().can_run or self.stored_result(key, holds) is None:
            return None
        return self.why_not_here(graph)

    def why_not_here(self, graph: RegionGraph) -> Reason:
        """That something is built, and why it does not run here."""
        why = self.engine.capability().why_not or "this machine cannot run it"
        detail = f"{self.name}: built, but it does not run here: {why}"
        return Reason(kind=ReasonKind.NOT_RUNNABLE, detail=detail, node=graph.label)

    def quarantined(self, key: EngineKey) -> Reason | None:
        """Why no artefact of this key is to be used, if one of its answers was wrong."""
        reason = QUARANTINE.get(key, self.store)
        return reason if reason is not None and reason.kind is ReasonKind.QUARANTINED else None

    def known_failure(self, key: EngineKey) -> Reason | None:
        """Why building it failed, if that is on record."""
        return self.store.get_negative(key.digest) if self.store is not None else None

    def no_use_building(self, prepared: Prepared, holds: Holds) -> Reason | None:
        """Why there is no point in having it built by a child, or no way; None if there is."""
        key, graph = prepared.key, prepared.graph
        known = (self.not_runnable(key, graph, holds) or self.known_failure(key)) if key is not None else None
        if known is not None or prepared.for_child:
            return known
        if isinstance(prepared.request, Reason):
            return prepared.request
        detail = f"{self.name}: the region has no key, so it is built in this process or not at all"
        return Reason(kind=ReasonKind.ENGINE_REFUSED, detail=detail, node=graph.label)

    def note_miss(self, key: EngineKey, graph: RegionGraph) -> Reason | None:
        """Put a miss on record; the Reason to tell."""
        if self.store is None:
            return self._store_reason
        self.store.record_miss(key.digest, dict(key.fields), graph.canonical)
        return Reason(
            kind=ReasonKind.CACHE_MISS,
            detail=self.store.why_missed(key.digest),
            node=graph.label,
        )

    @contextmanager
    def lock(self, key: EngineKey, timeout_s: float) -> Iterator[bool]:
        """Be the one builder of a key across processes; see ``Store.lock``. True without a store."""
        if self.store is None:
            yield True
            return
        with self.store.lock(key.digest, timeout_s) as held:
            yield held

    def not_waited_for(self, graph: RegionGraph, patience: float) -> Reason:
        """That another process holds the lock, and the region is built here all the same."""
        detail = f"{self.name}: another process has been building it for over {patience:.0f} s and is not waited for"
        return Reason(kind=ReasonKind.WAITING, detail=detail, node=graph.label)

    # Keeping

    def note_failure(self, key: EngineKey, reason: Reason) -> None:
        """Remember for a day that this key cannot be built."""
        if self.store is not None:
            self.store.put_negative(key.digest, reason, NEGATIVE_EXPIRY_S)

    def keep(self, prepared: Prepared, artefact: Artefact, run: RegionCallable, guards: Guards) -> Loaded:
        """Put a new artefact into memory and on disk."""
        key = prepared.key
        kept = self.write(prepared, artefact.header, artefact.payload, guards) if key is not None else ""
        live = artefact.header.get(LIVE_BYTES)
        loaded = Loaded(key=kept, run=run, guards=guards, engine=self.name, live_bytes=live)
        if key is not None:
            MEMORY.add(key.digest, loaded)
        return loaded

    def write(self, prepared: Prepared, header: Mapping[str, Any], payload: bytes | None, guards: Guards) -> str:
        """Put an artefact on disk, unless somebody else has meanwhile. Returns its key, empty if it is not there."""
        key = prepared.key
        assert key is not None, "only artefacts with a key are kept"
        number, there = self._place_for(key, guards)
        variant = key.variant(number)
        if there:
            return variant.digest
        full = {
            **header,
            "schema": 1,
            "label": prepared.graph.label,
            "created": now_text(),
            "structural_hash": prepared.graph.structural_hash,
            "fields": dict(variant.fields),
            "canonical": prepared.graph.canonical,
            "guards": guards.expression,
        }
        stored = payload is not None and self.store is not None and self.store.put(variant.digest, full, payload)
        self._unusable.discard(variant.digest)
        return variant.digest if stored else ""

    def _place_for(self, key: EngineKey, guards: Guards) -> tuple[int, bool]:
        """The number of the next artefact for this key, the last one when all are taken; whether one that is valid for
        the same sizes is there already, of a process that did not wait for our lock, or we for its."""
        if self.store is None:
            return 0, False
        for number in range(MAX_VARIANTS - 1):
            digest = key.variant(number).digest
            entry = None if digest in self._unusable else self.store.get(digest)
            if entry is None:
                return number, False
            if entry.header.get("guards") == guards.expression and not self._keyed_by_request:
                return number, True
        return MAX_VARIANTS - 1, False


def tiers_for(settings: Settings, names: Sequence[str]) -> tuple[Tier, ...]:
    """These engines, each with its part of the cache."""
    store, reason = open_store(settings)
    return tuple(Tier(engine(name, settings), store, reason) for name in names)


def tier_names(settings: Settings) -> tuple[str, ...]:
    """The engines that regions may run on besides eager, the best first.

    Those the settings name, and below them Inductor, which is ready earlier or takes what others cannot.
    """
    if settings.engine == EAGER:
        return ()
    named = [name for name in settings.engines if name not in ("auto", EAGER, *BOUND)]
    if settings.engine == "auto" and torch.cuda.is_available():
        named = [name for name in TRAITS if TRAITS[name].needs_gpu and engine(name, settings).capability().can_run]
    return tuple(dict.fromkeys((*named, STANDBY)))


def compiled_by(
    tier: Tier, prepared: Prepared, symints: Sequence[torch.SymInt], *, alone: bool = False
) -> Loaded | None:
    """Compile a region in this process, and keep it. None if it was built but does not run here.

    Raises:
        EngineError: the engine failed; put on record, unless it is a fault nobody foresaw.
    """
    key = prepared.key
    # An artefact that says itself which calls it takes relies on no facts about the graph's symbols.
    guards = Guards(expression=None)
    try:
        artefact = tier.engine.compile(prepared.graph, alone=alone)
    except EngineError as error:
        if key is not None:
            tier.note_failure(key, Reason(kind=ReasonKind.FALLBACK, detail=str(error), node=prepared.graph.label))
        raise
    except DjinnError:
        raise
    except Exception as error:  # a fault of the engine's: the key is not to blame, so it is not put on record
        log.exception("region %s: %s", prepared.graph.label, tier.name)
        what = f"{tier.name} could not compile {prepared.graph.label}"
        raise EngineError(f"{what}: {type(error).__name__}: {useful_line(error)}") from error
    if not traits_of(tier.name).keyed_by_request:
        guards = Guards.of(symints)
    if artefact.ready is None and not tier.engine.capability().can_run:
        if key is not None:
            tier.write(prepared, artefact.header, artefact.payload, guards)
        return None
    run = artefact.ready if artefact.ready is not None else tier.engine.load(artefact)
    return tier.keep(prepared, artefact, run, guards)
