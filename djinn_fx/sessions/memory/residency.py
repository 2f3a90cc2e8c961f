"""What a policy wishes, carried out on the pools: pages leave, return and are dropped; each with its reason."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.sessions.conversation import Conversation
from djinn_fx.sessions.memory.view import View
from djinn_fx.sessions.policy.base import Move, Policy
from djinn_fx.sessions.policy.state import Phase, Tier
from djinn_fx.sessions.pools.job import Job
from djinn_fx.sessions.pools.moves import Mover
from djinn_fx.sessions.pools.store import Store
from djinn_fx.sessions.pools.table import NOWHERE, Moving
from djinn_fx.sessions.roster import Roster

#: How many of the last reasons are kept for who asks.
_REMEMBERED = 512


@dataclass
class Residency:
    """Moves pages as the policy wishes, as far as that can be.

    Attributes:
        store, mover: the pools.
        policy: who decides.
        view: what it sees.
        conversations: all sessions, by id.
        clock: the time.
        log: the last reasons, oldest first: of moves made by the policy and of what happened otherwise.
        recomputed_tokens: that were cached once and had to be, or have to be, computed again.
    """

    store: Store
    mover: Mover
    policy: Policy
    view: View
    conversations: Roster
    clock: Callable[[], float]
    log: deque[Move | Reason] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    recomputed_tokens: int = 0

    @property
    def page_bytes(self) -> int:
        """Bytes of a page."""
        return self.store.device.page_bytes

    # -- what is where ------------------------------------------------------------------------------------------------

    def refresh(self, one: Conversation) -> None:
        """Bring the policy's picture of a session up to date, and tell it what moved."""
        context, table, size = one.context, self.store.table, self.page_bytes
        before = (context.device_bytes, context.host_bytes, context.disk_bytes)
        own = device = host = disk = clean = loading = 0
        one.moving = False
        for page in one.holding:
            one.moving |= table.moving[page] != Moving.NO
            if table.refs[page] > 1:
                continue
            own += 1
            below = table.host[page] != NOWHERE or table.disk[page] != NOWHERE
            loading += table.moving[page] == Moving.IN
            host += table.host[page] != NOWHERE
            disk += table.disk[page] != NOWHERE
            if self.store.on_device(page):
                device += 1
                clean += below
        if one.moving:
            self.conversations.attend(one)
        context.size_bytes, context.device_bytes = own * size, device * size
        context.host_bytes, context.disk_bytes, context.clean_bytes = host * size, disk * size, clean * size
        context.loading_bytes = loading * size
        context.tokens = one.holding.cached
        context.readers = int(one.admitted or one.stepping)
        after = (context.device_bytes, context.host_bytes, context.disk_bytes)
        for tier, old, new in zip((Tier.DEVICE, Tier.HOST, Tier.DISK), before, after, strict=True):
            key = (context.tenant, tier)
            self.view.used[key] = self.view.used.get(key, 0) + new - old
        self._tell(one, before, after)

    def _tell(self, one: Conversation, before: tuple[int, ...], after: tuple[int, ...]) -> None:
        now = self.clock()
        if after[0] < before[0]:
            target = Tier.HOST if after[1] else Tier.DISK if after[2] else Tier.NOWHERE
            self.policy.moved(one.context, Tier.DEVICE, target, now)
        elif after[0] > before[0] and (before[1] or before[2]):
            self.policy.moved(one.context, Tier.HOST if before[1] else Tier.DISK, Tier.DEVICE, now)
        elif after[1] < before[1] and after[2] > before[2]:
            self.policy.moved(one.context, Tier.HOST, Tier.DISK, now)

    def settle(self) -> None:
        """Look again at sessions with pages under way."""
        for one in list(self.conversations.busy.values()):
            if one.moving:
                self.refresh(one)

    def resident(self, one: Conversation) -> bool:
        """Whether a step may use all of its pages now."""
        return all(map(self.store.on_device, one.holding))

    # -- returning ---------------------------------------------------------------------------------------------------

    def load(self, one: Conversation, at_most: int | None = None) -> int:
        """Have a session's pages return, the context's beginning first.

        Args:
            one: whose.
            at_most: pages on the device that may be taken for it; None for all that are free.

        Returns:
            For how many pages there was no room.
        """
        pages = [page for page in one.holding if not self.store.on_device(page)]
        short = 0
        if at_most is not None and len(pages) > at_most:
            short = len(pages) - at_most
            pages = pages[:at_most]
        jobs, without = self.store.load(pages)
        self._submit(jobs)
        if pages:
            self.refresh(one)
        return short + without

    def mend(self, one: Conversation) -> bool:
        """Cut a session's cache before the first page of which no copy is left; whether there was one."""
        lost = [page for page in one.holding if self.store.lost(page)]
        if not lost:
            return False
        reason = f"{len(lost)} damaged pages of {self.page_bytes} bytes: what they held is computed again"
        self.log.append(Reason(kind=ReasonKind.RECOMPUTED, detail=reason, node=one.key))
        self.cut_before(one, set(lost))
        return True

    # -- leaving -----------------------------------------------------------------------------------------------------

    def make_room(self, pages: int, tenant: str, spare: Iterable[Conversation] = ()) -> int:
        """Have pages leave the device until so many more will be free, as the policy chooses.

        Args:
            pages: how many are missing.
            tenant: for whom.
            spare: sessions that must not be touched.

        Returns:
            How many more will be free.
        """
        now, won, untouched = self.clock(), 0, {id(one) for one in spare}
        for move in self.policy.room(Tier.DEVICE, pages * self.page_bytes, now, tenant):
            if won >= pages:
                return won
            one = self.conversations.get(move.context.key)
            if one is None or id(one) in untouched or not one.context.movable(now):
                continue
            freed = self.evict(one, min(-(-move.nbytes // self.page_bytes), pages - won), move.target)
            if freed:
                self.log.append(move)
            won += freed
        return won + self._make_room_anyhow(pages - won, untouched) if won < pages else won

    def _make_room_anyhow(self, pages: int, untouched: set[int]) -> int:
        """The policy offers nobody more: pages that sessions share go too, those of the longest unused first."""
        now, won = self.clock(), 0
        idle = [
            one
            for one in self.conversations.values()
            if id(one) not in untouched and not one.admitted and not one.stepping and now >= one.context.pinned_until
        ]
        kept = {
            page for one in self.conversations.busy.values() if one.admitted or one.stepping for page in one.holding
        }
        for one in sorted(idle, key=lambda one: one.last_step):
            if won >= pages:
                break
            found = [page for page in one.holding if page not in kept and self.store.may_leave(page)]
            freed = self._leave(one, found[-(pages - won) :], Tier.HOST)
            won += freed
            if freed:
                detail = f"{freed} pages leave the device: it is short, and nothing that the policy offers is left"
                self.log.append(Reason(kind=ReasonKind.EVICTED, detail=detail, node=one.key))
        return won

    def evict(self, one: Conversation, pages: int, target: Tier) -> int:
        """Have a session's own pages leave the device, from its end; returns how many will be free for it."""
        table = self.store.table
        own = [page for page in one.holding if table.refs[page] == 1 and self.store.may_leave(page)]
        return self._leave(one, own[len(own) - pages :] if pages < len(own) else own, target)

    def _leave(self, one: Conversation, pages: list[int], target: Tier) -> int:
        if not pages:
            return 0
        if target is Tier.NOWHERE and self.clock() >= one.retained_until:
            return self.drop(one, pages)
        if target is Tier.HOST:
            self._make_host_room(len(pages), one)
        # From the end on, so that what stays is the context's beginning.
        at_once, jobs, without = self.store.evict(reversed(pages))
        self._submit(jobs)
        moved = at_once + sum(len(job.moves) for job in jobs)
        if without and self.clock() >= one.retained_until:
            moved += self.drop(one, without)
            detail = f"no room below the device for {len(without)} pages: they are dropped, and computed again"
            self.log.append(Reason(kind=ReasonKind.EVICTED, detail=detail, node=one.key))
        self.refresh(one)
        return moved

    def _make_host_room(self, pages: int, leaving: Conversation) -> None:
        """Have older caches leave the host, as the policy chooses; what goes to the disk frees its place later."""
        host, now = self.store.host, self.clock()
        if host is None or self.store.host_room >= pages:
            return
        missing = (pages - self.store.host_room) * self.page_bytes
        for move in self.policy.room(Tier.HOST, missing, now, leaving.context.tenant):
            if self.store.host_room >= pages:
                return
            if move.context is not leaving.context:
                self.carry_out([move], 0)

    def drop(self, one: Conversation, pages: Iterable[int]) -> int:
        """Give up pages, and those behind them; returns how many the device gains."""
        free = self.store.device.free + self.store.leaving
        self.cut_before(one, set(pages))
        return self.store.device.free + self.store.leaving - free

    def cut_before(self, one: Conversation, pages: set[int]) -> None:
        """Shorten a session's cache so that it holds none of these pages; where it cannot be shortened, empty it."""
        holding = one.holding
        tokens = holding.cached
        for group, held in zip(holding.layout.groups, holding.lists, strict=True):
            for place, page in enumerate(held.pages):
                if page in pages:
                    tokens = min(tokens, (place + held.gone) * group.page_tokens(self.page_bytes))
                    break
        if not pages.isdisjoint(holding.states):
            tokens = 0
        before = holding.cached
        self.store.release(holding.cut(tokens))
        self.recomputed_tokens += before - holding.cached
        self.refresh(one)

    # -- unasked -----------------------------------------------------------------------------------------------------

    def carry_out(self, moves: Iterable[Move], spoken_for: int) -> None:
        """What the policy wishes unasked.

        Args:
            moves: its wishes.
            spoken_for: free pages on the device that turns under way will need.
        """
        now = self.clock()
        for move in moves:
            one = self.conversations.get(move.context.key)
            if one is None:
                continue
            pages = -(-move.nbytes // self.page_bytes)
            if move.target is Tier.DEVICE:
                free = self.store.device.free - spoken_for
                if free <= 0 or one.admitted:
                    continue
                self.load(one, min(pages, free))
            elif move.source is Tier.DEVICE and move.keep:
                self._submit(self.store.copy_ahead(list(one.holding)[-pages:]))
                self.refresh(one)
            elif move.source is Tier.DEVICE:
                if not one.context.movable(now) or not self.evict(one, pages, move.target):
                    continue
            elif move.target is Tier.DISK:
                self._submit(self.store.demote(one.holding))
                self.refresh(one)
            elif not self._forget_below(one, now):
                continue
            self.log.append(move)

    def _forget_below(self, one: Conversation, now: float) -> bool:
        """Give up copies on the host; where they are all there is, the cache with them."""
        if self.store.drop_copies(one.holding):
            self.refresh(one)
            return True
        if one.context.phase is not Phase.WAITING or now < one.retained_until or one.admitted:
            return False
        gone = {page for page in one.holding if not self.store.on_device(page)}
        if gone:
            self.cut_before(one, gone)
        return bool(gone)

    def _submit(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            self.mover.submit(job)
