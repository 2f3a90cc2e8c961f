"""Hints as text: read, written, carried out once, and without effect where they are not known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

import djinn_fx
from djinn_fx.errors import SettingsError
from djinn_fx.sessions.envelope import MAX_ACTIONS, MAX_BYTES, PROTOCOL, Action, Envelope, read, receive, verbs
from djinn_fx.sessions.session import Session, open_sessions
from tests.sessions.models import build, tokens


@pytest.fixture
def session() -> Iterator[Session]:
    made = build("full")
    manager = open_sessions(made, device="1MB", host="1MB")
    with djinn_fx.session(made, "a") as one:
        one.generate(tokens(20, 1), max_new_tokens=1)
        yield one
    manager.close()


def results(envelope: Envelope | str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(receive(envelope))["results"]
    return found


def test_what_is_written_is_read() -> None:
    envelope = Envelope((Action("pin", {"session_id": "a", "lease": 5}), Action("x.y", {}, "id", "9")))
    assert read(envelope.to_json()) == envelope
    assert read(envelope.to_json().encode()) == envelope


def test_every_verb_reaches_its_session(session: Session) -> None:
    payloads: dict[str, dict[str, Any]] = {
        "signal_phase": {"phase": "IO_WAIT", "estimated_resume_ms": 100, "tool": "grep"},
        "retain": {"ttl": 10, "priority": 2},
        "demote": {},
        "prefetch": {},
        "pin": {"lease": 1},
        "share": {"new_session_id": "b"},
        "release": {},
    }
    assert set(payloads) == set(verbs())
    actions = [Action(verb, {"session_id": "a"} | payload, verb) for verb, payload in payloads.items()]
    found = results(Envelope(tuple(actions)))
    assert [one["action_id"] for one in found] == list(payloads)
    assert {one["answer"] for one in found} == {"accepted"}
    assert session.manager.conversations["b"].tokens == session.tokens


@pytest.mark.parametrize(
    ("action", "protocol", "answer"),
    [
        (Action("compress", {"session_id": "a"}), PROTOCOL, "rejected"),
        (Action("release", {"session_id": "a"}, action_version="2"), PROTOCOL, "rejected"),
        (Action("release", {"session_id": "a"}), "7.0", "rejected"),
        (Action("release", {"session_id": "nobody"}), PROTOCOL, "missing"),
        (Action("release", {}), PROTOCOL, "missing"),
        (Action("pin", {"session_id": "a", "lease": "long"}), PROTOCOL, "rejected"),
        (Action("retain", {"session_id": "a", "ttl": 1, "priority": "x"}), PROTOCOL, "rejected"),
        (Action("share", {"session_id": "a", "new_session_id": 5}), PROTOCOL, "rejected"),
        (Action("signal_phase", {"session_id": "a", "phase": ["IO_WAIT"]}), PROTOCOL, "rejected"),
    ],
)
def test_what_is_not_known_or_makes_no_sense_has_no_effect(
    session: Session, action: Action, protocol: str, answer: str
) -> None:
    before = (session._one.holding.cached, session._one.context.pinned_until, len(session.manager.conversations))
    (found,) = results(Envelope((action,), protocol_version=protocol))
    assert found["answer"] == answer
    assert found["reason"]["detail"]
    assert before == (
        session._one.holding.cached, session._one.context.pinned_until, len(session.manager.conversations),
    )  # fmt: skip


def test_a_message_that_comes_twice_is_carried_out_once(session: Session) -> None:
    envelope = Envelope((Action("share", {"session_id": "a", "new_session_id": "twin"}),))
    assert receive(envelope) == receive(envelope.to_json())
    assert set(session.manager.conversations) == {"a", "twin"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "{}",
        '{"protocol_version": "0.1", "message_id": "m", "actions": 5}',
        '{"protocol_version": "0.1", "message_id": "m", "actions": [5]}',
        '{"protocol_version": "0.1", "message_id": true, "actions": []}',
        '{"protocol_version": "0.1", "actions": []}',
        '{"protocol_version": "0.1", "message_id": "m", "actions": [{"action_type": "pin", "action_id": "1"}]}',
        json.dumps({"protocol_version": "0.1", "message_id": "m" * 500, "actions": []}),
        json.dumps({"protocol_version": "0.1", "message_id": "m", "actions": [{}] * (MAX_ACTIONS + 1)}),
        "[" * 100_000,
        "x" * (MAX_BYTES + 1),
    ],
)
def test_what_is_no_envelope_is_one_error(text: str) -> None:
    with pytest.raises(SettingsError):
        receive(text)
