"""What every policy shares that has an idea of when a context will be wanted next.

Who is wanted last leaves the device first; who is wanted soon and is not there is fetched just in time, in the place of
others that are wanted later; what is new is copied to the host while the link has nothing better to do, so that leaving
costs nothing when memory is needed. A subclass says *when* (:meth:`Foresight.outlook`), and how sure that is.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from djinn_fx.sessions.policy.base import Move, Policy
from djinn_fx.sessions.policy.index import Ordered
from djinn_fx.sessions.policy.state import Context, Phase, Tier

#: How many absent contexts a plan of fetches looks at.
AHEAD = 8
#: Seconds that a plan of fetches looks ahead.
AHEAD_S = 120.0
#: How many contexts on the host are compared before some are dropped.
CHOICE = 24
#: A link with more seconds queued than that takes no fetch that nobody waits for: it would only hold memory.
BUSY_S = 0.5
#: How often a context is fetched in one wait, if it has to leave again meanwhile.
TRIES = 3
#: Seconds after which a plan that could not be carried out is looked at again, unless something happens before.
SOONEST = 0.05

#: A context and the key that it is ordered by.
Place = tuple[float, Context]


@dataclass(frozen=True, slots=True)
class Outlook:
    """When a context is wanted next.

    Attributes:
        at: the instant, as a key to compare contexts by: who has the later one leaves the device first.
        lasting: the same for the host, which keeps for longer.
        fetch_at: by when it should be on the device; infinity where the guess is not worth a fetch.
        again: when to ask anew, if nothing happens before.
        because: where the guess comes from, in a few words.
    """

    at: float
    lasting: float
    fetch_at: float = math.inf
    again: float = math.inf
    because: str = ""


class Foresight(Policy):
    """A policy with an outlook.

    Args:
        margin_s: how much earlier than just in time a fetch is over.
        slack: the same, as a factor on the seconds that fetches take.
        copies: whether new bytes are copied to the host ahead.
        patience: among turns that wait, one goes before another that came so many times its load's seconds earlier.
        dearer: so many seconds of the link are taken for one of computing: that delays all that are computed beside it,
            the link those alone that load.
    """

    name = "foresight"

    def __init__(
        self,
        margin_s: float = 0.5,
        slack: float = 1.5,
        copies: bool = True,
        patience: float = 4.0,
        dearer: float = 4.0,
    ) -> None:
        self._margin, self._slack, self._copies, self._patience = margin_s, slack, copies, patience
        self._dearer = dearer
        self.device, self.host, self.twice, self.absent = Ordered(), Ordered(), Ordered(), Ordered()
        self.outlooks: dict[str, Outlook] = {}
        self._reviews: list[tuple[float, str, int]] = []
        self._contexts: dict[str, Context] = {}
        self._tenants: set[str] = set()
        self._fresh: list[Context] = []
        self._wake = math.inf
        self._tried: dict[str, int] = {}
        self.making_room = False

    def outlook(self, context: Context, now: float) -> Outlook:
        """When a waiting context is wanted next."""
        raise NotImplementedError

    def worth(self, context: Context, at: float, now: float) -> float:
        """What a byte on the host is worth: seconds of computing it anew, over the seconds until it is wanted."""
        tokens = context.tokens
        anew = self.pools.compute_s(0, tokens) / max(1, context.size_bytes)
        return anew / max(1.0, at - now)

    # -- what happens ------------------------------------------------------------------------------------------------

    def opened(self, context: Context, now: float) -> None:
        """It is known from now on."""
        self._contexts[context.key] = context
        self._tenants.add(context.tenant)

    def began(self, context: Context, now: float) -> None:
        """It cannot leave, and need not be fetched."""
        self.outlooks.pop(context.key, None)
        self._tried.pop(context.key, None)
        for order in (self.device, self.host, self.absent):
            order.drop(context)
        self._place(context, now)

    def ended(self, context: Context, now: float) -> None:
        """A wait begins; what is to be thought of it is thought when somebody asks, for a client waits for this."""
        heapq.heappush(self._reviews, (now, context.key, context.turns))
        if self._copies:
            self._fresh.append(context)

    def hinted(self, context: Context, now: float) -> None:
        """Another outlook."""
        heapq.heappush(self._reviews, (now, context.key, context.turns))

    def moved(self, context: Context, source: Tier, target: Tier, now: float) -> None:
        """It is in other tiers now."""
        self._place(context, now)

    def closed(self, context: Context, now: float) -> None:
        """Nothing of it is left."""
        self._contexts.pop(context.key, None)
        self._tried.pop(context.key, None)
        self.outlooks.pop(context.key, None)
        for order in (self.device, self.host, self.twice, self.absent):
            order.drop(context)
        self._wake = min(self._wake, now)

    def _look(self, context: Context, now: float) -> None:
        outlook = self.outlook(context, now)
        self.outlooks[context.key] = outlook
        if outlook.again < math.inf:
            heapq.heappush(self._reviews, (max(outlook.again, now + 1e-3), context.key, context.turns))
        self._place(context, now)

    def _place(self, context: Context, now: float) -> None:
        """Enter a context where it belongs by its bytes and its outlook."""
        outlook = self.outlooks.get(context.key)
        there = context.device_bytes + context.loading_bytes
        if outlook is None or context.phase is not Phase.WAITING:
            self._twice(context, now)
            return
        _enter(self.device, context, -outlook.at, there > 0)
        missing = context.size_bytes > there and context.host_bytes > 0 and self._tried.get(context.key, 0) < TRIES
        _enter(self.absent, context, outlook.fetch_at, missing and outlook.fetch_at < math.inf)
        _enter(self.host, context, -outlook.lasting, context.host_bytes > 0)
        self._twice(context, outlook.at)
        if missing and outlook.fetch_at < math.inf:
            self._wake = min(self._wake, max(now, outlook.fetch_at - AHEAD_S))

    def _twice(self, context: Context, at: float) -> None:
        _enter(self.twice, context, at, context.clean_bytes > 0)

    def review(self, now: float) -> None:
        """Ask anew for those whose outlook was to hold until now."""
        reviews = self._reviews
        while reviews and reviews[0][0] <= now:
            _, key, turns = heapq.heappop(reviews)
            context = self._contexts.get(key)
            if context is not None and context.turns == turns and context.phase is Phase.WAITING:
                self._look(context, now)

    # -- what is asked -----------------------------------------------------------------------------------------------

    def room(self, tier: Tier, nbytes: int, now: float, tenant: str = "") -> Iterator[Move]:
        """From the device those wanted last; from the host second copies first, then what is worth least there."""
        self.review(now)
        if tier is Tier.DEVICE:
            below = Tier.HOST if self.pools.capacity(Tier.HOST) else Tier.NOWHERE
            self.making_room = True
            try:
                yield from self._over_quota(below, now)
                yield from self._walk(self.device, tier, below, now)
            finally:
                self.making_room = False
        else:
            yield from self._walk(self.twice, tier, Tier.NOWHERE, now, second=True)
            yield from self._from_host(now)

    def _over_quota(self, below: Tier, now: float) -> Iterator[Move]:
        """Who has more than its tenant may while others want the memory, as long as that is so."""
        pools, tier = self.pools, Tier.DEVICE
        quotas = {tenant: pools.quota(tenant, tier) for tenant in self._tenants}
        over = {tenant for tenant, most in quotas.items() if most is not None and pools.used_by(tenant, tier) > most}
        if not over:
            return
        for key, context in self.device.walk():
            most = quotas[context.tenant]
            excess = pools.used_by(context.tenant, tier) - most if most is not None else 0
            if excess > 0:
                there = context.device_bytes + context.loading_bytes
                yield Move(
                    context, min(excess, there), tier, below, value=-key - now, unit="s until wanted",
                    because=f"tenant {context.tenant!r} has {excess} bytes more than its quota",
                )  # fmt: skip

    def _from_host(self, now: float) -> Iterator[Move]:
        """Of some that are wanted last, those first that are worth least; a context's length tells too."""
        few: list[tuple[float, Context]] = []
        walk = self.host.walk()
        for key, context in walk:
            few.append((self.worth(context, -key, now), context))
            if len(few) == CHOICE:
                break
        walk.close()  # type: ignore[attr-defined]
        few.sort(key=lambda one: one[0])
        for one, other in itertools.zip_longest(few, few[1:]):
            yield self._leave(one, other, Tier.HOST, Tier.NOWHERE, now, False)
        yield from self._walk(self.host, Tier.HOST, Tier.NOWHERE, now)

    def _walk(self, order: Ordered, tier: Tier, below: Tier, now: float, second: bool = False) -> Iterator[Move]:
        before: tuple[float, Context] | None = None
        for one in order.walk():
            if before is not None:
                yield self._leave(before, one, tier, below, now, second)
            before = one
        if before is not None:
            yield self._leave(before, None, tier, below, now, second)

    def _leave(
        self,
        one: tuple[float, Context],
        other: tuple[float, Context] | None,
        tier: Tier,
        below: Tier,
        now: float,
        second: bool,
    ) -> Move:
        context = one[1]
        outlook = self.outlooks.get(context.key)
        nbytes = context.device_bytes + context.loading_bytes if tier is Tier.DEVICE else context.host_bytes
        return Move(
            context,
            min(nbytes, context.clean_bytes) if second else nbytes,
            tier,
            below,
            value=abs(one[0]) - now if tier is Tier.DEVICE else one[0],
            unit="s until wanted" if tier is Tier.DEVICE else "",
            runner_up=other[1] if other else None,
            runner_up_value=(abs(other[0]) - now if tier is Tier.DEVICE else other[0]) if other else 0.0,
            because="the device has it too" if second else (outlook.because if outlook else ""),
        )

    def rank(self, context: Context, now: float) -> tuple[float, ...]:
        """By when it came; who needs long to load lets others pass for some multiple of that, no more."""
        return (-context.priority, context.since + self._patience * self.pools.load_s(context, now))

    def recover_bytes(self, context: Context, now: float) -> int:
        """All that it lacks, or nothing where behind what is queued that takes longer than it is worth computing."""
        missing = context.size_bytes - context.device_bytes - context.loading_bytes
        link = self.pools.link(Tier.HOST, Tier.DEVICE)
        there = context.tokens - round(context.tokens * missing / max(1, context.size_bytes))
        anew = self.pools.compute_s(there, context.tokens)
        # What computing takes is not known before the first steps: 0.
        loaded = link.backlog_s(now) + missing / link.bytes_per_s
        return missing if not anew or loaded <= self._dearer * anew else 0

    def wake(self) -> float:
        """When the next fetch should begin, or an outlook ends."""
        return min(self._wake, self._reviews[0][0]) if self._reviews else self._wake

    def due(self, now: float) -> Iterable[Move]:
        """Copies ahead of what is new; fetches just in time, each with those that make room for it."""
        self._wake = math.inf
        self.review(now)
        fresh, self._fresh = self._fresh, []
        for context in fresh:
            if context.phase is Phase.WAITING and context.device_bytes > context.clean_bytes:
                yield Move(
                    context, context.device_bytes - context.clean_bytes, Tier.DEVICE, Tier.HOST, keep=True,
                    deadline=now, because="so that it may leave at once",
                )  # fmt: skip
        yield from self._fetches(now)
        self._wake = max(self._wake, now + SOONEST)

    def _fetches(self, now: float) -> Iterator[Move]:
        """Fetches by their deadlines; one begins early enough for those behind it to be in time as well."""
        first = self.absent.first()
        if first is None or first[0] > now + AHEAD_S:
            self._wake = min(self._wake, first[0] - AHEAD_S) if first is not None else self._wake
            return
        plan: list[tuple[float, Context]] = []
        for one in self.absent.walk():
            plan.append(one)
            if len(plan) == AHEAD:
                break
        link = self.pools.link(Tier.HOST, Tier.DEVICE)
        start, starts = math.inf, [0.0] * len(plan)
        for place in range(len(plan) - 1, -1, -1):
            at, context = plan[place]
            missing = context.size_bytes - context.device_bytes - context.loading_bytes
            start = min(at - self._margin, start) - self._slack * missing / link.bytes_per_s
            starts[place] = start
        free = self.pools.free(Tier.DEVICE)
        for (at, context), begin in zip(plan, starts, strict=True):
            if begin > now:
                self._wake = min(self._wake, begin)
                return
            if context.loading_bytes:
                continue
            if (queued := link.backlog_s(now)) > BUSY_S:
                self._wake = min(self._wake, now + queued)
                return
            missing = context.size_bytes - context.device_bytes
            # Who would be the next to leave is not fetched in the place of others.
            for move in self._make_way(context, self.outlooks[context.key].at, missing - free, now):
                free += move.nbytes
                yield move
            if free <= 0:
                self._wake = min(self._wake, now + 1.0)
                return
            free -= min(free, missing)
            tried = self._tried[context.key] = self._tried.get(context.key, 0) + 1
            if tried == TRIES:
                self.absent.drop(context)
            yield Move(
                context, missing, Tier.HOST, Tier.DEVICE, deadline=at, value=at - now, unit="s until wanted",
                because=self.outlooks[context.key].because,
            )  # fmt: skip

    def _make_way(self, context: Context, at: float, nbytes: int, now: float) -> list[Move]:
        """Those that leave for a fetch: wanted later than it."""
        moves: list[Move] = []
        if nbytes <= 0:
            return moves
        for key, other in self.device.walk():
            if nbytes <= 0 or -key <= at:
                break
            if other is context or not other.movable(now):
                continue
            there = min(nbytes, other.device_bytes + other.loading_bytes)
            moves.append(
                Move(
                    other, there, Tier.DEVICE, Tier.HOST, value=-key - now, unit="s until wanted", runner_up=context,
                    runner_up_value=at - now, because="another is wanted earlier",
                )
            )  # fmt: skip
            nbytes -= there
        return moves


def _enter(order: Ordered, context: Context, key: float, belongs: bool) -> None:
    if not belongs:
        order.drop(context)
    elif order.key(context) != key:
        order.set(context, key)
