"""What differs between two cache keys, field by field, and which stored entry is nearest to a key that missed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from djinn_fx.store.format import JSON, EntryInfo


class Absent(Enum):
    """Stands for a field one side does not have; no JSON value can be mistaken for it."""

    ABSENT = "(absent)"

    def __str__(self) -> str:
        return self.value


ABSENT = Absent.ABSENT


@dataclass(frozen=True)
class FieldDifference:
    """One place where two JSON values differ.

    Attributes:
        path: such as ``flags.max_autotune`` or ``shapes[2]``; empty for the whole value.
        mine: the value there in the first, ``ABSENT`` if there is none.
        stored: the value there in the second, ``ABSENT`` if there is none.
    """

    path: str
    mine: JSON
    stored: JSON


def difference(mine: JSON, stored: JSON) -> list[FieldDifference]:
    """Where two JSON values differ, deepest places only, in the order of the fields' names.

    Lists of unequal length are compared after their common beginning and end are set aside, so that one inserted
    element is one difference.
    """
    return list(_walk("", mine, stored))


def nearest(
    fields: JSON, entries: Sequence[EntryInfo], canonical: JSON = None
) -> tuple[EntryInfo, list[FieldDifference]] | None:
    """The stored entry with the fewest differing fields, and those; None if no entry has recorded fields.

    Args:
        fields: of the key asked about.
        entries: those to choose from.
        canonical: of the key asked about, if known: settles ties between entries, then the latest use does.
    """
    candidates = [
        (difference(fields, entry.header["fields"]), entry)
        for entry in entries
        if entry.header.get("fields") is not None
    ]
    if not candidates:
        return None
    fewest = min(len(differences) for differences, _ in candidates)
    tied = [pair for pair in candidates if len(pair[0]) == fewest]

    def rank(pair: tuple[list[FieldDifference], EntryInfo]) -> tuple[int, float, str]:
        other = pair[1].header.get("canonical")
        # Only ties pay for this: a canonical form holds every op of a region.
        distance = 0 if canonical is None or len(tied) == 1 else len(difference(canonical, other))
        return (distance, -pair[1].mtime, pair[1].key)

    differences, entry = min(tied, key=rank)
    return entry, differences


def _walk(path: str, mine: JSON, stored: JSON) -> Iterator[FieldDifference]:
    if isinstance(mine, dict) and isinstance(stored, dict):
        for name in sorted({*mine, *stored}, key=str):
            inner = f"{path}.{name}" if path else str(name)
            yield from _walk(inner, mine.get(name, ABSENT), stored.get(name, ABSENT))
    elif isinstance(mine, (list, tuple)) and isinstance(stored, (list, tuple)):
        yield from _walk_lists(path, mine, stored)
    elif not _same(mine, stored):
        yield FieldDifference(path, mine, stored)


def _walk_lists(path: str, mine: Sequence[JSON], stored: Sequence[JSON]) -> Iterator[FieldDifference]:
    start, mine_end, stored_end = 0, len(mine), len(stored)
    if mine_end != stored_end:
        while start < min(mine_end, stored_end) and _same(mine[start], stored[start]):
            start += 1
        while start < min(mine_end, stored_end) and _same(mine[mine_end - 1], stored[stored_end - 1]):
            mine_end, stored_end = mine_end - 1, stored_end - 1
    for index in range(start, max(mine_end, stored_end)):
        here = mine[index] if index < mine_end else ABSENT
        there = stored[index] if index < stored_end else ABSENT
        yield from _walk(f"{path}[{index}]", here, there)


def _same(mine: JSON, stored: JSON) -> bool:
    """Equal as JSON text, as the key sees it: Python's ``==`` takes 1, 1.0 and true for the same, and NaN for none."""
    if mine is ABSENT or stored is ABSENT:
        return mine is stored
    return _text(mine) == _text(stored)


def _text(value: JSON) -> str:
    # Fields given in memory may hold what JSON has no form for; their text is what a reader would compare.
    return json.dumps(value, sort_keys=True, default=str)
