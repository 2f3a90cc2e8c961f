"""A contest between what several engines made of one region: each one's answers are checked before they count."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from djinn_fx.engines.base import RegionCallable, RegionGraph
from djinn_fx.engines.contest import Contest, Entrant
from djinn_fx.engines.guard.guarded import guarded
from djinn_fx.engines.guard.precise import fp64_reference
from djinn_fx.engines.guard.quarantine import QUARANTINE
from djinn_fx.engines.guard.reproducer import Reproducer
from djinn_fx.engines.guard.trial import written_places
from djinn_fx.engines.memory import MEMORY, Loaded
from djinn_fx.engines.tier import Prepared, Tier
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Made:
    """What an engine made of a region."""

    tier: Tier
    prepared: Prepared
    loaded: Loaded


class Contestants:
    """What every contest for one region shares.

    Args:
        graph: the region.
        made: by the engines, in the order in which they answer.
        reference: the region's own ops.
        settings: in force.
        repeats: how many regions of the graph it serves, each with weights of its own.
    """

    def __init__(
        self, graph: RegionGraph, made: Sequence[Made], reference: RegionCallable, settings: Settings, repeats: int = 1
    ) -> None:
        self._graph, self._made, self._reference, self._settings = graph, tuple(made), reference, settings
        self._repeats = repeats
        self._precise = fp64_reference(graph.gm) if made and settings.verify != "off" else None

    def contest(
        self,
        *others: Entrant,
        decided: Callable[[str, Mapping[str, float]], None] | None = None,
        remembered: str | None = None,
    ) -> Contest:
        """A contest between the engines, these others, and the region's own ops where they may take part."""
        told = _Told()
        for one in others:
            one.use(self._checked(one.engine, one.run, functools.partial(told.about, one.engine, None), None))
        entrants = [*(self._entrant(one, told) for one in self._made), *others]
        if self._settings.engine == "auto" or "eager" in self._settings.engines:
            entrants.append(Entrant("eager", self._reference))
        contest = Contest(
            label=self._graph.label,
            entrants=entrants,
            reference=self._reference,
            waits=self._settings.compile == "blocking",
            decided=decided,
            remembered=remembered,
        )
        told.contest = weakref.ref(contest)
        return contest

    def _entrant(self, made: Made, told: _Told) -> Entrant:
        name = made.tier.name
        tell = functools.partial(told.about, name, made)
        return Entrant(name, self._checked(name, made.loaded.run, tell, self._reproducer(made)))

    def _checked(
        self, name: str, run: RegionCallable, tell: Callable[[Reason], None], reproduce: Reproducer | None
    ) -> RegionCallable:
        written = written_places(self._graph.gm)
        return guarded(
            run,
            self._reference,
            label=self._graph.label,
            engine=name,
            verify=self._settings.verify,
            mutated=tuple(getattr(run, "mutated", written)),
            on_quarantine=tell,
            reproduce=reproduce,
            high_precision=self._precise,
            region=self._graph,
            bindings=self._repeats,
            allow_bf16=self._settings.precision == "allow-bf16",
        )

    def _reproducer(self, made: Made) -> Reproducer:
        store, key = made.tier.store, made.loaded.key
        return Reproducer(
            region=self._graph,
            engine=made.tier.name,
            fingerprint=made.tier.engine.fingerprint(),
            settings=self._settings,
            root=store.root if store is not None else None,
            artefact=(lambda: store.get(key)) if store is not None and key else None,
        )


class _Told:
    """Passes on why an engine is not used any more: to the contest and, if answers were wrong, to later processes."""

    contest: weakref.ref[Contest] | None = None

    def about(self, name: str, made: Made | None, reason: Reason) -> None:
        """An engine is out; ``made``: by it, where that is an artefact that others could find."""
        contest = self.contest() if self.contest is not None else None
        if contest is not None:
            contest.drop(name, reason)
        key = made.prepared.key if made is not None else None
        if made is not None and key is not None and reason.kind is ReasonKind.QUARANTINED:
            QUARANTINE.put(key, reason, made.tier.store)
            MEMORY.forget(key.digest)
