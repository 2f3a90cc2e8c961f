"""Ours: who is worth least leaves, by what bringing it back takes times the chance that it comes back in time.

Bytes on the device are worth the seconds of loading them (or of computing them anew, whichever is less) that they save
if the context comes back before its memory would have been needed anyway, over the seconds for which they are kept
until then. For bytes that have a copy one second of the link is as good as another, so that contexts compare by *hit
density*: the chance of a return within the horizon over the mean time until then (Beckmann et al., LHD, NSDI 2018),
whose inverse is a number of seconds: of an exact hint, those left (Belady's rule); of a wait by chance, those that it
takes at the rate at which such waits end now. The chance comes from the waits of the same tenant and tool and from
hints as far as they proved true (:mod:`djinn_fx.sessions.policy.trust`). The horizon is how long victims have been idle
when they have to go.
"""

from __future__ import annotations

import math

from djinn_fx.sessions.policy.foresight import Foresight, Outlook
from djinn_fx.sessions.policy.state import Context, Tier
from djinn_fx.sessions.policy.trust import Trust, Wait

#: Bounds of the horizon, in seconds; and what it is before anybody had to go.
HORIZON_S, SHORTEST_S, LONGEST_S = 300.0, 60.0, 7200.0
#: The host keeps for so many times longer than the device.
HOST_LONGER = 24.0


class ByValue(Foresight):
    """Evicts by hit density, fetches by hints that proved true.

    Args:
        trusted: hints of at least that weight are fetched by.
        spread: and only if seven tenths of such waits end within so many times the time by which a tenth do.
    """

    name = "djinn"

    def __init__(
        self, margin_s: float = 0.5, slack: float = 1.5, copies: bool = True, patience: float = 4.0,
        dearer: float = 4.0, trusted: float = 0.6, spread: float = 1.6,
    ) -> None:  # fmt: skip
        super().__init__(margin_s, slack, copies, patience, dearer)
        self.trust = Trust()
        self.horizon = HORIZON_S
        self._trusted, self._spread = trusted, spread
        self._waits: dict[str, Wait] = {}
        self._over: list[tuple[Wait, float]] = []

    # -- what happens ------------------------------------------------------------------------------------------------

    def ended(self, context: Context, now: float) -> None:
        """A wait begins."""
        self._waits[context.key] = self.trust.begin(context)
        context.mark = context.since
        super().ended(context, now)

    def hinted(self, context: Context, now: float) -> None:
        """What was said before counts no more."""
        before = self._waits.pop(context.key, None)
        if before is not None:
            self.trust.leave(before)
            self._waits[context.key] = self.trust.begin(context)
        super().hinted(context, now)

    def began(self, context: Context, now: float) -> None:
        """A wait is over, and teaches."""
        wait = self._waits.pop(context.key, None)
        if wait is not None:
            # The driver has set the phase anew: what is known of the wait's beginning is in the mark.
            self._over.append((wait, max(0.0, now - context.mark)))
        super().began(context, now)

    def closed(self, context: Context, now: float) -> None:
        """A wait that ends with its session teaches only that it lasted so long."""
        wait = self._waits.pop(context.key, None)
        if wait is not None:
            self.trust.leave(wait)
        super().closed(context, now)

    def moved(self, context: Context, source: Tier, target: Tier, now: float) -> None:
        """How long it had been idle when it had to go is the horizon for others."""
        if source is Tier.DEVICE and context.key in self._waits and self.making_room:
            idle = min(LONGEST_S, max(SHORTEST_S, now - context.mark))
            self.horizon += 0.05 * (idle - self.horizon)
        super().moved(context, source, target, now)

    def review(self, now: float) -> None:
        """What is over teaches first."""
        if self._over:
            over, self._over = self._over, []
            for wait, age in over:
                self.trust.end(wait, age)
        super().review(now)

    # -- the outlook -------------------------------------------------------------------------------------------------

    def outlook(self, context: Context, now: float) -> Outlook:
        """By the waits seen and the hint, each by its weight."""
        wait = self._waits.get(context.key)
        if wait is None:
            return Outlook(at=now + self.horizon, lasting=2 * now - context.since)
        age = max(0.0, now - context.since)
        self.trust.reach(wait, age)
        kind, hint = wait.kind, wait.estimate_s
        weight = kind.trust if hint is not None else 0.0
        near = self._seconds(wait, weight, age, self.horizon)
        # Over hours the curves know little more than that what has waited for long will go on to (Lindy's rule).
        far = age + 1e-3
        if hint is not None:
            far = 1 / ((1 - weight) / far + weight / self._seconds(wait, 1.0, age, HOST_LONGER * self.horizon))
        again = context.since + max(2.0, 1.4 * age)
        fetch_at, because = math.inf, "waits like it"
        if hint is not None and weight >= 0.5:
            because = f"its hint, weighted {weight:.2f}"
            ratio = age / hint
            _, _, early, late = kind.table("ratios", max(0.02, self.horizon / hint)).at(ratio)
            if weight >= self._trusted and late <= self._spread * early + 2.0 / hint:
                fetch_at = max(now, context.since + hint * max(early, ratio))
            if ratio < 1.0:
                again = context.since + hint * 1.01
        return Outlook(at=now + near, lasting=now + far, fetch_at=fetch_at, again=again, because=because)

    def _seconds(self, wait: Wait, weight: float, age: float, horizon: float) -> float:
        """The inverse of the hit density."""
        kind, hint = wait.kind, wait.estimate_s
        chance = mean = 0.0
        if weight < 0.99:
            chance, mean, _, _ = kind.table("waits", horizon).at(age)
            chance, mean = (1 - weight) * chance, (1 - weight) * mean
        if hint is not None and weight > 0.01:
            # An estimate beyond the horizon is still one: what is said to be wanted at an instant is compared by it.
            one, two, _, _ = kind.table("ratios", max(horizon, 2 * (hint - age)) / hint).at(age / hint)
            chance, mean = chance + weight * one, mean + weight * two * hint
        return mean / max(chance, 1e-9)
