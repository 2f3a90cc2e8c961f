"""What every bench shares: arguments, child processes with caches of their own, statistics, bars, the report.

A bench is one script for one claim. It prints a table, and with ``--json`` writes every sample. How a figure comes
about is the same in all of them:

* Things that are compared run interleaved (A B, B A, A B, …), and are compared pair by pair: the ratio is the median
  of the ratios of neighbours, so that a machine that slows down half-way does not favour one side.
* Beside a ratio stands its noise floor: what the same procedure gives for a thing against itself in the same run.
* A bar is a figure with a bound. A bar that does not hold changes the exit code only with ``--strict``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

from bench.harness.children import Caches, ChildFailedError, call_child, fresh_caches
from bench.harness.machine import device, load_average, versions
from bench.harness.measuring import (
    Bar,
    Ratio,
    bar,
    floor,
    interleave,
    no_gc,
    ratio,
    rotated,
    successive,
    time_block,
    time_calls,
)

__all__ = [
    "SCHEMA", "Bar", "Caches", "ChildFailedError", "Journal", "Ratio", "Report", "bar", "call_child", "device",
    "floor", "fresh_caches", "interleave", "load_average", "no_gc", "parse", "parser", "positive", "ratio", "rotated",
    "successive", "table", "time_block", "time_calls", "versions", "write_json",
]  # fmt: skip

T = TypeVar("T")

SCHEMA = "djinn-bench/1"


def parser(description: str, runs: int = 3) -> argparse.ArgumentParser:
    """The arguments that all benches have; a bench adds its own."""
    made = argparse.ArgumentParser(description=description.split("\n")[0])
    made.add_argument("--quick", action="store_true", help="a small form that takes at most a minute")
    made.add_argument("--json", type=Path, metavar="FILE", help="write every sample here")
    made.add_argument("--data", type=Path, metavar="DIR", help="where the bench reads data, if it needs any")
    made.add_argument("--runs", type=positive, metavar="N", help=f"repetitions (default {runs}; with --quick 1)")
    made.add_argument("--strict", action="store_true", help="exit with 1 if a bar does not hold")
    made.add_argument("--resume", action="store_true", help="with --json: go on where a stopped run left off")
    made.set_defaults(default_runs=runs)
    return made


def parse(made: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments as given, with ``runs`` filled in."""
    arguments = made.parse_args(argv)
    if arguments.runs is None:
        arguments.runs = 1 if arguments.quick else arguments.default_runs
    del arguments.default_runs
    if arguments.resume and arguments.json is None:
        made.error("--resume needs --json: the samples so far lie beside that file")
    return arguments


def positive(text: str) -> int:
    """A whole number of at least 1, from a command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


class Report:
    """What a bench found: printed as it comes, written as JSON at the end.

    Args:
        bench: its name.
        arguments: as :func:`parse` gives them.
    """

    def __init__(self, bench: str, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._bars: dict[str, Bar] = {}
        given = {name: v.name if isinstance(v, Path) else v for name, v in vars(arguments).items()}
        self._content: dict[str, Any] = {
            "schema": SCHEMA,
            "bench": bench,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "arguments": given,
            "device": device(),
            "versions": versions(),
            "load_average": {"start": load_average(), "end": None},
            "measurements": {},
            "ratios": {},
            "noise": {},
            "facts": {},
        }
        machine, load = self._content["device"], self._content["load_average"]["start"]
        print(f"{bench}: {machine['cpu']}, {machine['cores']} cores, load {load}; {self._versions()}", flush=True)
        if load is not None and load[0] > 0.5 * machine["cores"]:
            print("the machine is busy: these figures will be noisy", flush=True)

    def _versions(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self._content["versions"].items() if value)

    def measured(self, name: str, samples: Sequence[float], unit: str) -> float:
        """Keep a series of samples. Returns its median."""
        median = statistics.median(samples)
        self._content["measurements"][name] = {"unit": unit, "median": median, "samples": list(samples)}
        return median

    def ratio(self, name: str, found: Ratio, noise: Ratio | None) -> Ratio:
        """Keep a ratio and its noise floor. Returns the ratio."""
        self._content["ratios"][name] = asdict(found)
        self._content["noise"][name] = asdict(noise) if noise is not None else None
        return found

    def fact(self, name: str, value: Any) -> None:
        """Keep anything else, a JSON value."""
        self._content["facts"][name] = value

    def bar(self, name: str, value: float | None, bound: float, rule: str = "<=") -> Bar:
        """Hold a figure against a bound."""
        self._bars[name] = bar(value, bound, rule)
        return self._bars[name]

    def content(self) -> dict[str, Any]:
        """The report as a JSON value."""
        return {**self._content, "bars": {name: asdict(one) for name, one in self._bars.items()}}

    def finish(self) -> int:
        """Print the bars, write the JSON file. Returns the exit code."""
        self._content["load_average"]["end"] = load_average()
        words = {True: "holds", False: "DOES NOT HOLD", None: "not measured"}
        rows = [
            [name, "" if one.value is None else f"{one.value:.4g}", one.rule, f"{one.bound:g}", words[one.holds]]
            for name, one in self._bars.items()
        ]
        print("\n" + table(["bar", "value", "", "bound", ""], rows), flush=True)
        if self._arguments.json is not None:
            write_json(self._arguments.json, self.content())
            print(f"written: {self._arguments.json}")
        return int(self._arguments.strict and any(one.holds is False for one in self._bars.values()))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(beside, path)


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Plain text in columns, the first one flush left, the others flush right."""
    cells = [[str(cell) for cell in row] for row in (headers, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    lines = [
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


class Journal:
    """Results of the steps done so far, beside the JSON file, so that a stopped run can go on.

    Args:
        arguments: as :func:`parse` gives them; without ``--json`` nothing is kept.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._path: Path | None = None
        self._known: dict[str, Any] = {}
        if arguments.json is None:
            return
        self._path = arguments.json.with_name(arguments.json.name + ".part")
        head = {"quick": arguments.quick, "versions": versions()}
        lines = self._path.read_text().splitlines() if arguments.resume and self._path.exists() else []
        kept = [json.loads(line) for line in lines if line.endswith("}")]
        if kept and kept[0] == head:
            self._known = {one["step"]: one["result"] for one in kept[1:]}
            print(f"resumed: {len(self._known)} steps are done already", flush=True)
        else:
            if kept:
                print(f"{self._path} is of another version or form and begins anew", flush=True)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(head) + "\n")

    def once(self, step: str, work: Callable[[], T]) -> T:
        """The result of a step, a JSON value: from the journal if it is there, else by doing it."""
        if step not in self._known:
            result = work()
            self._known[step] = result
            if self._path is not None:
                with self._path.open("a") as file:
                    file.write(json.dumps({"step": step, "result": result}) + "\n")
        known: T = self._known[step]
        return known

    def done(self) -> None:
        """The report is written: the journal is no longer needed."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
