"""The least waste of memory over time decides between keeping, swapping and dropping (InferCept, arXiv:2402.01869)."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

from djinn_fx.sessions.policy.base import Move
from djinn_fx.sessions.policy.baselines.lru import LRU
from djinn_fx.sessions.policy.state import Context, Phase, Tier


class MinWaste(LRU):
    """Keeping wastes the bytes for as long as the wait lasts, which is guessed to last as long again as it has so far;
    swapping wastes them while they travel both ways; dropping wastes them while they are computed anew.

    Args:
        eager: a context is swapped out unasked when keeping it wastes so many times what swapping does; 0 for never.
    """

    name = "min-waste"

    def __init__(self, eager: float = 0.0, exclusive: bool = False) -> None:
        super().__init__(exclusive=exclusive)
        self.name = "min-waste"
        self._eager = eager
        self._timers: list[tuple[float, str, int, Context]] = []

    def _other_s(self, context: Context) -> tuple[float, Tier]:
        """Seconds for which the bytes are wasted if they leave, by the better of both ways."""
        swapped = 2 * context.size_bytes / self.pools.link(Tier.HOST, Tier.DEVICE).bytes_per_s
        anew = self.pools.compute_s(0, context.tokens)
        return (
            min((swapped, Tier.HOST), (anew, Tier.NOWHERE)) if self.pools.capacity(Tier.HOST) else (anew, Tier.NOWHERE)
        )

    def ended(self, context: Context, now: float) -> None:
        """When keeping it will have become a waste."""
        super().ended(context, now)
        if self._eager:
            when = now + self._eager * self._other_s(context)[0]
            heapq.heappush(self._timers, (when, context.key, context.turns, context))

    def wake(self) -> float:
        """When the next one has waited for too long."""
        return min(super().wake(), self._timers[0][0]) if self._timers else super().wake()

    def due(self, now: float) -> Iterable[Move]:
        """Those who have."""
        yield from super().due(now)
        while self._timers and self._timers[0][0] <= now:
            _, _, turns, context = heapq.heappop(self._timers)
            if context.turns == turns and context.phase is Phase.WAITING and context.device_bytes:
                yield Move(context, context.device_bytes, Tier.DEVICE, self._other_s(context)[1], because="waste")

    def room(self, tier: Tier, nbytes: int, now: float, tenant: str = "") -> Iterator[Move]:
        """Who wastes most by staying."""
        if tier is not Tier.DEVICE:
            yield from super().room(tier, nbytes, now, tenant)
            return
        found = []
        for _, context in self.order[tier].walk():
            seconds, where = self._other_s(context)
            waste = (now - context.since - seconds) * context.size_bytes
            found.append((-waste, context.key, context, where))
        for waste, _, context, where in sorted(found, key=lambda one: one[:2]):
            there = context.device_bytes + context.loading_bytes
            yield Move(context, there, tier, where, value=waste, unit="byte-seconds", because="staying wastes most")
