"""The tables that commands print: drawn on a terminal, else aligned plain text."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence

Rows = Sequence[Sequence[str]]


def print_table(head: Sequence[str], rows: Rows) -> None:
    """Print a table of anybody's words."""
    clean = [list(map(on_one_line, row)) for row in rows]
    if sys.stdout.isatty():
        _draw(head, clean)
    else:
        print("\n".join(aligned(head, clean)))


def aligned(head: Sequence[str], rows: Rows, right: Collection[str] = ()) -> list[str]:
    """A table's lines, two spaces between its columns; those named by ``right`` end below each other."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for row in (head, *rows):
        cells = zip(head, row, widths, strict=True)
        line = "  ".join(cell.rjust(width) if name in right else cell.ljust(width) for name, cell, width in cells)
        lines.append(line.rstrip())
    return lines


def on_one_line(text: str) -> str:
    """Text from a file of anybody's, on one line: no control sequence in it reaches the terminal."""
    return text if text.isprintable() else ascii(text)[1:-1]


def _draw(head: Sequence[str], rows: Rows) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for column in head:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # Text: a cell such as "[2, 4]" is not markup
    Console().print(table)
