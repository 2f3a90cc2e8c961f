"""A model that is read while it runs, ended in the middle of a call: nothing is left, the next one answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.runtime.offload.saved import Stack, save

ROOT = Path(__file__).resolve().parents[3]


def started(folder: Path, scratch: Path, *more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "TMPDIR": str(scratch), "DJINN_CACHE_DIR": str(scratch), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.runtime.offload.killed", str(folder), *more]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(count)]


def files(*folders: Path) -> dict[str, tuple[int, int]]:
    """Every file below, with its size and when it was written."""
    found = [one for folder in folders for one in folder.rglob("*") if one.is_file()]
    return {str(one): (one.stat().st_size, one.stat().st_mtime_ns) for one in found}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_ended_leaves_no_file_and_the_next_one_answers(tmp_path: Path, how: signal.Signals) -> None:
    folder, scratch = tmp_path / "weights", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    torch.manual_seed(0)
    save(Stack().eval(), folder)
    before, shared = files(folder, scratch), set(os.listdir("/dev/shm"))
    process = started(folder, scratch)
    try:
        first, second = lines(process, 2)
        process.send_signal(how)  # the third call is under way
        process.wait(timeout=60)
    finally:
        process.kill()
    assert process.returncode != 0
    assert first == second != ""
    assert files(folder, scratch) == before
    assert not {one for one in set(os.listdir("/dev/shm")) - shared if str(process.pid) in one}
    again = started(folder, scratch, "2")
    assert lines(again, 2) == [first, first]
    assert again.wait(timeout=60) == 0
    assert files(folder, scratch) == before
