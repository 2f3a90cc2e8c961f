"""Write README's table of settings from djinn_fx.settings.table; with --check, only say whether it is current."""

from __future__ import annotations

import sys
from pathlib import Path

from djinn_fx.settings.table import describe

README = Path(__file__).parent.parent / "README.md"
BEGIN = "<!-- settings: written by tools/settings_table.py -->"
END = "<!-- settings end -->"


def table() -> str:
    """The settings as a Markdown table."""
    rows = [f"| `{row.name}` | {row.type} | `{row.default}` | {row.meaning} |" for row in describe()]
    return "\n".join(["| setting | accepts | default | meaning |", "| --- | --- | --- | --- |", *rows])


def main(arguments: list[str]) -> int:
    """Entry point; 1 if README has no markers, or is out of date under --check."""
    text = README.read_text("utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        print(f"{README.name} must hold each of these lines once: {BEGIN} {END}", file=sys.stderr)
        return 1
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    current = f"{before}{BEGIN}\n{table()}\n{END}{after}"
    if current == text:
        return 0
    if "--check" in arguments:
        print(f"the table of settings in {README.name} is out of date: run `make table`", file=sys.stderr)
        return 1
    README.write_text(current, "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
