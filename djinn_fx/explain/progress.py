"""What the command is at, on stderr, where somebody waits for it at a terminal."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TextIO

#: Who waits no longer than this is told nothing.
PATIENCE_S, EVERY_S = 1.0, 0.5


class Progress:
    """One line that names the stage and its seconds, from the first second on; it is gone at the end.

    Where stderr is no terminal nothing is written, unless ``always``: then a line for each stage.

    Args:
        file: where to; None: stderr as it is when entered.
        always: see above.
    """

    def __init__(self, file: TextIO | None = None, *, always: bool = False) -> None:
        self._given, self._always = file, always
        self._stage, self._shown = "", 0
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Progress:
        self._file = self._given if self._given is not None else sys.stderr
        self._live = self._file.isatty()
        self._began = time.monotonic()
        if self._live:
            self._thread = threading.Thread(target=self._watch, name="djinn-progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._thread is not None:
            self._thread.join()
        self._clear()

    def stage(self, name: str) -> None:
        """From now on it is at this."""
        with self._lock:
            self._stage = name
        if self._always and not self._live:
            print(f"{name} ...", file=self._file, flush=True)

    def _watch(self) -> None:
        if self._done.wait(PATIENCE_S):
            return
        while True:
            self._show()
            if self._done.wait(EVERY_S):
                return

    def _show(self) -> None:
        with self._lock:
            text = f"{self._stage} ... {time.monotonic() - self._began:.0f} s"
            padding = " " * max(0, self._shown - len(text))
            self._shown = len(text)
        self._file.write(f"\r{text}{padding}")
        self._file.flush()

    def _clear(self) -> None:
        if self._shown:
            self._file.write(f"\r{' ' * self._shown}\r")
            self._file.flush()
            self._shown = 0
