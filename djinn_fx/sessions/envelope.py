"""Hints as text: the envelope in which serving engines have agreed to be told what to do with caches.

Its form is that of vLLM's and SGLang's proposals, which Dynamo sends: ``{protocol_version, message_id, actions:
[{action_id, action_type, action_version, payload}]}``. An action that is not known here, or whose version is not, has
no effect and is answered so; so is each action of an envelope of another protocol. A message that comes twice is
carried out once.
"""

from __future__ import annotations

import json
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from djinn_fx.errors import DjinnError, SettingsError
from djinn_fx.sessions.hints import COMPUTE, IO_WAIT
from djinn_fx.sessions.outcome import Answer, Outcome
from djinn_fx.sessions.session import Session, find
from djinn_fx.threads import new_lock

PROTOCOL = "0.1"
VERSION = "1"
#: An envelope of anybody's is no larger.
MAX_BYTES, MAX_ACTIONS, MAX_TEXT = 1 << 20, 1024, 200
#: Messages that are remembered, so that one sent twice is carried out once.
_REMEMBERED = 1024


@dataclass(frozen=True)
class Action:
    """One wish.

    Attributes:
        action_type: a verb: ``signal_phase``, ``retain``, ``demote``, ``prefetch``, ``pin``, ``share``, ``release``.
        payload: ``session_id``, and what the verb takes.
        action_id: by which its answer is known.
        action_version: of the verb's meaning.
    """

    action_type: str
    payload: Mapping[str, Any]
    action_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    action_version: str = VERSION


@dataclass(frozen=True)
class Envelope:
    """A message of actions."""

    actions: tuple[Action, ...]
    message_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    protocol_version: str = PROTOCOL

    def to_json(self) -> str:
        """The message as text."""
        return json.dumps(
            {
                "protocol_version": self.protocol_version,
                "message_id": self.message_id,
                "actions": [
                    {
                        "action_id": action.action_id,
                        "action_type": action.action_type,
                        "action_version": action.action_version,
                        "payload": dict(action.payload),
                    }
                    for action in self.actions
                ],
            }
        )


def read(text: str | bytes) -> Envelope:
    """An envelope from text.

    Raises:
        SettingsError: it is none; says what is missing.
    """
    if len(text) > MAX_BYTES:
        raise SettingsError(f"an envelope of {len(text)} bytes: {MAX_BYTES} are allowed")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"an envelope is JSON: {error}") from None
    if not isinstance(data, dict):
        raise SettingsError("an envelope is a JSON object")
    actions = data.get("actions")
    if not isinstance(actions, list) or len(actions) > MAX_ACTIONS:
        raise SettingsError(f"an envelope's actions are a list of at most {MAX_ACTIONS}")
    return Envelope(
        tuple(_action(place, one) for place, one in enumerate(actions)),
        _text(data, "message_id", "an envelope"),
        _text(data, "protocol_version", "an envelope"),
    )


def _action(place: int, data: Any) -> Action:
    where = f"action {place} of the envelope"
    if not isinstance(data, dict):
        raise SettingsError(f"{where} is a JSON object")
    payload = data.get("payload", {})
    if not isinstance(payload, dict):
        raise SettingsError(f"{where}: its payload is a JSON object")
    version = _text(data, "action_version", where)
    return Action(_text(data, "action_type", where), payload, _text(data, "action_id", where), version)


def _text(data: Mapping[str, Any], name: str, where: str) -> str:
    value = data.get(name)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or len(str(value)) > MAX_TEXT:
        raise SettingsError(f"{where}: {name} is a text of at most {MAX_TEXT} characters")
    return str(value)


_seen: OrderedDict[str, str] = OrderedDict()
_lock = new_lock()


def receive(message: str | bytes | Envelope) -> str:
    """Carry out an envelope's actions.

    Args:
        message: as text, or read.

    Returns:
        The answers as JSON text: ``{protocol_version, message_id, results: [{action_id, answer, reason, session}]}``.

    Raises:
        SettingsError: it is no envelope.
    """
    envelope = message if isinstance(message, Envelope) else read(message)
    with _lock:
        known = _seen.get(envelope.message_id)
    if known is not None:
        return known
    results = [{"action_id": action.action_id, **_carry_out(action, envelope).to_json()} for action in envelope.actions]
    answer = json.dumps({"protocol_version": PROTOCOL, "message_id": envelope.message_id, "results": results})
    with _lock:
        _seen[envelope.message_id] = answer
        while len(_seen) > _REMEMBERED:
            _seen.popitem(last=False)
    return answer


def _carry_out(action: Action, envelope: Envelope) -> Outcome:
    if envelope.protocol_version != PROTOCOL:
        detail = f"protocol {envelope.protocol_version!r} is not known here, {PROTOCOL!r} is: without effect"
        return Outcome(Answer.REJECTED, detail)
    verb = _VERBS.get(action.action_type)
    if verb is None or action.action_version not in (VERSION, f"{VERSION}.0"):
        detail = f"{action.action_type!r} of version {action.action_version!r} is not known here: without effect"
        return Outcome(Answer.REJECTED, detail)
    id = action.payload.get("session_id")
    if not isinstance(id, str):
        return Outcome(Answer.MISSING, "the payload names no session_id")
    found = find(id)
    if isinstance(found, Outcome):
        return found
    try:
        return verb(Session(*found), action.payload)
    except (DjinnError, TypeError, ValueError, OverflowError) as error:
        return Outcome(Answer.REJECTED, f"{action.action_type}: {error}", id)


def _share(session: Session, payload: Mapping[str, Any]) -> Outcome:
    made = session.share(payload.get("new_session_id", ""))
    return Outcome(Answer.ACCEPTED, f"session {made.id!r} begins with its context", session.id)


def _signal(session: Session, payload: Mapping[str, Any]) -> Outcome:
    return session.signal_phase(payload.get("phase", ""), payload.get("estimated_resume_ms"), payload.get("tool"))


_VERBS: dict[str, Callable[[Session, Mapping[str, Any]], Outcome]] = {
    "signal_phase": _signal,
    "retain": lambda session, payload: session.retain(payload.get("ttl", 0), payload.get("priority")),
    "demote": lambda session, payload: session.demote(),
    "prefetch": lambda session, payload: session.prefetch(),
    "pin": lambda session, payload: session.pin(payload.get("lease", 0)),
    "share": _share,
    "release": lambda session, payload: session.release(),
}


def verbs() -> Iterable[str]:
    """The action types that have an effect here."""
    return tuple(_VERBS)


__all__ = ["COMPUTE", "IO_WAIT", "Action", "Envelope", "read", "receive", "verbs"]
