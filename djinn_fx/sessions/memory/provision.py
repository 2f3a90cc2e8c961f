"""Memory for turns: which may use the device, what they lack there, and who makes room for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from djinn_fx.errors import InfeasibleError
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.sessions.caches.layout import Layout
from djinn_fx.sessions.conversation import Conversation, Turn
from djinn_fx.sessions.memory.prefixes import Prefixes
from djinn_fx.sessions.memory.residency import Residency
from djinn_fx.sessions.policy.state import Phase
from djinn_fx.sessions.pools.table import NOWHERE
from djinn_fx.sessions.steps.scheduling import admit, pages_at_most

#: Tokens for which a turn under way has room made ahead, if a step has no more.
_AHEAD = 128


@dataclass
class Provision:
    """Admits turns, so many that each will have room to its end, and has their pages return.

    Attributes:
        residency: moves pages.
        layout: of the model.
        chunk: the most new tokens of a step.
        prefixes: pages that new sessions may begin with; None where the model's caches cannot be shared so.
        pinned: pages that leases hold at a time.
        shared_tokens: that sessions found computed already.
    """

    residency: Residency
    layout: Layout
    chunk: int
    prefixes: Prefixes | None
    pinned: Callable[[float], int]
    shared_tokens: int = 0

    # -- what turns need ---------------------------------------------------------------------------------------------

    def check_fits(self, one: Conversation, turn: Turn) -> None:
        """Whether a turn could be carried out with the device all to itself.

        Raises:
            InfeasibleError: it could not; names what it needs.
        """
        before = 0 if turn.replaces else len(one.tokens) + sum(len(t.tokens) + t.max_new for t in one.turns)
        tokens = before + len(turn.tokens) + turn.max_new
        encoded = one.encoded if turn.encoder_ids is None else turn.encoder_ids.shape[1]
        need, have = self._at_most(tokens, encoded), self.residency.store.device.pages
        if need > have:
            size = self.residency.page_bytes
            raise InfeasibleError(
                f"session {one.key!r}: a context of {tokens} tokens needs {need * size} bytes ({need} pages) of the "
                f"device pool, which has {have * size}: give it at least {need * size} bytes, or shorten the context"
            )

    def _at_most(self, tokens: int, encoded: int) -> int:
        # A page that is shared and written to is copied: one more in each list.
        return pages_at_most(self.layout, tokens, encoded, self.chunk) + len(self.layout.groups)

    def _need(self, one: Conversation) -> int:
        turn = one.turns[0]
        return self._at_most(len(one.tokens) + turn.max_new - len(turn.made), one.encoded)

    # -- who may use the device --------------------------------------------------------------------------------------

    def admit_waiting(self) -> None:
        """Admit turns by the policy's rank."""
        every = self.residency.conversations.busy.values()
        waiting = [one for one in every if one.turns and not one.admitted]
        if not waiting:
            return
        now, policy = self.residency.clock(), self.residency.policy
        running = [one for one in every if one.admitted]
        contexts = [one.context for one in running]
        chosen = admit(
            waiting,
            running,
            self._need,
            self.residency.store.device.pages - self.pinned(now),
            lambda one: policy.rank(one.context, now),
            lambda one: one.context.turns > 0 or policy.admits(one.context, contexts, now),
        )
        for one in chosen:
            self.admit(one)

    def admit(self, one: Conversation) -> None:
        """A turn may use the device from now on; its beginning may be in pages of others already."""
        if self.prefixes is not None and not len(one.holding):
            pages = self.prefixes.match(one.tokens)
            if pages:
                self.residency.store.share(pages)
                one.holding.lists[0].pages = pages
                one.holding.cached = len(pages) * self.prefixes.page_tokens
                self.shared_tokens += one.holding.cached
                for other in self.residency.conversations.values():
                    if other is not one and other.holding.lists[0].pages[:1] == pages[:1]:
                        self.residency.refresh(other)
        one.admitted = True
        one.context.phase = Phase.RUNNING
        self.residency.refresh(one)

    # -- what they lack ----------------------------------------------------------------------------------------------

    def missing(self) -> int:
        """Pages on the device that turns under way lack, growth of the next tokens considered."""
        device = self.residency.store.table.device
        found = 0
        for one in self.residency.conversations.busy.values():
            if one.admitted:
                turn, holding = one.turns[0], one.holding
                more = min(one.left + turn.max_new - len(turn.made), max(_AHEAD, self.chunk))
                found += sum(holding.missing_for(more, one.encoded))
                found += 0 if holding.states else self.layout.state_pages
                found += sum(1 for page in holding if device[page] == NOWHERE)
        return found

    def provide(self) -> None:
        """Have pages of turns under way return, and others leave for them."""
        every = self.residency.conversations.busy.values()
        served = [one for one in every if one.admitted or one.expected_until > 0]
        if not served:
            return
        now, policy, store = self.residency.clock(), self.residency.policy, self.residency.store
        for one in served:
            self.residency.mend(one)
            self._forgo(one, now)
        under_way = [one for one in served if one.admitted]
        short = self.missing() - store.device.free - store.leaving
        if short > 0:
            first = min(under_way, key=lambda one: one.context.since)
            self.residency.make_room(short, first.context.tenant, served)
        for one in sorted(under_way, key=lambda one: policy.rank(one.context, now)):
            if not self.residency.resident(one):
                self.residency.load(one)
        self._expected([one for one in served if not one.admitted])

    def _expected(self, announced: Sequence[Conversation]) -> None:
        """Have sessions return that announced a turn, where nobody needs the room."""
        free = self.residency.store.device.free - self.missing()
        for one in announced:
            if free > 0 and not self.residency.resident(one):
                lacking = sum(1 for page in one.holding if not self.residency.store.on_device(page))
                self.residency.load(one, free)
                free -= lacking

    def _forgo(self, one: Conversation, now: float) -> None:
        """Compute again what lies below the device, where the policy finds that this takes less than to load it."""
        context = one.context
        below = context.size_bytes - context.device_bytes - context.loading_bytes
        if not one.admitted or below <= 0 or one.stepping:
            return
        if self.residency.policy.recover_bytes(context, now) >= below // 2:
            return
        pages = {page for page in one.holding if not self.residency.store.on_device(page)}
        detail = f"{len(pages)} pages are computed again: that takes less than to load them"
        self.residency.log.append(Reason(kind=ReasonKind.RECOMPUTED, detail=detail, node=one.key))
        self.residency.cut_before(one, pages)
