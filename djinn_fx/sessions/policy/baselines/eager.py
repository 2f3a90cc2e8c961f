"""Out at once when a wait begins, back when it ends, or shortly before where the client said when."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable

from djinn_fx.sessions.policy.base import Move
from djinn_fx.sessions.policy.baselines.lru import LRU
from djinn_fx.sessions.policy.state import Context, Phase, Tier


class EagerSwap(LRU):
    """Swap at IO_WAIT.

    Args:
        after_s: seconds that a wait lasts before the context leaves.
        tools: those that await a tool leave too.
    """

    name = "eager-swap"

    def __init__(self, after_s: float = 0.0, tools: bool = True, exclusive: bool = False) -> None:
        super().__init__(exclusive=exclusive)
        self.name = "eager-swap"
        self._after, self._tools = after_s, tools
        self._timers: list[tuple[float, str, int, Tier, Context]] = []

    def ended(self, context: Context, now: float) -> None:
        """It leaves; and comes back when it is said to be wanted."""
        super().ended(context, now)
        if self._tools or context.tool in ("", "user"):
            self._timer(now + self._after, context, Tier.HOST)
        hint = context.estimate_s
        if hint is not None and math.isfinite(hint):
            lead = context.size_bytes / self.pools.link(Tier.HOST, Tier.DEVICE).bytes_per_s
            self._timer(max(now + self._after, context.since + hint - 1.5 * lead), context, Tier.DEVICE)

    def _timer(self, when: float, context: Context, target: Tier) -> None:
        heapq.heappush(self._timers, (when, context.key, context.turns, target, context))

    def wake(self) -> float:
        """When the next one leaves or comes."""
        return min(super().wake(), self._timers[0][0]) if self._timers else super().wake()

    def due(self, now: float) -> Iterable[Move]:
        """Those who leave or come now."""
        yield from super().due(now)
        while self._timers and self._timers[0][0] <= now:
            when, _, turns, target, context = heapq.heappop(self._timers)
            if context.turns != turns or context.phase is not Phase.WAITING:
                continue
            missing = context.size_bytes - context.device_bytes - context.loading_bytes
            if target is Tier.HOST and context.device_bytes:
                yield Move(context, context.device_bytes, Tier.DEVICE, Tier.HOST, because="its wait began")
            elif target is Tier.DEVICE and missing and context.host_bytes:
                yield Move(context, missing, Tier.HOST, Tier.DEVICE, deadline=when, because="its wait should end")
