"""How an engine's artefact for a lazy region is built in a child process, kept, loaded and adopted."""

from __future__ import annotations

import dataclasses
import functools
import logging
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from djinn_fx.dispatch.contests.pays import EXPERIENCE, Budget
from djinn_fx.dispatch.entrant import PENDING, Entrant, State
from djinn_fx.dispatch.lazy import LazyRegion
from djinn_fx.dispatch.memory import BUILDING, Loaded, load_entry
from djinn_fx.dispatch.progress import watch
from djinn_fx.dispatch.region import RegionWork
from djinn_fx.dispatch.tier import MAX_VARIANTS, STORED_AS, Holds, Prepared, Tier, patience_s
from djinn_fx.engines.base import Artefact, BuildRequest
from djinn_fx.engines.keys import EngineKey, Guards
from djinn_fx.errors import EngineError, useful_line
from djinn_fx.pool.jobs import BuildDone, BuildFailed, BuildJob, BuildOutcome, BusyElsewhere, FailureKind
from djinn_fx.pool.supervisor import BuildPool, Ticket, shared_pool
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.threads import tell_of_fork

log = logging.getLogger("djinn_fx.dispatch.lazy")

#: Seconds until a build that crashed, hung or ran out of memory is tried again; doubled each time.
RETRY_S = 30.0
#: A build that ended so this often is given up, as one that its compiler refused is at once.
MAX_TRIES = 3

#: Ends of a build that may be the machine's fault rather than the region's.
_TRANSIENT = frozenset(
    {FailureKind.CRASHED, FailureKind.TIMED_OUT, FailureKind.OUT_OF_MEMORY, FailureKind.NOT_ADMITTED}
)


class BackgroundBuild(Entrant):
    """One engine's way to one lazy region. Holds the region weakly: pool threads must not keep a freed model alive.

    Args:
        region: who wants it.
        tier: the engine and its part of the cache.
        prepared: the region as the engine sees it, with its request.
        sizes: the values of the region's size symbols when it was traced.
        budget: seconds of building that may be spent.
        shown: whether progress is shown on stderr; None: where that is a terminal.
        checked: gives what was built with its answers compared with eager's.
        waited_for: whether a caller waits for it, so that it is built at this process's own priority.
    """

    def __init__(
        self,
        region: LazyRegion,
        tier: Tier,
        prepared: Prepared,
        sizes: Sequence[int],
        budget: Budget,
        shown: bool | None = None,
        checked: Callable[[Loaded], Loaded] | None = None,
        waited_for: bool = False,
    ) -> None:
        assert isinstance(prepared.request, BuildRequest), "can be built in a child"
        assert prepared.key is not None, "can be built in a child"
        super().__init__(tier.name)
        self._region = weakref.ref(region)
        self._tier, self._prepared, self._budget = tier, prepared, budget
        self._request, self._key = prepared.request, prepared.key
        self._sizes, self._ops, self._shown = tuple(sizes), region.ops, shown
        self._checked, self._waited_for = checked, waited_for
        self._pool: BuildPool | None = None
        self._ticket: Ticket | None = None
        self._tries = 0
        self._reserved_s = 0.0
        self._variants = 1
        tell_of_fork(self)

    def submit(self) -> None:
        """See :meth:`Entrant.submit`."""
        may = self.state is State.COLD or (self.state is State.FAILED and self.retry_at is not None)
        if may:
            self._submit(self._request)

    def extend(self, sizes: Sequence[int]) -> None:
        """See :meth:`Entrant.extend`."""
        region = self._region()
        if region is None or self._variants >= MAX_VARIANTS:
            return
        request = _for_sizes(self._request, dict(zip(region.places, sizes, strict=True)))
        if request is not None:
            self._variants += 1
            self._sizes = tuple(sizes)
            self._submit(request)

    def cancel(self) -> None:
        """See :meth:`Entrant.cancel`."""
        ticket, self._ticket = self._ticket, None
        if ticket is not None and self._pool is not None:
            self._pool.cancel(ticket)
            self._settle(0.0)
            if self.state in PENDING:
                self.move(State.COLD)

    def after_fork(self) -> None:
        """See :meth:`Entrant.after_fork`: the next look at it has it built anew."""
        self._ticket = None
        self._settle(0.0)
        if self.state in PENDING:
            self.move(State.COLD)

    def _submit(self, request: BuildRequest) -> None:
        predicted_s = EXPERIENCE.build_seconds(self.engine, self._ops)
        if not self._budget.reserve(predicted_s):
            left = f"{self._budget.left_s:.1f} s of the compile budget are left, it takes about {predicted_s:.1f} s"
            self.retry_at = None
            self.move(State.FAILED, Reason(kind=ReasonKind.BUDGET, detail=left, node=self._prepared.graph.label))
            return
        self._reserved_s = predicted_s
        self.retry_at = None
        self._tries += 1
        if self._pool is None:
            self._pool = shared_pool(waited_for=self._waited_for)
        job = BuildJob(
            key=f"{self._key.digest}:{','.join(map(str, self._sizes))}",
            worker=request.worker,
            request=request.request,
            blobs=request.blobs,
            label=self._prepared.graph.label,
            memory_bytes=request.memory_bytes,
            timeout_s=request.timeout_s,
            guard=_OnlyBuilder(self._tier, self._key, self._holds, predicted_s),
        )
        self.move(State.QUEUED)
        self._ticket = self._pool.submit(job, on_start=self._started, on_done=self._done)
        watch(self._pool, self._shown)

    def _holds(self, guards: Guards) -> bool:
        return guards.accept(self._sizes)

    # In the pool's threads

    def _started(self) -> None:
        if self.state is State.QUEUED:
            self.move(State.BUILDING)

    def _done(self, outcome: BuildOutcome) -> None:
        self._ticket = None
        self._settle(outcome.seconds)
        region = self._region()
        if isinstance(outcome, BuildFailed):
            self._failed(outcome)
            return
        if outcome.seconds:
            EXPERIENCE.built(self.engine, self._ops, outcome.seconds)
        try:
            loaded = self._kept(outcome)
            if loaded is None:
                self.move(State.BUILT_NOT_RUNNABLE, self._tier.why_not_here(self._prepared.graph))
            elif region is not None:
                region.adopt(self, self._checked(loaded) if self._checked is not None else loaded)
        except EngineError as error:
            self._give_up(Reason(kind=ReasonKind.FALLBACK, detail=str(error), node=self._prepared.graph.label))
        except Exception as error:  # noqa: BLE001  (becomes the Reason; no key is to blame for it)
            detail = f"{self.engine}, loading: {useful_line(error)}"
            log.warning("region %s stays on what it runs on: %s", self._prepared.graph.label, detail)
            reason = Reason(kind=ReasonKind.FALLBACK, detail=detail, node=self._prepared.graph.label)
            self._give_up(reason, remember=False)

    def _kept(self, outcome: BuildDone) -> Loaded | None:
        """Put an artefact on disk if it is not there, load it; None if this machine cannot run it.

        Raises:
            EngineError: it cannot be loaded.
        """
        with BUILDING.of(self._key.digest):
            known = self._tier.in_memory(self._key, self._holds)
            if known is not None:
                return known
            kept = outcome.header.get(STORED_AS)
            if kept is None:
                guards = Guards(expression=outcome.header.get("guards"))
                kept = self._tier.write(self._prepared, outcome.header, outcome.payload, guards)
            if not self._tier.engine.capability().can_run:
                return None
            artefact = Artefact(header=outcome.header, payload=outcome.payload)
            return load_entry(self._tier.engine, artefact, kept, known_as=self._key.digest)

    def _failed(self, outcome: BuildFailed) -> None:
        label = outcome.node or self._prepared.graph.label
        if outcome.kind is FailureKind.CANCELLED:
            self.move(State.COLD)
            return
        detail = f"{self.engine}, {outcome.stage}: {outcome.detail}"
        reason = Reason(kind=ReasonKind.FALLBACK, detail=detail, node=label)
        log.warning("region %s stays on what it runs on: %s", self._prepared.graph.label, detail)
        if outcome.kind in _TRANSIENT and self._tries < MAX_TRIES:
            self.retry_at = time.monotonic() + RETRY_S * 2 ** (self._tries - 1)
            self.move(State.FAILED, reason)
            return
        # Elsewhere than on Linux the pool itself refuses: that says nothing about the region.
        self._give_up(reason, remember=outcome.kind is FailureKind.REFUSED and sys.platform == "linux")

    def _give_up(self, reason: Reason, *, remember: bool = True) -> None:
        self.retry_at = None
        if remember:
            self._tier.note_failure(self._key, reason)
        self.move(State.FAILED, reason)

    def _settle(self, taken_s: float) -> None:
        reserved, self._reserved_s = self._reserved_s, 0.0
        self._budget.settle(reserved, taken_s)


def builds(
    work: RegionWork,
    region: LazyRegion,
    wanted: Sequence[tuple[Tier, Prepared]],
    budget: Budget,
    shown: bool | None,
    check: Callable[[Tier, Prepared, Loaded], Loaded],
    waited_for: bool,
) -> list[BackgroundBuild]:
    """A build of a region for each of these engines. The arguments are those of :class:`BackgroundBuild`."""
    sizes = [int(symint.node.hint) for symint in work.symints]
    return [
        BackgroundBuild(
            region, tier, one, sizes, budget, shown, functools.partial(check, tier, one), waited_for=waited_for
        )
        for tier, one in wanted
    ]


def _for_sizes(request: BuildRequest, sizes: Mapping[tuple[int, int | None], int]) -> BuildRequest | None:
    """The request with other example values for its symbols; None if it has none, or one that is not told.

    Args:
        request: of a builder that traces a canonical form ("form") with example values ("hints").
        sizes: by place, (input, dimension).
    """
    if "hints" not in request.request:
        return None
    told: dict[str, int] = {}
    for place, (value, _) in enumerate(request.request["form"]["inputs"]):
        texts = enumerate(value[1]) if isinstance(value[1], list) else ((None, value[1]),)
        for dim, text in texts:
            if isinstance(text, str) and (place, dim) in sizes:
                told.setdefault(text, sizes[place, dim])
    hints = [[told.get(f"k{number}"), positive] for number, (_, positive) in enumerate(request.request["hints"])]
    if any(value is None for value, _ in hints):
        return None
    return dataclasses.replace(request, request={**request.request, "hints": hints})


class _OnlyBuilder:
    """The guard of a job: holds the store's lock of the key, and gives what another process built meanwhile."""

    def __init__(self, tier: Tier, key: EngineKey, holds: Holds, predicted_s: float = 0.0) -> None:
        self._tier, self._key, self._holds, self._patience_s = tier, key, holds, patience_s(predicted_s)
        #: When others have had their time; None: nobody was in the way yet.
        self._until: float | None = None

    @contextmanager
    def __call__(self) -> Iterator[BuildDone | None]:
        with self._tier.lock(self._key, 0.0) as held:
            if self._until is None:
                self._until = time.monotonic() + self._patience_s
            if not held and time.monotonic() < self._until and not self._tier.cannot_lock:
                raise BusyElsewhere
            yield self._tier.stored_result(self._key, self._holds)
