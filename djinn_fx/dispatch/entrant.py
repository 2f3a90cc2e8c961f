"""One engine for one piece of work, which may arrive later, and what every dispatcher of calls is.

A dispatcher sends the calls of a region, or of a whole graph, to one of its entrants, or to the region's own ops: by
rank (``lazy.py``), or by the time they take (``contests/contest.py``).
"""

from __future__ import annotations

import functools
import statistics
import time
import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from djinn_fx.engines.base import RegionCallable, Rounding, Runner, as_runner
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.settings.engines import EAGER
from djinn_fx.threads import new_condition, start_thread, tell_of_fork

#: Told whenever a state changes: who waits for readiness sleeps on it.
CHANGED = new_condition()
#: Whose sessions are being opened, or answers rehearsed. Others of a kind wait for their turn (``threads.py``).
_AT_WORK: set[Entrant] = set()
#: A caller waits for an engine to be built no longer than this, in seconds.
_PATIENCE_S = 300.0


class State(str, Enum):
    """Where an engine stands with a piece of work."""

    COLD = "cold"
    QUEUED = "queued"
    BUILDING = "building"
    READY = "ready"
    FAILED = "failed"
    BUILT_NOT_RUNNABLE = "built-not-runnable"
    #: Of engines that compete: made ready for the arguments at hand, tried, chosen, slower than another.
    PREPARING = "preparing"
    TRIAL = "trial"
    SERVING = "serving"
    BEATEN = "beaten"


#: States in which an engine may still become ready by itself.
PENDING = frozenset({State.QUEUED, State.BUILDING, State.PREPARING})
#: States of an engine that competes and answers, or may come to.
USING = (State.TRIAL, State.PREPARING, State.SERVING)
#: States on the way to being built.
OF_BUILDING = tuple(State)[:6]


@dataclass(frozen=True, kw_only=True)
class EntrantStatus:
    """One engine now.

    Attributes:
        engine: its name.
        state: see :class:`State`.
        reason: why it failed, cannot run, is not built yet, or declined a call; None if there is nothing to say.
        retry_after_s: seconds until a failed build is tried again; None if it is not.
        pays_after_calls: calls of the graph until building pays for itself; None if it never does, 0 if it does now.
        median_s: seconds of an answer, where answers are timed.
        answers: how many it gave in a trial.
        memory_bytes: of its copies of weights.
        rounding: how far its answers are from float64's, where it may round and that was measured.
    """

    engine: str
    state: State
    reason: Reason | None = None
    retry_after_s: float | None = None
    pays_after_calls: int | None = None
    median_s: float | None = None
    answers: int = 0
    memory_bytes: int = 0
    rounding: Rounding | None = None


@dataclass(frozen=True, kw_only=True)
class DispatchStatus:
    """What answers the calls of a piece of work now.

    Attributes:
        label: what is computed.
        engine: the one that answers.
        entrants: the engines; the best first, where they are ordered by rank.
        repeats: how many regions of the graph it serves.
        executions: how often it ran while something was still to be built.
        decided: whether no trial is under way, and nobody has come who is to be tried.
        trial: how far it is: "7 of 20 calls"; empty where none is.
        reason: why the one that serves was chosen, with the runner-up.
        refused: a sentence, if no engine that was asked for serves: what it said, and what answers in its place.
    """

    label: str
    engine: str
    entrants: tuple[EntrantStatus, ...]
    repeats: int = 1
    executions: int = 0
    decided: bool = True
    trial: str = ""
    reason: Reason | None = None
    refused: str | None = None


class Entrant:
    """One engine for one piece of work. Subclassed by what has it built (``background.py``, ``standby.py``).

    Args:
        engine: its name.
        run: answers; None: what does is still to come.
        copy: tells which copy of the weights it needs; None: none.
        sessions: tells whose sessions it answers by: entrants of several contests may share them.

    Attributes:
        late: it was not there from the start.
        reserve: it is built, and takes part, only once the others were tried or none of them is left.
        retry_at: when a failed build may be tried again, by the monotonic clock; None if it may not.
        seconds: of its timed answers; ``work``: how much each was, in a unit of the trial's.
        declines: how many calls it left to eager for their values.
        declined: the same, and why it did the latest; None if none.
        copied_bytes: of its copies of weights when it answered last in a trial; None: it did not yet.
        known_s: seconds of an answer in an earlier process's trial; None: not known.
    """

    late = False
    reserve = False
    retry_at: float | None = None

    def __init__(
        self,
        engine: str,
        run: RegionCallable | None = None,
        *,
        copy: Hashable | None = None,
        sessions: Hashable | None = None,
    ) -> None:
        self.engine, self.copy, self.sessions = engine, copy, sessions
        self.state = State.COLD
        self.reason: Reason | None = None
        self.run = Runner() if run is None else as_runner(run)
        self.seconds: list[float] = []
        self.work: list[float] = []
        self.answers = 0
        self.copied_bytes: int | None = None
        self.known_s: float | None = None
        self.declined: Reason | None = None
        self.declines = 0
        #: How it stood before it was made ready in a thread; None: it is not being made ready.
        self._before: State | None = None

    # Arriving

    def arrived(self) -> bool:
        """Whether it can take part."""
        return True

    @property
    def building(self) -> bool:
        """Whether it is being built."""
        return self.state in (State.QUEUED, State.BUILDING)

    def pays(self, run_s: float | None, calls: int) -> bool:
        """Whether it may pay to have it built, though others serve.

        Args:
            run_s: seconds of an answer of who serves; None: not known.
            calls: so far. As many again are expected.
        """
        return True

    def submit(self) -> None:
        """Have it built; does nothing unless it is cold or failed and may be tried again."""

    def extend(self, sizes: Sequence[int]) -> None:
        """It is ready, but serves not these sizes: have one more artefact built, for these."""

    def cancel(self) -> None:
        """It is no longer wanted."""

    def after_fork(self) -> None:
        """In a forked process: whoever was building it or making it ready is not there."""
        _AT_WORK.discard(self)
        self._as_before()

    def move(self, state: State, reason: Reason | None = None) -> None:
        """Go to a state and tell whoever waits."""
        with CHANGED:
            self.state, self.reason = state, reason
            CHANGED.notify_all()

    # Being made ready

    @property
    def pending(self) -> bool:
        """Whether it is being built or made ready."""
        return self.state in PENDING or self._before is not None

    def prepare(self, work: Callable[[], None], *, awaited: bool = False) -> None:
        """Have it made ready in a thread, unless somebody is at it. It stands as before when that is done.

        Args:
            work: what to do.
            awaited: own ops may have to answer until it is done: it does not let calls go first.
        """
        with CHANGED:
            if self._before is not None or self.state is State.FAILED:
                return
            self._before, self.state = self.state, State.PREPARING
        tell_of_fork(self)

        def prepare() -> None:
            _AT_WORK.add(self)
            try:
                work()
            finally:
                _AT_WORK.discard(self)
                self._made_ready()

        name = f"djinn prepares {self.engine}"
        if start_thread(prepare, name, serves=True, beside=True, awaited=awaited) is None:
            self._made_ready()

    def put_off(self) -> None:
        """It is tried later."""
        if self._before is None:
            self.state = State.COLD
        else:  # once it is ready
            self._before = State.COLD

    def _made_ready(self) -> None:
        with CHANGED:
            self._as_before()
            CHANGED.notify_all()

    def _as_before(self) -> None:
        before, self._before = self._before, None
        if before is not None and self.state is State.PREPARING:  # it has not failed
            self.state = before

    # Answering

    def use(self, run: RegionCallable) -> None:
        """Answer by this callable."""
        self.run = as_runner(run)

    def unwrap(self) -> None:
        """Go straight to the engine where none of its answers is ever compared (``guard/``)."""
        self.run = self.run.trusted or self.run

    def leave_to_eager(self, why: str, label: str) -> None:
        """Put down that it declined a call (``engines.base.Declined``)."""
        self.declines += 1
        calls = "a call was" if self.declines == 1 else f"{self.declines} calls were"
        self.declined = Reason(
            kind=ReasonKind.DECLINED, detail=f"{self.engine}: {calls} left to eager: {why}", node=label
        )

    def fail(self, reason: Reason) -> None:
        """It is not to be used any more: let go of its copies of weights."""
        self.retry_at = None
        self.move(State.FAILED, reason)
        self.run.release()

    @property
    def least_s(self) -> float | None:
        """The least seconds that an answer took, where that is known without a trial."""
        return None

    @property
    def median_s(self) -> float | None:
        """Median seconds of an answer; None before the first that was timed."""
        return statistics.median(self.seconds) if self.seconds else None

    def status(self, pays_after_calls: int | None = None) -> EntrantStatus:
        """A snapshot."""
        return EntrantStatus(
            engine=self.engine,
            state=State.BUILDING if self.state is State.COLD and self.building else self.state,
            reason=self.reason or self.declined,
            retry_after_s=max(0.0, self.retry_at - time.monotonic()) if self.retry_at is not None else None,
            pays_after_calls=pays_after_calls,
            median_s=self.median_s,
            answers=self.answers,
            memory_bytes=self.run.memory_bytes,
            rounding=self.run.rounding,
        )


class Dispatcher:
    """See the module's text. A ``RegionCallable``.

    Args:
        label: for messages.
        reference: the region's own ops: always right.
        entrants: the engines.

    Attributes:
        engine: the one that calls go to, or that gave the latest answer.
    """

    def __init__(self, label: str, reference: RegionCallable, entrants: Sequence[Entrant] = ()) -> None:
        self.label, self.engine = label, EAGER
        self.entrants = tuple(entrants)
        self._reference = reference

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        """Answer a call; empties the list."""
        raise NotImplementedError

    def drop(self, engine: str, reason: Reason) -> None:
        """An engine is not to be used any more: its answers were wrong, or it failed."""
        raise NotImplementedError

    def status(self) -> DispatchStatus:
        """A snapshot."""
        raise NotImplementedError

    def dropping(self, engine: str) -> Callable[[Reason], None]:
        """Told why an engine is not to be used any more. Does not keep the dispatcher alive."""
        return functools.partial(weakly(self.drop), engine)

    @property
    def pending(self) -> bool:
        """Whether an engine is queued, being built or made ready."""
        return any(one.pending for one in self.entrants)

    @property
    def disturbed(self) -> bool:
        """Whether an engine is pending, or one of any other dispatcher is being made ready at this moment."""
        return self.pending or bool(_AT_WORK)


def weakly(method: Callable[..., None]) -> Callable[..., None]:
    """A method of an object that this does not keep alive; does nothing once that is gone."""
    ref = weakref.WeakMethod(method)

    def call(*args: Any) -> None:
        if (bound := ref()) is not None:
            bound(*args)

    return call


def wait_for(entrants: Sequence[Entrant]) -> None:
    """Wait while one of them is being built."""
    until = time.monotonic() + _PATIENCE_S
    with CHANGED:
        while any(one.building for one in entrants) and time.monotonic() < until:
            CHANGED.wait(1.0)
