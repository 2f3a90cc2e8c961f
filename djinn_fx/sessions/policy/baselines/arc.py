"""Adaptive replacement: recency and frequency share the memory by which of them is missed more.

Megiddo and Modha, ARC, FAST 2003. Contexts have sizes, so that the four lists and their target count bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from djinn_fx.sessions.policy.base import Move
from djinn_fx.sessions.policy.baselines.lru import LRU
from djinn_fx.sessions.policy.index import Ordered
from djinn_fx.sessions.policy.state import Context, Tier


class ARC(LRU):
    """ARC on the device; LRU on the host."""

    name = "arc"

    def __init__(self, exclusive: bool = False) -> None:
        super().__init__(exclusive=exclusive)
        self.name = "arc"
        self.target = 0.0
        self._once, self._often = Ordered(), Ordered()
        self._ghosts: dict[bool, OrderedDict[str, int]] = {False: OrderedDict(), True: OrderedDict()}
        self._seen: dict[str, bool] = {}

    def began(self, context: Context, now: float) -> None:
        """A hit, or a miss of what one of the lists has let go."""
        for often, ghosts in self._ghosts.items():
            size = ghosts.pop(context.key, 0)
            if size:
                mine, other = sum(ghosts.values()) + size, sum(self._ghosts[not often].values())
                step = size * max(1.0, other / mine)
                self.target += -step if often else step
                self.target = min(max(0.0, self.target), float(self.pools.capacity(Tier.DEVICE)))
        self._seen[context.key] = context.turns > 0
        super().began(context, now)
        self._once.drop(context)
        self._often.drop(context)

    def closed(self, context: Context, now: float) -> None:
        """No ghost of it is left."""
        for ghosts in self._ghosts.values():
            ghosts.pop(context.key, None)
        self._seen.pop(context.key, None)
        self._once.drop(context)
        self._often.drop(context)
        super().closed(context, now)

    def _place(self, context: Context, now: float) -> None:
        super()._place(context, now)
        mine, other = (self._often, self._once) if self._seen.get(context.key) else (self._once, self._often)
        other.drop(context)
        if context in self.order[Tier.DEVICE]:
            if context not in mine:
                mine.set(context, context.since)
        else:
            mine.drop(context)

    def moved(self, context: Context, source: Tier, target: Tier, now: float) -> None:
        """What left leaves a ghost."""
        if source is Tier.DEVICE and not context.device_bytes:
            ghosts = self._ghosts[self._seen.get(context.key, False)]
            ghosts[context.key] = context.size_bytes
            while sum(ghosts.values()) > self.pools.capacity(Tier.DEVICE):
                ghosts.popitem(last=False)
        super().moved(context, source, target, now)

    def room(self, tier: Tier, nbytes: int, now: float, tenant: str = "") -> Iterator[Move]:
        """From the list that has more than its share."""
        if tier is not Tier.DEVICE:
            yield from super().room(tier, nbytes, now, tenant)
            return
        below = Tier.HOST if self.pools.capacity(Tier.HOST) else Tier.NOWHERE
        once = [one for _, one in self._once.walk()]
        often = [one for _, one in self._often.walk()]
        held = sum(one.device_bytes for one in once)
        while once or often:
            first = bool(once) and (held > self.target or not often)
            one = once.pop(0) if first else often.pop(0)
            held -= one.device_bytes if first else 0
            yield Move(one, one.device_bytes + one.loading_bytes, tier, below, because="once" if first else "often")
