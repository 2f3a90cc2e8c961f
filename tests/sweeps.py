"""Parts of wide sweeps: a fixed part in ``make test``, the others in ``make exam``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest


def some_of(cases: Sequence[Any], *, every: int = 3) -> list[Any]:
    """As parameters of a test: every third, or so many-th, for ``make test``, the others marked ``exam``."""
    return [
        pytest.param(one, marks=() if number % every == 0 else pytest.mark.exam) for number, one in enumerate(cases)
    ]


def in_turn(rows: Sequence[Any], columns: Sequence[Any]) -> list[Any]:
    """Pairs as parameters of a test: every row once for ``make test``, columns by turns; the others marked ``exam``."""
    return [
        pytest.param(row, column, marks=() if place == number % len(columns) else pytest.mark.exam)
        for number, row in enumerate(rows)
        for place, column in enumerate(columns)
    ]
