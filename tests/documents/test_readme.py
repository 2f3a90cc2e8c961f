"""README's first screen, and every command of README and the pages: figures are current, commands are taken."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from djinn_fx.cli import main as cli
from djinn_fx.cli.build import parser as build
from djinn_fx.cli.calibrate import parser as calibrate
from djinn_fx.cli.repro import parser as repro
from djinn_fx.cli.tune import parser as tune
from djinn_fx.cli.workers import one_parser as one_worker
from djinn_fx.cli.workers import parser as workers
from djinn_fx.deploy.command import parser as deploy
from djinn_fx.explain.command import parser as explain

REPO = Path(__file__).parents[2]
PAGES = [
    REPO / "README.md",
    REPO / "CONTRIBUTING.md",
    *(page for page in sorted((REPO / "docs").rglob("*.md")) if page.parent.name != "decisions"),
]
_COMMAND = re.compile(r"^    ((?:python -m djinn_fx\.explain|djinn) [^#\n]*?) *(?:#.*)?$", re.M)
_TARGET = re.compile(r"^    make ([a-z-]+)", re.M)
#: Commands that read their own arguments.
PARSERS = {
    "build": build, "calibrate": calibrate, "deploy": deploy, "explain": explain, "repro": repro, "tune": tune,
    "worker": one_worker, "workers": workers,
}  # fmt: skip

#: Of what the model here is not: files of the repository, a script, inputs of another model.
OTHERS = ("examples/", "--exec", "--input")

MODEL = """
import torch
from torch import nn

def build_model():
    return nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

def get_inputs():
    return torch.randn(2, 8)
"""


def commands() -> list[str]:
    """Every command that a page shows, once."""
    texts = [re.sub(r"\\\n +", "", page.read_text("utf-8")) for page in PAGES]  # a backslash continues a line
    found = [command for text in texts for command in _COMMAND.findall(text)]
    return list(dict.fromkeys(command.replace("python -m djinn_fx.explain", "djinn explain") for command in found))


def words(command: str) -> list[str]:
    return shlex.split(command)[1:]


def test_the_first_screen_is_current() -> None:
    tool = [sys.executable, "tools/measured_tables.py", "--check"]
    assert subprocess.run(tool, cwd=REPO, check=False).returncode == 0


def test_a_reader_meets_what_it_is_for_first() -> None:
    first = (REPO / "README.md").read_text("utf-8").splitlines()[:60]
    for wanted in ("| first call |", "Verdict", "**Use it if**", "**Do not if**", "## Quick start"):
        assert any(wanted in line for line in first), wanted


@pytest.mark.parametrize("command", commands())
def test_a_command_that_is_shown_is_taken(command: str) -> None:
    name, *rest = words(command)
    made = PARSERS[name]() if name in PARSERS else cli.parser()
    made.parse_args(rest if name in PARSERS else [name, *rest])


@pytest.mark.parametrize(
    "command",
    [one for one in commands() if one.startswith("djinn explain") and not any(word in one for word in OTHERS)],
)
def test_a_report_that_is_shown_is_made(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "cluster.yaml").write_text(topology())
    monkeypatch.chdir(tmp_path)
    run = _explain()
    if "--compare" in command:
        for name in ("a", "b"):
            assert run(["model.py", "--json", f"{name}.json"]) == 0
    assert run(words(command)[1:]) == 0


def topology() -> str:
    """The first file that the page on topologies shows."""
    page = (REPO / "docs" / "topology.md").read_text("utf-8")
    block = re.search(r"^    topology:\n(?:    .*\n|\n)+", page, re.M)
    assert block is not None
    return textwrap.dedent(block[0])


def _explain() -> Callable[[list[str]], int]:
    from djinn_fx.explain.command import main

    return main


def test_the_cache_commands_that_are_shown_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    shown = sorted((one for one in commands() if one.startswith("djinn cache")), key=lambda one: "import" in one)
    assert len(shown) >= 5
    for command in shown:
        ends = (0, 1, 2) if " why " in command else (0,)  # nothing was missed yet
        assert cli.main([*words(command), *(["--yes"] if command.endswith("clear") else [])]) in ends, command


def test_make_has_every_target_that_is_shown() -> None:
    makefile = (REPO / "Makefile").read_text("utf-8")
    shown = {target for page in PAGES for target in _TARGET.findall(page.read_text("utf-8"))}
    assert {"test", "demo", "exam"} <= shown | {"demo"}
    assert not {target for target in shown if not re.search(rf"^{target}:", makefile, re.M)}
