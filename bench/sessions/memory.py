"""The tiers of a simulated server: whose bytes are where, what may leave, what is on its way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from bench.sessions.law import Law
from bench.sessions.links import Link, Transfer
from djinn_fx.sessions.policy.base import Move, Policy
from djinn_fx.sessions.policy.state import Context, Phase, Tier


@dataclass(slots=True, eq=False)
class Entry:
    """A context and what the simulator knows of it beyond what a policy sees.

    The device holds its first bytes, the host those from ``host_low`` to ``host_high``, which begin at or before where
    the device's end.

    Attributes:
        context: what policies see.
        granted: bytes of the device that are its own: what is there, on its way, or will be computed.
        stored_at: when what it last stored is on the host.
        loading: the transfer to the device that is under way.
        copying: the copy to the host made ahead that is under way, ...
        copy_to: ... and how far it goes.
        idle: what it counts in ``Memory.idle``.
        parent: whose first bytes it needs beside its own.
        base_bytes: how many.
        kids: living contexts whose parent it is.
        orphaned: its session is over, but ``kids`` still need its first bytes.
        turn: the simulator's own record of the turn under way.
    """

    context: Context
    token_bytes: int
    granted: int = 0
    host_low: int = 0
    host_high: int = 0
    stored_at: float = 0.0
    loading: Transfer | None = None
    copying: Transfer | None = None
    copy_to: int = 0
    idle: int = 0
    parent: Entry | None = None
    base_bytes: int = 0
    kids: set[str] = field(default_factory=set)
    orphaned: bool = False
    turn: Any = None

    @property
    def recoverable(self) -> int:
        """Bytes from its first one on that are on the device or on the host."""
        context = self.context
        there = context.device_bytes
        return max(there, self.host_high) if self.host_low <= there and self.host_high else there


class Memory:
    """A device's pool, a host's pool, and a link in each direction.

    Args:
        device_bytes: of the device's pool.
        host_bytes: of the host's.
        link_bytes_s: of each direction.
        law: what computing takes.
        quotas: bytes of the device that a tenant may have while others want them.
    """

    def __init__(
        self, device_bytes: int, host_bytes: int, link_bytes_s: float, law: Law, quotas: dict[str, int] | None = None
    ) -> None:
        self.capacities = {Tier.DEVICE: device_bytes, Tier.HOST: host_bytes}
        self.used = {Tier.DEVICE: 0, Tier.HOST: 0}
        self.idle = 0
        self.into, self.out = Link(link_bytes_s), Link(link_bytes_s)
        self.entries: dict[str, Entry] = {}
        self.stored = self.loaded = self.dropped = self.prefetched = self.moves = 0
        self.by_tenant: dict[tuple[str, Tier], int] = {}
        self.policy = Policy()
        self.on_move: Callable[[Move], None] | None = None
        self._law, self._quotas = law, quotas or {}
        self._out_free_at = 0.0

    # -- what policies ask -------------------------------------------------------------------------------------------

    def capacity(self, tier: Tier) -> int:
        """Bytes of a tier; there is no disk."""
        return self.capacities.get(tier, 0)

    def free(self, tier: Tier) -> int:
        """Bytes that nobody has or was promised."""
        return self.capacities.get(tier, 0) - self.used.get(tier, 0)

    def link(self, source: Tier, target: Tier) -> Link:
        """The direction to the device, or the one from it."""
        return self.into if target is Tier.DEVICE else self.out

    def compute_s(self, first_token: int, last_token: int) -> float:
        """By the law, with the device to itself."""
        return self._law.prefill_s(first_token, last_token)

    def load_s(self, context: Context, now: float) -> float:
        """What is on the host by the link as it is, the rest computed."""
        entry = self.entries[context.key]
        there, end = context.device_bytes, entry.recoverable
        copies = (end - there) / self.into.bytes_per_s + self.into.backlog_s(now) if end > there else 0.0
        base = entry.base_bytes
        return copies + self.compute_s(
            (base + end) // entry.token_bytes, (base + context.size_bytes) // entry.token_bytes
        )

    def quota(self, tenant: str, tier: Tier) -> int | None:
        """As given; of the device alone."""
        return self._quotas.get(tenant) if tier is Tier.DEVICE else None

    def used_by(self, tenant: str, tier: Tier) -> int:
        """What is granted to a tenant's contexts."""
        return self.by_tenant.get((tenant, tier), 0)

    # -- bookkeeping -------------------------------------------------------------------------------------------------

    def grant(self, entry: Entry, granted: int) -> None:
        """Bytes of the device that are an entry's own from now on."""
        more = granted - entry.granted
        entry.granted = granted
        self.used[Tier.DEVICE] += more
        key = (entry.context.tenant, Tier.DEVICE)
        self.by_tenant[key] = self.by_tenant.get(key, 0) + more

    def refresh(self, entry: Entry) -> None:
        """Count anew what of an entry may leave the device."""
        context = entry.context
        idle = context.phase is Phase.WAITING and not context.readers
        now = entry.granted if idle else 0
        self.idle += now - entry.idle
        entry.idle = now

    def on_host(self, entry: Entry, low: int, high: int) -> None:
        """The host has an entry's bytes from ``low`` to ``high`` from now on."""
        if high <= low:
            low = high = 0
        self.used[Tier.HOST] += (high - low) - (entry.host_high - entry.host_low)
        entry.host_low, entry.host_high = low, high
        self._tell(entry)

    def _tell(self, entry: Entry) -> None:
        context = entry.context
        context.host_bytes = entry.host_high - entry.host_low
        there = context.device_bytes
        context.clean_bytes = max(0, there - entry.host_low) if entry.host_high >= there and entry.host_high else 0

    def on_device(self, entry: Entry, nbytes: int) -> None:
        """The device has an entry's first so many bytes from now on; what is granted is another matter."""
        entry.context.device_bytes = nbytes
        self._tell(entry)

    # -- leaving -----------------------------------------------------------------------------------------------------

    def make_room(self, nbytes: int, now: float, tenant: str = "") -> float:
        """Let the policy choose who leaves the device until so many bytes are free.

        Returns:
            When the last of those that leave is gone: what comes in their place, page by page, is not there before.
        """
        barrier = now
        if self.free(Tier.DEVICE) < nbytes:
            for move in self.policy.room(Tier.DEVICE, nbytes - self.free(Tier.DEVICE), now, tenant):
                most = nbytes - self.free(Tier.DEVICE)
                barrier = max(barrier, self.evict(move, now, most))
                if self.free(Tier.DEVICE) >= nbytes:
                    break
        return barrier

    def evict(self, move: Move, now: float, most: int | None = None) -> float:
        """Move an idle context's bytes off the device, from its end. Returns when the last of them is gone."""
        entry = self.entries.get(move.context.key)
        if entry is None or not entry.context.movable(now):
            return now
        context, page = entry.context, 64 * entry.token_bytes
        wanted = move.nbytes if most is None else min(move.nbytes, most)
        wanted = min(-(-wanted // page) * page, entry.granted)
        if wanted <= 0:
            return now
        self._end_copy(entry, now)
        if entry.loading is not None:
            granted = entry.granted
            self._end_load(entry, now)
            wanted = max(0, wanted - (granted - entry.granted))
        before, stays = entry.recoverable, context.device_bytes - wanted
        gone_at = self._store(entry, stays, now) if move.target is Tier.HOST else now
        if entry.host_high and not entry.host_low <= stays:
            self.on_host(entry, 0, 0)
        self.on_device(entry, stays)
        self.dropped += before - entry.recoverable
        self.grant(entry, stays)
        self.refresh(entry)
        self.moves += 1
        if self.on_move is not None:
            self.on_move(move)
        self.policy.moved(context, Tier.DEVICE, move.target, now)
        return gone_at

    def _store(self, entry: Entry, stays: int, now: float) -> float:
        """Copy to the host what it lacks of an entry's bytes from ``stays`` on. Returns when the copy is there."""
        there = entry.context.device_bytes
        low, high = entry.host_low, entry.host_high
        if not high or high < stays:
            low = high = stays
        fresh = max(0, low - stays) + max(0, there - high)
        if not fresh:
            return now
        if self.host_room(fresh + (entry.host_high - entry.host_low if low == high else 0), entry, now) < fresh:
            return now
        if low == high:
            self.on_host(entry, 0, 0)
        self.on_host(entry, min(low, stays), max(high, there))
        self.stored += fresh
        transfer = Transfer(entry, fresh, float(fresh), urgent=True)
        self.out.push(transfer, (0.0,), now)
        self._out_free_at = max(now, self._out_free_at) + fresh / self.out.bytes_per_s
        entry.stored_at = self._out_free_at
        return self._out_free_at

    def host_room(self, nbytes: int, keep: Entry, now: float) -> int:
        """Let the policy choose what leaves the host until so many bytes are free. Returns how many are."""
        if self.free(Tier.HOST) < nbytes <= self.capacity(Tier.HOST):
            for move in self.policy.room(Tier.HOST, nbytes - self.free(Tier.HOST), now, keep.context.tenant):
                entry = self.entries.get(move.context.key)
                if entry is not None and entry is not keep:
                    self.forget(entry, min(move.nbytes, nbytes - self.free(Tier.HOST)), now)
                    if self.free(Tier.HOST) >= nbytes:
                        break
        return self.free(Tier.HOST)

    def forget(self, entry: Entry, nbytes: int, now: float) -> None:
        """Drop copies from the host: first such as the device has too, then from the context's end."""
        context = entry.context
        if entry.loading is not None or context.phase is Phase.WANTED:
            return
        low, high, there = entry.host_low, entry.host_high, context.device_bytes
        page = 64 * entry.token_bytes
        nbytes = -(-nbytes // page) * page
        twice = max(0, min(high, there) - low)
        low += min(nbytes, twice)
        lost = min(max(0, nbytes - twice), high - low)
        self.dropped += lost
        self.on_host(entry, low, high - lost)
        self.policy.moved(context, Tier.HOST, Tier.NOWHERE, now)

    # -- coming ------------------------------------------------------------------------------------------------------

    def load(self, entry: Entry, end: int, urgent: bool, order: tuple[float, ...], barrier: float, now: float) -> None:
        """Copy an entry's bytes from the host up to ``end``; they are granted already."""
        start = entry.context.device_bytes
        transfer = Transfer(entry, end - start, float(end - start), urgent, max(barrier, entry.stored_at))
        entry.loading = transfer
        entry.context.loading_bytes = transfer.nbytes
        self.loaded += transfer.nbytes
        self.prefetched += 0 if urgent else transfer.nbytes
        self.into.push(transfer, order, now)

    def arrived(self, transfer: Transfer, now: float) -> None:
        """A load is over."""
        entry = transfer.owner
        entry.loading = None
        entry.context.loading_bytes = 0
        self.on_device(entry, entry.context.device_bytes + transfer.nbytes)
        self.policy.moved(entry.context, Tier.HOST, Tier.DEVICE, now)

    def _end_load(self, entry: Entry, now: float) -> None:
        """Take a prefetch back; whole pages that came stay."""
        transfer, page = entry.loading, 64 * entry.token_bytes
        assert transfer is not None
        carried = self.into.take_back(transfer, now) if transfer.left else transfer.nbytes
        came = carried // page * page if transfer.left else carried
        self.loaded -= transfer.nbytes - carried  # of a page, too, that came in part
        self.prefetched -= transfer.nbytes - carried
        entry.loading = None
        entry.context.loading_bytes = 0
        self.on_device(entry, entry.context.device_bytes + came)
        self.grant(entry, entry.context.device_bytes)
        self.refresh(entry)

    def prefetch(self, move: Move, now: float) -> None:
        """Begin to fetch a waiting context, as far as there is room."""
        entry = self.entries.get(move.context.key)
        if entry is None or entry.loading is not None or entry.context.phase is not Phase.WAITING:
            return
        page = 64 * entry.token_bytes
        start = entry.context.device_bytes
        fits = min(self.free(Tier.DEVICE), move.nbytes, entry.recoverable - start) // page * page
        if fits > 0:
            self.grant(entry, start + fits)
            self.refresh(entry)
            self.load(entry, start + fits, urgent=False, order=(1.0, move.deadline), barrier=now, now=now)

    # -- copies made ahead -------------------------------------------------------------------------------------------

    def copy_ahead(self, move: Move, now: float) -> None:
        """Copy to the host what an idle context has only on the device, and leave it there too."""
        entry = self.entries.get(move.context.key)
        if entry is None or entry.copying is not None or entry.loading is not None:
            return
        there = entry.context.device_bytes
        start = entry.host_high if entry.host_high and entry.host_low <= there else 0
        fresh = there - start
        if fresh <= 0 or self.free(Tier.HOST) < fresh:
            return
        self.used[Tier.HOST] += fresh
        entry.copying = Transfer(entry, fresh, float(fresh), urgent=False)
        entry.copy_to = there
        self.out.push(entry.copying, (1.0, move.deadline), now)

    def copied(self, transfer: Transfer) -> None:
        """A copy made ahead is there."""
        entry = transfer.owner
        entry.copying = None
        self.used[Tier.HOST] -= transfer.nbytes
        self.stored += transfer.nbytes
        self.on_host(entry, entry.copy_to - transfer.nbytes if not entry.host_high else entry.host_low, entry.copy_to)

    def _end_copy(self, entry: Entry, now: float) -> None:
        if entry.copying is not None:
            self.stored += self.out.take_back(entry.copying, now)
            self.used[Tier.HOST] -= entry.copying.nbytes
            entry.copying = None

    # -- turns and ends ----------------------------------------------------------------------------------------------

    def cut(self, entry: Entry, nbytes: int, now: float) -> None:
        """What a context has beyond its first so many bytes is not in common with its next turn: it goes everywhere."""
        self._end_copy(entry, now)
        context = entry.context
        if entry.loading is not None and context.device_bytes + entry.loading.nbytes > nbytes:
            self._end_load(entry, now)
        context.size_bytes = min(context.size_bytes, nbytes)
        if context.device_bytes > nbytes:
            self.on_device(entry, nbytes)
            self.grant(entry, nbytes)
        if entry.host_high > nbytes:
            self.on_host(entry, entry.host_low, nbytes)
        self.refresh(entry)

    def remove(self, entry: Entry, now: float) -> None:
        """A context is gone."""
        self.cut(entry, 0, now)
        self.grant(entry, 0)
        self.refresh(entry)
        self.entries.pop(entry.context.key, None)

    def broken(self) -> Iterable[str]:
        """Which invariants do not hold; slow, for tests."""
        entries = list(self.entries.values())
        sums = {
            "device": (sum(e.granted for e in entries), self.used[Tier.DEVICE]),
            "host": (
                sum(e.host_high - e.host_low + (e.copying.nbytes if e.copying else 0) for e in entries),
                self.used[Tier.HOST],
            ),
            "idle": (sum(e.idle for e in entries), self.idle),
        }
        yield from (f"{name}: {a} in the books, {b} added up" for name, (b, a) in sums.items() if a != b)
        for tier, used in self.used.items():
            if not 0 <= used <= self.capacities[tier]:
                yield f"{tier.name}: {used} of {self.capacities[tier]} bytes"
        for e in entries:
            c = e.context
            if not 0 <= c.device_bytes + c.loading_bytes <= e.granted or c.device_bytes > max(c.size_bytes, e.granted):
                yield f"{c.key}: {c.device_bytes} there and {c.loading_bytes} on the way of {e.granted} granted"
            if c.phase is Phase.WAITING and not c.readers and (e.granted != c.device_bytes + c.loading_bytes):
                yield f"{c.key} waits and holds {e.granted} for {c.device_bytes} and {c.loading_bytes} bytes"
            if e.host_high > c.size_bytes or e.host_low > e.host_high or not math.isfinite(e.stored_at):
                yield f"{c.key}: {e.host_low} to {e.host_high} of {c.size_bytes} on the host"
