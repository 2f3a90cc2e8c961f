"""Differences between cache keys, and the stored entry nearest to one that missed."""

from __future__ import annotations

from typing import Any

import pytest

from djinn_fx.store.store import ABSENT, EntryInfo, difference, nearest


@pytest.mark.parametrize(
    ("mine", "stored", "expected"),
    [
        ({"a": 1, "b": {"c": 2}}, {"b": {"c": 2}, "a": 1}, []),
        ({"a": 1}, {"a": 2}, [("a", 1, 2)]),
        ({"a": {"b": [1, 2, 3]}}, {"a": {"b": [1, 9, 3]}}, [("a.b[1]", 2, 9)]),
        ({"a": 1}, {"b": 1}, [("a", 1, ABSENT), ("b", ABSENT, 1)]),
        ({"a": None}, {}, [("a", None, ABSENT)]),
        ([1, 2, 3, 4], [1, 3, 4], [("[1]", 2, ABSENT)]),
        ([1, 4], [1, 2, 3, 4], [("[1]", ABSENT, 2), ("[2]", ABSENT, 3)]),
        ([1, 1], [1, 1, 1], [("[2]", ABSENT, 1)]),
        ({"a": True}, {"a": 1}, [("a", True, 1)]),
        ({"a": 1.0}, {"a": 1}, [("a", 1.0, 1)]),
        ({"a": float("nan")}, {"a": float("nan")}, []),
        ({"a": (1, 2)}, {"a": [1, 2]}, []),
        ({"a": {"b": 1}}, {"a": [1]}, [("a", {"b": 1}, [1])]),
        (1, 2, [("", 1, 2)]),
    ],
)
def test_difference(mine: Any, stored: Any, expected: list[tuple[str, Any, Any]]) -> None:
    found = [(item.path, item.mine, item.stored) for item in difference(mine, stored)]
    assert list(map(repr, found)) == list(map(repr, expected))  # repr: 1 == True


def info(number: int, mtime: float = 0.0, **header: Any) -> EntryInfo:
    return EntryInfo(f"{number:064x}", 1, mtime, header)


def test_nearest_has_the_fewest_differences() -> None:
    near, far = info(1, fields={"a": 1, "b": 2}), info(2, fields={"a": 5, "b": 6})
    found = nearest({"a": 1, "b": 3}, [far, info(3), near])
    assert found is not None
    assert found[0] is near
    assert [item.path for item in found[1]] == ["b"]
    assert nearest({"a": 1}, [info(3)]) is None, "an entry without fields is near to nothing"


def test_ties_go_to_the_nearest_canonical_form_then_to_the_latest_use() -> None:
    old = info(1, 1.0, fields={"hash": "x"}, canonical={"ops": [1, 2, 3]})
    new = info(2, 2.0, fields={"hash": "y"}, canonical={"ops": [7, 8, 9]})
    by_use, by_form = nearest({"hash": "z"}, [old, new]), nearest({"hash": "z"}, [new, old], {"ops": [1, 2, 4]})
    assert by_use is not None
    assert by_use[0] is new
    assert by_form is not None
    assert by_form[0] is old
