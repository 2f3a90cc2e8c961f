"""The corpus of model files: what each says of itself, and what explain makes of it.

The first line of a file is a comment with what is expected::

    # expect: model=Net rule=get_model+get_inputs phase=encode/vision breaks=0 exit=0

``rule`` is how the model is found and, after a plus, where its inputs are from. ``phase`` is the largest graph's. Where
a report is not to be had, these are ``-``; ``says`` is a pattern of what stderr tells, ``lists`` the names that must be
offered as commands, and a line that ends in ``# here`` is one that stderr must name. ``attr`` is what is asked for.

Run as a module with files' names, it explains them in one process and prints a line of JSON for each.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(__file__).resolve().parent / "corpus"
MARK = "# expect: "
#: How the report words the rule that found the model.
RULES = {
    "djinn_entry": r"djinn_entry\(\)",
    "get_model": r"get_model\(\)",
    "model": r"model, an nn\.Module",
    "model-class": r"model\(\), an nn\.Module class",
    "model-function": r"model, a function",
    "Model": r"Model\(\), an nn\.Module class",
    "Model+init": r"Model made with get_init_inputs\(\)",
    "get_module": r"the one model: \w+\.get_module\(\)",
    "instance": r"the one model: \w+, an nn\.Module",
    "class": r"the one model: \w+\(\), an nn\.Module class",
    "class+init": r"the one model: \w+ made with get_init_inputs\(\)",
    "factory": r"the one model: \w+\(\)",
    "function": r"\w+, a function",
    "named-class": r"\w+\(\), an nn\.Module class",
    "cases": r"TESTCASES|test_cases|cases",
    "part": r"[\w.]+; inputs from what it gets when model runs with example_inputs",
}


@dataclass(frozen=True)
class Expected:
    """What a file says of itself; None where there is no report."""

    path: Path
    model: str | None
    rule: str | None
    phase: str | None
    breaks: int | None
    exit: int
    says: str = ""
    lists: tuple[str, ...] = ()
    attr: str | None = None
    scenarios: str = ""

    @property
    def kind(self) -> str:
        """The folder."""
        return self.path.parent.name

    @property
    def name(self) -> str:
        """For a test's name."""
        return f"{self.kind}/{self.path.stem}"

    @property
    def shown(self) -> str:
        """The path from the repository's root."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def lines(self) -> list[int]:
        """The lines that stderr must name."""
        text = self.path.read_text("utf-8").splitlines()
        return [number for number, line in enumerate(text, 1) if line.endswith("# here")]


def expected(path: Path) -> Expected:
    """Read a file's first line."""
    first = path.read_text("utf-8").partition("\n")[0]
    assert first.startswith(MARK), f"{path}: its first line says nothing of what is expected"
    said = dict(word.split("=", 1) for word in shlex.split(first.removeprefix(MARK)))
    needed = {name: None if said[name] == "-" else said[name] for name in ("model", "rule", "phase", "breaks")}
    extra = said.keys() - needed.keys() - {"exit", "says", "lists", "attr", "scenarios"}
    assert not extra, f"{path}: unknown: {extra}"
    return Expected(
        path=path,
        model=needed["model"],
        rule=needed["rule"],
        phase=needed["phase"],
        breaks=None if needed["breaks"] is None else int(needed["breaks"]),
        exit=int(said["exit"]),
        says=said.get("says", ""),
        lists=tuple(said["lists"].split(",")) if "lists" in said else (),
        attr=said.get("attr"),
        scenarios=said.get("scenarios", ""),
    )


def corpus() -> list[Expected]:
    """All files, by kind and name."""
    return [expected(path) for path in sorted(CORPUS.glob("*/*.py"))]


def rule_pattern(rule: str) -> str:
    """The whole of a report's rule."""
    how, _, inputs = rule.rpartition("+") if rule not in RULES else (rule, "", "")
    if not inputs:
        return RULES[how]
    source = re.escape(inputs) if "," not in inputs else re.escape(inputs.replace(",", ", "))
    return rf"{RULES[how]}; inputs from (module-level )?{source}(\(\))?(, named like the parameters)?"


def wrong(said: Expected, got: dict[str, Any]) -> list[str]:
    """In what a file's report is not as the file says."""
    found = [] if got["exit"] == said.exit else [f"exit {got['exit']}, not {said.exit}: {got['stderr'][-600:]}"]
    if "Traceback" in got["stderr"]:
        found.append(f"a traceback: {got['stderr'][-1500:]}")
    if said.says and not re.search(said.says, got["stderr"]):
        found.append(f"does not say {said.says!r}: {got['stderr'][-600:]}")
    told = got["stderr"]
    offered = {name: f"python -m djinn_fx.explain {shlex.quote(f'{said.shown}:{name}')}\n" for name in said.lists}
    found += [f"does not list {name}: {told}" for name, text in offered.items() if text not in told]
    found += [f"does not name line {n}: {told}" for n in said.lines if f"{said.shown}:{n}" not in told]
    report = got["report"]
    if (report is None) != (said.model is None):
        return [*found, "there is a report" if report else "there is no report"]
    return found if report is None else found + _in_report(said, report)


def _in_report(said: Expected, report: dict[str, Any]) -> list[str]:
    scenarios = report["scenarios"]
    got = {
        "model": (report["model"]["name"].replace(", ", ","), said.model),
        "scenarios": (",".join(one["name"] for one in scenarios), said.scenarios),
        "phase": (",".join(map(phase_of, scenarios)), said.phase),
        "breaks": (sum(len(one["graph_breaks"]) for one in scenarios), said.breaks),
    }
    found = [f"{name} {ours}, not {theirs}" for name, (ours, theirs) in got.items() if ours != theirs]
    if not re.fullmatch(rule_pattern(said.rule or ""), report["model"]["rule"]):
        found.append(f"rule {report['model']['rule']!r}, not {said.rule}")
    return found


def phase_of(scenario: dict[str, Any]) -> str:
    """The phase of the largest graph, and what it reads if that is known: ``encode/vision``."""
    largest = max(scenario["graphs"], key=lambda graph: graph["ops"])
    named = [name for name in largest["phases"] if name.partition("/")[0] == largest["phase"]]
    return max(named, key=lambda name: largest["phases"][name], default=str(largest["phase"]))


def structure(report: dict[str, Any]) -> tuple[str, ...]:
    """The hashes of all regions: two models that are one to the compiler have the same."""
    return tuple(region["structural_hash"] for graph in graphs(report) for region in graph["regions"])


def graphs(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Those of all scenarios."""
    return [graph for scenario in report["scenarios"] for graph in scenario["graphs"]]


def explained(files: list[Expected], *words: str) -> list[dict[str, Any]]:
    """What explain says of each file; all in one process of their own.

    Raises:
        AssertionError: the process ended before its last file.
    """
    command = [sys.executable, "-m", "tests.exam.corpus_files", *(f"{one.shown}:{one.attr or ''}" for one in files)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(found) == len(files), (
        f"ended with {done.returncode} at {len(found)} of {len(files)}: {done.stderr[-3000:]}"
    )
    return found


def main(targets: list[str]) -> None:
    """Explain each target as the command does; what a file prints itself is not ours."""
    from djinn_fx.explain.command import main as explain

    with tempfile.TemporaryDirectory() as folder:
        for number, target in enumerate(targets):
            place = Path(folder) / f"{number}.json"
            start = time.perf_counter()
            with captured(Path(folder) / "stderr") as told:
                code = explain([target.removesuffix(":"), "--json", str(place)])
            report = json.loads(place.read_text("utf-8")) if place.exists() else None
            seconds = time.perf_counter() - start
            got = {"target": target, "exit": code, "stderr": "".join(told), "report": report, "seconds": seconds}
            print(json.dumps(got), flush=True)


@contextlib.contextmanager
def captured(place: Path) -> Iterator[list[str]]:
    """What this process and its children write to stderr, when it is over; stdout is thrown away."""
    told: list[str] = []
    kept = os.dup(1), os.dup(2)
    with place.open("wb") as err, Path(os.devnull).open("wb") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        try:
            yield told
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, one in enumerate(kept, 1):
                os.dup2(one, number)
                os.close(one)
    told.append(place.read_text("utf-8", "replace"))


if __name__ == "__main__":
    main(sys.argv[1:])
