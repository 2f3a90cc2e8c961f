"""Tables of the commands."""

from __future__ import annotations

import pytest

from djinn_fx.cli.table import aligned, on_one_line, print_table

ROWS = [("a", "10", "first"), ("long", "9", "")]


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    lines = aligned(("name", "n", "what"), ROWS, right=("n",))
    assert lines == ["name   n  what", "a     10  first", "long   9"]


def test_no_control_sequence_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert on_one_line("a\x1b[2J\n") == r"a\x1b[2J\n"
    print_table(("key",), [("\x1b[31mred",)])
    assert capsys.readouterr().out == "key\n\\x1b[31mred\n"
