"""Tables of docs/sessions_proof.md, from what lies in bench/results: no figure there is typed by hand.

python bench/sessions/page.py
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.sessions.cells import CELLS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "sessions_proof.md"
RESULTS = ROOT / "bench" / "results"
SHOWN = ("lru-host", "arc", "ttl", "min-waste", "eager-swap", "clairvoyant", "djinn/none", "djinn/noisy", "djinn/tools",
         "djinn/exact")  # fmt: skip

SHOWN_NOT = ("",) * len(SHOWN)


def row(*cells: object) -> str:
    """A row of a table."""
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def cells_table(report: Mapping[str, Any]) -> list[str]:
    """Stall in parts of busy time, by cell and policy."""
    known = {cell.name for cell in CELLS}
    lines = [row("cell", *SHOWN), row(*["---", *["--:"] * len(SHOWN)])]
    for name, runs in report["facts"].items():
        if name not in known:
            continue
        busy = sum(one["busy_s"] for one in runs["lru-host"])
        stalls = [100 * sum(one["stall_s"] for one in runs[policy]) / busy for policy in SHOWN]
        mark = "" if name in report["facts"]["cells that count"] else " (does not count)"
        lines.append(row(name + mark, *(f"{stall:.1f}" for stall in stalls)))
    return lines + [row(cell.name + " (not run)", *SHOWN_NOT) for cell in CELLS if cell.name not in report["facts"]]


def bars_table(*reports: Mapping[str, Any]) -> list[str]:
    """All bars."""
    lines = [row("bar", "value", "bound", "holds"), row("---", "--:", "--:", "---")]
    for report in reports:
        for name, one in report["bars"].items():
            value = "not measured" if one["value"] is None else f"{one['value']:.3g}"
            lines.append(
                row(
                    name, value, f"{one['rule']} {one['bound']:g}", {True: "yes", False: "**no**"}.get(one["holds"], "")
                )
            )
    return lines


def shares_table(report: Mapping[str, Any]) -> list[str]:
    """Facts that are single figures."""
    facts = {name: value for name, value in report["facts"].items() if isinstance(value, float)}
    return [row("figure", "value"), row("---", "--:"), *(row(name, f"{value:.2f}") for name, value in facts.items())]


def old_table(report: Mapping[str, Any]) -> list[str]:
    """The earlier report's load."""
    keys = ("alive", "filled", "wake_mean_s", "wake_p50_s", "wake_p99_s", "swaps", "restores", "completions", "success",
            "tokens_per_s")  # fmt: skip
    lines = [row("preset", *(key.replace("_", " ") for key in keys)), row(*["---", *["--:"] * len(keys)])]
    for name, one in report["facts"].items():
        if name != "reported":
            lines.append(row(name, *(f"{one[key]:.3g}" for key in keys)))
    told = report["facts"]["reported"]
    lines.append(
        row(
            "reported", "", "", "", "", told["wake P99 s"], told["swaps"], told["restores"], told["completions"], "", ""
        )
    )
    return lines


def read(name: str) -> dict[str, Any]:
    """A report."""
    loaded: dict[str, Any] = json.loads((RESULTS / f"sessions_{name}.json").read_text())
    return loaded


def written(text: str) -> str:
    """The page with its tables as the results have them."""
    simulate, old = read("simulate"), read("old_load")
    others = [read(name) for name in ("capacity", "optimum", "speed")]
    tables = {
        "cells": cells_table(simulate),
        "bars": bars_table(simulate, *others),
        "figures": shares_table(simulate),
        "old": old_table(old),
    }
    for name, lines in tables.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        text = re.sub(f"{begin}.*?{end}", lambda _, b=begin, e=end, t=lines: "\n".join([b, *t, e]), text, flags=re.S)  # type: ignore[misc]
    return text


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")
    sys.exit(0)
