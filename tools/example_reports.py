"""Write explain's report on each example to docs/reports: ``python tools/example_reports.py [NAME ...]``.

The reports are on a processor of the catalogue, so that they are the same on every machine; nothing is run. What a
machine has calibrated, measured or kept is left aside.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "reports"
DEVICE = "xeon-8380"
#: By example: what follows its file on the command line.
EXAMPLES: dict[str, tuple[str, ...]] = {
    "decoder": (),
    "two_devices": (
        "--option",
        "objective=throughput",
        "--option",
        'devices={"cpu:0": {"cores": [0]}, "cpu:1": {"cores": [1]}}',
    ),
    "encoder": (),
    "vision": (),
    "speech": (),
    "experts": (),
    "training": ("--training",),
}


def main(names: list[str]) -> None:
    """Write them, or those that are named."""
    for name in names or EXAMPLES:
        (PAGES / f"{name}.md").write_text(page(name), "utf-8")
        print(f"docs/reports/{name}.md")


def words(name: str) -> list[str]:
    """An example's arguments for explain."""
    return [f"examples/{name}.py", *EXAMPLES[name], "--profile", DEVICE]


def page(name: str) -> str:
    """An example's page: what it is, the command, and the report."""
    text = ast.get_docstring(ast.parse((ROOT / "examples" / f"{name}.py").read_text("utf-8"))) or ""
    said = re.split(r": ``|\n\n|, as a file for", text)[0].rstrip(".")
    command = shlex.join(["python", "-m", "djinn_fx.explain", *words(name)])
    return (
        f"# {name.replace('_', ' ').capitalize()}\n\n{said}.\n\n    {command}\n\n```text\n{report(name).strip()}\n```\n"
    )


def report(name: str) -> str:
    """The report as text, without what this machine knows."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("DJINN_")},
            "DJINN_CACHE_DIR": f"{folder}/cache",
            "DJINN_CONFIG_DIR": f"{folder}/config",
            "PYTHONPATH": str(ROOT),
            "NO_COLOR": "1",
        }
        command = [sys.executable, "-m", "djinn_fx.explain", *words(name)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert str(ROOT) not in done.stdout, "a path of this machine"
    assert "site-packages" not in done.stdout, "a path of this machine"
    return done.stdout


def structure(text: str) -> str:
    """A page without its numbers, and without how lines are broken: what is to be the same on every day."""
    told = re.sub(r"^ +passes .*?(?=^ {0,4}\S|^\s*$|^  [a-z])", "", text, flags=re.M | re.S)
    told = re.sub(r"^ +versions .*$", "", told, flags=re.M)
    told = re.sub(r"\b[0-9a-f]{12}\b", "#", " ".join(told.split()))
    return re.sub(r"\d[\d,.]*( ?([kMGT]?B|[num]?s|[kMGT])\b)?", "#", told)


if __name__ == "__main__":
    main(sys.argv[1:])
