"""A limit of memory for child processes from before they begin: a control group, or else their RSS looked at."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from types import TracebackType

_V1, _V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
#: Seconds between looks at a process that no group bounds.
_LOOK_S = 0.01


class Limit:
    """A control group with a limit, where this user may make one. Use as a context manager.

    Args:
        name: of the group.
        limit: bytes; page cache counts.

    Attributes:
        held_by: "cgroup v1", "cgroup v2", or "" where there is none.
    """

    def __init__(self, name: str, limit: int) -> None:
        self.limit = limit
        self.held_by = ""
        self._folder: Path | None = None
        for base, version, file in ((_V1, "cgroup v1", "memory.limit_in_bytes"), (_V2, "cgroup v2", "memory.max")):
            folder = base / f"djinn-bench-{os.getpid()}-{name}"
            with contextlib.suppress(OSError):
                if not (base / "cgroup.procs").exists():
                    continue
                folder.mkdir()
                self._folder = folder
                (folder / file).write_text(str(limit))
                self.held_by = version
                return
            self._remove()

    def __enter__(self) -> Limit:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._remove()

    def _remove(self) -> None:
        folder, self._folder = self._folder, None
        for _ in range(50):
            if folder is None or not folder.is_dir():
                return
            with contextlib.suppress(OSError):
                folder.rmdir()
                return
            time.sleep(0.1)  # its last process may not be gone yet

    def take(self, pid: int) -> None:
        """Put a process that runs into the group: what it takes from now on counts; what it holds already does too
        where the system can move that (v1)."""
        if self._folder is not None:
            with contextlib.suppress(OSError):
                (self._folder / "memory.move_charge_at_immigrate").write_text("3")
            (self._folder / "cgroup.procs").write_text(str(pid))

    @property
    def prefix(self) -> list[str]:
        """What to put before a command, so that it begins within the limit."""
        if self._folder is None:
            return []
        return ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self._folder / "cgroup.procs")]

    def figures(self) -> dict[str, int]:
        """Bytes of anonymous memory and of page cache now, and the most in all; nothing without a group."""
        if self._folder is None:
            return {}
        words = (self._folder / "memory.stat").read_text().split()
        stat = dict(zip(words[::2], map(int, words[1::2]), strict=True))
        new = self.held_by == "cgroup v2"
        most = self._folder / ("memory.peak" if new else "memory.max_usage_in_bytes")
        return {
            "anonymous": stat["anon" if new else "rss"],
            "page_cache": stat["file" if new else "cache"],
            "most": int(most.read_text()) if most.exists() else 0,
        }


class Watched:
    """The most memory that a process was seen to hold, looked at from outside.

    Args:
        pid: of the process.
        anonymous: without what it shares with others, such as an object store's memory.
    """

    def __init__(self, pid: int, *, anonymous: bool = False) -> None:
        self._file, self._anonymous = Path(f"/proc/{pid}/statm"), anonymous
        self._ended = threading.Event()
        self.most = 0
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        while not self._ended.wait(_LOOK_S):
            try:
                words = self._file.read_text().split()
                taken = int(words[1]) - (int(words[2]) if self._anonymous else 0)
                self.most = max(self.most, taken * page)
            except (OSError, IndexError):
                return

    def stop(self) -> int:
        """The most so far; looks no more."""
        self._ended.set()
        return self.most
