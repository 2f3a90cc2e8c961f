"""The parent's side of a measuring process: asks for tasks, and goes on with a new process where one dies or hangs."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from djinn_fx.calibrate.cases.case import Task
from djinn_fx.costmodels.profile import Sample

#: One task may take this long, its build included.
TIMEOUT_S = 180.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a task.

    Attributes:
        task: its name.
        sample: None if there is none.
        why: there is none.
        refused: the engine does not take the case: nothing is wrong.
        seconds: it took, the build included.
    """

    task: str
    sample: Sample | None = None
    why: str = ""
    refused: bool = False
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain data; inverse of :meth:`from_json`."""
        sample = self.sample.to_json() if self.sample is not None else None
        return {
            "task": self.task, "sample": sample, "why": self.why, "refused": self.refused, "seconds": self.seconds
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Outcome:
        """The outcome behind :meth:`to_json`'s data.

        Raises:
            KeyError, TypeError, ValueError: not such data.
        """
        sample = Sample.from_json(data["sample"]) if data.get("sample") is not None else None
        return cls(**{**data, "sample": sample})


class MeasuringChild:
    """A process of :mod:`djinn_fx.calibrate.worker`; started when it is first asked. A context manager.

    Args:
        timeout_s: for one task.
    """

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()

    def __enter__(self) -> MeasuringChild:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def measure(self, tasks: Sequence[Task], budget_s: float) -> Iterator[Outcome]:
        """Measure tasks of one case; one outcome for each, in order.

        Args:
            tasks: all of the same case, which is made and traced once.
            budget_s: seconds to spend on each, besides building.
        """
        asked = {
            "case": tasks[0].case.name,
            "runs": [{"engine": task.engine, "threads": task.threads} for task in tasks],
            "budget_s": budget_s,
        }
        process = self._started()
        assert process.stdin is not None, "it was opened with a pipe"
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()
        for place, task in enumerate(tasks):
            told = self._next()
            if isinstance(told, str):
                self.close()
                yield Outcome(task=task.name, why=told)
                # The engines after the one that died still get their turn, in a new process.
                if tasks[place + 1 :]:
                    yield from self.measure(tasks[place + 1 :], budget_s)
                return
            yield Outcome.from_json({**told, "task": task.name})

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError):
            if process.stdin is not None:
                process.stdin.close()
        try:
            process.wait(timeout=2.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _next(self) -> dict[str, Any] | str:
        """What the process says next, or what became of it."""
        try:
            line = self._lines.get(timeout=self._timeout_s)
        except queue.Empty:
            return f"it took more than {self._timeout_s:.0f} s and was stopped"
        if line is None:
            code = self._process.wait() if self._process is not None else None
            return f"the measuring process ended (exit code {code})"
        told: dict[str, Any] = json.loads(line)
        return told

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            # The child finds this package where this process found it, installed or not.
            root = str(Path(__file__).resolve().parents[2])
            paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "djinn_fx.calibrate.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
            self._lines = queue.Queue()
            threading.Thread(target=_forward, args=(self._process, self._lines), daemon=True).start()
        return self._process


def _forward(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert process.stdout is not None, "it was opened with a pipe"
    for line in process.stdout:
        lines.put(line)
    lines.put(None)
