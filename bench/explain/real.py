"""The examples by ``explain --real``: foretold times and peaks beside measured ones; and what a report itself takes.

    python bench/explain/real.py --json bench/results/explain_real.json      # some ten minutes
    python bench/explain/real.py --quick

The machine is calibrated first, with caches of its own, as a user would do once (not with ``--quick``, which so
measures no error of times). Each example is then explained with ``--real`` in a process of its own: what the report
said of the engine that serves in the end, before it was built, stands beside the median of settled calls. Peaks are
of the graphs' own ops, so each example runs once more with ``engine=eager``: what an engine for whole graphs
allocates, torch does not count. A scenario whose calls are not timed, such as a training step, is told and counts in
no bar. The last part takes the report of a decoder of 12 layers, and one of a graph of thousands of ops, in new
processes without ``--real``: seconds, and the largest resident set.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.harness.harness import Report, parse, parser, table
from djinn_fx.units import format_bytes, format_seconds

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES: dict[str, tuple[str, ...]] = {
    "decoder": (),
    "two_devices": (),
    "encoder": (),
    "vision": (),
    "speech": (),
    "experts": (),
    "training": ("--training",),
}
QUICK = ("vision",)
CALIBRATE_S = 180
#: Layers of a decoder whose graph has close to 10,000 ops.
MANY_LAYERS = 130

Row = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, compare, report. Returns the exit code."""
    arguments: argparse.Namespace = parse(parser(__doc__ or "", runs=1), argv)
    report = Report("explain_real", arguments)
    with tempfile.TemporaryDirectory(prefix="djinn-bench-") as folder:
        world = {"DJINN_CACHE_DIR": f"{folder}/cache", "DJINN_CONFIG_DIR": f"{folder}/config"}
        if not arguments.quick:
            _run(["calibrate", "--seconds", str(CALIBRATE_S)], world)
        rows = [row for name in (QUICK if arguments.quick else EXAMPLES) for row in _real(name, folder, world)]
        _show(rows)
        terminal = {"12 layers": _terminal(12, folder, world)}
        if not arguments.quick:
            terminal["many ops"] = _terminal(MANY_LAYERS, folder, world)
    for name, one in terminal.items():
        print(f"report of {name}: {one['ops']} ops, {one['seconds']:.1f} s, {format_bytes(one['rss'])} at most")
    report.fact("scenarios", rows)
    report.fact("terminal", terminal)
    _bars(report, rows, terminal, calibrated=not arguments.quick)
    return report.finish()


def _run(words: Sequence[str], world: dict[str, str]) -> int:
    """``python -m djinn_fx WORDS``; the largest resident set of that process and its children, in bytes.

    Raises:
        RuntimeError: it did not end with 0.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DJINN_")}
    command = [sys.executable, "-m", "djinn_fx", *words]
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(command, cwd=ROOT, env={**kept, **world}, stdout=said, stderr=said)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            said.seek(0)
            raise RuntimeError(f"{' '.join(words)}: {child.returncode}: {said.read().decode()[-2000:]}")
    return used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _real(name: str, folder: str, world: dict[str, str]) -> list[Row]:
    print(f"{name} ...", flush=True)
    found = _explained(name, folder, world, "auto")
    by_ops = _explained(name, folder, world, "eager")["run"]["scenarios"]
    pairs = zip(found["scenarios"], found["run"]["scenarios"], strict=True)
    rows = [_row(f"{name} {scenario['name']}".strip(), scenario, run) for scenario, run in pairs]
    return [{**row, **_peaks(run["check"])} for row, run in zip(rows, by_ops, strict=True)]


def _explained(name: str, folder: str, world: dict[str, str], engine: str) -> Row:
    place = Path(folder) / f"{name}-{engine}.json"
    words = [*EXAMPLES[name], "--real", "--option", f"engine={engine}", "--json", str(place)]
    _run(["explain", f"examples/{name}.py", *words], world)
    return dict(json.loads(place.read_text("utf-8")))


def _peaks(check: Row) -> Row:
    return {"foretold_bytes": check["foretold_bytes"], "live_bytes": check["live_bytes"]}


def _row(name: str, scenario: Row, run: Row) -> Row:
    check, told = run["check"], [_foretold(*pair) for pair in zip(scenario["graphs"], run["graphs"], strict=True)]
    time_s, low_s, high_s = (sum(one[key] for one in told) for key in ("time_s", "low_s", "high_s"))
    return {
        "name": name,
        "engines": sorted({build["engine"] for graph in run["graphs"] for build in graph["builds"]}),
        "equal": check["equal"],
        "provenance": sorted({one["provenance"] for one in told}),
        "foretold_s": time_s,
        "interval_s": [low_s, high_s],
        "call_s": check["call_s"],
        "eager_s": check["eager_s"],
    }


def _foretold(graph: Row, run: Row) -> Row:
    """What was estimated for the engine that serves a graph; for the regions' own ops where nothing was told apart."""
    serving = {build["engine"] for build in run["builds"]}
    for one in graph["times"]:
        if one["engine"] in serving:
            return dict(one)
    return dict(graph["cost"])


def _terminal(layers: int, folder: str, world: dict[str, str]) -> Row:
    """What the report of a decoder takes in a new process, with nothing kept from before."""
    place, own = Path(folder) / f"layers-{layers}.json", {**world, "DJINN_CACHE_DIR": f"{folder}/empty-{layers}"}
    start = time.perf_counter()
    rss = _run(["explain", "--hf", f"llama:num_hidden_layers={layers}", "--json", str(place)], own)
    seconds = time.perf_counter() - start
    graphs = [graph for scenario in json.loads(place.read_text("utf-8"))["scenarios"] for graph in scenario["graphs"]]
    return {"ops": max(graph["ops"] for graph in graphs), "seconds": seconds, "rss": rss}


def _show(rows: Sequence[Row]) -> None:
    lines = [
        [
            row["name"],
            ", ".join(row["engines"]),
            format_seconds(row["foretold_s"]),
            format_seconds(row["call_s"]) if row["call_s"] else "not timed",
            f"{_error(row):+.0%}" if row["call_s"] else "",
            format_bytes(row["foretold_bytes"]),
            format_bytes(row["live_bytes"]) if row["live_bytes"] else "not counted",
        ]
        for row in rows
    ]
    print(
        table(["scenario", "serves", "foretold", "measured", "error", "peak foretold", "measured"], lines), flush=True
    )


def _error(row: Row) -> float:
    return float(row["foretold_s"] / row["call_s"] - 1)


def _bars(report: Report, rows: Sequence[Row], terminal: dict[str, Row], *, calibrated: bool) -> None:
    timed = [row for row in rows if row["call_s"]] if calibrated else []
    counted = [row for row in rows if row["live_bytes"]]
    inside = [row["interval_s"][0] <= row["call_s"] <= row["interval_s"][1] for row in timed]
    peaks = [abs(row["foretold_bytes"] / row["live_bytes"] - 1) for row in counted]
    report.bar("answers that are not eager's", sum(row["equal"] is False for row in rows), 0, "==")
    report.bar("median error of times", statistics.median(abs(_error(row)) for row in timed) if timed else None, 0.25)
    report.bar("share of times in their 80 % interval", sum(inside) / len(inside) if inside else None, 0.75, ">=")
    report.bar("largest error of a peak", max(peaks) if peaks else None, 0.10)
    report.bar("12 layers: seconds of a report", terminal["12 layers"]["seconds"], 15.0)
    report.bar("largest resident set of a report, GB", max(one["rss"] for one in terminal.values()) / 1e9, 1.2)


if __name__ == "__main__":
    sys.exit(main())
