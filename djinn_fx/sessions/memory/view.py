"""The pools as a policy sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from djinn_fx.sessions.policy.state import Context, Tier
from djinn_fx.sessions.pools.moves import Mover
from djinn_fx.sessions.pools.store import Store

#: What reading a page from a disk is taken to reach; its bytes are in the system's own cache as often as not.
DISK_BYTES_PER_S = 1e9


@dataclass(frozen=True)
class Way:
    """One direction between two tiers, as of now.

    Attributes:
        bytes_per_s: declared or measured.
        queued_bytes: that wait for it.
    """

    bytes_per_s: float
    queued_bytes: int

    def backlog_s(self, now: float) -> float:
        """How long what is queued will take."""
        return self.queued_bytes / self.bytes_per_s


@dataclass
class View:
    """What a policy may know of the pools.

    Attributes:
        store, mover: the pools.
        seconds: to compute tokens ``[first, last)`` of a context alone.
        quotas: by tenant, the share of each tier that it may have while others want it.
        used: by tenant and tier, bytes.
    """

    store: Store
    mover: Mover
    seconds: Callable[[int, int], float]
    quotas: Mapping[str, float]
    used: dict[tuple[str, Tier], int]

    def capacity(self, tier: Tier) -> int:
        """Bytes of a tier."""
        pools = {Tier.DEVICE: self.store.device, Tier.HOST: self.store.host, Tier.DISK: self.store.disk}
        pool = pools.get(tier)
        return 0 if pool is None else pool.pages * pool.page_bytes

    def free(self, tier: Tier) -> int:
        """Bytes of a tier that nobody has."""
        pools = {Tier.DEVICE: self.store.device, Tier.HOST: self.store.host, Tier.DISK: self.store.disk}
        pool = pools.get(tier)
        return 0 if pool is None else pool.free * pool.page_bytes

    def link(self, source: Tier, target: Tier) -> Way:
        """The way from one tier to another."""
        into = target is Tier.DEVICE
        rate = self.mover.rate(into)
        if Tier.DISK in (source, target):
            rate = min(rate, DISK_BYTES_PER_S)
        return Way(rate, self.mover.waiting(into) * self.store.device.page_bytes)

    def compute_s(self, first_token: int, last_token: int) -> float:
        """Seconds to compute tokens of a context by itself."""
        return self.seconds(first_token, last_token)

    def load_s(self, context: Context, now: float) -> float:
        """Seconds until what it lacks on the device would be there."""
        missing = context.size_bytes - context.device_bytes
        if missing <= 0:
            return 0.0
        host = min(missing, context.host_bytes)
        disk = min(missing - host, context.disk_bytes)
        way = self.link(Tier.HOST, Tier.DEVICE)
        seconds = host / way.bytes_per_s + disk / self.link(Tier.DISK, Tier.DEVICE).bytes_per_s
        if host or disk:
            seconds += way.backlog_s(now)
        share = (missing - host - disk) / max(1, context.size_bytes)
        return seconds + self.compute_s(round(context.tokens * (1 - share)), context.tokens)

    def quota(self, tenant: str, tier: Tier) -> int | None:
        """Bytes that a tenant may have in a tier; None for any number."""
        share = self.quotas.get(tenant)
        return None if share is None else int(share * self.capacity(tier))

    def used_by(self, tenant: str, tier: Tier) -> int:
        """Bytes that a tenant has in a tier."""
        return self.used.get((tenant, tier), 0)
