"""A contest between what several engines made of one region: each one's answers are checked before they count.

Who is the fastest depends on how much a call is: where sizes differ from call to call, calls of similar work share a
contest.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from djinn_fx.dispatch.checks import Checks, has_passed
from djinn_fx.dispatch.contests.contest import Contest
from djinn_fx.dispatch.contests.decisions import Outcomes
from djinn_fx.dispatch.contests.own_ops import OwnOps
from djinn_fx.dispatch.contests.sharing import SharingContest
from djinn_fx.dispatch.contests.work import CallWork
from djinn_fx.dispatch.entrant import Entrant
from djinn_fx.dispatch.memory import Loaded
from djinn_fx.dispatch.standby import Standby
from djinn_fx.dispatch.tier import Prepared, Tier
from djinn_fx.engines.base import RegionCallable, RegionGraph, as_runner
from djinn_fx.engines.bound.watch import picker
from djinn_fx.guard.rehearsed import RehearsedRegion
from djinn_fx.reasons import Reason
from djinn_fx.settings.engines import EAGER, STANDBY, traits_of
from djinn_fx.settings.table import Settings
from djinn_fx.threads import new_lock


@dataclass(frozen=True, kw_only=True)
class Made:
    """What an engine made of a region, and whence: ``memory``, ``store``, ``built``."""

    tier: Tier
    prepared: Prepared
    loaded: Loaded
    outcome: str = "built"


def contest_between(
    graph: RegionGraph,
    made: Sequence[Made],
    reference: RegionCallable,
    settings: Settings,
    *,
    repeats: int = 1,
    standby: Standby | None = None,
    tried: bool = False,
    outcomes: Callable[[Sequence[int]], Outcomes] | None = None,
    timed: Callable[[Mapping[str, Sequence[float]]], None] | None = None,
) -> Contest | ContestBySize:
    """A contest between the engines, and the region's own ops where the settings let them take part.

    Args:
        graph: the region.
        made: by the engines, in the order in which they answer.
        reference: the region's own ops.
        settings: in force.
        repeats: how many regions of the graph it serves, each with weights of its own.
        standby: Inductor, for when no other engine is left.
        tried: Inductor takes part, not only then: once the others were tried, unless it is being built already.
        outcomes: what is known of earlier contests for such work; given its class (:class:`ContestBySize`).
        timed: told the times of a trial, where sizes do not differ.
    """
    own, work = OwnOps(reference), CallWork(graph)
    # Where the settings name an engine it keeps its copies, and so does a region that stands for many layers.
    weights = picker(graph.weights) if settings.engine == "auto" and repeats == 1 and graph.weights else None
    checks = Checks(graph, own, settings, repeats, kind=RehearsedRegion)

    def contest(sizes: Sequence[int] = (), others: ContestBySize | None = None) -> Contest:
        # Where sizes differ, times of other contests' calls say nothing here.
        mine = OwnOps(reference) if work.differs else own
        memory = outcomes(sizes) if outcomes is not None else None
        known = memory.known if memory is not None else None
        held = (Contest if weights is None else functools.partial(SharingContest, weights=weights))(
            label=graph.label,
            reference=mine,
            waits=settings.compile == "blocking" and (others is None or not others.contests),
            decided=memory.decided if memory is not None else None,
            leading=memory.leading if memory is not None else None,
            lost=memory.forget if memory is not None else None,
            timed=timed if not work.differs else None,
            remembered=known.engine if known is not None and known.over else None,
            in_use=others.uses if others is not None else lambda engine: False,
            work=others.work if others is not None else lambda args: 1.0,
        )
        entrants = []
        for one in made:
            name = one.tier.name
            passed = settings.verify == "first" and has_passed(one.tier.store, one.loaded.key)
            run = checks.artefact(one.tier, one.prepared, one.loaded, held.dropping(name), passed=passed)
            entrants.append(Entrant(name, run, copy=_copy_of(one), sessions=id(one.loaded.run)))
        if standby is not None:
            late = functools.partial(_checked, standby, checks, held.dropping(STANDBY))
            if tried and (known is None or known.engine == STANDBY or STANDBY not in known.seconds):
                entrants.append(late())
            else:
                held.standby = late
        if settings.engine == "auto" or EAGER in settings.engines:
            entrants.append(Entrant(EAGER, mine) if work.differs else _Eager(own))
        held.entrants = tuple(entrants)
        if known is not None:
            held.go_on(known)
        return held

    return ContestBySize(work, contest) if work.differs else contest()


def _copy_of(made: Made) -> Hashable | None:
    """Which copy of the weights answers need: that of the sessions, which all who load the artefact share."""
    traits = traits_of(made.tier.name)
    if not traits.binds_weights:
        return None
    shared = traits.shares_copies and as_runner(made.loaded.run).shares_copies
    return (made.tier.name,) if shared else (made.tier.name, id(made.loaded.run))


class _Eager(Entrant):
    """They as an entrant, of a graph whose sizes are always the same."""

    def __init__(self, own: OwnOps) -> None:
        super().__init__(EAGER, own)
        self._own = own

    @property
    def least_s(self) -> float | None:
        return self._own.least_s if self._own.runs > 1 else None


def _checked(standby: Standby, checks: Checks, dropped: Callable[[Reason], None]) -> Entrant:
    entrant = standby.entrant()
    entrant.use(checks.checked(entrant.engine, entrant.run, dropped))
    return entrant


class ContestBySize:
    """A contest for each class of calls of similar work. A ``RegionCallable``.

    A call's work is within a factor of four in a class.

    Args:
        work: how much a call is (``work.py``).
        make: makes the contest of a class, beside the others.
    """

    def __init__(
        self, work: Callable[[Sequence[Any]], int], make: Callable[[tuple[int], ContestBySize], Contest]
    ) -> None:
        self.work, self._make = work, make
        self.contests: dict[int, Contest] = {}
        #: Engines that are out for good, and why.
        self._out: dict[str, Reason] = {}
        self._lock = new_lock()

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        """Answer a call."""
        contest = self.contests.get((self.work(args).bit_length() + 1) // 2)
        return (contest if contest is not None else self._of(args))(args)

    def make_ready(self, args: Sequence[Any]) -> None:
        """See :meth:`Contest.make_ready`."""
        self._of(args).make_ready(args)

    def _of(self, args: Sequence[Any]) -> Contest:
        kind = (self.work(args).bit_length() + 1) // 2
        contest = self.contests.get(kind)
        return contest if contest is not None else self._new(kind)

    def uses(self, engine: str) -> bool:
        """Whether a contest uses an engine: they share its sessions."""
        return any(one.uses(engine) for one in list(self.contests.values()))

    @property
    def distinct(self) -> list[Contest]:
        """The contests."""
        return list(self.contests.values())

    def drop(self, engine: str, reason: Reason) -> None:
        """An engine is not to be used any more, for calls of any size."""
        with self._lock:
            self._out[engine] = reason
        for one in self.distinct:
            one.drop(engine, reason)

    def _new(self, kind: int) -> Contest:
        with self._lock:
            if kind not in self.contests:
                made = self._make((kind,), self)
                known = sorted(self.contests, key=lambda other: abs(other - kind))
                # Who serves calls of nearly as much work is ready: it begins.
                winners = [self.contests[other].engine for other in known if self.contests[other].decided]
                made.begin_with(winners[0] if winners and winners[0] not in self._out else None)
                for engine, reason in self._out.items():
                    made.drop(engine, reason)
                self.contests[kind] = made
            return self.contests[kind]
