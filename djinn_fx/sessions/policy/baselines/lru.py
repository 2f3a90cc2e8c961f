"""Who was used longest ago leaves first: with a host tier, without one, or nobody stays at all (recompute)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from djinn_fx.sessions.policy.base import Move, Policy
from djinn_fx.sessions.policy.index import Ordered
from djinn_fx.sessions.policy.state import Context, Tier


class LRU(Policy):
    """Least recently used, in the device's pool and in the host's.

    Args:
        host: victims go to the host; else they are dropped.
        exclusive: what is on the device again leaves the host.
    """

    name = "lru-host"

    def __init__(self, host: bool = True, exclusive: bool = False) -> None:
        self._exclusive = exclusive
        self._again: list[Context] = []
        self._host = host
        self.name = "lru-host" if host else "lru"
        self.order: dict[Tier, Ordered] = {Tier.DEVICE: Ordered(), Tier.HOST: Ordered()}

    def key(self, context: Context, now: float) -> float:
        """Least goes first: when it was last used."""
        return context.since

    def began(self, context: Context, now: float) -> None:
        """It cannot leave while it is used."""
        for order in self.order.values():
            order.drop(context)

    def ended(self, context: Context, now: float) -> None:
        """It was used just now."""
        if self._exclusive and context.host_bytes:
            self._again.append(context)
        self._place(context, now)

    def moved(self, context: Context, source: Tier, target: Tier, now: float) -> None:
        """It may be in another tier now."""
        self._place(context, now)

    def closed(self, context: Context, now: float) -> None:
        """Nothing of it is left."""
        self.began(context, now)

    def wake(self) -> float:
        """At once, if there are second copies to be dropped."""
        return 0.0 if self._again else math.inf

    def due(self, now: float) -> Iterable[Move]:
        """Copies on the host of what is on the device again."""
        again, self._again = self._again, []
        for one in again:
            if one.host_bytes:
                yield Move(one, one.host_bytes, Tier.HOST, Tier.NOWHERE, because="the device has it")

    def _place(self, context: Context, now: float) -> None:
        for tier, there in (
            (Tier.DEVICE, context.device_bytes + context.loading_bytes),
            (Tier.HOST, context.host_bytes),
        ):
            if there and context.movable(now):
                if context not in self.order[tier]:
                    self.order[tier].set(context, self.key(context, now))
            else:
                self.order[tier].drop(context)

    def room(self, tier: Tier, nbytes: int, now: float, tenant: str = "") -> Iterator[Move]:
        """In the order of their keys."""
        below = Tier.HOST if tier is Tier.DEVICE and self._host and self.pools.capacity(Tier.HOST) else Tier.NOWHERE
        before: tuple[float, Context] | None = None
        for key, context in self.order[tier].walk():
            if before is not None:
                yield self._move(tier, below, before, (key, context))
            before = key, context
        if before is not None:
            yield self._move(tier, below, before, None)

    def _move(self, tier: Tier, below: Tier, one: tuple[float, Context], other: tuple[float, Context] | None) -> Move:
        key, context = one
        nbytes = context.device_bytes + context.loading_bytes if tier is Tier.DEVICE else context.host_bytes
        return Move(
            context, nbytes, tier, below, value=key, unit="s", because="used longest ago",
            runner_up=other[1] if other else None, runner_up_value=other[0] if other else 0.0,
        )  # fmt: skip


class LIFO(LRU):
    """As LRU, but the turn that came last goes first: what stacks do, to be compared."""

    name = "lifo"

    def rank(self, context: Context, now: float) -> tuple[float, ...]:
        """Last come, first served."""
        return (-context.priority, -context.since)


class Recompute(Policy):
    """A context is dropped when its turn is over, and computed anew for the next one."""

    name = "recompute"

    def __init__(self) -> None:
        self._ended: list[Context] = []

    def ended(self, context: Context, now: float) -> None:
        """To be dropped at once."""
        self._ended.append(context)

    def wake(self) -> float:
        """At once, if a turn is over."""
        return 0.0 if self._ended else float("inf")

    def due(self, now: float) -> Iterable[Move]:
        """Those whose turns are over."""
        ended, self._ended = self._ended, []
        return [
            Move(one, one.device_bytes, Tier.DEVICE, Tier.NOWHERE, because="nothing is kept")
            for one in ended
            if one.device_bytes and one.movable(now)
        ]

    def room(self, tier: Tier, nbytes: int, now: float, tenant: str = "") -> Iterator[Move]:
        """Whoever has just ended."""
        return iter(list(self.due(now)))
