"""Runs the exam's questions in a few processes side by side; one that dies or hangs loses only its question."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def ask(
    names: Sequence[str],
    *,
    options: Mapping[str, Any],
    processes: int = 2,
    timeout: float = 300.0,
    samples: int = 4,
    calls: int = 1,
    scale: int = 1,
    environment: Mapping[str, str] | None = None,
    tell: Callable[[dict[str, Any]], None] = lambda answer: None,
) -> list[dict[str, Any]]:
    """The answers, in the order of the names.

    Args:
        names: see :mod:`tests.exam.worker`.
        options: of ``torch.compile``.
        processes: how many side by side.
        timeout: seconds for one question.
        samples: of each op.
        calls: of each sample of an op; all their results are compared.
        scale: of the models.
        environment: more variables for the processes.
        tell: called with each answer as it comes.
    """
    waiting: queue.Queue[str] = queue.Queue()
    for name in names:
        waiting.put(name)
    setup = json.dumps({"options": dict(options), "samples": samples, "calls": calls, "scale": scale})
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **(environment or {})}
    answers: dict[str, dict[str, Any]] = {}
    lock = threading.Lock()

    def serve() -> None:
        worker = None
        while True:
            try:
                name = waiting.get_nowait()
            except queue.Empty:
                break
            worker = worker or _Worker(setup, env)
            answer = worker.ask(name, timeout)
            if not worker.alive:
                worker = None
            with lock:
                answers[name] = answer
                tell(answer)
        if worker is not None:
            worker.stop()

    threads = [threading.Thread(target=serve) for _ in range(processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [answers[name] for name in names]


class _Worker:
    def __init__(self, setup: str, env: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", "tests.exam.worker", setup]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=env,
            cwd=ROOT,
        )
        self.alive = True

    def ask(self, name: str, timeout: float) -> dict[str, Any]:
        """The answer; a crash if the process died or took too long, with the last line ``AT ...`` that it wrote."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        hung, at = threading.Event(), ""
        timer = threading.Timer(timeout, lambda: (hung.set(), self._process.kill()))
        timer.start()
        try:
            self._process.stdin.write(name + "\n")
            self._process.stdin.flush()
            for line in self._process.stdout:
                if line.startswith("ANSWER "):
                    answer: dict[str, Any] = json.loads(line.removeprefix("ANSWER "))
                    return answer
                if line.startswith("AT "):
                    at = line.removeprefix("AT ").strip()
        except BrokenPipeError:
            pass
        finally:
            timer.cancel()
        self.alive = False
        code = self._process.wait()
        why = f"no answer in {timeout:.0f} s" if hung.is_set() else f"the process ended with code {code}"
        return {"name": name, "passed": 0, "skipped": {}, "wrong": [], "crashed": [f"{name}: {why}"], "fell_back": [],
                "refused": {}, "quarantined": [], "engines": {}, "seconds": timeout, "at": at}  # fmt: skip

    def stop(self) -> None:
        """Let the process end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
