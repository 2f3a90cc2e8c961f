"""Which item of an old sequence an item of a new one continues."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Sequence


def aligned(levels: Sequence[tuple[Sequence[Hashable], Sequence[Hashable]]]) -> list[tuple[int, int]]:
    """Pairs of places, rising on both sides.

    Args:
        levels: what the items of the old and the new sequence look like, the closest look first; where one level finds
            nothing alike the next one is asked, and at last items are paired by their places if there are as many.
    """
    pairs: list[tuple[int, int]] = []
    _align(levels, (0, len(levels[0][0])), (0, len(levels[0][1])), pairs)
    return pairs


def _align(
    levels: Sequence[tuple[Sequence[Hashable], Sequence[Hashable]]],
    old: tuple[int, int],
    new: tuple[int, int],
    pairs: list[tuple[int, int]],
) -> None:
    if old[0] == old[1] or new[0] == new[1]:
        return
    if not levels:
        if old[1] - old[0] == new[1] - new[0]:
            pairs.extend(zip(range(*old), range(*new), strict=True))
        return
    (left, right), *rest = levels
    for one, other, count in (*_matches(left, right, old, new), (old[1], new[1], 0)):
        _align(rest, (old[0], one), (new[0], other), pairs)
        pairs.extend((one + step, other + step) for step in range(count))
        old, new = (one + count, old[1]), (other + count, new[1])


def _matches(
    left: Sequence[Hashable], right: Sequence[Hashable], old: tuple[int, int], new: tuple[int, int]
) -> list[tuple[int, int, int]]:
    """Runs of equal items: where they begin on both sides, and how many."""
    begin, shortest = 0, min(old[1] - old[0], new[1] - new[0])
    while begin < shortest and left[old[0] + begin] == right[new[0] + begin]:
        begin += 1
    end = 0
    while end < shortest - begin and left[old[1] - 1 - end] == right[new[1] - 1 - end]:
        end += 1
    found = [(old[0], new[0], begin)]
    first, second = left[old[0] + begin : old[1] - end], right[new[0] + begin : new[1] - end]
    if first and second:
        # Items that are everywhere are no places to begin a match at, so that this takes no quadratic time.
        blocks = difflib.SequenceMatcher(None, first, second, autojunk=True).get_matching_blocks()
        found += [(old[0] + begin + a, new[0] + begin + b, size) for a, b, size in blocks if size]
    found.append((old[1] - end, new[1] - end, end))
    return [one for one in found if one[2]]
