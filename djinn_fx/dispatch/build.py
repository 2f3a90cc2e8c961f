"""From a plan to callables: each distinct region is looked up in memory, then on disk, then compiled or sent to be.

Engines are asked in order, the best first. In blocking mode the first that can serve a region does. Otherwise the
region runs on what is in the cache, or on its own ops, while the better engines are built (``lazy.py``).
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from djinn_fx.dispatch.checks import Beside, Checks, has_passed
from djinn_fx.dispatch.contests.by_size import ContestBySize
from djinn_fx.dispatch.contests.contestants import Contestants, Made
from djinn_fx.dispatch.contests.pays import EXPERIENCE, Budget
from djinn_fx.dispatch.lazy import Adopted, LazyRegion, Policy
from djinn_fx.dispatch.memory import BUILDING, MEMORY, Loaded, load_entry
from djinn_fx.dispatch.progress import Progress
from djinn_fx.dispatch.region import RegionBuild, RegionWork, built_again, distinct_first, region_values
from djinn_fx.dispatch.standby import Standby
from djinn_fx.dispatch.tier import Prepared, Tier, patience_s, tiers_for
from djinn_fx.engines.base import Artefact, BuildRequest, Engine, RegionCallable, as_runner
from djinn_fx.engines.keys import Guards, device_order, symbolic_inputs
from djinn_fx.engines.registry import engine
from djinn_fx.errors import EngineError
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.settings.engines import BOUND, EAGER, STANDBY, TRAITS
from djinn_fx.settings.table import Settings
from djinn_fx.srg.extract import input_value
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.plan import Plan, Region
from djinn_fx.store.opening import open_store

log = logging.getLogger("djinn_fx.dispatch")


if TYPE_CHECKING:
    from djinn_fx.dispatch.background import BackgroundBuild


@dataclass(frozen=True, kw_only=True)
class Built:
    """The callables of a plan's regions, by region index, how each came about, and what stands by behind them."""

    callables: tuple[RegionCallable, ...]
    builds: tuple[RegionBuild, ...]
    standbys: tuple[Standby, ...] = ()


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
        """One callable per region, in the order of the plan's regions.

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
        found = [(callables[index], builds[index]) for index in range(len(plan.regions))]
        standbys, self._standbys = tuple(self._standbys), []
        return Built(callables=tuple(run for run, _ in found), builds=tuple(how for _, how in found), standbys=standbys)

    def each(self, srg: SRG, plan: Plan, region: Region, names: Sequence[str]) -> tuple[list[Made], list[Reason]]:
        """What each of these engines makes of a region, in this process, and why the others make nothing of it."""
        work = RegionWork(srg, plan, region, symbolic_inputs(region_values(srg, region)))
        return self._each(work, tiers_for(self._settings, names)), work.reasons

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
        loaded, _ = self._now(tier, prepared, work)
        return Made(tier=tier, prepared=prepared, loaded=loaded) if loaded is not None else None

    def _may_share(self, srg: SRG, region: Region, symints: Sequence[torch.SymInt], build: RegionBuild) -> bool:
        """Whether a repeat may use the artefact of its twin: same device indices, and true size facts."""
        if _devices(srg, region) != _devices(srg, srg.regions[build.region]):
            return False
        return Guards(expression=build.guards).hold(symints)

    def _region(self, work: RegionWork) -> tuple[RegionCallable, RegionBuild]:
        """Ask the engines in order; what none of them takes runs eagerly."""
        made = self._each(work, self._bound)
        if made:
            reference = self._eager.load(self._eager.compile(work.graph))
            contestants = Contestants(work.graph, made, reference, self._settings, work.repeats)
            standby = None
            if EAGER not in self._settings.engines:
                standby = Standby(functools.partial(self._others, work))
                self._standbys.append(standby)
            contest = functools.partial(contestants.contest, standby=standby)
            run: RegionCallable = ContestBySize(work.places, lambda _: contest()) if work.places else contest()
            return run, replace(work.build(made[0].loaded, "built"), key="", alone=False)
        if not self._tiers:
            return self._eager.load(self._eager.compile(work.graph)), work.build(None, "built")
        if self._mode != "blocking":
            return self._lazily(work)
        for tier in self._tiers:
            prepared = tier.prepare(work.graph, for_child=False)
            if isinstance(prepared, Reason):
                work.reasons.append(prepared)
                continue
            loaded, outcome = self._now(tier, prepared, work)
            if loaded is not None:
                run = self._serving(work, self._checked(work, tier, prepared, loaded))
                return run, work.build(loaded, outcome)
        return self._fallback(work)

    def _others(self, work: RegionWork) -> tuple[RegionCallable | None, tuple[LazyRegion, ...]]:
        """A region on the engines that keep no weights: for when those that do refuse."""
        run, build = self._lazily(work)
        lazy = (run,) if isinstance(run, LazyRegion) else ()
        return (run if lazy or build.outcome != "fallback" else None), lazy

    def _checked(self, work: RegionWork, tier: Tier, prepared: Prepared, loaded: Loaded) -> Loaded:
        """An artefact whose answers are compared with eager's, where that can be and has not been done before."""
        checks = Checks(work.graph, self._eager.load(self._eager.compile(work.graph)), self._settings)
        if as_runner(loaded.run).wants_reference:
            return replace(loaded, run=Beside(checks, tier, prepared, loaded))
        if not checks.possible:
            return loaded
        work.checked = True
        passed = self._settings.verify == "first" and has_passed(tier.store, loaded.key)
        return replace(loaded, run=checks.artefact(tier, prepared, loaded, _said_already, passed=passed))

    def _serving(self, work: RegionWork, loaded: Loaded) -> RegionCallable:
        """An artefact as a region's callable; one that checks itself has the region's own ops beside it."""
        if not as_runner(loaded.run).wants_reference:
            return loaded.run
        region, adopted = self._new_lazy(work, None), Adopted(loaded.engine)
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
            if wrong is not None:
                work.note(wrong)
                return None, ""
            found = tier.find(prepared.key, work.holds)
            if found is not None:
                return found
            idle = tier.not_runnable(prepared.key, work.graph, work.holds)
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
            loaded = tier.compile(prepared, work.symints, alone=alone)
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
        run = self._eager.load(self._eager.compile(work.graph))
        # What was missing from the cache is no news where nothing could have been there.
        work.reasons = [reason for reason in work.reasons if reason.kind is not ReasonKind.CACHE_MISS]
        return run, work.build(None, "fallback")

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
            if wrong is not None:
                work.note(wrong)
                continue
            found = tier.find(prepared.key, work.holds) if prepared.key is not None else None
            if found is not None:
                start, outcome = self._checked(work, tier, prepared, found.loaded), found.outcome
                break
            known = self._known(tier, prepared, work)
            if known is not None:
                work.note(known)
            elif self._can_build_elsewhere(tier, prepared, work):
                wanted.append((tier, prepared))
        if not wanted:
            return (
                (self._serving(work, start), work.build(start, outcome)) if start is not None else self._fallback(work)
            )
        return self._lazy_region(work, wanted, start, outcome)

    def _known(self, tier: Tier, prepared: Prepared, work: RegionWork) -> Reason | None:
        """Why there is no point in building: it does not run here, or it failed before."""
        if prepared.key is None:
            return None
        return tier.not_runnable(prepared.key, work.graph, work.holds) or tier.known_failure(prepared.key)

    def _can_build_elsewhere(self, tier: Tier, prepared: Prepared, work: RegionWork) -> bool:
        if isinstance(prepared.request, BuildRequest) and prepared.key is not None:
            work.note(tier.note_miss(prepared.key, work.graph))
            return True
        if isinstance(prepared.request, Reason):
            work.reasons.append(prepared.request)
        else:
            detail = f"{tier.name}: the region has no key, so it is built in this process or not at all"
            work.note(Reason(kind=ReasonKind.ENGINE_REFUSED, detail=detail, node=work.region.label))
        return False

    def _lazy_region(
        self, work: RegionWork, wanted: Sequence[tuple[Tier, Prepared]], start: Loaded | None, outcome: str
    ) -> tuple[RegionCallable, RegionBuild]:
        if any(tier.name == STANDBY for tier, _ in wanted):
            from djinn_fx.engines.inductor.engine import import_runtime

            import_runtime()  # here, where the user waits anyway: in a pool thread it would hold up calls
        region = self._new_lazy(work, start)
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

    def _new_lazy(self, work: RegionWork, start: Loaded | None) -> LazyRegion:
        return LazyRegion(
            label=work.region.label,
            eager=self._eager.load(self._eager.compile(work.graph)),
            start=start,
            ops=len(work.region.nodes),
            repeats=work.repeats,
            places=work.places,
            predicted_s=work.region.eager_s,
            saved_share=work.region.saved_share,
            clock_tells=work.region.device.startswith("cpu"),
            policy=self._policy,
        )


def _said_already(reason: Reason) -> None:
    """The guard has logged it, and answers by the region's own ops from now on."""


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


def _devices(srg: SRG, region: Region) -> tuple[str, ...]:
    return device_order(input_value(srg, srg.node(name)) for name in (*region.inputs, *region.nodes))
