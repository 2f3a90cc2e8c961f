"""A bounded ring of memory into which threads read what will be used next. No torch.

The order of use is given; the threads go round it without end, as far ahead as there is room. What is asked for out of
order is read at once, and they go on from there. Every answer is right whatever the order; only time is lost.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from djinn_fx import threads
from djinn_fx.runtime.offload.shards import new_memory

#: Reads a weight into memory; returns where it begins there, or None if it was stopped.
Reader = Callable[[int, Any, Callable[[], bool]], "int | None"]
#: Seconds after which a waiting thread looks whether the interpreter ends.
_LOOK_S = 0.5
#: Threads that read: two reads under way at once are faster than one on most disks.
READERS = 2


@dataclass(eq=False)
class _Entry:
    """A weight that has, or is to have, a place in the ring.

    Attributes:
        key: which one.
        uses: how many are still to come before its room is free.
        start, end: its room.
        begins: where the weight itself begins in the ring, once it is read.
        leases: how many use it, or wait for it, now.
        reading: a thread is writing into its room.
        dropped: nobody will ask for it any more.
        error: why it could not be read.
    """

    key: int
    uses: int
    start: int = 0
    end: int = 0
    begins: int | None = None
    leases: int = 0
    reading: bool = False
    dropped: bool = False
    error: BaseException | None = None

    @property
    def finished(self) -> bool:
        return not self.reading and not self.leases and (self.dropped or self.uses <= 0)


@dataclass(eq=False)
class _Shared:
    """What the ring and its threads share. These hold only this, so that a ring that nobody uses goes away."""

    memory: Any
    sizes: Mapping[int, int]
    order: tuple[tuple[int, int], ...]
    read: Reader
    changed: threading.Condition = field(default_factory=threads.new_condition)
    entries: list[_Entry] = field(default_factory=list)
    wanted: list[_Entry] = field(default_factory=list)
    following: int = 0
    stopped: bool = False

    def drop(self) -> None:
        """Give up what was read ahead and is not in use."""
        for entry in self.entries:
            entry.dropped = True
        self.tidy()

    def tidy(self) -> None:
        """Free the room of what is done with."""
        self.entries = [entry for entry in self.entries if not entry.finished]
        self.changed.notify_all()

    def place(self, entry: _Entry) -> bool:
        """Give an entry its room, if there is any."""
        size, whole = self.sizes[entry.key], len(self.memory)
        start = 0
        if self.entries:
            first, last = self.entries[0].start, self.entries[-1].end
            if last > first:
                start, bound = (last, whole) if last + size <= whole else (0, first)
            else:
                start, bound = last, first
            if start + size > bound:
                return False
        entry.start, entry.end, entry.reading = start, start + size, True
        self.entries.append(entry)
        return True

    def next_entry(self) -> _Entry | None:
        """What a thread is to read now; None if it has to wait."""
        if self.wanted:
            return self.wanted.pop(0) if self.place(self.wanted[0]) else None
        if not self.order:
            return None
        key, uses = self.order[self.following]
        entry = _Entry(key=key, uses=uses)
        if not self.place(entry):
            return None
        self.following = (self.following + 1) % len(self.order)
        return entry


class Ring:
    """Memory for the weights that pass through.

    Args:
        size: bytes of the ring; at least the largest weight.
        memory: that large, and sliced by bytes; None: this process's own is taken.
        sizes: by key, bytes that a weight takes, whole blocks.
        order: keys in the order of use.
        read: reads one weight.

    Attributes:
        memory: all of it, for views of what is leased.
        misses: how often a weight was asked for that was not the next one.
    """

    def __init__(
        self, size: int, sizes: Mapping[int, int], order: Sequence[int], read: Reader, memory: Any = None
    ) -> None:
        self.memory = memoryview(new_memory(size)) if memory is None else memory
        self.misses = 0
        self._shared = _Shared(memory=self.memory[:size], sizes=sizes, order=_with_uses(order), read=read)
        weakref.finalize(self, _stop, self._shared)
        self._start()
        threads.tell_of_fork(self)

    def _start(self) -> None:
        shared = self._shared
        started = [threads.start_thread(lambda: _work(shared), f"djinn-weights-{n}") for n in range(READERS)]
        shared.stopped = started.count(None) == READERS

    def after_fork(self) -> None:
        """In a child process: the threads are not there, and what they were reading is read anew by others."""
        self._shared.entries, self._shared.wanted = [], []
        self._shared.following = 0
        if not self._shared.stopped:
            self._start()

    def follow(self, order: Sequence[int]) -> None:
        """From now on weights are used in this order, beginning with its first."""
        shared, new = self._shared, _with_uses(order)
        with shared.changed:
            if new != shared.order:
                shared.order, shared.following = new, 0
                shared.drop()

    @contextlib.contextmanager
    def lease(self, key: int) -> Iterator[int | None]:
        """Where a weight begins in the ring, while it is used; None if it has to be read elsewhere.

        That is so where something else is in use and there may be no room beside it, and where the threads have ended.

        Raises:
            Exception: what reading it raised.
        """
        entry = self._taken(key)
        if entry is None:
            yield None
            return
        try:
            yield entry.begins
        finally:
            with self._shared.changed:
                entry.leases -= 1
                entry.uses -= 1
                self._shared.tidy()

    def _taken(self, key: int) -> _Entry | None:
        shared = self._shared
        with shared.changed:
            entry = self._found(key)
            if entry is None:
                if shared.stopped or any(one.leases for one in (*shared.entries, *shared.wanted)):
                    self.misses += 1
                    return None
                entry = self._asked(key)
            entry.leases += 1
            try:
                while entry.begins is None and entry.error is None and not shared.stopped:
                    shared.changed.wait(_LOOK_S)
                    shared.stopped |= threads.ENDING.is_set()
                if entry.error is not None:
                    raise entry.error
                if entry.begins is not None:
                    return entry
            except BaseException:  # an interrupt while it waits, too
                self._give_up(entry)
                raise
            self._give_up(entry)
            return None

    def _give_up(self, entry: _Entry) -> None:
        entry.leases -= 1
        self._shared.wanted = [one for one in self._shared.wanted if one is not entry]
        self._shared.drop()

    def _found(self, key: int) -> _Entry | None:
        """The entry that serves this use; those before it were not asked for, and go."""
        shared = self._shared
        found = next((e for e in shared.entries if e.key == key and not e.dropped and e.uses > 0), None)
        if found is not None:
            for earlier in shared.entries[: shared.entries.index(found)]:
                earlier.dropped = True
            shared.tidy()
        return found

    def _asked(self, key: int) -> _Entry:
        """Have a weight read now, and go on from there."""
        shared = self._shared
        count = len(shared.order)
        place = next(
            (n for n in ((shared.following + k) % count for k in range(count)) if shared.order[n][0] == key), None
        )
        uses = 1
        if place is not None:
            self.misses += bool(shared.entries) or place != shared.following
            shared.following, uses = (place + 1) % count, shared.order[place][1]
        else:
            self.misses += 1
        entry = _Entry(key=key, uses=uses)
        shared.wanted.append(entry)
        shared.drop()
        return entry

    @property
    def size(self) -> int:
        """Bytes of the ring."""
        return len(self._shared.memory)

    @property
    def ready_bytes(self) -> int:
        """What has been read ahead and not been used yet."""
        shared = self._shared
        with shared.changed:
            return sum(shared.sizes[e.key] for e in shared.entries if e.begins is not None and not e.finished)

    def stop(self) -> None:
        """End the threads. Weights are read elsewhere from then on."""
        _stop(self._shared)


def _with_uses(order: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """The order with how often each key comes one after the other: it is read once for these."""
    return tuple((key, len(list(group))) for key, group in groupby(order))


def _stop(shared: _Shared) -> None:
    with shared.changed:
        shared.stopped = True
        shared.changed.notify_all()


def _work(shared: _Shared) -> None:
    """A thread: reads one weight after the other, for as long as there is room."""
    while (entry := _awaited(shared)) is not None:
        begins: int | None = None
        error: BaseException | None = None
        try:
            begins = shared.read(entry.key, shared.memory[entry.start : entry.end], _given_up(shared, entry))
        except BaseException as found:  # noqa: BLE001 - raised where the weight is asked for
            error = found
        with shared.changed:
            entry.reading = False
            if begins is not None:
                entry.begins = entry.start + begins
            elif error is not None:
                entry.error = error
                _wait_to_be_asked(shared, entry)
            shared.tidy()


def _given_up(shared: _Shared, entry: _Entry) -> Callable[[], bool]:
    return lambda: shared.stopped or (entry.dropped and not entry.leases)


def _awaited(shared: _Shared) -> _Entry | None:
    """The next entry to read; None when its thread is to end."""
    with shared.changed:
        while not shared.stopped:
            entry = shared.next_entry()
            if entry is not None:
                return entry
            shared.changed.wait(_LOOK_S)
            shared.stopped |= threads.ENDING.is_set()
    return None


def _wait_to_be_asked(shared: _Shared, entry: _Entry) -> None:
    """What failed once would fail again and again: go on when somebody has been told, or wants something else."""
    while not (entry.dropped or entry.leases or shared.wanted or shared.stopped):
        shared.changed.wait(_LOOK_S)
        shared.stopped |= threads.ENDING.is_set()
