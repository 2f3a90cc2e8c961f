"""Seeing every write of this process into memory, by asking the kernel: Linux from 6.7 on, as an ordinary user.

Pages are write-protected, and one call names those that were written since the last one (``userfaultfd.py``). That
shows what has no version counter: ``weight.data``, numpy, inference mode, C++, the kernel's own writes (``readinto``).
It does not show what other processes write into memory that they share.

A scan forgets what it has told. So there is one table a process, and a scan turns written pages into a new *epoch* of
every block that lies on them, which all who watch the block compare: two engines, two compiled models, tied weights.
Blocks that lie near each other are scanned by one call: a call costs 1.5 µs, a page 0.8 ns (here, 6.18).
"""

from __future__ import annotations

import bisect
import errno
import logging
import os
import platform
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from djinn_fx.engines.bound.userfaultfd import PAGE, Kernel, Span

log = logging.getLogger("djinn_fx.engines")

#: Blocks with no more than so many bytes between them are scanned by one call.
MAX_GAP = 16 * PAGE
#: So many writes into the memory between two blocks, and that is left out of the scans from then on.
MAX_DISTURBANCES = 3
#: ``off`` in this variable: do without, as on a kernel that cannot.
VARIABLE = "DJINN_WRITE_PROTECTION"


# -- the table --------------------------------------------------------------------------------------------------------


class _Block:
    """Pages that somebody watches. ``epoch`` grows when they may have been written."""

    __slots__ = ("end", "epoch", "start", "watchers")

    def __init__(self, start: int, end: int) -> None:
        self.start, self.end = start, end
        self.epoch = self.watchers = 0


class Table:
    """What is protected in this process, and who watches it.

    Args:
        kernel: to ask.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.lock = threading.Lock()
        #: Grows with any block's epoch.
        self.generation = 0
        #: What watchers have left behind that are gone: they may go at any moment, so they only say it.
        self.left: deque[tuple[list[Span], list[_Block]]] = deque()
        self._blocks: dict[Span, _Block] = {}
        self._runs: Counter[Span] = Counter()
        self._unfinished = False

    def watch(self, spans: Sequence[Span], joined: Callable[[int, int], bool]) -> Watcher:
        """Protect these pages and watch them from now on.

        Args:
            spans: whole pages, each within one mapping.
            joined: whether all memory from one address to another is one mapping, so that it may be protected whole.
        """
        with self.lock:
            self.tidy()
            runs, refused = self._enter(spans, joined)
            blocks = []
            for span in spans:
                if span not in refused:
                    block = self._blocks.setdefault(span, _Block(*span))
                    block.watchers += 1
                    blocks.append(block)
            return Watcher(self, runs, blocks, frozenset(refused))

    def _enter(self, spans: Sequence[Span], joined: Callable[[int, int], bool]) -> tuple[list[Span], set[Span]]:
        runs: list[Span] = []
        refused: set[Span] = set()
        for run, members in _runs_of(spans, joined):
            if self._protect(run):
                runs.append(run)
                continue
            for span in members:
                (runs.append if self._protect(span) else refused.add)(span)
        return runs, refused

    def _protect(self, run: Span) -> bool:
        try:
            self.kernel.register(*run)
        except OSError as error:
            log.debug("pages cannot be protected: %s", error)
            return False
        if self.look(run) is None:
            return False
        self._runs[run] += 1
        return True

    def look(self, run: Span) -> list[Span] | None:
        """Which pages of a run were written since the last look; all who watch them are told.

        Returns:
            None if the kernel does not say: then all of the run counts as written.
        """
        if self._unfinished:  # Ctrl-C between the kernel's answer and telling: nobody knows what it was
            self._tell([(0, 1 << 64)])
        self._unfinished = True
        try:
            hits = self.kernel.scan(*run)
        except OSError as error:
            log.debug("protected pages are not what they were: %s", error)
            hits = None
        if hits != []:
            self._tell([run] if hits is None else hits)
        self._unfinished = False
        return hits

    def _tell(self, hits: Sequence[Span]) -> None:
        """Begin a new epoch for every block on these pages, which are given in order."""
        starts = [start for start, _ in hits]
        for block in list(self._blocks.values()):
            place = bisect.bisect_left(starts, block.end) - 1
            if place >= 0 and hits[place][1] > block.start:
                block.epoch += 1
                self.generation += 1

    def tidy(self) -> None:
        """Take the protection off what nobody watches any more."""
        while self.left:
            runs, blocks = self.left.popleft()
            for block in blocks:
                block.watchers -= 1
                if not block.watchers:
                    self._blocks.pop((block.start, block.end), None)
            self._runs.subtract(runs)
            self._runs += Counter()  # those that are left
            for run in runs:
                for start, end in without(run, self._runs):
                    try:
                        self.kernel.unregister(start, end)
                    except OSError:  # the memory is gone, and something else is in its place
                        log.debug("pages could not be unregistered", exc_info=True)

    @property
    def watched(self) -> int:
        """How many blocks are watched."""
        with self.lock:
            self.tidy()
            return len(self._blocks)


class Watcher:
    """Some pages from one moment on; made by :meth:`Table.watch`.

    Attributes:
        refused: spans that cannot be protected: they are not watched.
    """

    def __init__(self, table: Table, runs: list[Span], blocks: list[_Block], refused: frozenset[Span]) -> None:
        self._table, self._blocks, self.refused = table, blocks, refused
        self._entered = tuple(runs)
        self._runs = list(runs)
        self._epochs = [block.epoch for block in blocks]
        self._generation = table.generation
        self._written = False
        self._disturbances = 0

    def written(self) -> bool:
        """Whether the pages may have been written since this was made. Once true, it stays true."""
        table = self._table
        if self._written or table is not _Process.table:  # after a fork the kernel answers for the parent
            return True
        with table.lock:
            if table.left:
                table.tidy()
            hits = [hit for run in self._runs for hit in table.look(run) or ()]
            if self._generation != table.generation:
                self._generation = table.generation
                self._written = [block.epoch for block in self._blocks] != self._epochs
            if hits and not self._written:
                self._leave_out(hits)
            return self._written

    def _leave_out(self, hits: Sequence[Span]) -> None:
        """Scan no longer what lies between the blocks if it is written again and again."""
        self._disturbances += 1
        if self._disturbances >= MAX_DISTURBANCES:
            parts = [part for run in self._runs for part in without(run, hits)]
            self._runs = [(s, e) for s, e in parts if any(one.start < e and s < one.end for one in self._blocks)]

    def __del__(self) -> None:
        self._table.left.append((list(self._entered), self._blocks))


def _runs_of(spans: Sequence[Span], joined: Callable[[int, int], bool]) -> Iterator[tuple[Span, list[Span]]]:
    """Spans near each other as one, with those that it is made of."""
    run: Span | None = None
    members: list[Span] = []
    for start, end in sorted(set(spans)):
        if run is not None and start - run[1] <= MAX_GAP and (start <= run[1] or joined(run[1], start)):
            run = (run[0], max(run[1], end))
            members.append((start, end))
            continue
        if run is not None:
            yield run, members
        run, members = (start, end), [(start, end)]
    if run is not None:
        yield run, members


def without(span: Span, others: Iterable[Span]) -> Iterator[Span]:
    """The parts of a span that lie in none of the others."""
    start, end = span
    for low, high in sorted(others):
        if high <= start or end <= low:
            continue
        if start < low:
            yield start, low
        start = high
        if start >= end:
            return
    if start < end:
        yield start, end


# -- the process ------------------------------------------------------------------------------------------------------


class _Process:
    """The one table of this process."""

    table: Table | None = None
    #: Why there is none; None while nobody has asked, or if there is one.
    why_not: str | None = None
    off: str | None = None
    lock = threading.Lock()

    @classmethod
    def forked(cls) -> None:
        """In the child: descriptors that it inherited speak of its parent's memory."""
        if cls.table is not None:
            cls.table.kernel.close()
        cls.table = cls.why_not = None
        cls.lock = threading.Lock()


os.register_at_fork(after_in_child=_Process.forked)


def table() -> Table | None:
    """The table of this process; None where writes cannot be seen, or are not to be."""
    if _Process.table is None and why_not() is None:
        with _Process.lock:
            if _Process.table is None:
                try:
                    _Process.table = Table(Kernel())
                except OSError as error:
                    _Process.why_not = _explained(error)
    return _Process.table if _Process.off is None else None


def why_not() -> str | None:
    """Why writes cannot be seen here, as far as it is known; None if they can be."""
    if _Process.off is not None:
        return _Process.off
    if os.environ.get(VARIABLE, "").lower() in ("off", "0", "false", "no"):
        return f"{VARIABLE} says so"
    return _Process.why_not


def _explained(error: OSError) -> str:
    if error.errno == errno.EPERM:
        return "this process may not use userfaultfd (containers often forbid it)"
    if error.errno in (errno.ENOSYS, errno.EINVAL, errno.ENOTTY, errno.ENOTSUP):
        return f"it needs Linux 6.7 or newer; this is {platform.system()} {platform.release()}"
    return f"userfaultfd: {error.strerror or error}"


@contextmanager
def switched_off() -> Iterator[None]:
    """Do without for a while. For tests; what is watched already counts as written."""
    before, kept = _Process.off, _Process.table
    _Process.off, _Process.table = "switched off", None
    try:
        yield
    finally:
        _Process.off, _Process.table = before, kept
