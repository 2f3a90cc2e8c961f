"""Finding pages that hold the beginning of a context already: the same tokens behind the same page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from djinn_fx.sessions.caches.layout import Layout

#: In place of a page: nothing comes before.
_START = -1


@dataclass
class Prefixes:
    """Full pages by what is in them. Tokens are compared themselves, not by a hash: equal means equal.

    Args:
        page_tokens: tokens of a page.
    """

    page_tokens: int
    _pages: dict[tuple[int, tuple[int, ...]], int] = field(default_factory=dict)
    _keys: dict[int, tuple[int, tuple[int, ...]]] = field(default_factory=dict)

    @classmethod
    def of(cls, layout: Layout) -> Prefixes | None:
        """For caches of a layout; None where they cannot be shared by what is in them."""
        if not layout.shares or len(layout.groups) != 1:
            return None
        return cls(layout.groups[0].page_tokens(layout.page_bytes))

    def match(self, tokens: Sequence[int]) -> list[int]:
        """Pages that hold the tokens' beginning, all but the last token at most: that one must be computed."""
        found: list[int] = []
        each, before = self.page_tokens, _START
        for start in range(0, (len(tokens) - 1) // each * each, each):
            page = self._pages.get((before, tuple(tokens[start : start + each])))
            if page is None:
                break
            found.append(page)
            before = page
        return found

    def add(self, tokens: Sequence[int], pages: Sequence[int], first: int) -> None:
        """Full pages of a context from ``first`` on."""
        each = self.page_tokens
        for place in range(first, len(tokens) // each):
            key = (pages[place - 1] if place else _START, tuple(tokens[place * each : (place + 1) * each]))
            if key not in self._pages and pages[place] not in self._keys:
                self._pages[key] = pages[place]
                self._keys[pages[place]] = key

    def forget(self, page: int) -> None:
        """A page is gone, or other tokens will be written to it."""
        key = self._keys.pop(page, None)
        if key is not None:
            del self._pages[key]
