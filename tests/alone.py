"""A function of a test file, run in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.waiting import LONG

ROOT = Path(__file__).resolve().parents[1]


def alone(function: Callable[[], object]) -> str:
    """What it gives, as text.

    For what the C library does with memory: earlier tests leave more arenas than are looked at, threads that use the
    same ones, and free blocks of any size.
    """
    program = f"from {function.__module__} import {function.__name__} as function; print(function())"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=LONG, check=False
    )
    assert done.stderr == ""
    return done.stdout.strip()
