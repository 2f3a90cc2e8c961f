"""The check of what engines made of one region, and the note on disk that it was passed.

Who passed once, on this machine and with these versions, needs the region's own ops beside it no more: a later process
may run the artefact without tracing the model (``saved/torch_cache.py``).
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

from djinn_fx.dispatch.memory import MEMORY, Loaded, load_entry
from djinn_fx.dispatch.tier import Prepared, Tier
from djinn_fx.engines.base import Artefact, RegionCallable, RegionGraph, Runner, as_runner
from djinn_fx.engines.here import here_digest
from djinn_fx.engines.keys import device_order
from djinn_fx.engines.registry import engine
from djinn_fx.errors import EngineError
from djinn_fx.guard.guarded import GuardedRegion
from djinn_fx.guard.making import guarded
from djinn_fx.guard.precise import Precise, fp64_reference
from djinn_fx.guard.quarantine import QUARANTINE
from djinn_fx.guard.repro.write import Reproducer
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.settings.engines import may_round, traits_of
from djinn_fx.settings.table import Settings
from djinn_fx.srg.effects import draws_random_numbers
from djinn_fx.store.opening import open_store
from djinn_fx.store.store import Store

log = logging.getLogger("djinn_fx.dispatch")


class Checks:
    """See the module's text.

    Args:
        graph: the region.
        reference: the region's own ops.
        settings: in force.
        bindings: sets of weights that are compared one by one.
        kind: what compares; None: every comparison is made in a call.
    """

    def __init__(
        self,
        graph: RegionGraph,
        reference: RegionCallable,
        settings: Settings,
        bindings: int = 1,
        kind: Callable[..., GuardedRegion] | None = None,
    ) -> None:
        self._graph, self._reference, self._settings, self._bindings = graph, reference, settings, bindings
        self._kind = kind

    @functools.cached_property
    def _precise(self) -> Precise | None:
        return fp64_reference(self._graph.gm) if self._settings.verify != "off" else None

    @property
    def possible(self) -> bool:
        """Whether answers can be compared: not those of training, of a GPU, or with random numbers of their own."""
        random = draws_random_numbers(self._graph.gm) and not self._settings.fallback_random
        devices = device_order(node.meta.get("val") for node in self._graph.gm.graph.nodes)
        on_cpu = all(device == "cpu" for device in devices)
        return self._graph.kind == "inference" and on_cpu and not random and self._settings.verify != "off"

    def checked(self, engine: str, run: RegionCallable, told: Callable[[Reason], None]) -> GuardedRegion:
        """A callable whose answers are compared; of something that is no artefact."""
        return self._guarded(engine, run, told, None, None)

    def artefact(
        self, tier: Tier, prepared: Prepared, loaded: Loaded, told: Callable[[Reason], None], *, passed: bool = False
    ) -> GuardedRegion:
        """The callable of an artefact whose answers are compared; a wrong one is out for later processes too.

        Args:
            tier: whose it is.
            prepared: the region as the engine sees it.
            loaded: the artefact.
            told: given the Reason why it is not used any more.
            passed: its first answer was compared before.
        """
        store, entry = tier.store, loaded.key

        def out(reason: Reason) -> None:
            if prepared.key is not None and reason.kind is ReasonKind.QUARANTINED:
                QUARANTINE.put(prepared.key, reason, store)
                MEMORY.forget(prepared.key.digest)
            told(reason)

        reproducer = Reproducer(
            region=self._graph,
            engine=tier.name,
            fingerprint=tier.engine.fingerprint(),
            settings=self._settings,
            root=store.root if store is not None else None,
            artefact=(lambda: store.get(entry)) if store is not None and entry else None,
        )
        return self._guarded(tier.name, loaded.run, out, reproducer, lambda: note_passed(store, entry), passed)

    def _guarded(
        self,
        engine: str,
        run: RegionCallable,
        told: Callable[[Reason], None],
        reproduce: Reproducer | None,
        passed: Callable[[], None] | None,
        before: bool = False,
    ) -> GuardedRegion:
        runner = as_runner(run)
        return guarded(
            runner,
            self._reference,
            label=self._graph.label,
            engine=engine,
            verify=self._settings.verify,
            mutated=runner.mutated,
            on_quarantine=told,
            reproduce=reproduce,
            high_precision=self._precise,
            region=self._graph,
            bindings=self._bindings,
            precision=may_round(engine, self._settings.precision),
            on_passed=passed,
            any_layout=traits_of(engine).chooses_strides,
            passed=before,
            kind=self._kind,
        )


class Beside(Runner):
    """An artefact that wants the region's own ops beside it for calls it does not take (``engines.base.Engine``).

    Args:
        checks: of the region.
        tier: whose it is.
        prepared: the region as the engine sees it.
        loaded: the artefact.
    """

    wants_reference = True

    def __init__(self, checks: Checks, tier: Tier, prepared: Prepared, loaded: Loaded) -> None:
        self._checks, self._tier, self._prepared, self._loaded = checks, tier, prepared, loaded
        self.accepts = as_runner(loaded.run).accepts

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        """As the artefact's."""
        return self._loaded.run(args)

    def checked(self, dropped: Callable[[Reason], None]) -> GuardedRegion:
        """It with its answers compared with those of the region's own ops."""
        return self._checks.artefact(self._tier, self._prepared, self._loaded, dropped)


def note_passed(store: Store | None, entry: str) -> None:
    """Put on record that the artefact's first answer was right here."""
    if store is not None and entry and not has_passed(store, entry):
        store.put(
            note_key(entry), {"schema": 1, "what": "passed", "label": "a check that was passed", "entry": entry}, b""
        )


def has_passed(store: Store | None, entry: str) -> bool:
    """Whether the artefact's first answer was right on a machine and with versions like these."""
    known = store.get(note_key(entry)) if store is not None else None
    return known is not None and known.header.get("what") == "passed"


def load_artefact(settings: Settings, key: str, *, passed: bool = False) -> RegionCallable | None:
    """The callable of a stored artefact by its key alone; None if it is not there or cannot be loaded.

    Args:
        settings: in force.
        key: of the artefact.
        passed: whether its answers must have been compared with eager's before, here.
    """
    if passed and not has_passed(open_store(settings)[0], key):
        return None
    known = MEMORY.exactly(key)
    if known is not None:
        return known.run
    store, _ = open_store(settings)
    entry = store.get(key) if store is not None else None
    if entry is None:
        return None
    artefact = Artefact(header=entry.header, payload=entry.payload)
    try:
        return load_entry(engine(str(entry.header.get("engine")), settings), artefact, key).run
    except EngineError as error:
        log.warning("a stored artefact cannot be used: %s", error)
        return None


def note_key(entry: str) -> str:
    """Under which it is noted that an artefact's first answer was right here."""
    return hashlib.sha256(f"passed:{entry}:{here_digest()}".encode()).hexdigest()
