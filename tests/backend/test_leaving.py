"""Short programs that end while engines may still be opened or built: exit code 0, nothing on stderr, in time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """

import djinn_fx, torch, torch.nn as nn, torch.nn.functional as F
class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down, self.norm = nn.Linear(64, 256), nn.Linear(256, 64), nn.LayerNorm(64)
    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x))))
model = nn.Sequential(*[Layer() for _ in range(4)]).eval()
compiled = torch.compile(model, backend="djinn", options={options})
with torch.no_grad():
    for _ in range({calls}):
        compiled(torch.randn(4, 16, 64))
djinn_fx.status(compiled)
"""
#: What is under way when the program ends: sessions, a build in a child process, nothing any more.
CASES = {
    "sessions": ({}, 2),
    "decided": ({"engine": "packed"}, 12),
    "child": ({"compile": "background", "engine": "inductor"}, 3),
}


def run(options: dict[str, str], calls: int, folder: Path) -> tuple[int, str]:
    """Exit code and stderr of a program."""
    program = PROGRAM.format(options=options, calls=calls)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("DJINN_")},
        "DJINN_CACHE_DIR": str(folder / "djinn"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
    }
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize("case", ["sessions", "child"])
def test_a_short_program_ends_quietly(case: str, tmp_path: Path) -> None:
    assert run(*CASES[case], tmp_path) == (0, "")


@pytest.mark.exam
@pytest.mark.parametrize("case", CASES)
def test_fifty_short_programs_end_quietly(case: str, tmp_path: Path) -> None:
    assert {run(*CASES[case], tmp_path) for _ in range(50)} == {(0, "")}
