"""A session as its manager keeps it: its tokens, the pages that hold them, and the turns that are asked of it."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch

from djinn_fx.sessions.caches.holding import Holding
from djinn_fx.sessions.policy.state import Context


@dataclass(frozen=True)
class Answered:
    """A turn's result.

    Attributes:
        tokens: new ones.
        gaps: of each, the logit of the first choice less that of the second.
        first_s: from the turn's coming to its first token, in seconds.
        total_s: to its last.
    """

    tokens: tuple[int, ...]
    gaps: tuple[float, ...]
    first_s: float
    total_s: float


@dataclass(eq=False)
class Turn:
    """Tokens that a session is to go on with, and how.

    Attributes:
        tokens: that come before what is generated; already behind the context's.
        max_new: tokens to generate at most.
        eos: tokens that end it.
        temperature: 0 for the most likely token.
        generator: of random numbers, of this turn alone: others in the batch change nothing.
        future: of the result.
        came_at, first_at: times of the manager's clock.
        made, gaps: what was generated so far.
        encoder_ids: for an encoder's first turn, shape (1, tokens).
    """

    tokens: tuple[int, ...]
    max_new: int
    eos: frozenset[int]
    temperature: float
    generator: torch.Generator | None
    came_at: float
    replaces: bool = False
    encoder_ids: torch.Tensor | None = None
    future: Future[Answered] = field(default_factory=Future)
    first_at: float | None = None
    made: list[int] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """Whether nothing more is to be generated."""
        return len(self.made) >= self.max_new or (bool(self.made) and self.made[-1] in self.eos)


@dataclass(eq=False)
class Conversation:
    """One session.

    Attributes:
        context: what the policy sees of it.
        holding: its pages.
        tokens: all of its context; those behind ``holding.cached`` are to be computed.
        turns: that wait, the one under way first.
        admitted: the first of them may use the device.
        last_step: number of the step that it took part in.
        stepping: it is in a step now.
        moving: pages of it are under way.
        release_after, closed: what is to be done when the step is over.
        retained_until: before that its pages are not dropped.
        encoder_ids: what its encoder read.
        expected_until: a turn was announced; loaded until then though none is there.
    """

    context: Context
    holding: Holding
    tokens: list[int] = field(default_factory=list)
    turns: deque[Turn] = field(default_factory=deque)
    admitted: bool = False
    last_step: int = -1
    stepping: bool = False
    moving: bool = False
    release_after: bool = False
    closed: bool = False
    retained_until: float = 0.0
    encoder_ids: torch.Tensor | None = None
    expected_until: float = 0.0

    @property
    def key(self) -> str:
        """The session's id."""
        return self.context.key

    @property
    def turn(self) -> Turn | None:
        """The turn that is under way or comes next."""
        return self.turns[0] if self.turns else None

    @property
    def left(self) -> int:
        """Tokens that are to be computed before the next one is known.

        A turn that generates nothing leaves the last one: the next turn's first logits come from it.
        """
        spared = 1 if self.turns and self.turns[0].max_new == 0 else 0
        return len(self.tokens) - self.holding.cached - spared

    @property
    def encoded(self) -> int:
        """Tokens of its encoder."""
        return 0 if self.encoder_ids is None else self.encoder_ids.shape[1]
