"""A contest between what several engines made of one region: each one's answers are checked before they count."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from djinn_fx.dispatch.checks import Checks
from djinn_fx.dispatch.contests.contest import Contest
from djinn_fx.dispatch.contests.decisions import Outcomes
from djinn_fx.dispatch.contests.entrant import Entrant
from djinn_fx.dispatch.memory import Loaded
from djinn_fx.dispatch.standby import Standby
from djinn_fx.dispatch.tier import Prepared, Tier
from djinn_fx.engines.base import RegionCallable, RegionGraph
from djinn_fx.engines.keys import symbol_places
from djinn_fx.reasons import Reason
from djinn_fx.settings.engines import EAGER
from djinn_fx.settings.table import Settings


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
        self._label, self._made, self._reference, self._settings = graph.label, tuple(made), reference, settings
        self._sizes_differ = bool(symbol_places(graph.example_inputs))
        self._checks = Checks(graph, reference, settings, repeats)

    def contest(
        self,
        *others: Entrant,
        memory: Outcomes | None = None,
        timed: Callable[[Mapping[str, Sequence[float]]], None] | None = None,
        standby: Standby | None = None,
    ) -> Contest:
        """A contest between the engines, these others, and the region's own ops where they may take part.

        With ``standby`` for when all of them refuse.
        """
        told, known = _Told(), memory.known if memory is not None else None
        entrants = [self._entrant(one, told) for one in self._made]
        entrants += [self._other(one, told) for one in others]
        if self._settings.engine == "auto" or EAGER in self._settings.engines:
            entrants.append(Entrant(EAGER, self._reference))
        contest = Contest(
            label=self._label,
            entrants=entrants,
            reference=self._reference,
            waits=self._settings.compile == "blocking",
            decided=memory.decided if memory is not None else None,
            timed=timed,
            remembered=known.engine if known is not None else None,
            releases=not self._sizes_differ,
            standby=(lambda: self._other(standby.entrant(), told)) if standby is not None else None,
        )
        told.contest = weakref.ref(contest)
        return contest

    def _other(self, entrant: Entrant, told: _Told) -> Entrant:
        entrant.use(self._checks.checked(entrant.engine, entrant.run, functools.partial(told.about, entrant.engine)))
        return entrant

    def _entrant(self, made: Made, told: _Told) -> Entrant:
        name = made.tier.name
        tell = functools.partial(told.about, name)
        return Entrant(name, self._checks.artefact(made.tier, made.prepared, made.loaded, tell))


class _Told:
    """Passes on to the contest why an engine is not used any more."""

    contest: weakref.ref[Contest] | None = None

    def about(self, name: str, reason: Reason) -> None:
        contest = self.contest() if self.contest is not None else None
        if contest is not None:
            contest.drop(name, reason)
