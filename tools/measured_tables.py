"""Write what README shows first, and the tables of docs/measured.md. ``--check`` only compares.

README shows first calls, of bench/results/first_calls.json, and the head of the report docs/reports/decoder.md; the
other tables are of bench/results/generate.json and bench/results/engines.json.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: Calls from the end of a run of which the median is a settled call.
SETTLED = 50
SIDES = {"eager": "none", "Inductor": "inductor", "djinn": "djinn"}
ENGINES = {
    "eager": "eager",
    "Inductor": "inductor",
    "OpenVINO's backend": "openvino",
    "ONNX Runtime": "onnxruntime",
    "djinn, `auto`": "djinn",
}


def first_calls() -> str:
    """Three rows, a column a side, and where they are from."""
    found = json.loads((ROOT / "bench" / "results" / "first_calls.json").read_text("utf-8"))

    def samples(process: str, side: str) -> list[float]:
        series = found["measurements"].get(f"llama-24 {process} {side} call")
        return list(series["samples"]) if series is not None else []

    rows = {
        "first call": [_seconds((samples("cold", side) or samples("warm", side))[0]) for side in SIDES.values()],
        "first call of a second process": [_seconds(samples("warm", side)[0]) for side in SIDES.values()],
        "a settled call": [_seconds(statistics.median(samples("warm", side)[-SETTLED:])) for side in SIDES.values()],
    }
    said = f"A Llama-shaped decoder of 24 layers, float32, {_where(found)}; one run, `bench/results/first_calls.json`"
    return f"{_table(rows, SIDES)}\n\n{said} ([what else was measured](docs/measured.md))."


def generate() -> str:
    """A row a model, cache and batch: milliseconds of a step of the last call, once it is settled, and its memory."""
    found = json.loads((ROOT / "bench" / "results" / "generate.json").read_text("utf-8"))
    names = [name for name in found["facts"] if ", batch " in name]
    columns = [f"{what}, {side}" for what in ("prefill", "decode") for side in SIDES] + ["memory, Inductor", "djinn"]
    rows = {}
    for name in names:
        times = [
            1e3 * found["measurements"][f"{name}, {side}: {what}"]["median"]
            for what in ("prefill", "decode")
            for side in SIDES.values()
        ]
        held = [
            statistics.median(one[side]["resident_bytes"] / one[side]["weight_bytes"] for one in found["facts"][name])
            for side in ("inductor", "djinn")
        ]
        rows[name] = [f"{one:.1f}" for one in times] + [f"{one:.1f}" for one in held]
    how = "milliseconds; memory over what the process held before, in bytes of the weights, runtimes' own included"
    return f"{_table(rows, columns)}\n\n{_where(found)}; {how} (`generate.json`)."


def engines() -> str:
    """A row a model and way of calling it: milliseconds of a settled call, and which engine djinn runs it on."""
    found = json.loads((ROOT / "bench" / "results" / "engines.json").read_text("utf-8"))
    rows = {}
    for case, runs in found["facts"].items():
        if " x" not in case or not isinstance(runs, list):
            continue
        times = [found["measurements"].get(f"{case} steady {side}") for side in ENGINES.values()]
        over = [found["ratios"].get(f"{case} djinn over {other}") for other in ("Inductor", "the best peer")]
        runs_on = ", ".join(runs[0]["sides"]["djinn"].get("holds", {}).get("engines", {}))
        rows[case.replace("/", ", ").replace(" x", ", batch ")] = [
            *(f"{1e3 * one['median']:.1f}" if one is not None else "-" for one in times),
            runs_on,
            *(f"{one['median']:.2f}" if one is not None else "-" for one in over),
        ]
    columns = [*ENGINES, "runs on", "of Inductor's speed", "of the best one's"]
    means = [found["bars"][f"auto_over_{other}_geomean"]["value"] for other in ("inductor", "best_peer")]
    noise = [one["median"] for one in found["noise"].values()]
    said = (
        f"{_where(found)}; milliseconds; geometric means {means[0]:.2f} and {means[1]:.2f}; eager against itself "
        f"{min(noise):.2f} to {max(noise):.2f} (`engines.json`)."
    )
    return f"{_table(rows, columns)}\n\n{said}"


def _table(rows: Mapping[str, Sequence[str]], columns: Collection[str]) -> str:
    lines = ["| | " + " | ".join(columns) + " |", "| --- |" + " --- |" * len(columns)]
    return "\n".join(lines + [f"| {name} | {' | '.join(texts)} |" for name, texts in rows.items()])


def _where(found: Mapping[str, Any]) -> str:
    machine = found["device"]
    return f"{machine['cores']} cores of an {machine['cpu']}, torch {found['versions']['torch'].partition('+')[0]}"


def report_head() -> str:
    """The verdict of a report and the first lines on its graph."""
    text = (ROOT / "docs" / "reports" / "decoder.md").read_text("utf-8").split("```text\n")[1].split("```")[0]
    verdict = text[text.index("Verdict") :].split("\n\n")[0]
    graph = text[text.index("Graph 1 of 1") :].split("\n  peak")[0]
    return f"```text\n{verdict}\n\n{graph}\n```"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1e3 * seconds:.0f} ms"


#: By file, its parts.
PARTS = {
    "README.md": {"first calls": first_calls, "report": report_head},
    "docs/measured.md": {"generate": generate, "engines": engines},
}


def written(file: str, kept: str) -> str:
    """A file with its parts as they are today."""
    for name, part in PARTS[file].items():
        pattern, text = re.compile(rf"(<!-- {name}: [^>]*-->\n).*?(<!-- {name} end -->)", re.S), part()
        kept, count = pattern.subn(lambda match, text=text: f"{match[1]}{text}\n{match[2]}", kept)
        assert count == 1, f"{file} has no place for {name}"
    return kept


def main(words: list[str]) -> int:
    """Write, or compare; the exit code is 1 if a file is not current."""
    old = False
    for file in PARTS:
        kept = (ROOT / file).read_text("utf-8")
        now = written(file, kept)
        old = old or now != kept
        if words != ["--check"]:
            (ROOT / file).write_text(now, "utf-8")
    return int(old and words == ["--check"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
