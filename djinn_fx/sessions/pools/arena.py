"""One allocation cut into pages of one size: the device pool, and the host pool beneath it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from djinn_fx.sessions.pools.slots import Slots


class Arena(Slots):
    """Pages in one tensor, handed out by their number.

    Args:
        pages: how many.
        page_bytes: bytes of each.
        device: where they are.
        pinned: page-locked host memory, which a CUDA device copies from and to beside computing.
        kept: leading pages that are never handed out and stay zero.
    """

    def __init__(
        self, pages: int, page_bytes: int, device: torch.device | str = "cpu", *, pinned: bool = False, kept: int = 0
    ) -> None:
        super().__init__(range(kept, pages + kept))
        self.page_bytes = page_bytes
        self.pages = pages
        self.kept = kept
        self.memory = torch.zeros((pages + kept, page_bytes), dtype=torch.uint8, device=device, pin_memory=pinned)

    def clear(self, slots: Sequence[int]) -> None:
        """Zero pages: what masks hide must still be finite, and must not be another session's."""
        for start, end in runs(slots):
            self.memory[start:end].zero_()


def runs(slots: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Half-open ranges of neighbouring numbers in a sequence, in its order."""
    start = end = -1
    for slot in slots:
        if slot != end:
            if end > start:
                yield start, end
            start = slot
        end = slot + 1
    if end > start:
        yield start, end


def paired_runs(pairs: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Source, target and length of copies that move several neighbouring pages at once."""
    source = target = count = 0
    for one, other in sorted(pairs):
        if count and one == source + count and other == target + count:
            count += 1
            continue
        if count:
            yield source, target, count
        source, target, count = one, other, 1
    if count:
        yield source, target, count
