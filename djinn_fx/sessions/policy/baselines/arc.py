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
        self._ghost_bytes = {False: 0, True: 0}
        self._seen: dict[str, bool] = {}
        self._sizes: dict[str, int] = {}
        self._held = 0

    def began(self, context: Context, now: float) -> None:
        """A hit, or a miss of what one of the lists has let go."""
        for often in (False, True):
            size = self._forget(context.key, often)
            if size:
                mine, other = self._ghost_bytes[often] + size, self._ghost_bytes[not often]
                step = size * max(1.0, other / mine)
                self.target += -step if often else step
                self.target = min(max(0.0, self.target), float(self.pools.capacity(Tier.DEVICE)))
        self._seen[context.key] = context.turns > 0
        super().began(context, now)
        self._drop(context)

    def _forget(self, key: str, often: bool) -> int:
        """Take a ghost out. Returns its bytes, 0 if there is none."""
        size = self._ghosts[often].pop(key, 0)
        self._ghost_bytes[often] -= size
        return size

    def _drop(self, context: Context) -> None:
        self._once.drop(context)
        self._often.drop(context)
        self._held -= self._sizes.pop(context.key, 0)

    def closed(self, context: Context, now: float) -> None:
        """No ghost of it is left."""
        for often in (False, True):
            self._forget(context.key, often)
        self._seen.pop(context.key, None)
        self._drop(context)
        super().closed(context, now)

    def _place(self, context: Context, now: float) -> None:
        super()._place(context, now)
        mine = self._often if self._seen.get(context.key) else self._once
        if context not in self.order[Tier.DEVICE]:
            self._drop(context)
            return
        if context not in mine:
            self._drop(context)
            mine.set(context, context.since)
        if mine is self._once:
            self._held += context.device_bytes - self._sizes.get(context.key, 0)
            self._sizes[context.key] = context.device_bytes

    def moved(self, context: Context, source: Tier, target: Tier, now: float) -> None:
        """What left leaves a ghost."""
        if source is Tier.DEVICE and not context.device_bytes:
            often = self._seen.get(context.key, False)
            self._forget(context.key, often)
            self._ghosts[often][context.key] = context.size_bytes
            self._ghost_bytes[often] += context.size_bytes
            while self._ghost_bytes[often] > self.pools.capacity(Tier.DEVICE):
                self._forget(next(iter(self._ghosts[often])), often)
        super().moved(context, source, target, now)

    def room(self, tier: Tier, nbytes: int, now: float, tenant: str = "") -> Iterator[Move]:
        """From the list that has more than its share."""
        if tier is not Tier.DEVICE:
            yield from super().room(tier, nbytes, now, tenant)
            return
        below = Tier.HOST if self.pools.capacity(Tier.HOST) else Tier.NOWHERE
        lists = self._once.walk(), self._often.walk()
        once, often = (next(walk, None) for walk in lists)
        held = self._held
        while once or often:
            first = once is not None and (held > self.target or often is None)
            place = once if first else often
            assert place is not None
            one = place[1]
            if first:
                held -= self._sizes.get(one.key, 0)
                once = next(lists[0], None)
            else:
                often = next(lists[1], None)
            yield Move(one, one.device_bytes + one.loading_bytes, tier, below, because="once" if first else "often")
