"""Write what README shows first: the table of first calls, and the head of a report. ``--check`` only compares.

The figures are those of bench/results/first_calls.json, the report is docs/reports/decoder.md.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Calls from the end of a run of which the median is a settled call.
SETTLED = 50
SIDES = {"eager": "none", "Inductor": "inductor", "djinn": "djinn"}


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
    lines = ["| | " + " | ".join(SIDES) + " |", "| --- |" + " --- |" * len(SIDES)]
    lines += [f"| {name} | {' | '.join(texts)} |" for name, texts in rows.items()]
    machine = found["device"]
    where = f"{machine['cores']} cores of an {machine['cpu']}, torch {found['versions']['torch'].partition('+')[0]}"
    said = f"A Llama-shaped decoder of 24 layers, float32, {where}; one run, `bench/results/first_calls.json`"
    return "\n".join(lines) + f"\n\n{said} ([what else was measured](docs/measured.md))."


def report_head() -> str:
    """The verdict of a report and the first lines on its graph."""
    text = (ROOT / "docs" / "reports" / "decoder.md").read_text("utf-8").split("```text\n")[1].split("```")[0]
    verdict = text[text.index("Verdict") :].split("\n\n")[0]
    graph = text[text.index("Graph 1 of 1") :].split("\n  peak")[0]
    return f"```text\n{verdict}\n\n{graph}\n```"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1e3 * seconds:.0f} ms"


def written(readme: str) -> str:
    """README with both parts as they are today."""
    for name, text in (("first calls", first_calls()), ("report", report_head())):
        pattern = re.compile(rf"(<!-- {name}: [^>]*-->\n).*?(<!-- {name} end -->)", re.S)
        readme, count = pattern.subn(lambda match, text=text: f"{match[1]}{text}\n{match[2]}", readme)
        assert count == 1, f"README has no place for {name}"
    return readme


def main(words: list[str]) -> int:
    """Write, or compare; the exit code is 1 if README is not current."""
    place = ROOT / "README.md"
    kept = place.read_text("utf-8")
    if words == ["--check"]:
        return int(written(kept) != kept)
    place.write_text(written(kept), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
