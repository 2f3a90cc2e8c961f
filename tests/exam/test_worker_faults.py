"""200 faults of workers on real Rays of this machine: no call hangs, no answer is wrong, nothing is left behind.

Each process of ``tests.exam.worker_faults`` meets some of them; those that are about whole processes are made here.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.exam,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc"),
]

ROOT = Path(__file__).resolve().parents[2]
SEEDS, EACH = range(10), 20
#: Of a process with 20 faults. A worker that is started anew takes some seconds, more on a busy machine.
BOUND_S = 900.0
#: After the process that a Ray was started for is gone.
GONE_S = 30.0
MARK = "DJINN_FAULTS"


class Driver:
    """A process whose descendants, and whose Ray's files, are known."""

    def __init__(self, *arguments: str) -> None:
        self.mark = secrets.token_hex(8)
        # Short, as names of sockets are.
        self.folder = Path(tempfile.mkdtemp(prefix="dj", dir="/tmp"))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.exam.worker_faults", *arguments],
            cwd=ROOT,
            env={**os.environ, MARK: self.mark, "OMP_NUM_THREADS": "1", "TMPDIR": str(self.folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def lines(self) -> Iterator[dict[str, object]]:
        """What it prints, as it comes."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                yield json.loads(line)

    def ended(self, timeout_s: float) -> tuple[int, list[dict[str, object]], str]:
        """Its exit code, what it printed, and what it complained of."""
        try:
            out, err = self._process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            out, err = self._process.communicate()
            pytest.fail(f"it hangs: {out[-2000:]} {err[-4000:]}")
        return self._process.returncode, [json.loads(one) for one in out.splitlines() if one.startswith("{")], err

    def kill(self) -> None:
        """As the system does it where there is no memory."""
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate()

    def left(self) -> list[str]:
        """Processes and folders that are still there when all should be gone."""
        until = time.monotonic() + GONE_S
        while (found := self._left()) and time.monotonic() < until:
            time.sleep(0.1)
        shutil.rmtree(self.folder, ignore_errors=True)
        return found

    def _left(self) -> list[str]:
        return [*_marked(self.mark), *(str(one) for one in self.folder.glob("djinn-*"))]


def _marked(mark: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"{MARK}={mark}".encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:100])
        except OSError:
            continue
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_many_faults(seed: int) -> None:
    driver = Driver(str(seed), str(EACH))
    code, found, complaints = driver.ended(BOUND_S)
    print(Counter(str(one["fault"]) for one in found))
    assert code == 0, complaints[-4000:]
    assert len(found) == EACH
    assert driver.left() == []


def _first_calls(drivers: Sequence[Driver]) -> None:
    for one in drivers:
        assert next(one.lines())["found"], "it made no calls"


@pytest.mark.parametrize("way", ["one", "two"])
def test_a_process_that_is_killed_leaves_nothing(way: str) -> None:
    """Nor does it disturb another one's workers."""
    drivers = [Driver("1", "1000", "nothing") for _ in range(1 if way == "one" else 2)]
    try:
        _first_calls(drivers)
        drivers[0].kill()
        for other in drivers[1:]:
            after = [next(other.lines()) for _ in range(3)]
            assert all(one["found"] == ["right"] for one in after)
    finally:
        for one in drivers:
            one.kill()
    assert [driver.left() for driver in drivers] == [[] for _ in drivers]
