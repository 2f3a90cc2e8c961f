"""The page of the sessions' proof has the figures of the results that lie beside it."""

from __future__ import annotations

from bench.sessions.page import PAGE, written


def test_its_tables_are_those_of_the_results() -> None:
    text = PAGE.read_text("utf-8")
    assert "| bar |" in text
    assert written(text) == text
