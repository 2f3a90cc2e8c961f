"""The contract between a policy and whoever drives it: the real pools, or a simulator.

A driver tells a policy what happens (``opened``, ``began``, ``ended``, ``hinted``, ``moved``, ``closed``), and asks it
three things:

* ``room(tier, nbytes, now)``: a turn cannot go on before so many bytes of a tier are free; who leaves, and where to?
* ``due(now)``, as soon as ``wake()`` is past, which any event may bring about: what should move though nobody asked:
  a context fetched before its turn comes, one swapped out early, a copy made while the link has nothing to do?
* ``rank(context, now)``: who of the turns that wait for memory, for the link or to be computed comes first?

Answers are wishes: a driver that cannot grant one (somebody reads the bytes, the tier below is full) passes on to the
next and need not say so, for a policy sees by the contexts what became of it. So no answer can do harm to a result:
the worst policy is a slow one. All calls come from one thread at a time. None may take long: at 1,000 contexts a
decision takes 100 µs at most, at 100,000 a millisecond.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.sessions.policy.state import Context, Phase, Pools, Tier


@dataclass(frozen=True, slots=True)
class Move:
    """A wish that bytes of a context go from one tier to another.

    Attributes:
        context: whose.
        nbytes: how many; the driver takes whole pages, from the context's end where they leave the device, and so
            many as are missing where they come to it. Less may be moved, never more than there are.
        source: where they are.
        target: where they go; ``NOWHERE`` drops them. To the device it is a prefetch.
        keep: leave them in the source too: a copy made ahead, so that leaving later costs nothing.
        deadline: of a prefetch, when they are wanted: among prefetches the earliest goes first.
        value: what keeping them is worth, in the policy's own unit (larger stays).
        unit: that unit, in words.
        runner_up: who would have been next, and ...
        runner_up_value: ... what keeping that one is worth.
        because: a few words on why.
    """

    context: Context
    nbytes: int
    source: Tier
    target: Tier
    keep: bool = False
    deadline: float = math.inf
    value: float = 0.0
    unit: str = ""
    runner_up: Context | None = None
    runner_up_value: float = 0.0
    because: str = ""

    @property
    def reason(self) -> Reason:
        """The move as a Reason; made when somebody asks, since most are never read."""
        kind = ReasonKind.TRANSFER if self.keep or self.target is Tier.DEVICE else ReasonKind.EVICTED
        where = f"{self.nbytes} bytes from {self.source.name.lower()} to {self.target.name.lower()}"
        worth = f"{self.value:.4g} {self.unit}".strip()
        return Reason(
            kind=kind,
            detail=f"{where}: {self.because or 'chosen by the policy'} ({worth})",
            node=self.context.key,
            runner_up=self.runner_up.key if self.runner_up is not None else None,
            runner_up_cost=f"{self.runner_up_value:.4g} {self.unit}".strip() if self.runner_up is not None else None,
        )


class Policy:
    """What a policy does if it says nothing else: first come, first served, nothing unasked, nobody leaves.

    Attributes:
        name: what reports and the plug-in table call it.
        pools: set by :meth:`attach`, before anything else is called.
    """

    name = "none"
    pools: Pools

    def attach(self, pools: Pools) -> None:
        """Whose memory it decides about; called once."""
        self.pools = pools

    # -- what happens ------------------------------------------------------------------------------------------------

    def opened(self, context: Context, now: float) -> None:
        """A session is there; it has no bytes yet."""

    def began(self, context: Context, now: float) -> None:
        """A turn of it came: from now on it is WANTED (or its COMPUTE signal says that it will be at once)."""

    def ended(self, context: Context, now: float) -> None:
        """A turn is over, the wait begins. ``tool``, ``estimate_s`` and ``steps`` hold what was said of the wait."""

    def hinted(self, context: Context, now: float) -> None:
        """While it waits the client said something new of the wait: ``tool``, ``estimate_s`` or ``steps`` changed."""

    def moved(self, context: Context, source: Tier, target: Tier, now: float) -> None:
        """Bytes of it left ``source``, or came to ``target``; the context's own numbers are already those of after."""

    def closed(self, context: Context, now: float) -> None:
        """It is gone; its bytes are free."""

    # -- what is asked -----------------------------------------------------------------------------------------------

    def room(self, tier: Tier, nbytes: int, now: float, tenant: str = "") -> Iterator[Move]:
        """Who leaves ``tier``, one move after the other, until the driver has enough and stops asking.

        Args:
            tier: where room is wanted.
            nbytes: how many bytes are missing.
            now: the driver's clock.
            tenant: for whom.
        """
        return iter(())

    def due(self, now: float) -> Iterable[Move]:
        """What should move now though nobody waits for it. Prefetches never push out what is read or wanted."""
        return ()

    def wake(self) -> float:
        """The next instant at which :meth:`due` would have something, if nothing happens before."""
        return math.inf

    def rank(self, context: Context, now: float) -> tuple[float, ...]:
        """The least goes first, of turns that are wanted. Ties go by arrival."""
        return (-context.priority, context.since)

    def recover_bytes(self, context: Context, now: float) -> int:
        """Of the bytes that a turn lacks on the device and a lower tier has, how many to load; the rest is computed."""
        return context.size_bytes - context.device_bytes

    def admits(self, context: Context, running: Sequence[Context], now: float) -> bool:
        """Whether a session's first turn may be admitted now, memory aside."""
        return True


def leaves_to(context: Context, pools: Pools, host: bool) -> Tier:
    """Where a victim's bytes go from the device: to the host if that is used and is there, else nowhere."""
    return Tier.HOST if host and pools.capacity(Tier.HOST) else Tier.NOWHERE


def waits(context: Context, now: float) -> float:
    """How long a context has been waiting; 0 if it is not."""
    return now - context.since if context.phase is Phase.WAITING else 0.0
