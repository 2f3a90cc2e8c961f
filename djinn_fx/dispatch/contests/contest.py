"""Several engines for one piece of work: each answers some of the calls, the fastest answers the rest.

A trial costs no extra work. Every call must be answered anyway, so while engines are compared they answer in turn, and
the time of each answer is noted: interleaved, on the real arguments. After some answers of each, the one with the
least median serves. Whoever served before is replaced only by one that is faster by more than ``MARGIN``; an engine
that takes more than twice as long as the best is out after two answers.

An engine that has to be made ready for these arguments (a session with these weights) is made ready inside a call
where the caller waits for compiling anyway, else in a thread while others answer. What no engine can answer as things
are (weights changed a moment ago, sizes never seen) the region's own ops do: they are always right.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from djinn_fx.dispatch.contests.decisions import why_chosen
from djinn_fx.dispatch.entrant import Dispatcher, DispatchStatus, Entrant, State, wait_for
from djinn_fx.dispatch.refusals import engines_left, refused, warn, without_name
from djinn_fx.engines.base import Declined, RegionCallable
from djinn_fx.engines.failures import nothing_written, said
from djinn_fx.errors import EngineError
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.settings.engines import EAGER
from djinn_fx.threads import new_rlock

log = logging.getLogger("djinn_fx.dispatch.contests.contest")

#: Answers of each engine that are timed, after one that is not; of short ones more, up to so many seconds of them.
ROUNDS, MAX_ROUNDS = 5, 15
ROUNDS_S = 0.25
#: By how much, as a share, a newcomer must be faster; slower than the best by this factor: out after two answers.
MARGIN = 0.03
HOPELESS = 2.0
#: Calls between two looks at whether an engine that was not there yet has come.
_LOOK_EVERY = 16


class Contest(Dispatcher):
    """See the module's text.

    Args:
        label: for messages.
        entrants: in the order in which they answer; the first that can is the first to serve.
        reference: the region's own ops.
        waits: whether callers wait while an engine is made ready for them.
        synchronise: waits for work that a call leaves queued on a device; None where there is none.
        decided: told the outcome: engine, median seconds by engine.
        timed: told the seconds of the answers that were timed, by engine, when the trial is over.
        remembered: the engine that an earlier trial of the same work chose.
        releases: whether who is beaten lets go of its copies of weights; not where other contests use them.
        standby: makes the entrant that takes part once no other engine is left; None: there is none.
    """

    def __init__(
        self,
        *,
        label: str,
        entrants: Sequence[Entrant] = (),
        reference: RegionCallable,
        waits: bool,
        synchronise: Callable[[], None] | None = None,
        decided: Callable[[str, Mapping[str, float]], None] | None = None,
        timed: Callable[[Mapping[str, Sequence[float]]], None] | None = None,
        remembered: str | None = None,
        releases: bool = True,
        standby: Callable[[], Entrant] | None = None,
    ) -> None:
        super().__init__(label, reference, entrants)
        self._releases, self.standby = releases, standby
        #: Whether all engines were out once, so that nobody else can be asked for.
        self._alone = False
        self.reason: Reason | None = None
        self._waits, self._synchronise = waits, synchronise
        self._decided, self._timed, self._remembered = decided, timed, remembered
        self._lock = new_rlock()
        self._serving: Entrant | None = None
        self._calls = 0
        self._answer: RegionCallable = self._on_trial

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        """Answer a call."""
        return self._answer(args)

    # Serving

    def _serve(self, args: list[Any]) -> Sequence[Any]:
        """After the decision: the winner answers, if it can as things are."""
        serving = self._serving
        assert serving is not None, "a decision was made"
        if not serving.run.partial:
            return serving.run(args)
        made, _ = self._asked(serving, args)
        return made if made is not None else self._stand_in(serving, args)

    def _asked(self, entrant: Entrant, args: list[Any]) -> tuple[Sequence[Any] | None, bool]:
        """An answer, None if the engine cannot as things are, and whether it is the engine's work (or its declining).

        Where the engine declines or fails nothing was written, and the arguments are as they were: the region's own ops
        answer. If these refuse the call too, that says nothing against the engine.
        """
        given = len(args)
        try:
            return entrant.run.attempt(args), True
        except Declined as declined:
            entrant.leave_to_eager(str(declined), self.label)
            return (self._reference(args) if declined.answer is None else declined.answer), True
        except Exception as error:
            whole = len(args) == given and nothing_written(error, entrant.run.mutated)
            made = self._reference(args) if whole else None
            if whole or isinstance(error, EngineError):  # else it may be eager's, in a call that is compared
                self._out(entrant, said(error))
                self._reopen(entrant)
            if made is None:
                raise
            return made, False

    def _stand_in(self, entrant: Entrant, args: list[Any]) -> Sequence[Any]:
        """The engine cannot answer now: make it ready, or let the region's own ops answer while that is done."""
        if entrant.state is State.FAILED:
            self._reopen(entrant)
            return self._on_trial(args)
        if self._ready(entrant, args) and entrant.run.partial:
            made, _ = self._asked(entrant, args)
            if made is not None:
                return made
        return self._reference(args)

    # Making ready

    def _ready(self, entrant: Entrant, args: Sequence[Any]) -> bool:
        """Whether it can answer this call; if not, what it lacks is being done, or it is out."""
        if not entrant.run.partial:
            return True
        try:
            work = entrant.run.prepare(args)
        except Exception as error:  # noqa: BLE001  (the Reason says why the engine is out)
            self._out(entrant, said(error))
            return False
        if work is None:
            return True
        if entrant.pending:
            return False
        if self._waits and not self._anybody_else(entrant):
            return self._do(entrant, work)

        def prepare() -> None:
            if not self._do(entrant, work):
                self._call_reserves()

        entrant.prepare(prepare)
        return False

    def make_ready(self, args: Sequence[Any]) -> None:
        """Have that engine made ready which would be the first to answer these arguments."""
        self._admit()
        for first in self._on_trial_now()[:1]:
            self._ready(first, args)

    def _anybody_else(self, entrant: Entrant) -> bool:
        """Whether another engine has answered already, so that nobody needs to wait for this one."""
        return any(one.answers for one in self.entrants if one is not entrant and one.state is State.TRIAL)

    def _do(self, entrant: Entrant, work: Callable[[], None]) -> bool:
        try:
            work()
        except Exception as error:  # noqa: BLE001  (the Reason says why the engine is out)
            self._out(entrant, said(error))
            return False
        return True

    def _out(self, entrant: Entrant, why: str) -> None:
        detail = f"{entrant.engine}: {without_name(entrant.engine, why)}"
        entrant.fail(Reason(kind=ReasonKind.FALLBACK, detail=detail, node=self.label))
        # Where no engine is left, a warning that tells more is about to come.
        level = logging.WARNING if engines_left(self.entrants) else logging.INFO
        log.log(level, "%s no longer runs on %s", self.label, detail)

    def drop(self, engine: str, reason: Reason) -> None:
        """See the base class: the others compete again, or who stands by is built."""
        for entrant in self.entrants:
            if entrant.engine == engine and entrant.state is not State.FAILED:
                entrant.fail(reason)
                log.debug("%s no longer runs on %s: %s", self.label, engine, reason.detail)
                self._reopen(entrant)
                self._call_reserves()

    # Nobody left

    def _call_reserves(self) -> bool:
        """If no engine is left, have those built that nobody asked for until now. Whether one may come."""
        if engines_left(self.entrants) or self._alone:
            return any(one.building for one in self.entrants)
        with self._lock:
            self._alone, standby, self.standby = True, self.standby, None
            if standby is not None:
                self.entrants = (*self.entrants, standby())
            called = [one for one in self.entrants if one.reserve]
            for one in called:
                one.reserve = False
            self._remembered = None
        for one in called:
            one.submit()
        if self.refused is not None:
            warn(self.refused)
        return bool(called)

    @property
    def refused(self) -> str | None:
        """What to tell where no engine that was asked for is left; None while there is one."""
        return refused(self.entrants, self.label)

    def _reopen(self, lost: Entrant) -> None:
        with self._lock:
            if self._serving is lost:
                self._serving, self._answer = None, self._on_trial

    # Trial

    def _on_trial(self, args: list[Any]) -> Sequence[Any]:
        self._calls += 1
        entrant = self._next(args)
        if entrant is None:
            self.engine = EAGER
            return self._reference(args)
        answers_before, declines = entrant.answers, entrant.declines
        entrant.unwrap()
        compared = entrant.run.compared
        start = time.perf_counter()
        own = True
        if not entrant.run.partial:
            made: Sequence[Any] | None = entrant.run(args)
        else:
            made, own = self._asked(entrant, args)
        if self._synchronise is not None:
            self._synchronise()
        seconds = time.perf_counter() - start
        if made is None:
            return self._reference(args)
        if not own:
            self.engine = EAGER
            return made
        self.engine = entrant.engine
        entrant.answers = answers_before + 1
        # A call in which the answer was compared took eager's time too, and so does one that is declined, whenever it
        # comes. An engine that is being made ready uses the processor: times taken beside it say nothing.
        usual = entrant.run.compared == compared or entrant.declines > declines
        alone = usual and not self.pending
        if entrant.state is State.TRIAL and entrant.answers > 1 and alone:
            entrant.seconds.append(seconds)
        self._judge()
        return made

    def _next(self, args: list[Any]) -> Entrant | None:
        """Who answers this call: of those that take part and can, the one with the fewest answers."""
        found = self._first_ready(args)
        if (found is None or found.engine == EAGER) and self._call_reserves() and self._waits:
            wait_for(self.entrants)
            found = self._first_ready(args)
        return found if found is not None else self._serving

    def _first_ready(self, args: list[Any]) -> Entrant | None:
        self._admit()
        ready = (one for one in sorted(self._on_trial_now(), key=lambda one: one.answers) if self._ready(one, args))
        return next(ready, None)

    def _on_trial_now(self) -> list[Entrant]:
        return [one for one in self.entrants if one.state is State.TRIAL]

    def _admit(self) -> None:
        """Let those that have come take part. Where somebody knows the winner already, it alone."""
        for entrant in self.entrants:
            if entrant.state is State.COLD and entrant.arrived():
                known = self._remembered
                entrant.state = State.TRIAL if known in (None, entrant.engine) else State.BEATEN
        if self._serving is None and not self._on_trial_now() and not self.pending:
            self._remembered = None  # nobody is there: those that were beaten or passed over
            for entrant in self.entrants:
                if entrant.state is State.BEATEN:
                    entrant.state = State.TRIAL

    def _judge(self) -> None:
        """Put out who is hopeless; decide when everybody who takes part has answered often enough."""
        with self._lock:
            on_trial = self._on_trial_now()
            timed = [one for one in on_trial if len(one.seconds) >= 2]
            if not on_trial or self._answer != self._on_trial:
                return
            if timed:
                best = min(min(one.seconds) for one in timed)
                for one in timed:
                    if min(one.seconds) > HOPELESS * best:
                        one.state = State.BEATEN
                on_trial = self._on_trial_now()
            alone = len(on_trial) == 1 and not any(
                one.state in (State.COLD, State.PREPARING) and not one.reserve for one in self.entrants
            )
            preparing = any(one.state is State.PREPARING for one in self.entrants)
            if not preparing and all(len(one.seconds) >= (1 if alone else _rounds(one)) for one in on_trial):
                self._decide(on_trial)

    def _decide(self, on_trial: Sequence[Entrant]) -> None:
        order = sorted(on_trial, key=lambda one: one.median_s or 0.0)
        best = order[0]
        held = next((one for one in on_trial if one is self._serving), None)
        if held is not None and (best.median_s or 0.0) > (1 - MARGIN) * (held.median_s or 0.0):
            best = held
        for one in on_trial:
            if one is not best:
                one.state = State.BEATEN
        best.state = State.SERVING
        best.unwrap()
        self._serving = best
        self.engine = best.engine
        self.reason = why_chosen(best, self.entrants, self.label)
        for one in self.entrants:
            if one.state is State.BEATEN and self._releases:
                one.run.release()
        log.info("%s", self.reason)
        if self._decided is not None:
            self._decided(best.engine, self.medians())
        if self._timed is not None:
            self._timed({one.engine: tuple(one.seconds) for one in self.entrants if len(one.seconds) >= ROUNDS})
        # Who is there only if summoned does not come by itself.
        waiting = any(one.state is State.COLD and not one.reserve for one in self.entrants)
        self._answer = self._serve_and_look if waiting else self._fast(best)

    def _fast(self, best: Entrant) -> RegionCallable:
        return self._serve if best.run.partial else best.run.direct

    def medians(self) -> dict[str, float]:
        """Median seconds of an answer, by engine, of those that were timed."""
        return {one.engine: one.median_s for one in self.entrants if one.median_s is not None}

    # A newcomer

    def _serve_and_look(self, args: list[Any]) -> Sequence[Any]:
        """As :meth:`_serve`, with a look from time to time at who has come since."""
        self._calls += 1
        if self._calls % _LOOK_EVERY == 0:
            came = [one for one in self.entrants if one.state is State.COLD and one.arrived()]
            if came:
                with self._lock:
                    self._rematch(came)
                return self._on_trial(args)
        return self._serve(args)

    def _rematch(self, came: Sequence[Entrant]) -> None:
        """Who serves and who has come answer in turn, all timed anew."""
        assert self._serving is not None, "somebody serves"
        for one in (self._serving, *came):
            one.state, one.answers, one.seconds = State.TRIAL, 0, []
        self._remembered = None
        self._answer = self._on_trial

    # Telling

    @property
    def decided(self) -> bool:
        """Whether the trial is over and nobody is still to come."""
        return self._serving is not None and self._answer != self._on_trial

    def status(self) -> DispatchStatus:
        """A snapshot."""
        return DispatchStatus(
            label=self.label,
            engine=self.engine,
            decided=self.decided,
            entrants=tuple(one.status() for one in self.entrants),
            reason=self.reason,
            refused=self.refused,
        )


def _rounds(entrant: Entrant) -> int:
    """Answers that are timed before it is judged."""
    median_s = entrant.median_s
    return ROUNDS if median_s is None else min(MAX_ROUNDS, max(ROUNDS, math.ceil(ROUNDS_S / max(median_s, 1e-9))))
