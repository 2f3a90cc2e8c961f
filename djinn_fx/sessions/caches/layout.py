"""What a session leaves in memory, in the words of pages: rows for each token, and states of fixed size.

A page has one size for all kinds, so one pool serves them all. Layers that keep as much of the past as each other are
a group with page lists of their own: those with a sliding window give pages back that nobody will see again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch


class Kept(Enum):
    """What of the past a group of layers keeps."""

    ALL = "all tokens"
    WINDOW = "a window of tokens"
    ENCODED = "the encoder's tokens"


@dataclass(frozen=True)
class Segment:
    """One tensor that each token adds a row to.

    Attributes:
        layer: in the model's cache.
        values: whether it is the values', else the keys'.
        heads, width: of a row.
    """

    layer: int
    values: bool
    heads: int
    width: int


@dataclass(frozen=True)
class Group:
    """Layers that keep the same tokens.

    Attributes:
        kept: which.
        window: tokens that a token sees with itself; 0 for all.
        segments: keys and values of each layer.
        row_bytes: of one row of the widest segment, as stored.
        quantised: rows are int8 with a float32 scale a head.
    """

    kept: Kept
    window: int
    segments: tuple[Segment, ...]
    row_bytes: int
    quantised: bool = False

    @property
    def token_bytes(self) -> int:
        """Bytes that one token takes in all layers of the group."""
        return self.row_bytes * len(self.segments)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers, in order."""
        return tuple(segment.layer for segment in self.segments if not segment.values)

    def page_tokens(self, page_bytes: int) -> int:
        """Tokens whose rows fill a page."""
        return page_bytes // self.token_bytes

    def seen_from(self, tokens: int) -> int:
        """The first of so many tokens that the next one will see."""
        return max(0, tokens - self.window + 1) if self.kept is Kept.WINDOW else 0

    def pages_for(self, tokens: int, page_bytes: int, *, more: int = 0) -> int:
        """Pages that hold what is kept of a context.

        Args:
            tokens: its length; for an encoder's group the encoder's.
            page_bytes: of each page.
            more: tokens that are about to be added: what they see is kept until they are.
        """
        each = self.page_tokens(page_bytes)
        return -(-(tokens + more) // each) - self.seen_from(tokens) // each


@dataclass(frozen=True)
class State:
    """A tensor of fixed size that a layer keeps of a session, in place of rows.

    Attributes:
        layer: in the model's cache.
        recurrent: whether it is the recurrent state, else that of the convolution.
        number: a layer may have several.
        shape: of one session.
        dtype: of its numbers.
        offset: in the session's states, bytes.
    """

    layer: int
    recurrent: bool
    number: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of it."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Layout:
    """What a model keeps of a session.

    Attributes:
        groups: of layers with rows.
        states: of layers without.
        dtype: of keys and values as the model sees them.
        page_bytes: of every page.
        layers: of the model's cache.
    """

    groups: tuple[Group, ...]
    states: tuple[State, ...]
    dtype: torch.dtype
    page_bytes: int
    layers: int

    @property
    def state_bytes(self) -> int:
        """Bytes of all states of one session."""
        return max((state.offset + state.nbytes for state in self.states), default=0)

    @property
    def state_pages(self) -> int:
        """Pages that hold them."""
        return -(-self.state_bytes // self.page_bytes)

    @property
    def shares(self) -> bool:
        """Whether sessions can share the pages of a common prefix: all that is kept are rows of all tokens."""
        return not self.states and all(group.kept is Kept.ALL for group in self.groups)

    @property
    def token_bytes(self) -> int:
        """Bytes that a further token takes, windows apart."""
        return sum(group.token_bytes for group in self.groups if group.kept is not Kept.ENCODED)

    def pages_for(self, tokens: int, encoded: int = 0) -> int:
        """Pages that a context of so many tokens needs, and of so many of an encoder's."""
        pages = self.state_pages
        for group in self.groups:
            count = encoded if group.kept is Kept.ENCODED else tokens
            pages += group.pages_for(count, self.page_bytes)
        return pages


def page_size(groups: Sequence[Group], state_bytes: int, page_tokens: int) -> int:
    """Bytes of a page: so many tokens of the largest group, and whole rows of every group.

    Without rows a page is an eighth of a session's states, in whole multiples of 64 bytes.
    """
    if not groups:
        return max(64, -(-state_bytes // (8 * 64)) * 64)
    whole = math.lcm(*(group.row_bytes for group in groups), 16)
    wanted = page_tokens * max(group.token_bytes for group in groups)
    return -(-wanted // whole) * whole
