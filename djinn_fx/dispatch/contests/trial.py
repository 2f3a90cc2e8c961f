"""A trial of engines on the user's own calls, which nobody notices: one challenger at a time, and never for long.

Who is expected to be the fastest comes first, and is the best so far. Each of the others in turn is made ready beside
the calls, and answers calls in turn with the best; the slower of the two is out and lets go of its copies of weights
before the next one makes its own. So at most one further copy is there at a time. After :data:`CALLS` timed calls, or
:data:`SECONDS` of them, the best so far has won; who was not tried by then is not. Where making ready takes long the
best serves after :data:`MOST_CALLS` calls; who comes later, ready, has a short trial against it alone.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from djinn_fx.dispatch.entrant import Entrant, State
from djinn_fx.pool.limits import available_bytes
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.settings.engines import traits_of
from djinn_fx.units import format_bytes

#: A trial is over after so many timed calls, so many seconds of them, or so many calls, timed or not (one in which an
#: answer is compared with eager's is not timed, nor one beside which an engine is made ready).
CALLS, SECONDS, MOST_CALLS = 20, 5.0, 36
#: Timed answers of each of two; as many more as there are calls left for, up to the second figure.
ROUNDS, MAX_ROUNDS = 5, 10
#: By how much, as a share, a challenger must be faster, and who keeps a copy of the weights than a best that keeps
#: none. Slower than the other by the second figure: out after two answers.
MARGIN = 0.03
SLOW = 1.5
#: Where one came late and the two differ by less than this factor, the duel goes on as long as a trial may: either
#: serves well meanwhile, and a few calls on a busy machine do not tell.
CLEAR = 1.3
#: Who is expected to be slower than the best by this factor, even if all goes its way, is not tried (``forecast.py``).
HOPELESS = 2.0
#: A further copy of the weights is made only where so many times its size is free.
ROOM = 1.5
#: Fewer timed answers say nothing about an engine; so many may decide, where one is slower by far, and teach then.
TELLING, DECIDING = 3, 2


class Room:
    """What other graphs leave of the memory for copies of the weights (``sharing.py``); here: all of it."""

    def admits(self, entrant: Entrant) -> bool:
        """Whether an engine may be made ready now."""
        return True

    def keeps(self, entrant: Entrant) -> bool:
        """Whether the copy that an engine needs is there anyway: such are tried before others."""
        return False

    def may_keep(self, entrant: Entrant) -> bool:
        """Whether the copy that an engine needs may come to be kept, as calls are now: others are not tried."""
        return True


class Trial:
    """See the module's text.

    Args:
        known: the engine that an earlier trial of the same work chose: others are not tried.
        room: for copies of the weights.

    Attributes:
        brief: it goes on from an earlier process: calls are few, so each duel is to be short.
        waiting: somebody is not admitted now.
        best: the best so far; None: nobody is ready.
        rival: who is tried against it.
        timed: how many calls were timed.
        beaten: who is to let go of its copies of weights.
        challenger: the only one that is tried; None: all are.
    """

    def __init__(self, known: str | None, room: Room) -> None:
        self.known, self._room = known, room
        self.brief = self.waiting = False
        self.best: Entrant | None = None
        self.rival: Entrant | None = None
        self.timed = 0
        self.beaten: list[Entrant] = []
        self.challenger: Entrant | None = None
        self._spent_s, self._calls, self._rounds = 0.0, 0, ROUNDS
        #: Calls since the rival is ready.
        self._asked = 0
        #: Timed answers of the best before the rival came, and who answers next.
        self._mark, self._rivals_turn = 0, False

    def begin_again(self, best: Entrant | None, challenger: Entrant | None = None) -> None:
        """A new trial: of this one against one that has come, or of all."""
        self.best, self.rival, self.challenger = best, None, challenger
        self.timed, self._spent_s, self._calls = 0, 0.0, 0
        if best is not None:
            best.state, best.seconds, best.work = State.TRIAL, [], []

    # Who answers

    def field(self, entrants: Sequence[Entrant]) -> list[Entrant]:
        """Those that may answer a call, in the order in which they are asked."""
        self._forget_failed()
        self.waiting = False
        if self.known is not None:
            for one in entrants:
                if one.state is State.COLD and one.engine != self.known and not one.late:
                    one.state = State.BEATEN
        if self.best is None:
            self.best = self._next(entrants)
            if self.best is None and not self.waiting:
                self.best = self._anybody(entrants)
        if self.rival is None and self.best is not None and self.best.answers and not self.over:
            self.rival = self._challenger(entrants, self.best)
            if self.rival is not None:
                duels = 1 + len(self._there(entrants))
                most = TELLING if self.brief else MAX_ROUNDS
                self._rounds = min(most, max(2, (CALLS - self.timed) // (2 * duels)))
                self._mark, self._rivals_turn, self._asked = len(self.best.seconds), True, 0
        pair = [self.rival, self.best] if self._rivals_turn else [self.best, self.rival]
        return [one for one in pair if one is not None and one.state is State.TRIAL]

    def _forget_failed(self) -> None:
        if self.rival is not None and self.rival.state is State.FAILED:
            self.rival = None
        if self.best is not None and self.best.state is State.FAILED:
            self.best, self.rival = self.rival, None

    def _there(self, entrants: Sequence[Entrant]) -> list[Entrant]:
        """Who is still to be tried, and could be."""
        of = entrants if self.challenger is None else [self.challenger]
        there = [one for one in of if one.state is State.COLD and one.arrived() and self._room.may_keep(one)]
        return sorted(there, key=self._room.keeps, reverse=True) if len(there) > 1 else there

    def _next(self, entrants: Sequence[Entrant]) -> Entrant | None:
        there = self._there(entrants)
        found = next(filter(self._room.admits, there), None)
        self.waiting = self.waiting or bool(there and there[0] is not found)
        if found is not None:
            found.state, found.answers, found.seconds, found.work = State.TRIAL, 0, [], []
        return found

    def _challenger(self, entrants: Sequence[Entrant], best: Entrant) -> Entrant | None:
        """The next one that is worth a trial."""
        while (rival := self._next(entrants)) is not None:
            if rival.least_s is not None and not best.seconds and best.answers < TELLING:
                rival.state = State.COLD  # a call or two will tell whether it is
                return None
            if not known_to_be_slow(rival, best) and self._has_room(rival, best):
                return rival
        return None

    @staticmethod
    def _has_room(rival: Entrant, best: Entrant) -> bool:
        """Whether there is memory for a copy of the weights as large as the best's; if not, it is not tried."""
        needed = best.run.memory_bytes if traits_of(rival.engine).binds_weights else 0
        free = available_bytes() if needed else None
        if free is None or free >= ROOM * needed:
            return True
        detail = f"{rival.engine}: not tried: a copy of the weights takes about {format_bytes(needed)}"
        detail += f", {format_bytes(free)} of memory are free"
        rival.move(State.BEATEN, Reason(kind=ReasonKind.ENGINE_REFUSED, detail=detail))
        return False

    def _anybody(self, entrants: Sequence[Entrant]) -> Entrant | None:
        """Nobody is there: those that were beaten, or passed over."""
        self.known = self.challenger = None
        for one in entrants:
            if one.state is State.BEATEN:
                one.state = State.COLD
        return self._next(entrants)

    # Copies of the weights

    def pause(self) -> Entrant | None:
        """Have the rival tried later; who that is."""
        rival, self.rival = self.rival, None
        if rival is not None:
            rival.state = State.COLD
        return rival

    def replace(self, other: Entrant | None) -> None:
        """The best so far is out: this one is the best of those that were beaten, None where none was tried yet."""
        if other is None or other is self.rival:
            self.best, self.rival = self.rival, None
        else:
            self.best, self._mark, other.state = other, 0, State.TRIAL

    # What answers took

    def answered(self, entrant: Entrant, seconds: float | None, work: float) -> None:
        """An engine was asked; it took so long for so much work, if that says something."""
        self._rivals_turn = entrant is not self.rival
        self._calls += 1
        self._asked += self.rival is not None and self.rival.state is State.TRIAL
        if seconds is not None:
            entrant.seconds.append(seconds)
            entrant.work.append(work)
        if seconds is not None and not self.waiting:
            self.timed += 1
            self._spent_s += seconds

    @property
    def over(self) -> bool:
        """Whether it has taken as long as it may."""
        return self._spent or self._calls >= MOST_CALLS

    @property
    def untimed(self) -> bool:
        """Whether it is over and the best was not timed: something was being made ready beside all of its calls."""
        best = self.best
        return self.over and best is not None and bool(best.answers) and not best.seconds

    @property
    def _spent(self) -> bool:
        """Whether engines had all the time there is for comparing them."""
        return self.timed >= CALLS or self._spent_s >= SECONDS

    def winner(self, entrants: Sequence[Entrant]) -> Entrant | None:
        """The best, if the trial is over: by time, or because everybody who is there was tried."""
        best, rival = self.best, self.rival
        if best is None:
            return None
        if rival is not None and self._too_early_for(rival):
            rival.put_off()
            self.rival = rival = None
        if rival is not None:
            loser = self._loser(best, rival)
            if loser is None:
                return None
            self.best, self.rival = (best, None) if loser is rival else (rival, None)
            loser.state = State.BEATEN
            self.beaten.append(loser)
        best = self.best
        there = self._there(entrants)
        if self.untimed and self._calls < 2 * MOST_CALLS:
            return None
        if best is None or best.state is not State.TRIAL or (not self.over and (there or not best.seconds)):
            return None
        for one in there:
            # Its time comes where there is some left, or where two copies of the weights are there but for a while.
            if not known_to_be_slow(one, best) and self._spent and self._room.admits(one):
                detail = f"{one.engine}: not tried: the trial was over after {self.timed} timed calls"
                one.move(State.BEATEN, Reason(kind=ReasonKind.ENGINE_REFUSED, detail=detail))
        return best

    def _too_early_for(self, rival: Entrant) -> bool:
        """Whether the calls are over in which it was to be tried, and it was hardly: making it ready took too long."""
        asked = rival.state is State.TRIAL and self._asked >= 2 * ROUNDS
        untried = rival.pending or not (asked or len(rival.seconds) >= 2)
        return untried and self.over and not self._spent and rival is not self.challenger

    def _loser(self, best: Entrant, rival: Entrant) -> Entrant | None:
        """Who of the two is out; None: it is too early to tell."""
        least = min(len(best.seconds), len(rival.seconds))
        if least >= DECIDING and min(rival.seconds) > SLOW * min(best.seconds):
            return rival
        if least >= DECIDING and min(best.seconds) > SLOW * min(rival.seconds):
            return best
        recent = best.seconds[self._mark :], best.work[self._mark :]
        if min(len(recent[0]), len(rival.seconds)) < self._rounds and not self.over:
            return None
        if not rival.seconds or not recent[0]:
            return rival
        first, second = compared(recent, (rival.seconds, rival.work))
        close = max(first, second) < CLEAR * min(first, second)
        if self.challenger is not None and close and least < MAX_ROUNDS and not self.over:
            return None
        if best.copy is not None and rival.copy is None:  # a copy of the weights must be worth it
            return rival if first < (1 - MARGIN) * second else best
        return best if second < (1 - MARGIN) * first else rival


def known_to_be_slow(rival: Entrant, best: Entrant) -> bool:
    """Whether it need not answer to be beaten, as its time is known: own ops run wherever an answer is compared."""
    known_s = rival.least_s
    if known_s is None or not best.seconds or known_s <= SLOW * min(best.seconds):
        return False
    rival.state, rival.seconds, rival.work = State.BEATEN, [known_s], [1.0]
    return True


def compared(
    one: tuple[Sequence[float], Sequence[float]], other: tuple[Sequence[float], Sequence[float]]
) -> tuple[float, float]:
    """Median seconds of two engines whose calls were of different sizes, for equal work.

    Whether a call's time follows its size nobody knows before: it does where seconds for a unit of work differ less
    from call to call than seconds do.

    Args:
        one: seconds of its calls, and the work of each.
        other: of the second.
    """
    plain = [tuple(seconds) for seconds, _ in (one, other)]
    by_work = [tuple(s / w for s, w in zip(seconds, work, strict=True)) for seconds, work in (one, other)]
    first, second = min(plain, by_work, key=lambda pair: sum(map(_spread, pair)))
    return statistics.median(first), statistics.median(second)


def _spread(times: Sequence[float]) -> float:
    return statistics.pstdev([math.log(max(time, 1e-12)) for time in times])
