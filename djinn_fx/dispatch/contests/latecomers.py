"""Who comes to a contest once an engine serves: made ready too late for the trial, or built only if that may pay."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from djinn_fx.dispatch.contests.trial import known_to_be_slow
from djinn_fx.dispatch.entrant import Entrant, State
from djinn_fx.threads import let_others_go_first

#: Calls between two looks at who has come since.
LOOK_EVERY = 16


def open_ended(entrants: Sequence[Entrant]) -> bool:
    """Whether somebody is still to be tried who was there from the start."""
    return any(one.state is State.COLD or one.pending for one in entrants if not one.late)


def is_late(entrant: Entrant, admits: Callable[[Entrant], bool]) -> bool:
    """Whether it is to be tried against who serves."""
    return entrant.state is State.COLD and entrant.arrived() and admits(entrant)


def somebody_comes(entrants: Sequence[Entrant], serving: Entrant | None, admits: Callable[[Entrant], bool]) -> bool:
    """Whether one is to be tried against who serves, or is being made ready for that."""
    preparing = any(one.state is State.PREPARING and not one.late and one is not serving for one in entrants)
    return preparing or any(is_late(one, admits) for one in entrants)


def late_one(entrants: Sequence[Entrant], serving: Entrant, admits: Callable[[Entrant], bool]) -> Entrant | None:
    """The next that is to be tried; None: nobody, or not now, since times that are taken while one is made ready say
    nothing."""
    if any(one.pending for one in entrants):
        return None
    came = next((one for one in entrants if is_late(one, admits)), None)
    return came if came is not None and not known_to_be_slow(came, serving) else None


def summon(entrants: Sequence[Entrant], serving: Entrant | None, calls: int, whether_or_not: bool) -> None:
    """Have built, beside the calls, what waits until the others were tried.

    Args:
        entrants: of the contest.
        serving: who serves; None: that is not decided, and nothing is done.
        calls: so far.
        whether_or_not: it may pay.
    """
    if serving is None:
        return
    run_s = serving.median_s or serving.known_s
    for one in entrants:
        if one.reserve and (whether_or_not or one.pays(run_s, calls)):
            one.reserve = False
            # Pending from now on: who waits until all is ready waits for it.
            one.prepare(functools.partial(_submit, one))


def _submit(entrant: Entrant) -> None:
    let_others_go_first()
    entrant.submit()
