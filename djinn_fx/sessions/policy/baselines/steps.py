"""Steps of a workflow until a context's next turn: who is furthest leaves first (KVFlow, arXiv:2507.07400)."""

from __future__ import annotations

import math
from collections.abc import Iterable

from djinn_fx.sessions.policy.base import Move
from djinn_fx.sessions.policy.baselines.lru import LRU
from djinn_fx.sessions.policy.state import Context, Phase, Tier

_STEP = 1e9


class Steps(LRU):
    """By steps to execution, where the client says them; those of whom it does not by recency, after all others.

    Args:
        ahead: a context so few steps away is fetched, as far as there is room.
    """

    name = "steps"

    def __init__(self, ahead: int = 1, exclusive: bool = False) -> None:
        super().__init__(exclusive=exclusive)
        self.name = "steps"
        self._ahead = ahead
        self._soon: list[Context] = []

    def key(self, context: Context, now: float) -> float:
        """More steps first, then the longest unused."""
        return context.since - _STEP * (context.steps if context.steps is not None else 0)

    def hinted(self, context: Context, now: float) -> None:
        """Its steps may be others; who is near is fetched."""
        for order in self.order.values():
            order.drop(context)
        self._place(context, now)
        if context.steps is not None and context.steps <= self._ahead:
            self._soon.append(context)

    def wake(self) -> float:
        """At once, if somebody came near."""
        return 0.0 if self._soon else super().wake()

    def due(self, now: float) -> Iterable[Move]:
        """Those who came near."""
        yield from super().due(now)
        soon, self._soon = self._soon, []
        for one in soon:
            missing = one.size_bytes - one.device_bytes - one.loading_bytes
            if one.phase is Phase.WAITING and missing > 0 and one.host_bytes:
                yield Move(one, missing, Tier.HOST, Tier.DEVICE, deadline=math.inf, because="its step is near")
