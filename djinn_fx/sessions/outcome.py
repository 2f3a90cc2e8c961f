"""How a hint or an order about a session was taken."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from djinn_fx.reasons import Reason, ReasonKind


class Answer(str, Enum):
    """What became of a hint. None of them changes a token."""

    ACCEPTED = "accepted"
    """As asked."""
    CLIPPED = "clipped"
    """Done in part, or within bounds; the reason names them."""
    DEFERRED = "deferred"
    """Taken down, and done when what stands in its way is over."""
    REJECTED = "rejected"
    """Not done: it makes no sense, or there is nothing to do it with."""
    MISSING = "missing"
    """There is no such session here."""


@dataclass(frozen=True)
class Outcome:
    """An answer, and why.

    Attributes:
        answer: what became of it.
        reason: why.
        session: whose; None where no session was named and none is current.
    """

    answer: Answer
    reason: Reason
    session: str | None = None

    @property
    def ok(self) -> bool:
        """Whether it has or will have an effect."""
        return self.answer in (Answer.ACCEPTED, Answer.CLIPPED, Answer.DEFERRED)

    def to_json(self) -> dict[str, object]:
        """The outcome as a JSON object."""
        return {"answer": self.answer.value, "reason": self.reason.to_json(), "session": self.session}


_KINDS = {
    Answer.ACCEPTED: ReasonKind.HINT,
    Answer.CLIPPED: ReasonKind.HINT,
    Answer.DEFERRED: ReasonKind.WAITING,
    Answer.REJECTED: ReasonKind.DECLINED,
    Answer.MISSING: ReasonKind.DECLINED,
}


def outcome(answer: Answer, detail: str, session: str | None = None) -> Outcome:
    """An outcome whose reason is of the kind that fits the answer."""
    return Outcome(answer, Reason(kind=_KINDS[answer], detail=detail, node=session), session)
