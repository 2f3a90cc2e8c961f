"""All sessions of a manager, and apart from them those of which something is under way."""

from __future__ import annotations

from djinn_fx.sessions.conversation import Conversation


class Roster(dict[str, Conversation]):
    """Sessions by id. Most wait, and a step must not take longer for each of them: it looks at those under way only.

    Attributes:
        busy: sessions with turns, with pages that move, of which a turn is expected, or that a lease holds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.busy: dict[str, Conversation] = {}

    def attend(self, one: Conversation) -> None:
        """Something of a session is under way from now on."""
        self.busy[one.key] = one

    def rest(self, now: float) -> None:
        """Leave those alone of which nothing is under way any more."""
        self.busy = {key: one for key, one in self.busy.items() if under_way(one, now)}

    def forget(self, one: Conversation) -> None:
        """It was closed."""
        self.pop(one.key, None)
        self.busy.pop(one.key, None)


def under_way(one: Conversation, now: float) -> bool:
    """Whether a step has to look at a session."""
    return bool(one.turns or one.moving or one.expected_until or one.stepping or now < one.context.pinned_until)
