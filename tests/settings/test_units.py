"""Quantities as a reader sees them: never more than 1,000 of a unit."""

from __future__ import annotations

import pytest

from djinn_fx.units import format_bytes, format_seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12.34e-6, "12.3 us"), (999.94e-6, "999.9 us"), (999.96e-6, "1.0 ms"), (0.99996, "1.0 s"), (61.0, "61.0 s")],
)
def test_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(999, "999 B"), (1_500_000, "1.5 MB"), (999_940, "999.9 kB"), (999_960, "1.0 MB"), (10**16, "10000.0 TB")],
)
def test_bytes(count: int, text: str) -> None:
    assert format_bytes(count) == text
