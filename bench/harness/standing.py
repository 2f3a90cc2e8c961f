"""Child processes that stay: several are alive at once, and one of them is asked at a time.

What is compared in one process shares its allocator, its thread pools and its settings; here each side has a process
of its own, and yet they take turns. A child reads one JSON line for each request, and answers with one.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import IO, Any

from bench.harness.children import Caches, ChildFailedError, child_environment

#: Seconds that a child gets to end by itself.
_PATIENCE_S = 20.0


class Standing:
    """A child process that holds one object and calls its methods. Use as a context manager.

    Args:
        made: ``"bench.module:Class"``.
        arguments: of the class, JSON values.
        caches: as for :func:`bench.harness.children.call_child`.
        prefix: of the command, such as what puts it into a control group.
        name: of what it says on stderr, where several share their caches.
    """

    def __init__(
        self,
        made: str,
        arguments: Mapping[str, Any],
        caches: Caches,
        *,
        prefix: Sequence[str] = (),
        name: str = "stderr",
    ) -> None:
        work = caches.home / "work"
        work.mkdir(parents=True, exist_ok=True)
        self._said = caches.home / f"{name}.txt"
        command = [*prefix, sys.executable, "-m", "bench.harness.standing", made, json.dumps(dict(arguments))]
        with self._said.open("w") as said:
            self._process = subprocess.Popen(
                command, cwd=work, env=child_environment(caches), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=said, text=True,
            )  # fmt: skip

    def __enter__(self) -> Standing:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def ask(self, method: str, *, timeout_s: float = 600.0, **arguments: Any) -> Any:
        """Call a method in the child, and wait for its result.

        Raises:
            ChildFailedError: it raised, the child died, or it took too long and was killed.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        late = threading.Event()

        def kill() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(timeout_s, kill)
        timer.start()
        try:
            self._process.stdin.write(json.dumps({"method": method, "arguments": arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            code = self._process.wait()
            why = f"took longer than {timeout_s:.0f} s" if late.is_set() else f"the process ended with {code}"
            raise ChildFailedError(f"{method}: {why}\n{self._said.read_text(errors='replace')[-1500:].strip()}")
        answer = json.loads(line)
        if "error" in answer:
            raise ChildFailedError(answer["error"])
        return answer["result"]

    def stop(self) -> None:
        """Let the child end; kill it if it does not."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def _serve(made: str, arguments: str) -> None:
    """The other end: whatever libraries print goes to stderr, answers alone to the pipe."""
    answers: IO[str] = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    module, _, name = made.partition(":")
    held: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if held is None:
                held = getattr(importlib.import_module(module), name)(**json.loads(arguments))
            answer = {"result": getattr(held, request["method"])(**request["arguments"])}
        except Exception as error:  # noqa: BLE001 - told to the parent, which raises it
            traceback.print_exc()
            text = str(error).strip() or "no message"
            answer = {"error": f"{type(error).__name__}: {text[:2000]}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
