"""A region that runs on what is ready and moves to a better engine when that engine is built.

Every call goes through one reference, ``LazyRegion.run``. It starts as the region's own ops (or whatever was in the
cache), and is replaced when an artefact is ready; a call that is running keeps what it began with. Nobody waits: builds
happen in child processes (:mod:`djinn_fx.pool`), and one that crashes costs nothing but that engine.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from djinn_fx.dispatch.checks import Beside
from djinn_fx.dispatch.contests.pays import EXPERIENCE, Budget, Estimate
from djinn_fx.dispatch.memory import Loaded
from djinn_fx.engines.base import RegionCallable, as_runner
from djinn_fx.engines.keys import Guards
from djinn_fx.reasons import Reason
from djinn_fx.settings.engines import EAGER
from djinn_fx.threads import new_condition, new_lock

log = logging.getLogger("djinn_fx.dispatch.lazy")

#: Told whenever a state changes: who waits for readiness sleeps on it.
CHANGED = new_condition()
#: Executions between two looks at whether something is to be built or tried again.
_LOOK_EVERY = 16
#: Sizes without an artefact that are counted; a call with yet others runs the region's own ops.
_MAX_UNSERVED = 64


class State(str, Enum):
    """Where an engine stands with a region."""

    COLD = "cold"
    QUEUED = "queued"
    BUILDING = "building"
    READY = "ready"
    FAILED = "failed"
    BUILT_NOT_RUNNABLE = "built-not-runnable"


#: States in which an engine may still become ready by itself.
PENDING = frozenset({State.QUEUED, State.BUILDING})


@dataclass(frozen=True, kw_only=True)
class TierStatus:
    """One engine's state for one region.

    Attributes:
        engine: its name.
        state: see :class:`State`.
        reason: why it failed, cannot run or is not built yet; None if there is nothing to say.
        retry_after_s: seconds until a failed build is tried again; None if it is not.
        pays_after_calls: calls of the graph until building pays for itself; None if it never does, 0 if it does now.
    """

    engine: str
    state: State
    reason: Reason | None = None
    retry_after_s: float | None = None
    pays_after_calls: int | None = None


@dataclass(frozen=True, kw_only=True)
class RegionStatus:
    """A lazy region now.

    Attributes:
        label: the region's.
        repeats: how many regions of the graph it serves.
        engine: what its calls go to.
        executions: how often it ran while something was still to be built.
        tiers: its engines, the best first.
    """

    label: str
    repeats: int
    engine: str
    executions: int
    tiers: tuple[TierStatus, ...]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """When to build.

    Attributes:
        at_once: submit every build at once; else each when the calls seen so far say that it pays.
        budget: seconds of building that may be spent.
    """

    at_once: bool
    budget: Budget


class Candidate:
    """One engine on its way to a lazy region. Subclassed by what knows how to build (``background.py``)."""

    engine: str
    state: State = State.COLD
    reason: Reason | None = None
    retry_at: float | None = None

    def submit(self) -> None:
        """Have it built; does nothing unless it is cold or failed and may be tried again."""
        raise NotImplementedError

    def extend(self, sizes: Sequence[int]) -> None:
        """It is ready, but serves not these sizes: have one more artefact built, for these."""
        raise NotImplementedError

    def cancel(self) -> None:
        """It is no longer wanted."""
        raise NotImplementedError

    def after_fork(self) -> None:
        """In a forked process: whoever was building it is not there."""

    def move(self, state: State, reason: Reason | None = None) -> None:
        """Go to a state and tell whoever waits."""
        with CHANGED:
            self.state, self.reason = state, reason
            CHANGED.notify_all()


class LazyRegion:
    """The callable of a region whose engines are still being built.

    Args:
        label: for messages.
        eager: the region's own ops: what is always right.
        start: what to begin with if something better is in the cache already.
        ops: how many ops it has.
        repeats: how many regions of the graph it serves.
        places: where the size symbols are read off the arguments (``keys.symbol_places``).
        predicted_s: predicted seconds of one eager execution.
        saved_share: tells which part of an eager execution an engine is expected to save; None where nobody knows.
        clock_tells: whether the time a call takes is the time its work takes; it is not for work queued on a GPU.
        policy: when to build.
    """

    def __init__(
        self,
        *,
        label: str,
        eager: RegionCallable,
        start: Loaded | None = None,
        ops: int,
        repeats: int,
        places: Sequence[tuple[int, int | None]] = (),
        predicted_s: float = 0.0,
        saved_share: Callable[[str], float | None] = lambda engine: None,
        clock_tells: bool = True,
        policy: Policy,
    ) -> None:
        self.label, self.ops, self.repeats, self.places = label, ops, repeats, tuple(places)
        self.run: RegionCallable = eager if start is None else start.run
        self.engine = EAGER if start is None else start.engine
        self.executions = 0
        self._eager, self._policy = eager, policy
        self._predicted_s, self._saved_share, self._clock_tells = predicted_s, saved_share, clock_tells
        self._seconds = 0.0
        self._began = time.monotonic()
        self._candidates: tuple[Candidate, ...] = ()
        self._variants: tuple[Variant, ...] = ()
        self._unserved: dict[tuple[int, ...], int] = {}
        self._watching = False
        self._swap = new_lock()

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        """Run the region on the best engine that is ready."""
        if self._watching:
            return self._watched(args)
        return self.run(args)

    # Building

    def build(self, candidates: Sequence[Candidate], ready: tuple[Candidate, Loaded] | None = None) -> None:
        """Start to look after these engines, the best first. One of them may be ready: those behind it then wait."""
        self._candidates = tuple(candidates)
        # Freeing the region cancels its builds; the finalizer must not hold the region itself.
        weakref.finalize(self, _cancel_all, self._candidates)
        if ready is not None:
            self.adopt(*ready)
        self._watching = True
        self.consider()

    def submit_all(self) -> None:
        """Build whatever can be built, whether it pays or not: somebody waits for it."""
        for candidate in self._candidates:
            candidate.submit()

    def cancel(self) -> None:
        """Nothing is to be built for it any more."""
        self._watching = False
        _cancel_all(self._candidates)

    def adopt(self, candidate: Candidate, loaded: Loaded) -> None:
        """An artefact of this engine is ready: calls it can serve go to it from now on, or to a better engine's."""
        rank = self._candidates.index(candidate)
        run = loaded.run
        if isinstance(run, Beside):
            run = run.checked(Dropping(weakref.ref(self), rank))
        one = Variant(run, loaded.guards, as_runner(run).accepts, loaded.engine, rank)
        candidate.move(State.READY)
        self._serve((one, *self._variants))
        if one.serves_all:
            for worse in self._candidates[rank + 1 :]:
                worse.cancel()
        self._watching = any(map(self._may_still_come, self._wanted))
        log.info("region %s runs on %s", self.label, loaded.engine)

    def drop(self, rank: int, reason: Reason) -> None:
        """An engine turned out to give wrong answers, or none: calls go to the next one, built now if it was not."""
        self._serve([one for one in self._variants if one.rank != rank])
        candidate = self._candidates[rank]
        candidate.retry_at = None
        candidate.move(State.FAILED, reason)
        log.warning("region %s no longer runs on %s: %s", self.label, candidate.engine, reason.detail)
        for one in self._wanted[rank + 1 :]:
            if one.state is State.COLD:
                one.submit()
        self._watching = any(map(self._may_still_come, self._wanted))

    @property
    def _wanted(self) -> Sequence[Candidate]:
        """Engines up to the one that takes every call: those behind it are not needed as long as it serves."""
        last = min((one.rank for one in self._variants if one.serves_all), default=len(self._candidates))
        return self._candidates[: last + 1]

    def _serve(self, variants: Sequence[Variant]) -> None:
        """Send calls to the first of these that takes them, the best engine's first."""
        with self._swap:
            self._variants = tuple(sorted(variants, key=lambda variant: variant.rank))
            first = self._variants[0] if self._variants else None
            self.engine = first.engine if first is not None else EAGER
            if first is None:
                self.run = self._eager
            elif first.serves_all:
                self.run = first.run
            else:
                self.run = Dispatch(self.places, self._variants, self._eager, weakref.ref(self))

    def _may_still_come(self, one: Candidate) -> bool:
        return one.state in (State.COLD, State.QUEUED, State.BUILDING) or (
            one.state is State.FAILED and one.retry_at is not None
        )

    def unserved(self, sizes: Sequence[int]) -> None:
        """A call had sizes that no artefact serves. The second time, one is built for them."""
        count = self._unserved.get(tuple(sizes), 0) + 1
        if len(self._unserved) < _MAX_UNSERVED:
            self._unserved[tuple(sizes)] = count
        if count == 2:
            ready = next((one for one in self._candidates if one.state is State.READY), None)
            if ready is not None:
                ready.extend(sizes)

    # Watching

    def _watched(self, args: list[Any]) -> Sequence[Any]:
        start = time.perf_counter()
        results = self.run(args)
        self._seconds += time.perf_counter() - start
        self.executions += 1
        if self.executions % _LOOK_EVERY == 0 or self.executions <= _LOOK_EVERY:
            self.consider()
        return results

    def consider(self) -> None:
        """Submit what pays; stop watching when nothing can come any more."""
        now = time.monotonic()
        for candidate in self._wanted:
            cold = candidate.state is State.COLD and self._pays(candidate)
            failed = candidate.state is State.FAILED and candidate.retry_at is not None and now >= candidate.retry_at
            if cold or failed:
                candidate.submit()
        self._watching = any(map(self._may_still_come, self._wanted))

    def _pays(self, candidate: Candidate) -> bool:
        if self._policy.at_once:
            return True
        estimate = self.estimate(candidate.engine)
        elapsed = max(time.monotonic() - self._began, 1e-9)
        return estimate.pays(self.executions, self.executions / elapsed)

    def estimate(self, engine: str) -> Estimate:
        """What building for this engine costs and saves an execution, from what was seen so far."""
        measured = self._clock_tells and self.executions
        run_s = self._seconds / self.executions if measured else self._predicted_s
        return EXPERIENCE.estimate(engine, self.ops, run_s, self._saved_share(engine))

    def pays_after(self, engine: str) -> int | None:
        """Calls of the graph until building for this engine has paid for itself; None if it never does."""
        needed = self.estimate(engine).break_even
        return None if needed is None else max(0, -(-(needed - self.executions) // self.repeats))

    def status(self) -> RegionStatus:
        """A snapshot."""
        now = time.monotonic()
        tiers = tuple(
            TierStatus(
                engine=one.engine,
                state=one.state,
                reason=one.reason,
                retry_after_s=max(0.0, one.retry_at - now) if one.retry_at is not None else None,
                pays_after_calls=self.pays_after(one.engine) if one.state is State.COLD else None,
            )
            for one in self._candidates
        )
        return RegionStatus(
            label=self.label, repeats=self.repeats, engine=self.engine, executions=self.executions, tiers=tiers
        )

    @property
    def pending(self) -> bool:
        """Whether something better is queued or being built."""
        return any(one.state in PENDING for one in self._candidates)


def _cancel_all(candidates: Sequence[Candidate]) -> None:
    for candidate in candidates:
        candidate.cancel()


@dataclass(frozen=True)
class Variant:
    """An artefact: its callable, the size facts it relies on, what else it asks of arguments, whose it is."""

    run: RegionCallable
    guards: Guards
    accepts: Callable[[Sequence[Any]], bool] | None
    engine: str
    rank: int

    @property
    def serves_all(self) -> bool:
        """Whether every call may go to it."""
        return self.guards.expression is None and self.accepts is None


@dataclass(frozen=True)
class Dropping:
    """Told why an engine is not to be used any more (``checked`` of an engine that compares its first answer)."""

    region: weakref.ref[LazyRegion]
    rank: int

    def __call__(self, reason: Reason) -> None:
        """Take it out of use."""
        region = self.region()
        if region is not None:
            region.drop(self.rank, reason)


class Adopted(Candidate):
    """An engine whose artefact was there from the start: nothing is to be built."""

    def __init__(self, engine: str) -> None:
        self.engine = engine

    def submit(self) -> None:
        """Nothing to do."""

    def extend(self, sizes: Sequence[int]) -> None:
        """Sizes it does not serve run on the region's own ops."""

    def cancel(self) -> None:
        """Nothing to do."""


@dataclass(frozen=True)
class Dispatch:
    """Sends a call to the first artefact that serves its sizes, else to the region's own ops.

    At compile time such facts guard the graph; an artefact that comes later must be asked on every call.
    """

    places: tuple[tuple[int, int | None], ...]
    variants: tuple[Variant, ...]
    eager: RegionCallable
    region: weakref.ref[LazyRegion]

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        """Run the region."""
        sizes = [args[place] if dim is None else args[place].shape[dim] for place, dim in self.places]
        for one in self.variants:
            if one.guards.accept(sizes) and (one.accepts is None or one.accepts(args)):
                return one.run(args)
        region = self.region()
        if region is not None:
            region.unserved(sizes)
        return self.eager(args)
