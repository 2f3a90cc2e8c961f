"""How a hint or an order about a session was taken."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

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


class Outcome(NamedTuple):
    """An answer, and why. A signal's caller waits while it is made: the reason is made when somebody reads it.

    Attributes:
        answer: what became of it.
        detail: why, in a sentence.
        session: whose; None where no session was named and none is current.
    """

    answer: Answer
    detail: str
    session: str | None = None

    @property
    def reason(self) -> Reason:
        """Why, of the kind that fits the answer."""
        return Reason(kind=_KINDS[self.answer], detail=self.detail, node=self.session)

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
