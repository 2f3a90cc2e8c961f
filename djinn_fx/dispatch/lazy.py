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
from typing import Any

from djinn_fx.dispatch.checks import Beside
from djinn_fx.dispatch.contests.pays import EXPERIENCE, Budget, Estimate
from djinn_fx.dispatch.entrant import Dispatcher, DispatchStatus, Entrant, State
from djinn_fx.dispatch.memory import Loaded
from djinn_fx.dispatch.region import RegionWork
from djinn_fx.engines.base import RegionCallable, as_runner
from djinn_fx.engines.keys import Guards
from djinn_fx.reasons import Reason
from djinn_fx.settings.engines import EAGER
from djinn_fx.threads import new_lock

log = logging.getLogger("djinn_fx.dispatch.lazy")

#: Executions between two looks at whether something is to be built or tried again.
_LOOK_EVERY = 16
#: Sizes without an artefact that are counted; a call with yet others runs the region's own ops.
_MAX_UNSERVED = 64


@dataclass(frozen=True, kw_only=True)
class Policy:
    """When to build.

    Attributes:
        at_once: submit every build at once; else each when the calls seen so far say that it pays.
        budget: seconds of building that may be spent.
    """

    at_once: bool
    budget: Budget


class LazyRegion(Dispatcher):
    """The callable of a region whose engines are still being built: the best that is ready answers, without a trial.

    Args:
        label: for messages.
        eager: the region's own ops.
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
        super().__init__(label, eager)
        self.ops, self.repeats, self.places = ops, repeats, tuple(places)
        self.run: RegionCallable = eager if start is None else start.run
        self.engine = EAGER if start is None else start.engine
        self.executions = 0
        self._policy = policy
        self._predicted_s, self._saved_share, self._clock_tells = predicted_s, saved_share, clock_tells
        self._seconds = 0.0
        self._began = time.monotonic()
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

    def build(self, entrants: Sequence[Entrant], ready: tuple[Entrant, Loaded] | None = None) -> None:
        """Start to look after these engines, the best first. One of them may be ready: those behind it then wait."""
        self.entrants = tuple(entrants)
        # Freeing the region cancels its builds; the finalizer must not hold the region itself.
        weakref.finalize(self, _cancel_all, self.entrants)
        if ready is not None:
            self.adopt(*ready)
        self._watching = True
        self.consider()

    def submit_all(self) -> None:
        """Build whatever can be built, whether it pays or not: somebody waits for it."""
        for entrant in self.entrants:
            entrant.submit()

    def cancel(self) -> None:
        """Nothing is to be built for it any more."""
        self._watching = False
        _cancel_all(self.entrants)

    def adopt(self, entrant: Entrant, loaded: Loaded) -> None:
        """An artefact of this engine is ready: calls it can serve go to it from now on, or to a better engine's."""
        rank = self.entrants.index(entrant)
        run = loaded.run
        if isinstance(run, Beside):
            run = run.checked(self.dropping(entrant.engine))
        one = Variant(run, loaded.guards, as_runner(run).accepts, loaded.engine, rank)
        entrant.move(State.READY)
        self._serve((one, *self._variants))
        if one.serves_all:
            for worse in self.entrants[rank + 1 :]:
                worse.cancel()
        self._watching = any(map(_may_still_come, self._wanted))
        log.info("region %s runs on %s", self.label, loaded.engine)

    def drop(self, engine: str, reason: Reason) -> None:
        """See the base class: calls go to the next one, built now if it was not."""
        rank = [one.engine for one in self.entrants].index(engine)
        self._serve([one for one in self._variants if one.rank != rank])
        self.entrants[rank].fail(reason)
        log.warning("region %s no longer runs on %s: %s", self.label, engine, reason.detail)
        for one in self._wanted[rank + 1 :]:
            if one.state is State.COLD:
                one.submit()
        self._watching = any(map(_may_still_come, self._wanted))

    @property
    def _wanted(self) -> Sequence[Entrant]:
        """Engines up to the one that takes every call: those behind it are not needed as long as it serves."""
        last = min((one.rank for one in self._variants if one.serves_all), default=len(self.entrants))
        return self.entrants[: last + 1]

    def _serve(self, variants: Sequence[Variant]) -> None:
        """Send calls to the first of these that takes them, the best engine's first."""
        with self._swap:
            self._variants = tuple(sorted(variants, key=lambda variant: variant.rank))
            first = self._variants[0] if self._variants else None
            self.engine = first.engine if first is not None else EAGER
            if first is None:
                self.run = self._reference
            elif first.serves_all:
                self.run = first.run
            else:
                self.run = _BySizes(self.places, self._variants, self._reference, weakref.ref(self))

    def unserved(self, sizes: Sequence[int]) -> None:
        """A call had sizes that no artefact serves. The second time, one is built for them."""
        count = self._unserved.get(tuple(sizes), 0) + 1
        if len(self._unserved) < _MAX_UNSERVED:
            self._unserved[tuple(sizes)] = count
        if count == 2:
            ready = next((one for one in self.entrants if one.state is State.READY), None)
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
        for entrant in self._wanted:
            cold = entrant.state is State.COLD and self._pays(entrant)
            failed = entrant.state is State.FAILED and entrant.retry_at is not None and now >= entrant.retry_at
            if cold or failed:
                entrant.submit()
        self._watching = any(map(_may_still_come, self._wanted))

    def _pays(self, entrant: Entrant) -> bool:
        if self._policy.at_once:
            return True
        estimate = self.estimate(entrant.engine)
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

    def status(self) -> DispatchStatus:
        """A snapshot."""
        told = [one.status(self.pays_after(one.engine) if one.state is State.COLD else None) for one in self.entrants]
        return DispatchStatus(
            label=self.label,
            engine=self.engine,
            entrants=tuple(told),
            repeats=self.repeats,
            executions=self.executions,
        )


def lazy_region(work: RegionWork, reference: RegionCallable, policy: Policy, start: Loaded | None = None) -> LazyRegion:
    """The lazy region of a region. The arguments are those of :class:`LazyRegion`."""
    return LazyRegion(
        label=work.region.label,
        eager=reference,
        start=start,
        ops=len(work.region.nodes),
        repeats=work.repeats,
        places=work.places,
        predicted_s=work.region.eager_s,
        saved_share=work.region.saved_share,
        clock_tells=work.region.device.startswith("cpu"),
        policy=policy,
    )


def _may_still_come(one: Entrant) -> bool:
    return one.state in (State.COLD, State.QUEUED, State.BUILDING) or (
        one.state is State.FAILED and one.retry_at is not None
    )


def _cancel_all(entrants: Sequence[Entrant]) -> None:
    for entrant in entrants:
        entrant.cancel()


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
class _BySizes:
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
