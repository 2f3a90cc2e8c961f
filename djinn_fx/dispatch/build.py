"""From a plan to callables: each distinct region is looked up in memory, then on disk, then compiled or sent to be.

Engines are asked in order, the best first. In blocking mode the first that can serve a region does. Otherwise the
region runs on what is in the cache, or on its own ops, while the better engines are built (``lazy.py``).
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from djinn_fx.dispatch.checks import Beside, Checks, has_passed
from djinn_fx.dispatch.contests.contestants import Made, contest_between
from djinn_fx.dispatch.contests.decisions import Outcomes
from djinn_fx.dispatch.contests.pays import EXPERIENCE, Budget
from djinn_fx.dispatch.entrant import Entrant
from djinn_fx.dispatch.lazy import LazyRegion, Policy, lazy_region
from djinn_fx.dispatch.memory import BUILDING, Loaded
from djinn_fx.dispatch.progress import Progress
from djinn_fx.dispatch.region import (
    RegionBuild,
    RegionWork,
    built_again,
    devices_of,
    distinct_first,
    region_values,
    why_no_room,
)
from djinn_fx.dispatch.standby import Standby
from djinn_fx.dispatch.tier import Prepared, Tier, compiled_by, patience_s, tier_names, tiers_for
from djinn_fx.engines.base import Engine, RegionCallable, as_runner
from djinn_fx.engines.keys import Guards, symbolic_inputs
from djinn_fx.engines.registry import engine, import_runtime
from djinn_fx.errors import EngineError
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.settings.engines import EAGER
from djinn_fx.settings.table import Settings
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.plan import Plan, Region

log = logging.getLogger("djinn_fx.dispatch")


if TYPE_CHECKING:
    from djinn_fx.dispatch.background import BackgroundBuild


@dataclass(frozen=True, kw_only=True)
class Built:
    """The callables of a plan's regions, by region index, how each came about, and what stands by behind them.

    Of a graph in one piece: the engines that take it so, with their artefacts' keys (empty: it is not kept).
    """

    callables: tuple[RegionCallable, ...]
    builds: tuple[RegionBuild, ...]
    standbys: tuple[Standby, ...] = ()
    takers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A graph in one piece, for which engines are to compete.

    Attributes:
        work: the graph as a region.
        wanted: engines that are tried, in the order in which they answer.
        hopeless: engines that are tried if none of those takes it.
        competing: all engines under which the outcome is noted, whether or not they take the graph.
        standby: the graph cut into regions, on Inductor.
        tried: whether that takes part, not only once no other engine is left.
        outcomes: see :func:`contest_between`; ``timed`` likewise.
    """

    work: RegionWork
    wanted: Sequence[str]
    hopeless: Sequence[str] = ()
    competing: Sequence[str] = ()
    standby: Standby | None = None
    tried: bool = False
    outcomes: Callable[[Sequence[int]], Outcomes] | None = None
    timed: Callable[[Mapping[str, Sequence[float]]], None] | None = None


class Builder:
    """Gets the callables of plans, one settings' worth of engines, store and budget.

    Args:
        settings: in force.
        bound: engines that keep copies of weights; a region that some of them take runs on the fastest of these.
        mode: as the setting ``compile``, which it is if None.
    """

    def __init__(self, settings: Settings, bound: Sequence[str] = (), *, mode: str | None = None) -> None:
        self._settings, self._mode = settings, mode or settings.compile
        self._eager: Engine = engine(EAGER, settings)
        self._tiers, self._bound = tiers_for(settings, tier_names(settings)), tiers_for(settings, bound)
        self._standbys: list[Standby] = []
        self._policy = Policy(at_once=self._mode == "background", budget=Budget(settings.compile_budget_s))

    def build(self, srg: SRG, plan: Plan) -> Built:
        """One callable per region, in the order of the plan's regions, which may be a part of the graph's.

        Raises:
            EngineError: an engine failed on a region and the settings say to raise.
        """
        callables: dict[int, RegionCallable] = {}
        builds: dict[int, RegionBuild] = {}
        same: dict[str, tuple[RegionCallable, RegionBuild]] = {}
        distinct = list(distinct_first(plan.regions))
        # Compiling one region may find that a symbol is a number, so the symbols of all are noted before.
        symints = {region.index: symbolic_inputs(region_values(srg, region)) for region in plan.regions}
        with Progress(len(distinct), self._settings.progress) as progress:
            for region in (*distinct, *plan.regions):
                if region.index in callables:
                    continue
                shared = same.get(region.structural_hash) if region.structural_hash else None
                if shared is not None and self._may_share(srg, region, symints[region.index], shared[1]):
                    run, build = shared
                    again = built_again(build, region)
                else:
                    progress.start(region.label)
                    work = RegionWork(srg, plan, region, symints[region.index])
                    run, again = self._region(work)
                    same[region.structural_hash] = (run, again)
                    progress.done()
                callables[region.index], builds[region.index] = run, again
        found = [(callables[region.index], builds[region.index]) for region in plan.regions]
        standbys, self._standbys = tuple(self._standbys), []
        return Built(callables=tuple(run for run, _ in found), builds=tuple(how for _, how in found), standbys=standbys)

    def whole(self, whole: Whole) -> Built | None:
        """The callable of a graph in one piece; None if no engine takes it so, which its work's Reasons tell."""
        made = self.each(whole.work, whole.wanted) or self.each(whole.work, whole.hopeless)
        if not made:
            return None
        run = contest_between(
            whole.work.graph,
            made,
            self._own_ops(whole.work),
            self._settings,
            standby=whole.standby,
            tried=whole.tried,
            outcomes=whole.outcomes,
            timed=whole.timed,
        )
        checked = self._settings.verify == "first"
        build = replace(whole.work.build(made[0].loaded, made[0].outcome), alone=False, checked=checked)
        if whole.standby is not None:
            whole.standby.begin()
        standbys = (whole.standby,) if whole.standby is not None else ()
        takers = {one.tier.name: one.loaded.key for one in made}
        return Built(callables=(run,), builds=(build,), standbys=standbys, takers=takers)

    def each(self, work: RegionWork, names: Sequence[str]) -> list[Made]:
        """What each of these engines makes of a region, in this process; the work's Reasons tell why others do not."""
        return self._each(work, tiers_for(self._settings, names))

    def _each(self, work: RegionWork, tiers: Sequence[Tier]) -> list[Made]:
        made = []
        for tier in tiers:
            try:
                one = self._one(work, tier)
            except EngineError:  # only raised where the settings say so
                raise
            except Exception as error:
                if self._settings.on_failure == "raise":
                    raise
                # A fault of the engine's own, or of ours in handling it: the others are asked.
                log.exception("region %s: %s", work.region.label, tier.name)
                detail = f"{tier.name}: {type(error).__name__}: {error}"
                work.note(Reason(kind=ReasonKind.FALLBACK, detail=detail, node=work.region.label))
                continue
            if one is not None:
                made.append(one)
        return made

    def _one(self, work: RegionWork, tier: Tier) -> Made | None:
        prepared = tier.prepare(work.graph, for_child=False)
        if isinstance(prepared, Reason):
            work.reasons.append(prepared)
            return None
        loaded, outcome = self._now(tier, prepared, work)
        no_room = why_no_room(work, loaded, self._settings) if loaded is not None else None
        if no_room is not None:
            work.note(no_room)
            return None
        return Made(tier=tier, prepared=prepared, loaded=loaded, outcome=outcome) if loaded is not None else None

    def _own_ops(self, work: RegionWork) -> RegionCallable:
        return self._eager.load(self._eager.compile(work.graph))

    def _may_share(self, srg: SRG, region: Region, symints: Sequence[torch.SymInt], build: RegionBuild) -> bool:
        """Whether a repeat may use the artefact of its twin: same device indices, and true size facts."""
        if devices_of(srg, region) != devices_of(srg, srg.regions[build.region]):
            return False
        return Guards(expression=build.guards).hold(symints)

    def _region(self, work: RegionWork) -> tuple[RegionCallable, RegionBuild]:
        """Ask the engines in order; what none of them takes runs eagerly."""
        made = self._each(work, self._bound)
        if made:
            standby = None
            if EAGER not in self._settings.engines:
                standby = Standby(functools.partial(self._others, work))
                self._standbys.append(standby)
            run: RegionCallable = contest_between(
                work.graph, made, self._own_ops(work), self._settings, repeats=work.repeats, standby=standby
            )
            return run, replace(work.build(made[0].loaded, made[0].outcome), key="", alone=False)
        if not self._tiers:
            return self._own_ops(work), work.build(None, "built")
        if self._mode != "blocking":
            return self._lazily(work)
        for tier in self._tiers:
            one = self._one(work, tier)
            if one is not None:
                run = self._serving(work, self._checked(work, tier, one.prepared, one.loaded))
                return run, work.build(one.loaded, one.outcome)
        return self._fallback(work)

    def _others(self, work: RegionWork) -> tuple[RegionCallable | None, tuple[LazyRegion, ...]]:
        """A region on the engines that keep no weights: for when those that do refuse."""
        run, build = self._lazily(work)
        lazy = (run,) if isinstance(run, LazyRegion) else ()
        return (run if lazy or build.outcome != "fallback" else None), lazy

    def _checked(self, work: RegionWork, tier: Tier, prepared: Prepared, loaded: Loaded) -> Loaded:
        """An artefact whose answers are compared with eager's, where that can be and has not been done before.

        Raises:
            EngineError: what it takes does not fit into the memory budget.
        """
        no_room = why_no_room(work, loaded, self._settings)
        if no_room is not None:
            raise EngineError(no_room.detail)
        checks = Checks(work.graph, self._own_ops(work), self._settings)
        if as_runner(loaded.run).wants_reference:
            return replace(loaded, run=Beside(checks, tier, prepared, loaded))
        if not checks.possible:
            return loaded
        work.checked = True
        passed = self._settings.verify == "first" and has_passed(tier.store, loaded.key)
        # What is dropped the guard has logged, and it answers by the region's own ops from then on.
        return replace(loaded, run=checks.artefact(tier, prepared, loaded, lambda _: None, passed=passed))

    def _serving(self, work: RegionWork, loaded: Loaded) -> RegionCallable:
        """An artefact as a region's callable; one that checks itself has the region's own ops beside it."""
        if not as_runner(loaded.run).wants_reference:
            return loaded.run
        region, adopted = lazy_region(work, self._own_ops(work), self._policy), Entrant(loaded.engine)
        names = [tier.name for tier in self._tiers]
        behind = self._tiers[names.index(loaded.engine) + 1 :] if loaded.engine in names else ()
        prepared = [(tier, tier.prepare(work.graph, for_child=True)) for tier in behind]
        wanted = [(tier, one) for tier, one in prepared if isinstance(one, Prepared) and one.for_child]
        region.build([adopted, *self._builds(work, region, wanted)], ready=(adopted, loaded))
        return region

    def _builds(
        self, work: RegionWork, region: LazyRegion, wanted: Sequence[tuple[Tier, Prepared]]
    ) -> list[BackgroundBuild]:
        from djinn_fx.dispatch.background import builds

        check, waits = functools.partial(self._checked, work), self._settings.compile == "blocking"
        return builds(work, region, wanted, self._policy.budget, self._settings.progress, check, waits)

    def _now(self, tier: Tier, prepared: Prepared, work: RegionWork) -> tuple[Loaded | None, str]:
        """The artefact, from the cache or compiled while the caller waits; None if that failed."""
        if prepared.key is None:
            return self._compile(tier, prepared, work), "built"
        with BUILDING.of(prepared.key.digest):
            wrong = tier.quarantined(prepared.key)
            found = tier.find(prepared.key, work.holds) if wrong is None else None
            if found is not None:
                return found
            idle = wrong or tier.not_runnable(prepared.key, work.graph, work.holds)
            if idle is not None:
                work.note(idle)
                return None, ""
            failed = tier.known_failure(prepared.key)
            if failed is not None:
                if self._settings.on_failure == "raise":
                    raise EngineError(f"{failed.detail} (known from before; `djinn cache clear` forgets it)")
                work.reasons.append(failed)
                return None, ""
            patience = patience_s(EXPERIENCE.build_seconds(tier.name, len(work.region.nodes)))
            with tier.lock(prepared.key, patience) as held:
                stored = tier.in_store(prepared.key, work.holds)  # somebody may have built it while we waited
                if stored is not None:
                    return stored, "store"
                work.note(tier.note_miss(prepared.key, work.graph))
                alone = not held and not tier.cannot_lock
                work.note(tier.not_waited_for(work.graph, patience) if alone else None)
                return self._compile(tier, prepared, work, alone=alone), "built"

    def _compile(self, tier: Tier, prepared: Prepared, work: RegionWork, *, alone: bool = False) -> Loaded | None:
        ops = len(work.region.nodes)
        predicted_s = EXPERIENCE.build_seconds(tier.name, ops)
        if not self._policy.budget.reserve(predicted_s):
            left_s = self._policy.budget.left_s
            detail = f"{tier.name}: about {predicted_s:.1f} s to build, {left_s:.1f} s of the compile budget are left"
            work.note(Reason(kind=ReasonKind.BUDGET, detail=detail, node=work.region.label))
            return None
        began = time.perf_counter()
        try:
            loaded = compiled_by(tier, prepared, work.symints, alone=alone)
        except EngineError as error:
            if self._settings.on_failure == "raise":
                raise
            work.note(Reason(kind=ReasonKind.FALLBACK, detail=str(error), node=work.region.label))
            return None
        finally:
            self._policy.budget.settle(predicted_s, time.perf_counter() - began)
        EXPERIENCE.built(tier.name, ops, time.perf_counter() - began)
        if loaded is None:
            work.note(tier.why_not_here(work.graph))
        return loaded

    def _fallback(self, work: RegionWork) -> tuple[RegionCallable, RegionBuild]:
        # A region no engine is meant for (sizes only) is no news; one that an engine failed on is.
        failed = any(reason.kind is ReasonKind.FALLBACK for reason in work.reasons)
        detail = "; ".join(reason.detail for reason in work.reasons) or "the settings say so"
        log.log(logging.WARNING if failed else logging.INFO, "region %s runs eagerly: %s", work.region.label, detail)
        # What was missing from the cache is no news where nothing could have been there.
        work.reasons = [reason for reason in work.reasons if reason.kind is not ReasonKind.CACHE_MISS]
        return self._own_ops(work), work.build(None, "fallback")

    # Lazily

    def _lazily(self, work: RegionWork) -> tuple[RegionCallable, RegionBuild]:
        """The best artefact there is already, or the region's own ops, while better engines are built."""
        wanted: list[tuple[Tier, Prepared]] = []
        start: Loaded | None = None
        outcome = "waiting"
        for tier in self._tiers:
            prepared = tier.prepare(work.graph, for_child=True)
            if isinstance(prepared, Reason):
                work.reasons.append(prepared)
                continue
            wrong = tier.quarantined(prepared.key) if prepared.key is not None else None
            found = tier.find(prepared.key, work.holds) if prepared.key is not None and wrong is None else None
            no_room = why_no_room(work, found.loaded, self._settings) if found is not None else None
            if no_room is not None:
                work.note(no_room)
                continue
            if found is not None:
                start, outcome = self._checked(work, tier, prepared, found.loaded), found.outcome
                break
            why_not = wrong or tier.no_use_building(prepared, work.holds)
            if why_not is None and prepared.key is not None:
                wanted.append((tier, prepared))
                why_not = tier.note_miss(prepared.key, work.graph)
            work.note(why_not)
        if not wanted:
            return (
                (self._serving(work, start), work.build(start, outcome)) if start is not None else self._fallback(work)
            )
        return self._lazy_region(work, wanted, start, outcome)

    def _lazy_region(
        self, work: RegionWork, wanted: Sequence[tuple[Tier, Prepared]], start: Loaded | None, outcome: str
    ) -> tuple[RegionCallable, RegionBuild]:
        for tier, _ in wanted:
            import_runtime(tier.name)  # here, where the user waits anyway: in a pool thread it would hold up calls
        region = lazy_region(work, self._own_ops(work), self._policy, start)
        candidates = self._builds(work, region, wanted)
        for candidate in candidates:
            after = region.pays_after(candidate.engine)
            pays = "never pays by what is known" if after is None else f"pays after {after} more calls"
            when = "is being built" if self._policy.at_once else "is built when that pays"
            detail = f"{candidate.engine} {when}; {pays}"
            work.note(Reason(kind=ReasonKind.WAITING, detail=detail, node=work.region.label))
        region.build(candidates)
        key = wanted[0][1].key
        only = len(self._tiers) == 1 and start is None and not work.symints and self._tiers[0].store is not None
        build = work.build(start, outcome)
        return region, replace(build, key=key.digest if only and key is not None else build.key)
