"""All sessions of one model: turns are admitted, steps are made, pages move, and hints are heeded.

One lock guards everything but the model's call and the copies. Steps are made by one thread: the manager's own, which
is there while there is something to do, or whoever calls :meth:`SessionManager.step`.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import InvalidStateError
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from djinn_fx.errors import DjinnError
from djinn_fx.reasons import Reason
from djinn_fx.sessions.caches.holding import Holding
from djinn_fx.sessions.caches.model import SessionModel
from djinn_fx.sessions.conversation import Answered, Conversation, Turn
from djinn_fx.sessions.hints import Hints
from djinn_fx.sessions.memory.prefixes import Prefixes
from djinn_fx.sessions.memory.provision import Provision
from djinn_fx.sessions.memory.residency import Residency
from djinn_fx.sessions.memory.view import View
from djinn_fx.sessions.policy.base import Policy
from djinn_fx.sessions.policy.state import Context, Phase
from djinn_fx.sessions.pools.moves import Mover
from djinn_fx.sessions.pools.store import Store
from djinn_fx.sessions.roster import Roster
from djinn_fx.sessions.steps.loop import Loop
from djinn_fx.sessions.steps.scheduling import choose, tokens_of_step
from djinn_fx.sessions.steps.step import Planned, Step, batch_of, make_room_in, next_token, run
from djinn_fx.sessions.steps.times import Shape, StepTimes
from djinn_fx.sessions.weights import Weights
from djinn_fx.threads import new_rlock, tell_of_fork

#: Steps that are remembered: their schedule can be carried out again.
_STEPS = 65536


class SessionManager:
    """Sessions of one model over its pools.

    Args:
        model: as sessions call it.
        store: the pools.
        mover: made from the store, the lock, and what is to be called when pages have arrived.
        policy: who decides what leaves and returns.
        chunk: the most new tokens of a session in a step, a power of two.
        most: the most sessions of a step.
        quotas: by tenant, the share of each tier that it may have while others want it.
        clock: the time in seconds.
        threaded: make steps in a thread of its own.
    """

    def __init__(
        self,
        model: SessionModel,
        store: Store,
        mover: Callable[[Store, Any, Callable[[], None]], Mover],
        policy: Policy,
        *,
        chunk: int = 64,
        most: int = 16,
        quotas: dict[str, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
        threaded: bool = True,
    ) -> None:
        self.model, self.store, self.policy = model, store, policy
        self.chunk, self.most, self.clock, self.threaded = chunk, most, clock, threaded
        # Whoever drives a step takes the first, the second within it; nobody waits for the first who has the second.
        self.driving, self.lock = new_rlock(), new_rlock()
        self.mover = mover(store, self.lock, self.ring)
        self.times = StepTimes()
        self.conversations = Roster()
        seconds = partial(self.times.compute_s, chunk=chunk)
        view = View(store, self.mover, seconds, quotas or {}, {})
        policy.attach(view)
        self.residency = Residency(store, self.mover, policy, view, self.conversations, clock)
        self.prefixes = Prefixes.of(model.layout)
        if self.prefixes is not None:
            store.forgotten = self.prefixes.forget
        self.hints = Hints(self.residency, self.lock, clock)
        self.provision = Provision(self.residency, model.layout, chunk, self.prefixes, self.hints.pinned_pages)
        self.weights = Weights(model.module)
        self.steps: deque[Step] = deque(maxlen=_STEPS)
        self.closed = False
        self.made = 0
        self._loop = Loop(self._try_step, self._rest)
        tell_of_fork(self)

    # -- sessions ----------------------------------------------------------------------------------------------------

    def open(self, key: str, *, tenant: str = "", priority: int = 0, like: Conversation | None = None) -> Conversation:
        """A new session.

        Args:
            key: its id.
            tenant: whose it is.
            priority: larger goes first.
            like: a session whose context it begins with; its pages are shared.

        Raises:
            DjinnError: there is one of that id already, or the manager was closed.
        """
        with self.lock:
            if self.closed:
                raise DjinnError("the sessions of this model were closed: open the model's sessions again")
            if key in self.conversations:
                raise DjinnError(f"there is a session {key!r} already: close it, or choose another id")
            now = self.clock()
            context = Context(key, tenant=tenant, priority=priority, since=now, first_at=math.inf)
            one = Conversation(context, Holding.empty(self.model.layout))
            if like is not None:
                one.tokens, one.encoder_ids = list(like.tokens), like.encoder_ids
                one.holding = like.holding.copy()
                self.store.share(one.holding)
            self.conversations[key] = one
            self.policy.opened(context, now)
            if like is not None:
                self.residency.refresh(like)
                self.residency.refresh(one)
            return one

    def close_session(self, one: Conversation) -> None:
        """A session is over: what it waits for is cancelled, its pages are freed, after its step if it is in one."""
        with self.lock:
            if one.closed:
                return
            one.closed = True
            for turn in one.turns:
                turn.future.cancel()
            if not one.stepping:
                self._bury(one)

    def _bury(self, one: Conversation) -> None:
        one.turns.clear()
        one.admitted = False
        one.context.phase = Phase.CLOSED
        self._give_up(one)
        self.policy.closed(one.context, self.clock())
        self.conversations.forget(one)

    def _give_up(self, one: Conversation) -> None:
        """A session's pages are freed; its tokens stay."""
        self.store.release(one.holding.cut(0))
        self.residency.refresh(one)

    def close(self) -> None:
        """Close all sessions; the pools' memory goes with the manager."""
        with self.lock:
            self.closed = True
            for one in list(self.conversations.values()):
                self.close_session(one)
            self.mover.close()
        if self.store.disk is not None:
            self.store.disk.close()

    # -- turns -------------------------------------------------------------------------------------------------------

    def submit(self, one: Conversation, turn: Turn) -> None:
        """A session is to go on.

        Raises:
            InfeasibleError: its context will not fit into the device's pool at all.
            DjinnError: it was closed.
        """
        with self.lock:
            if one.closed or self.closed:
                raise DjinnError(f"session {one.key!r} was closed")
            self.provision.check_fits(one, turn)
            one.turns.append(turn)
            self.conversations.attend(one)
            if len(one.turns) == 1:
                self._begin(one)
        self.ring()

    def _begin(self, one: Conversation) -> None:
        """The first of a session's turns comes to its tokens."""
        turn = one.turns[0]
        now = self.clock()
        if turn.encoder_ids is not None:
            self._give_up(one)
            one.tokens, one.encoder_ids = [], turn.encoder_ids
        if turn.replaces:
            same = 0
            for old, new in zip(one.tokens, turn.tokens, strict=False):
                if old != new:
                    break
                same += 1
            self.store.release(one.holding.cut(min(same, len(turn.tokens) - 1)))
            one.tokens = list(turn.tokens)
            self.residency.refresh(one)
        else:
            one.tokens.extend(turn.tokens)
        one.context.first_at = min(one.context.first_at, now)
        if one.context.phase is not Phase.WANTED:
            one.context.phase, one.context.since = Phase.WANTED, now
            self.policy.began(one.context, now)
        one.expected_until = 0.0

    def _end(self, one: Conversation) -> None:
        """The turn under way is over: the next begins, or the session waits."""
        one.turns.popleft()
        one.admitted = False
        one.context.turns += 1
        if one.release_after:
            one.release_after = False
            self._give_up(one)
        now = self.clock()
        one.context.phase, one.context.since = Phase.WAITING, now
        one.context.tool, one.context.estimate_s, one.context.steps = "", None, None
        self.residency.refresh(one)
        self.policy.ended(one.context, now)
        self.hints.ended(one)
        if one.turns:
            self._begin(one)

    # -- steps -------------------------------------------------------------------------------------------------------

    def step(self, sessions: Sequence[str] | None = None) -> Step | None:
        """Make one step.

        Args:
            sessions: who takes part, in this order; None for whom the manager chooses. Those of an earlier schedule
                are given to carry it out again.

        Returns:
            What was done; None where nobody is ready.
        """
        with self.driving:
            with self.lock:
                self.tick()
                if (planned := self._plan(sessions)) is None:
                    return None
            try:
                logits, seconds = run(self.model, self.store, planned)
            except BaseException as error:
                self._failed(planned, error)
                raise
            with self.lock:
                return self._commit(planned, logits, seconds)

    def tick(self) -> None:
        """Everything but the step. It waits for the step under way: a session in it must stay as that step found it."""
        with self.driving, self.lock:
            self.residency.settle()
            self._heed_weights()
            self.hints.heed()
            self._cancelled()
            self.provision.admit_waiting()
            self.provision.provide()
            self.residency.carry_out(self.policy.due(self.clock()), self.provision.missing())
            self.conversations.rest(self.clock())

    def _heed_weights(self) -> None:
        reason = self.weights.changed()
        if reason is None:
            return
        for one in self.conversations.values():
            if len(one.holding):
                self.residency.recomputed_tokens += one.holding.cached
                self._give_up(one)
        self.residency.log.append(reason)

    def _cancelled(self) -> None:
        for one in list(self.conversations.busy.values()):
            while one.turns and one.turns[0].future.cancelled():
                # What was computed of it stays the context's beginning, and a token from which to go on.
                del one.tokens[one.holding.cached + 1 :]
                self._end(one)
            while one.turns and one.left <= 0:  # nothing to compute, and nothing to generate
                self._finish(one)
            for turn in [turn for turn in one.turns if turn.future.cancelled()]:
                one.turns.remove(turn)

    def _plan(self, sessions: Sequence[str] | None) -> Planned | None:
        if sessions is None:
            ready = [one for one in self.conversations.busy.values() if one.admitted and self.residency.resident(one)]
            model = self.model
            kinds = {"few": model.compiled, "exact": model.exact, "encodes": model.traits.encodes}
            members, new = choose(ready, self.chunk, self.most, **kinds)
        else:
            members = [self.conversations[key] for key in sessions]
            if not all(one.admitted and self.residency.resident(one) for one in members):
                return None
            new = tokens_of_step(members[0].left, self.chunk, self.model.compiled)
        members = [one for one in members if make_room_in(self.store, one, new, one.encoded)]
        if not members:
            return None
        batch, encoder_ids = batch_of(self.model, self.store, members, new)
        pages = [page for one in members for page in one.holding]
        self.store.read(pages)
        for one in members:
            one.stepping = True
        shape = Shape(batch.ids.shape[0], new, batch.past)
        step = Step(self.made, tuple(one.key for one in members), shape, self.times.predict(shape))
        self.made += 1
        return Planned(step, members, batch, pages, encoder_ids)

    def _commit(self, planned: Planned, logits: torch.Tensor, seconds: float) -> Step:
        step = replace(planned.step, seconds=seconds)
        self.times.add(step.shape, seconds)
        self.steps.append(step)
        self.store.done(planned.pages)
        new = step.shape.new
        for one, row in zip(planned.members, logits, strict=True):
            one.stepping, one.last_step = False, step.number
            first = one.holding.cached
            one.holding.cached += new
            one.holding.encoded = one.encoded
            self.store.release(one.holding.unseen())
            if one.closed:
                self._bury(one)
                continue
            if self.prefixes is not None:
                each = self.prefixes.page_tokens
                self.prefixes.add(one.tokens[: one.holding.cached], one.holding.lists[0].pages, first // each)
            if not one.left and one.turns and not one.turns[0].future.cancelled():
                self._advance(one, row)
            else:
                one.context.tokens = one.holding.cached
        return step

    def _advance(self, one: Conversation, logits: torch.Tensor) -> None:
        """A session's next token is known."""
        turn, now = one.turns[0], self.clock()
        if turn.max_new > 0:
            token, gap = next_token(logits, turn)
            turn.made.append(token)
            turn.gaps.append(gap)
            one.tokens.append(token)
        if turn.first_at is None:
            turn.first_at = now
        if turn.done:
            self._finish(one)

    def _finish(self, one: Conversation) -> None:
        """A turn has its result."""
        turn, now = one.turns[0], self.clock()
        first_at = now if turn.first_at is None else turn.first_at
        answered = Answered(tuple(turn.made), tuple(turn.gaps), first_at - turn.came_at, now - turn.came_at)
        self._end(one)
        with contextlib.suppress(InvalidStateError):  # cancelled meanwhile
            turn.future.set_result(answered)

    def _failed(self, planned: Planned, error: BaseException) -> None:
        """The model raised: the turns of its batch fail with that, and what they have cached is not trusted."""
        with self.lock:
            self.store.done(planned.pages)
            for one in planned.members:
                one.stepping = False
                self._give_up(one)
                if one.closed:
                    self._bury(one)
                    continue
                turn = one.turns[0]
                self._end(one)
                with contextlib.suppress(InvalidStateError):  # cancelled meanwhile
                    turn.future.set_exception(error)

    # -- the thread --------------------------------------------------------------------------------------------------

    def ring(self, soon: bool = True) -> None:
        """There is something to do: a turn, a hint, pages that arrived. Needs no lock."""
        if self.threaded and not self.closed:
            self._loop.ring(soon)

    def _try_step(self) -> bool:
        try:
            return self.step() is not None
        except Exception:  # noqa: BLE001 the turns of the step are told; others go on
            return True

    def _rest(self) -> float | None:
        """How long the thread may sleep; None: nothing is to be done until somebody rings."""
        with self.lock:
            until = self.policy.wake()
            busy = any(one.turns or one.moving or one.expected_until for one in self.conversations.busy.values())
            if self.closed or not (busy or self.hints.waiting or until < math.inf):
                return None
            return max(0.0005, until - self.clock())

    def after_fork(self) -> None:
        """In a forked process: the threads and the files are the other's."""
        self.closed = True
        self._loop.forked()

    # -- for policies and who asks -----------------------------------------------------------------------------------

    def reasons(self) -> list[Reason]:
        """Why pages left and returned, the latest last."""
        with self.lock:
            return [entry if isinstance(entry, Reason) else entry.reason for entry in self.residency.log]
