"""``djinn repro DIR``: run one region alone, eagerly, in float64 and by the engine whose answer was found wrong."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from djinn_fx.cli.table import aligned, on_one_line
from djinn_fx.guard.repro.read import Reproduced, read
from djinn_fx.guard.repro.replay import Replay, replay

AGREES, DIFFERS = 0, 1
_COLUMNS = ("", "form", "eager - float64", "engine - float64", "engine - eager", "within")


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(
        prog="djinn repro",
        description="Run a region whose engine gave a wrong answer, alone, and compare it with eager and float64.",
        epilog="Exit code: 0 the engine agrees with eager, 1 it differs or fails, 2 the directory cannot be used here.",
    )
    made.add_argument("folder", metavar="DIR", type=Path, help="the directory that the warning named")
    made.add_argument(
        "--use-payload",
        action="store_true",
        help="load the stored artefact instead of compiling anew. It may hold machine code: only from whom you trust",
    )
    return made


def main(words: Sequence[str]) -> int:
    """Run the command; returns the exit code.

    Raises:
        DjinnError: the directory cannot be used (the exit code is then 2).
    """
    arguments = parser().parse_args(list(words))
    given = read(arguments.folder.expanduser())
    print("\n".join(_head(given)))
    sys.stdout.flush()  # compiling takes a while
    result = replay(given, use_payload=arguments.use_payload)
    print("\n".join(_body(result)))
    return DIFFERS if result.finding.failed or result.finding.wrong else AGREES


def _head(given: Reproduced) -> list[str]:
    record = given.record
    lines = [
        f"region   {on_one_line(record.label)}, {record.region_kind}, {len(record.form['ops'])} ops",
        f"engine   {record.engine}",
        f"then     {on_one_line(record.created)}: {on_one_line(record.wrong)}",
    ]
    if given.drawn:
        places = ", ".join(map(str, given.drawn))
        lines.append(f"note     arguments {places} were too large to keep: random numbers like them are used")
    return lines


def _body(result: Replay) -> list[str]:
    lines = [
        f"changed  {on_one_line(name)}: was {on_one_line(was)}, is {on_one_line(now)}"
        for name, (was, now) in result.changed.items()
    ]
    if result.note:
        lines.append(f"note     {result.note}")
    rows = [
        (row.name, row.form, row.eager or "-", row.engine or "-", row.apart or "-", "yes" if row.agrees else "NO")
        for row in result.rows
    ]
    if rows:
        lines += [
            "",
            *aligned(_COLUMNS, rows),
            "",
            "Largest difference, and in parentheses that of the whole, relative.",
        ]
    finding = result.finding
    if finding.failed:
        lines.append(f"The engine fails: {on_one_line(finding.failed)}")
    elif finding.wrong:
        lines.append(f"The engine is wrong: {on_one_line(finding.wrong)}")
    else:
        lines.append("The engine agrees with eager.")
    return lines
