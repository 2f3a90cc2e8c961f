"""Write the tables of settings from djinn_fx.settings.table; with --check, only say whether they are current.

README has the main ones, docs/settings.md all of them by group.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from djinn_fx.settings.table import GROUPS, Settings, accepted, facts

ROOT = Path(__file__).parent.parent
BEGIN = "<!-- settings: written by tools/settings_table.py -->"
END = "<!-- settings end -->"


def table(group: str) -> str:
    """A group's settings as a Markdown table."""
    rows = ["| setting | accepts | default | meaning |", "| --- | --- | --- | --- |"]
    for name, info in Settings.model_fields.items():
        if facts(name)["group"] == group:
            default = yaml.safe_dump(info.default).split("\n")[0].replace("null", "none")
            rows.append(f"| `{name}` | {accepted(name)} | `{default}` | {info.description} |")
    return "\n".join(rows)


def groups() -> Iterator[str]:
    """Every group's title, sentence and table."""
    for group, (title, sentence) in GROUPS.items():
        yield f"## {title}\n\n{sentence}\n\n{table(group)}"


#: Files, and what each has between the two markers.
FILES = {"README.md": table("main"), "docs/settings.md": "\n\n".join(groups())}


def main(arguments: list[str]) -> int:
    """Entry point; 1 if a file lacks the markers, or is out of date under --check."""
    for name, content in FILES.items():
        path = ROOT / name
        text = path.read_text("utf-8")
        if text.count(BEGIN) != 1 or text.count(END) != 1:
            print(f"{name} must hold each of these lines once: {BEGIN} {END}", file=sys.stderr)
            return 1
        before, rest = text.split(BEGIN)
        current = f"{before}{BEGIN}\n{content}\n{END}{rest.split(END)[1]}"
        if current != text and "--check" in arguments:
            print(f"the table of settings in {name} is out of date: run `make table`", file=sys.stderr)
            return 1
        path.write_text(current, "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
