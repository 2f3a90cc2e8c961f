"""What the command is at, on stderr, where somebody waits for it at a terminal."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import TextIO

from djinn_fx.dispatch.progress import EVERY_S, Line

#: Who waits no longer than this is told nothing.
PATIENCE_S = 1.0


class Progress:
    """One line that names the stage and its seconds, from the first second on; it is gone at the end.

    Where stderr is no terminal nothing is written, unless ``always``: then a line for each stage.

    Args:
        file: where to; None: stderr as it is when entered.
        always: see above.
    """

    def __init__(self, file: TextIO | None = None, *, always: bool = False) -> None:
        self._given, self._always = file, always
        self._stage = ""
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Progress:
        self._file = self._given if self._given is not None else sys.stderr
        self._live, self._line = self._file.isatty(), Line(self._file)
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
        self._line.clear()

    def stage(self, name: str) -> None:
        """From now on it is at this."""
        self._stage = name
        if self._always and not self._live:
            print(f"{name} ...", file=self._file, flush=True)

    def _watch(self) -> None:
        while not self._done.wait(EVERY_S if self._line.is_there else PATIENCE_S):
            self._line.show(f"{self._stage} ... {time.monotonic() - self._began:.0f} s")
