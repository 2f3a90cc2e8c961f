"""What a policy is shown: contexts, the tiers they lie in, and what moving or computing them takes.

All of it belongs to the driver (the real pools, or a simulator), which writes it; a policy reads. Bytes are whole
numbers, seconds are floats of the driver's own clock, which may be virtual.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any, Protocol


class Tier(IntEnum):
    """Where bytes of a context can lie, the fastest first. ``NOWHERE`` means dropped: to be computed again."""

    DEVICE = 0
    HOST = 1
    DISK = 2
    NOWHERE = 3


class Phase(Enum):
    """What a context is doing."""

    WANTED = "wanted"
    """A turn has come and waits to be admitted, loaded or computed."""
    RUNNING = "running"
    """Being computed: its bytes are pinned to the device."""
    WAITING = "waiting"
    """Between turns (IO_WAIT): a tool or a person is awaited."""
    CLOSED = "closed"


@dataclass(slots=True, eq=False)
class Context:
    """One session's key-value cache. The driver keeps it true; a policy only reads, but for ``mark``.

    A context is computed from its first token on, so that the device holds its beginning: ``device_bytes`` are the
    first ones, and what leaves leaves from the end. Lower tiers hold copies, which stay true, since what was written
    is never changed: a byte may lie on the device and on the host at once, and then costs nothing to evict.

    Attributes:
        key: the session's id.
        tenant: who owns it.
        priority: larger goes first where anything queues.
        phase: what it is doing, since ``since``.
        since: when the phase began, in seconds of the driver's clock.
        tokens: its length.
        size_bytes: all of its own bytes, wherever they are; a prefix shared with others is a context of its own.
        device_bytes: of these, what is on the device (a beginning of the context).
        host_bytes: what has a copy on the host, whether or not it is on the device too.
        disk_bytes: what has a copy on the disk.
        clean_bytes: of ``device_bytes``, counted from their end, what has a copy below: leaving costs no store.
        loading_bytes: what is under way to the device and not there yet; counted in ``device_bytes`` when it is.
        readers: turns and other contexts that need its bytes on the device now; above 0 nothing may leave.
        pinned_until: a lease of the client's; before that instant nothing may leave.
        turns: turns completed.
        first_at: when its first turn came.
        tool: what is awaited, as the client called it; "" if it did not say.
        estimate_s: how long the wait will be from ``since`` on, by the client; None if it did not say.
        steps: how many steps of its workflow come before its next one; None if not known.
        next_use: the true instant of its next turn; only simulators know it, only a clairvoyant policy may look.
        mark: the policy's own record.
    """

    key: str
    tenant: str = ""
    priority: int = 0
    phase: Phase = Phase.WAITING
    since: float = 0.0
    tokens: int = 0
    size_bytes: int = 0
    device_bytes: int = 0
    host_bytes: int = 0
    disk_bytes: int = 0
    clean_bytes: int = 0
    loading_bytes: int = 0
    readers: int = 0
    pinned_until: float = 0.0
    turns: int = 0
    first_at: float = 0.0
    tool: str = ""
    estimate_s: float | None = None
    steps: int | None = None
    next_use: float | None = None
    mark: Any = None

    def movable(self, now: float) -> bool:
        """Whether its bytes may leave the device: it has some, nobody reads them and no lease holds them."""
        return self.readers == 0 and self.phase is Phase.WAITING and now >= self.pinned_until


class Link(Protocol):
    """One direction between two tiers."""

    @property
    def bytes_per_s(self) -> float:
        """Its rate, declared or measured."""
        ...

    def backlog_s(self, now: float) -> float:
        """How long what is queued on it already will take."""
        ...


class Pools(Protocol):
    """The memory that a policy decides about. A tier that does not exist has a capacity of 0."""

    def capacity(self, tier: Tier) -> int:
        """Bytes of a tier."""
        ...

    def free(self, tier: Tier) -> int:
        """Bytes of a tier that nobody has or was promised."""
        ...

    def link(self, source: Tier, target: Tier) -> Link:
        """The way from one tier to another."""
        ...

    def compute_s(self, first_token: int, last_token: int) -> float:
        """Seconds the device takes to compute tokens ``[first_token, last_token)`` of a context by itself."""
        ...

    def load_s(self, context: Context, now: float) -> float:
        """Seconds until what it lacks on the device would be there, by copies and by computing what has none."""
        ...

    def quota(self, tenant: str, tier: Tier) -> int | None:
        """How many bytes a tenant may have in a tier while others want them; None for any number."""
        ...

    def used_by(self, tenant: str, tier: Tier) -> int:
        """How many bytes a tenant has in a tier."""
        ...


@dataclass(frozen=True)
class FixedLink:
    """A link with a rate and a queue that stay as they are: for tests and for tiers without one."""

    bytes_per_s: float = 0.0
    queued_s: float = 0.0

    def backlog_s(self, now: float) -> float:
        """As given."""
        return self.queued_s


@dataclass
class PlainPools:
    """Pools as plain numbers: what tests and small drivers need.

    Attributes:
        capacities: bytes by tier.
        used: bytes by tier.
        rate: bytes a second of every link.
        queued_s: seconds that what is queued on every link takes.
        token_s: seconds to compute one token.
        quotas: by tenant and tier.
        usage: by tenant and tier.
    """

    capacities: dict[Tier, int]
    used: dict[Tier, int] = field(default_factory=dict)
    rate: float = 25e9
    queued_s: float = 0.0
    token_s: float = 1e-4
    quotas: dict[tuple[str, Tier], int] = field(default_factory=dict)
    usage: dict[tuple[str, Tier], int] = field(default_factory=dict)

    def capacity(self, tier: Tier) -> int:
        """Bytes of a tier."""
        return self.capacities.get(tier, 0)

    def free(self, tier: Tier) -> int:
        """Bytes of a tier that nobody has."""
        return self.capacity(tier) - self.used.get(tier, 0)

    def link(self, source: Tier, target: Tier) -> Link:
        """One rate and one queue for all of them."""
        return FixedLink(self.rate, self.queued_s)

    def compute_s(self, first_token: int, last_token: int) -> float:
        """So many seconds a token."""
        return self.token_s * (last_token - first_token)

    def load_s(self, context: Context, now: float) -> float:
        """Copies by the link, the rest computed."""
        missing = context.size_bytes - context.device_bytes
        copied = min(missing, max(context.host_bytes, context.disk_bytes))
        share = 1 - copied / missing if missing else 0.0
        return copied / self.rate + self.token_s * context.tokens * share * missing / max(1, context.size_bytes)

    def quota(self, tenant: str, tier: Tier) -> int | None:
        """As given."""
        return self.quotas.get((tenant, tier))

    def used_by(self, tenant: str, tier: Tier) -> int:
        """As given."""
        return self.usage.get((tenant, tier), 0)
