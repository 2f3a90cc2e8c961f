"""A session as its user holds it, and those that are current and known in this process."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import contextvars
from collections.abc import Iterable
from concurrent.futures import CancelledError
from types import TracebackType
from typing import Any

import torch

from djinn_fx.errors import DjinnError, SettingsError
from djinn_fx.sessions.conversation import Answered, Conversation, Turn
from djinn_fx.sessions.hints import COMPUTE, IO_WAIT
from djinn_fx.sessions.manager import SessionManager
from djinn_fx.sessions.opening import SessionOptions, open_manager
from djinn_fx.sessions.outcome import Answer, Outcome
from djinn_fx.sessions.status import SessionsStatus, Teller, status_of
from djinn_fx.threads import new_lock

_current: contextvars.ContextVar[Session | None] = contextvars.ContextVar("djinn_session", default=None)
#: By the model's ``id``, which a manager keeps alive until it is closed.
_managers: dict[int, SessionManager] = {}
_lock = new_lock()
_MAX_KEY = 200


class Session:
    """A conversation with a model whose cache may leave the device between its turns. Made by :func:`session`.

    Attributes:
        id: its name among the sessions of this process.
        manager: of the model's sessions.
        answered: times and gaps of the last turn; None before.
    """

    def __init__(self, manager: SessionManager, one: Conversation) -> None:
        self.id = one.key
        self.manager = manager
        self.answered: Answered | None = None
        self._one = one
        self._token: contextvars.Token[Session | None] | None = None

    def __repr__(self) -> str:
        state = "closed" if self._one.closed else self._one.context.phase.value
        return f"<session {self.id!r}: {len(self._one.tokens)} tokens, {state}>"

    @property
    def tokens(self) -> list[int]:
        """Its whole context, prompts and answers."""
        return list(self._one.tokens)

    # -- going on ----------------------------------------------------------------------------------------------------

    def generate(
        self,
        input_ids: torch.Tensor | Iterable[int],
        max_new_tokens: int = 20,
        *,
        eos_token_id: int | Iterable[int] | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        replace: bool = False,
        encoder_input_ids: torch.Tensor | Iterable[int] | None = None,
    ) -> torch.Tensor:
        """Go on with the conversation: add tokens to its context, and generate.

        Args:
            input_ids: new tokens, those of this turn alone; shape (tokens,) or (1, tokens).
            max_new_tokens: to generate at most; 0 computes the context only.
            eos_token_id: what ends it.
            temperature: 0 takes the most likely token.
            seed: of the random numbers; what others generate changes none of them.
            replace: ``input_ids`` are the whole context; of the cache stays what they have in common with it.
            encoder_input_ids: for a model with an encoder, before the first turn; later they begin anew.

        Returns:
            The new tokens, shape (tokens,), on the CPU.

        Raises:
            InfeasibleError: the context will not fit into the device's pool; says what would.
            SettingsError: an argument makes no sense.
            DjinnError: the session was closed.
        """
        turn = self._turn(
            input_ids, max_new_tokens, eos_token_id, temperature, seed, replace, encoder_input_ids
        )  # fmt: skip
        self.manager.submit(self._one, turn)
        try:
            return self._result(turn.future.result())
        except CancelledError:
            raise DjinnError(f"session {self.id!r} was closed while it generated") from None
        except BaseException:
            turn.future.cancel()
            self.manager.ring()
            raise

    async def generate_async(self, *args: Any, **words: Any) -> torch.Tensor:
        """As :meth:`generate`; other tasks go on meanwhile, and cancelling the task cancels the turn."""
        turn = self._turn(*args, **words)
        self.manager.submit(self._one, turn)
        try:
            return self._result(await asyncio.wrap_future(turn.future))
        except asyncio.CancelledError:
            self.manager.ring()
            if self._one.closed:
                raise DjinnError(f"session {self.id!r} was closed while it generated") from None
            raise

    def submit(self, *args: Any, **words: Any) -> Turn:
        """As :meth:`generate`, but do not wait: ``turn.future`` has the result when it is there."""
        turn = self._turn(*args, **words)
        self.manager.submit(self._one, turn)
        return turn

    def _result(self, answered: Answered) -> torch.Tensor:
        self.answered = answered
        return torch.tensor(answered.tokens, dtype=torch.long)

    def _turn(
        self,
        input_ids: torch.Tensor | Iterable[int],
        max_new_tokens: int = 20,
        eos_token_id: int | Iterable[int] | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        replace: bool = False,
        encoder_input_ids: torch.Tensor | Iterable[int] | None = None,
    ) -> Turn:
        tokens = _tokens(input_ids, "input_ids")
        encodes = self.manager.model.traits.encodes
        if encoder_input_ids is not None and not encodes:
            raise SettingsError("encoder_input_ids: the model has no encoder")
        if encodes and encoder_input_ids is None and self._one.encoder_ids is None and not self._one.turns:
            raise SettingsError("the model has an encoder: give encoder_input_ids with the session's first turn")
        if max_new_tokens < 0:
            raise SettingsError(f"max_new_tokens is {max_new_tokens}: give a count of at least zero")
        begins = replace or encoder_input_ids is not None or not (self._one.tokens or self._one.turns)
        if not tokens and begins:
            raise SettingsError("input_ids are empty: a context begins with one token at least")
        if not tokens and not max_new_tokens:
            raise SettingsError("neither input_ids nor max_new_tokens: there is nothing to do")
        ends = () if eos_token_id is None else (eos_token_id,) if isinstance(eos_token_id, int) else eos_token_id
        encoder = None if encoder_input_ids is None else torch.tensor([_tokens(encoder_input_ids, "encoder_input_ids")])
        generator = torch.Generator().manual_seed(seed) if temperature > 0 else None
        return Turn(
            tuple(tokens), max_new_tokens, frozenset(ends), temperature, generator, self.manager.clock(),
            replaces=replace, encoder_ids=encoder,
        )  # fmt: skip

    # -- what is said of it ------------------------------------------------------------------------------------------

    def signal_phase(self, phase: str, estimated_resume_ms: float | None = None, tool: str | None = None) -> Outcome:
        """As :func:`djinn_fx.signal_phase`, of this session."""
        if phase not in (IO_WAIT, COMPUTE):
            return Outcome(Answer.REJECTED, f"phase is {phase!r}: give {IO_WAIT!r} or {COMPUTE!r}", self.id)
        said = self.manager.hints.signal(self._one, phase, estimated_resume_ms, tool)
        self.manager.ring(soon=phase == COMPUTE)
        return said

    def retain(self, ttl: float, priority: int | None = None) -> Outcome:
        """Have nothing of it dropped for ``ttl`` seconds, and say how important it is (-100 to 100)."""
        return self._and_ring(self.manager.hints.retain(self._one, ttl, priority))

    def demote(self) -> Outcome:
        """Have it leave the device now."""
        return self._and_ring(self.manager.hints.demote(self._one))

    def prefetch(self) -> Outcome:
        """Have it return to the device, as far as there is room."""
        return self._and_ring(self.manager.hints.prefetch(self._one))

    def pin(self, lease: float) -> Outcome:
        """Keep it on the device for ``lease`` seconds; 0 ends a lease."""
        return self._and_ring(self.manager.hints.pin(self._one, lease))

    def release(self) -> Outcome:
        """Free its pages wherever they are; its tokens stay, and are computed again when it goes on."""
        return self._and_ring(self.manager.hints.release(self._one))

    def share(self, id: str, *, tenant: str | None = None, priority: int | None = None) -> Session:
        """A new session that begins with this one's context: pages are shared until one of the two writes to them.

        Raises:
            DjinnError: a turn of this one is under way, or there is a session of that id.
        """
        context = self._one.context
        with self.manager.lock:
            if self._one.turns or self._one.closed:
                raise DjinnError(f"session {self.id!r} is busy or closed: share it between its turns")
            one = self.manager.open(
                _key(id),
                tenant=context.tenant if tenant is None else tenant,
                priority=context.priority if priority is None else priority,
                like=self._one,
            )
        return Session(self.manager, one)

    def _and_ring(self, said: Outcome) -> Outcome:
        self.manager.ring()
        return said

    # -- its end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Free its pages; a turn under way is cancelled. Closing twice does nothing."""
        self.manager.close_session(self._one)

    def __enter__(self) -> Session:
        self._token = _current.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None:
            with contextlib.suppress(ValueError):  # left in another context than entered: there it is not current
                _current.reset(self._token)
            self._token = None
        self.close()


def open_sessions(model: Any, **options: Any) -> SessionManager:
    """Open a model for sessions, with pools of these sizes.

    Args:
        model: of Transformers, in eval mode, or what ``torch.compile`` made of one.
        options: see :class:`~djinn_fx.sessions.opening.SessionOptions`.

    Returns:
        The manager, which holds pools and model until it is closed by ``close()``.

    Raises:
        DjinnError: the model has open sessions already.
        ModelFileError, SettingsError, InfeasibleError: see :func:`~djinn_fx.sessions.opening.open_manager`.
    """
    with _lock:
        for place in [place for place, manager in _managers.items() if manager.closed]:
            del _managers[place]
        if id(model) in _managers:
            raise DjinnError("the model is open for sessions already: close its manager first")
        try:
            made = SessionOptions(**options)
        except TypeError as error:
            raise SettingsError(f"open_sessions: {error}") from None
        manager = _managers[id(model)] = open_manager(model, made)
    _teller.start()
    return manager


def session(model: Any, id: str, *, tenant: str = "", priority: int = 0) -> Session:
    """A new session with a model; to be used as a context manager, in which it is the current one.

    Args:
        model: as for :func:`open_sessions`, which is called with its defaults where it was not before.
        id: a name that no other session of this process has.
        tenant: whose it is, for quotas.
        priority: larger goes first, -100 to 100.

    Raises:
        DjinnError: there is a session of that id.
    """
    with _lock:
        manager = _managers.get(builtins.id(model))
    if manager is None or manager.closed:
        manager = open_sessions(model)
    return Session(manager, manager.open(_key(id), tenant=tenant, priority=priority))


def managers() -> list[SessionManager]:
    """All managers of this process that are open."""
    with _lock:
        return [manager for manager in _managers.values() if not manager.closed]


_teller = Teller(managers)


def session_status() -> tuple[SessionsStatus, ...]:
    """Pools and sessions of every model that is open for sessions in this process."""
    return tuple(status_of(manager) for manager in managers())


def find(id: str | None) -> tuple[SessionManager, Conversation] | Outcome:
    """The session of that id, or the current one.

    Returns:
        Its manager and itself; an outcome that says why there is none.
    """
    if id is None:
        current = _current.get()
        if current is None:
            detail = "no session is current here (a new thread has none): name it by session_id"
            return Outcome(Answer.MISSING, detail)
        return current.manager, current._one
    found = [
        (manager, one) for manager in list(_managers.values()) if (one := manager.conversations.get(id)) is not None
    ]
    if not found:
        return Outcome(Answer.MISSING, f"there is no session {id!r} in this process", str(id)[:_MAX_KEY])
    if len(found) > 1:
        return Outcome(Answer.REJECTED, f"two models have a session {id!r}: call its own signal_phase", id)
    return found[0]


def signal_phase(
    phase: str,
    session_id: str | None = None,
    estimated_resume_ms: float | None = None,
    tool: str | None = None,
) -> Outcome:
    """Say what a session is about to do. A hint: it changes when its cache is where, and no token.

    May be called from anywhere, with or without a running event loop; never waits and never raises for what is said.

    Args:
        phase: ``"IO_WAIT"``: it waits for a tool or a person; ``"COMPUTE"``: it is about to go on.
        session_id: whose; None for the session that is current here.
        estimated_resume_ms: how long it will wait, in milliseconds from now on; None where nobody knows.
        tool: what it waits for: waits for one tool are alike.

    Returns:
        What became of it, and why.
    """
    found = find(session_id)
    if isinstance(found, Outcome):
        return found
    manager, one = found
    if phase not in (IO_WAIT, COMPUTE):
        return Outcome(Answer.REJECTED, f"phase is {phase!r}: give {IO_WAIT!r} or {COMPUTE!r}", one.key)
    said = manager.hints.signal(one, phase, estimated_resume_ms, tool)
    manager.ring(soon=phase == COMPUTE)  # that it waits is heeded within a tenth of a second
    return said


def _key(id: str) -> str:
    if not isinstance(id, str) or not 0 < len(id) <= _MAX_KEY:
        raise SettingsError(f"a session's id is a text of 1 to {_MAX_KEY} characters, not {str(id)[:50]!r}")
    return id


def _tokens(ids: torch.Tensor | Iterable[int], name: str) -> list[int]:
    listed = ids.tolist() if isinstance(ids, torch.Tensor) else list(ids)
    if listed and isinstance(listed[0], list):
        if len(listed) != 1:
            raise SettingsError(f"{name} has {len(listed)} rows: a session is one conversation")
        listed = listed[0]
    if not all(isinstance(token, int) and token >= 0 for token in listed):
        raise SettingsError(f"{name} are to be whole numbers of at least zero")
    return listed
