"""Who knows the future: the context wanted last leaves (Belady), and each is back just in time. For simulators."""

from __future__ import annotations

import math

from djinn_fx.sessions.policy.foresight import Foresight, Outlook
from djinn_fx.sessions.policy.state import Context


class Clairvoyant(Foresight):
    """Belady's rule on true times of next use, with fetches just in time.

    With a link between the tiers this is not the optimum: it neither weighs bytes against the link's time nor knows of
    turns that have not come; it is what no rule by guesses of next use can do better than by much.
    """

    name = "clairvoyant"

    def outlook(self, context: Context, now: float) -> Outlook:
        """The truth."""
        at = context.next_use if context.next_use is not None else math.inf
        return Outlook(at=min(at, 1e12), lasting=min(at, 1e12), fetch_at=at, because="it is known")
