"""Errors told in one line."""

from __future__ import annotations

import pytest

from djinn_fx.errors import useful_line


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "ValueError: no message"),
        ("\n  gone\nmore", "ValueError: gone"),
        ("wrong arguments. These are supported:\n\n    1. (data: object)\n    2. ()\n", "1. (data: object)"),
        (
            "Exception from a.cpp:105:\nException from b.cpp:188:\nUnable to read.\n\n",
            ": Unable to read.",
        ),
        (
            "Exception from a.cpp:92:\nCheck 'a && b(c)' failed at src/f.cpp:117:\nfailed with Failure:\nno file",
            ": failed with Failure: no file",
        ),
        ("Exception from src/core.cpp:105:\n", "ValueError: Exception from src/core.cpp:105:"),
    ],
)
def test_the_first_line_that_says_something_is_told(text: str, told: str) -> None:
    line = useful_line(ValueError(text))
    assert line.startswith("ValueError: ")
    assert line.endswith(told)
    assert "\n" not in line
