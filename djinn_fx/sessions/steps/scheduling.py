"""Which sessions take part in the next step, and which turns may use the device: pure choices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from djinn_fx.sessions.caches.layout import Kept, Layout
from djinn_fx.sessions.conversation import Conversation


def tokens_of_step(left: int, chunk: int, few: bool) -> int:
    """Tokens that a session computes in a step; none is padded.

    Args:
        left: tokens to be computed.
        chunk: the most of a step; a power of two.
        few: a power of two each, so that few shapes serve all: a compiled model is compiled for each.
    """
    return min(chunk, 1 << (left.bit_length() - 1) if few else left)


def bucket(past: int) -> int:
    """The length to which a batch's past is padded: of three leading bits, and 16 at least."""
    if past <= 0:
        return 0
    step = max(16, 1 << max(0, (past - 1).bit_length() - 3))
    return -(-past // step) * step


def choose(
    ready: Iterable[Conversation], chunk: int, most: int, *, few: bool, exact: bool, encodes: bool
) -> tuple[list[Conversation], int]:
    """Sessions for one step: the one that waited longest, and all that go with it.

    Args:
        ready: sessions whose pages are on the device.
        chunk: the most new tokens.
        most: sessions of a step.
        few: see :func:`tokens_of_step`.
        exact: they must have pasts of one length.
        encodes: a session's first step runs its encoder, and is made alone.

    Returns:
        The sessions, in the order in which they waited, and the new tokens of each.
    """
    waiting = sorted(ready, key=lambda one: (one.last_step, one.context.key))
    if not waiting:
        return [], 0

    def kind(one: Conversation) -> tuple[object, ...]:
        fresh = one.holding.cached == 0
        length = one.holding.cached if exact else fresh
        return tokens_of_step(one.left, chunk, few), fresh, length, one.key if encodes and fresh else ""

    wanted = kind(waiting[0])
    return [one for one in waiting if kind(one) == wanted][:most], tokens_of_step(waiting[0].left, chunk, few)


def pages_at_most(layout: Layout, tokens: int, encoded: int, chunk: int) -> int:
    """Pages that a context needs at once until it has so many tokens, all of its steps considered."""
    size = layout.page_bytes
    pages = layout.state_pages
    for group in layout.groups:
        each = group.page_tokens(size)
        count = encoded if group.kept is Kept.ENCODED else tokens
        need = -(-count // each)
        if group.kept is Kept.WINDOW:
            need = min(need, -(-(group.window - 1 + chunk) // each) + 1)
        pages += need
    return pages


def admit(
    waiting: Sequence[Conversation],
    running: Sequence[Conversation],
    need: Callable[[Conversation], int],
    pages: int,
    rank: Callable[[Conversation], tuple[float, ...]],
    admits: Callable[[Conversation], bool],
) -> list[Conversation]:
    """Turns that may use the device from now on: by rank, as long as all that are admitted fit together.

    Nobody overtakes a turn for which there is no room: it would wait for ever.

    Args:
        waiting, running: sessions whose turns are not, and are, admitted.
        need: pages that a session's turn needs at most.
        pages: of the device.
        rank: the least goes first.
        admits: whether a session's first turn may be admitted now.
    """
    left = pages - sum(map(need, running))
    admitted = []
    for one in sorted(waiting, key=rank):
        if not admits(one):
            continue
        left -= need(one)
        if left < 0:
            break
        admitted.append(one)
    return admitted
