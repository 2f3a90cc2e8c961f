"""Several engines for one piece of work: each answers some of the calls, the fastest answers the rest.

A trial costs no extra work. Every call must be answered anyway, so while engines are compared they answer in turn, and
the time of each answer is noted: interleaved, on the real arguments (``trial.py``).

An engine that has to be made ready for these arguments (a session with these weights) is made ready in a thread while
others answer; only the very first call waits for one, where the caller waits for compiling anyway. What no engine can
answer as things are (weights changed a moment ago, sizes never seen) the region's own ops do: they are always right.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from djinn_fx.dispatch.contests.decisions import Decision, all_medians, tried_medians, why_chosen
from djinn_fx.dispatch.contests.latecomers import LOOK_EVERY, late_one, open_ended, somebody_comes, summon
from djinn_fx.dispatch.contests.trial import CALLS, DECIDING, TELLING, Room, Trial
from djinn_fx.dispatch.entrant import USING, Dispatcher, DispatchStatus, Entrant, State, wait_for, weakly
from djinn_fx.dispatch.refusals import engines_left, refused, warn, without_name
from djinn_fx.engines.base import Declined, RegionCallable
from djinn_fx.engines.bound.closing import CLOSER
from djinn_fx.engines.failures import nothing_written, said
from djinn_fx.errors import EngineError
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.settings.engines import EAGER
from djinn_fx.threads import collect_beside, new_rlock, start_thread

log = logging.getLogger("djinn_fx.dispatch.contests.contest")
_ROOM = Room()


class Contest(Dispatcher):
    """See the module's text.

    Args:
        label: for messages.
        entrants: in the order in which they answer; the first that can is the first to serve.
        reference: the region's own ops.
        waits: whether the first call waits for an engine that can answer it; no later one ever does.
        synchronise: waits for work that a call leaves queued on a device; None where there is none.
        decided: told the outcome: engine, median seconds by engine.
        leading: told the same of the best so far, in a thread, when it has answered and when one was beaten.
        lost: told, once, that no engine is left: what an earlier trial chose is of no use.
        timed: told the seconds of the answers that were timed, by engine, when the trial is over.
        remembered: the engine that an earlier trial of the same work chose.
        in_use: whether another contest uses an engine's copies of weights, so that who is beaten must not let go.
        work: how much a call is, in any unit.
        standby: makes the entrant that takes part once no other engine is left; None: there is none.
        room: for copies of the weights.
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
        leading: Callable[[str, Mapping[str, float]], None] | None = None,
        lost: Callable[[], None] | None = None,
        timed: Callable[[Mapping[str, Sequence[float]]], None] | None = None,
        remembered: str | None = None,
        in_use: Callable[[str], bool] = lambda engine: False,
        work: Callable[[Sequence[Any]], float] = lambda args: 1.0,
        standby: Callable[[], Entrant] | None = None,
        room: Room = _ROOM,
    ) -> None:
        super().__init__(label, reference, entrants)
        self._in_use, self.standby, self._room = in_use, standby, room
        #: Whether all engines were out once, so that nobody else can be asked for.
        self._alone = False
        #: Calls while somebody may still come, and whether the outcome may still be another.
        self.calls, self._untold = 0, False
        self.reason: Reason | None = None
        self._waits, self._synchronise = waits, synchronise
        self._decided, self._leading, self._lost, self._timed, self._work = decided, leading, lost, timed, work
        self._trial = Trial(remembered, room)
        self._lock = new_rlock()
        self._first_answer = True
        self._serving: Entrant | None = None
        self._answer: RegionCallable = self._on_trial

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        """Answer a call."""
        return self._answer(args)

    def go_on(self, known: Decision) -> None:
        """What an earlier process measured counts; where its trial was not over, who was beaten in it stays out."""
        for entrant in self.entrants:
            entrant.known_s = known.seconds.get(entrant.engine)
            if not known.over and entrant.known_s is not None and entrant.engine != known.engine:
                entrant.state = State.BEATEN
        if not known.over:
            self.begin_with(known.engine)
            self._trial.brief = True

    def begin_with(self, engine: str | None) -> None:
        """The engine that is to answer first; the others follow in their order."""
        self.entrants = tuple(sorted(self.entrants, key=lambda one: one.engine != engine))

    # Serving

    def _serve(self, args: list[Any]) -> Sequence[Any]:
        """After the decision: the winner answers, if it can as things are."""
        serving = self._serving
        if serving is None:  # another thread has reopened the trial since this one came here
            return self._on_trial(args)
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
        if work is None and (self._waits or entrant.pending):
            return True
        if entrant.pending:
            return False
        if work is not None and self._waits:
            collect_beside()  # what tracing left; opening a session needs no interpreter
            return self._do(entrant, work)
        rehearse = entrant.run.rehearsal(args)
        if work is None and rehearse is None:
            return True

        def prepare() -> None:
            if work is not None and not self._do(entrant, work):
                self._call_reserves()
            elif entrant.state in (State.BEATEN, State.FAILED, State.COLD):  # meanwhile
                self._let_go(entrant)
            elif rehearse is not None:
                rehearse()

        entrant.prepare(prepare, awaited=entrant in (self._trial.best, self._serving))
        return False

    def make_ready(self, args: Sequence[Any]) -> None:
        """Have that engine made ready which would be the first to answer these arguments."""
        with self._lock:
            field = self._trial.field(self.entrants)
        for first in field[:1]:
            self._ready(first, args)

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

    def _let_go(self, entrant: Entrant) -> None:
        """Release the copies of weights of who was beaten."""
        if not self._in_use(entrant.engine):
            entrant.run.release()

    def uses(self, engine: str) -> bool:
        """Whether an engine serves here, or may come to."""
        return any(one.engine == engine and one.state in USING for one in self.entrants)

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
            self._trial.known = None
        for one in called:
            one.submit()
        if self.refused is not None:
            warn(self.refused)
        if self._lost is not None:
            self._lost()
        return bool(called)

    @property
    def refused(self) -> str | None:
        """What to tell where no engine that was asked for is left; None while there is one."""
        return refused(self.entrants, self.label)

    def _reopen(self, lost: Entrant) -> None:
        with self._lock:
            if self._serving is lost:
                self._serving, self._answer = None, self._on_trial
                self._trial.begin_again(None)

    # Trial

    def _on_trial(self, args: list[Any]) -> Sequence[Any]:
        entrant = self._next(args)
        if entrant is None:
            self.engine = EAGER
            return self._reference(args)
        self.calls += 1
        entrant.unwrap()
        work, first = self._work(args), not entrant.answers
        compared, declines = entrant.run.compared, entrant.declines
        start = time.perf_counter()
        made, own = self._asked(entrant, args) if entrant.run.partial else (entrant.run(args), True)
        if self._synchronise is not None:
            self._synchronise()
        seconds: float | None = time.perf_counter() - start
        if made is not None and not own:
            self.engine = EAGER
            return made
        # A call that is compared takes eager's time too. So does one that is declined, but that whenever it comes.
        if entrant.run.compared > compared and entrant.declines == declines:
            seconds = entrant.run.compared_s if self._synchronise is None else None
        # An engine that is being made ready uses the processor: times taken beside it say nothing.
        tells = made is not None and not first and (not self.disturbed or self._trial.untimed)
        with self._lock:
            if entrant.state is State.TRIAL:
                self._trial.answered(entrant, seconds if tells else None, work)
            if made is not None:
                self.engine = entrant.engine
                entrant.answers += 1
                entrant.copied_bytes = entrant.run.memory_bytes
                self._waits = False
            self._judge()
            beaten, self._trial.beaten = self._trial.beaten, []
            tell = bool(beaten) or (self._first_answer and made is not None)
            self._first_answer = self._first_answer and made is None
        for one in beaten:
            self._let_go(one)
        if tell and self._leading is not None and self._trial.known is None:
            start_thread(weakly(self._note_leader), "djinn notes who leads", beside=True)
        return made if made is not None else self._reference(args)

    def _note_leader(self) -> None:
        """Tell who is the best so far, once it is this note's turn: the trial may be over by then, and that be told."""
        with self._lock:
            best = self._trial.best if self._answer == self._on_trial and self._trial.known is None else None
            if best is not None and best.state is State.TRIAL and best.answers and self._leading is not None:
                self._leading(best.engine, tried_medians(best, self.entrants))

    def _next(self, args: list[Any]) -> Entrant | None:
        """Who answers this call."""
        found = self._first_ready(args)
        if (found is None or found.engine == EAGER) and self._call_reserves() and self._waits:
            wait_for(self.entrants)
            found = self._first_ready(args)
        return found if found is not None else self._serving

    def _first_ready(self, args: list[Any]) -> Entrant | None:
        for _ in range(len(self.entrants)):
            with self._lock:
                field = self._trial.field(self.entrants)
            found = next((one for one in field if self._ready(one, args)), None)
            if found is not None or not any(one.state is State.FAILED for one in field):
                return found
        return None

    def _judge(self) -> None:
        """Decide, if the trial is over."""
        best = self._trial.winner(self.entrants) if self._answer == self._on_trial else None
        if best is None:
            return
        self._serve_by(best)
        self._tell(best)
        if self._timed is not None:
            told = [one for one in self.entrants if len(one.seconds) >= (DECIDING if one is best else TELLING)]
            self._timed({one.engine: tuple(one.seconds) for one in told})
        self.summon()

    def _tell(self, best: Entrant) -> None:
        """Of the outcome; where somebody is to be tried later, the next process goes on too."""
        self._untold = open_ended(self.entrants)
        told = self._leading if self._untold else self._decided
        if told is not None and self._trial.known is None:
            told(best.engine, tried_medians(best, self.entrants) if self._untold else all_medians(self.entrants))

    def _serve_by(self, best: Entrant) -> None:
        """Calls go to this engine from now on."""
        best.state = State.SERVING
        best.unwrap()
        self._serving = best
        self.engine = best.engine
        self.reason = why_chosen(best, self.entrants, self.label)
        log.info("%s", self.reason)
        waiting = any(one.state is State.COLD or one.pending for one in self.entrants)
        fast = self._serve if best.run.partial else best.run.direct
        self._answer = self._serve_and_look if waiting else fast
        CLOSER.let_go()  # what converting, opening and comparing took goes back to the system

    def _serve_and_look(self, args: list[Any]) -> Sequence[Any]:
        """As :meth:`_serve`, with a look from time to time at who has come since."""
        self.calls += 1
        if self.calls % LOOK_EVERY == 0:
            self.summon()
            if self._rematch(args):
                return self._on_trial(args)
        return self._serve(args)

    def summon(self, whether_or_not: bool = False) -> None:
        """Have built what waits until the others were tried, if it may pay; for who waits whether or not."""
        summon(self.entrants, self._serving, self.calls, whether_or_not)

    def _rematch(self, args: Sequence[Any]) -> bool:
        """Have the next one that has come made ready, beside the calls; if it is, it is tried against who serves."""
        with self._lock:
            serving = self._serving if self._answer == self._serve_and_look else None
            came = late_one(self.entrants, serving, self._room.admits) if serving is not None else None
            if serving is not None and self._untold and not open_ended(self.entrants):
                self._tell(serving)
        if came is None or not self._ready(came, args):
            return False
        with self._lock:
            self._trial.begin_again(self._serving, came)
            self._trial.known, self._trial.brief = None, True
            self._answer = self._on_trial
        return True

    @property
    def decided(self) -> bool:
        """Whether the trial is over, and nobody has come since who is about to be tried."""
        over = self._serving is not None and self._answer != self._on_trial
        return over and not somebody_comes(self.entrants, self._serving, self._room.admits)

    def status(self) -> DispatchStatus:
        """A snapshot."""
        return DispatchStatus(
            label=self.label,
            engine=self.engine,
            decided=self.decided,
            trial=f"{self._trial.timed} of {CALLS} calls" if self._answer == self._on_trial else "",
            entrants=tuple(one.status() for one in self.entrants),
            reason=self.reason,
            refused=self.refused,
        )
