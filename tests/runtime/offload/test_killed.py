"""A model that is read while it runs, ended in the middle of a call: nothing is left, the next one answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

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


def test_a_process_that_is_ended_leaves_no_file_and_the_next_one_answers(tmp_path: Path) -> None:
    folder, scratch = tmp_path / "weights", tmp_path / "scratch"
    folder.mkdir()
    scratch.mkdir()
    torch.manual_seed(0)
    save(Stack().eval(), folder)
    before, answers = files(folder, scratch), set()
    for how in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        shared = set(os.listdir("/dev/shm"))
        process = started(folder, scratch)
        try:
            answers |= set(lines(process, 2))
            process.send_signal(how)  # the third call is under way
            process.wait(timeout=60)
        finally:
            process.kill()
        assert process.returncode != 0, how
        assert len(answers - {""}) == len(answers) == 1, how  # those of the one before, too
        assert files(folder, scratch) == before, how
        assert not {one for one in set(os.listdir("/dev/shm")) - shared if str(process.pid) in one}, how
    again = started(folder, scratch, "2")
    assert set(lines(again, 2)) == answers
    assert again.wait(timeout=60) == 0
    assert files(folder, scratch) == before
