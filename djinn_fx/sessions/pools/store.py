"""The pages of all sessions over three pools: who has them, what leaves, what returns.

Nothing here waits: what must be copied becomes a :class:`~djinn_fx.sessions.pools.job.Job`. Every method is called
under the lock of whoever owns the store. What holds at any time:

* A page that a step reads is on the device and stays there until the step is done.
* A page that several sessions have is there once; who writes to it gets a copy of its own first.
* A copy below the device is dropped when the page is written to, so each copy that is there is the page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from djinn_fx.sessions.pools.arena import Arena
from djinn_fx.sessions.pools.disk import Disk
from djinn_fx.sessions.pools.job import Job, Way
from djinn_fx.sessions.pools.table import NOWHERE, Moving, Table


@dataclass
class Counts:
    """What happened so far, in pages unless it says otherwise."""

    evicted: int = 0
    evicted_clean: int = 0
    """Of those, such as had a copy below already: nothing was moved."""
    loaded: int = 0
    cancelled: int = 0
    demoted: int = 0
    damaged: int = 0
    failed: int = 0
    """Copies that could not be written: a full disk."""
    copied_on_write: int = 0
    bytes_out: int = 0
    bytes_in: int = 0


class Store:
    """Pages over a device pool, and beneath it a host pool and a disk, where there are any.

    Args:
        device: with one page kept, the one that stands where a context has no token.
        host: pages below.
        disk: pages below those.
    """

    def __init__(self, device: Arena, host: Arena | None = None, disk: Disk | None = None) -> None:
        self.device, self.host, self.disk = device, host, disk
        self.table = Table()
        self.counts = Counts()
        self._clean: dict[int, None] = {}  # on the device and on the host, oldest first
        self._jobs: dict[int, Job] = {}  # by page that moves
        self.forgotten: Callable[[int], None] = lambda page: None
        """Called when a page is freed, or its only holder is about to write to it."""

    # -- who has a page ----------------------------------------------------------------------------------------------

    def allocate(self, count: int) -> list[int] | None:
        """New pages on the device, zeroed, for one session; None where there is no room."""
        slots = self.device.take(count)
        if slots is None:
            return None
        self.device.clear(slots)
        return [self.table.add(slot) for slot in slots]

    def share(self, pages: Iterable[int]) -> None:
        """One more session has these pages."""
        for page in pages:
            self.table.refs[page] += 1

    def release(self, pages: Iterable[int]) -> None:
        """A session has these pages no more; what nobody has is freed, when it moves as soon as it has arrived."""
        for page in pages:
            self.table.refs[page] -= 1
            if self.table.refs[page] == 0 and not self.table.moving[page]:
                self._free(page)

    def read(self, pages: Iterable[int]) -> None:
        """A step begins that uses these pages, which must be on the device."""
        for page in pages:
            assert self.on_device(page)
            self.table.readers[page] += 1

    def done(self, pages: Iterable[int]) -> None:
        """The step is done."""
        for page in pages:
            self.table.readers[page] -= 1

    def own(self, page: int) -> int | None:
        """The page to write to instead of this one: itself, or a copy if others have it too; None: no room for one."""
        if self.table.refs[page] == 1:
            if self.table.moving[page]:
                self._jobs[page].cancelled.add(page)  # what is being copied is not what will be there
            self._drop_below(page)
            self.forgotten(page)
            return page
        made = self.allocate(1)
        if made is None:
            return None
        memory = self.device.memory
        memory[self.table.device[made[0]]].copy_(memory[self.table.device[page]])
        self.counts.copied_on_write += 1
        self.release([page])
        return made[0]

    # -- where a page is ---------------------------------------------------------------------------------------------

    def on_device(self, page: int) -> bool:
        """Whether a step may use the page now; also while it is copied out, if it stays."""
        if self.table.device[page] == NOWHERE or self.table.moving[page] == Moving.IN:
            return False
        return self.table.moving[page] == Moving.NO or not self._leaves(page)

    def _leaves(self, page: int) -> bool:
        job = self._jobs[page]
        return job.way.leaves_device and page not in job.stays and page not in job.cancelled

    def lost(self, page: int) -> bool:
        """Whether there is no copy of the page at all: it was damaged."""
        table = self.table
        return table.device[page] == table.host[page] == table.disk[page] == NOWHERE

    def may_leave(self, page: int) -> bool:
        """Whether the page is on the device, nobody reads it, and nothing is under way with it but a copy ahead."""
        table = self.table
        if table.device[page] == NOWHERE or table.readers[page]:
            return False
        return not table.moving[page] or self._copied_ahead(page)

    def _copied_ahead(self, page: int) -> bool:
        job = self._jobs.get(page)
        return job is not None and page in job.stays and page not in job.cancelled

    @property
    def host_room(self) -> int:
        """Pages that the host can take at once: free, or a copy of what is on the device."""
        return 0 if self.host is None else self.host.free + len(self._clean)

    @property
    def under_way(self) -> Mapping[int, Job]:
        """Jobs by page."""
        return self._jobs

    @property
    def leaving(self) -> int:
        """Pages whose places on the device will be free when copies under way are done."""
        return sum(map(self._leaves, self._jobs))

    # -- leaving -----------------------------------------------------------------------------------------------------

    def evict(self, pages: Iterable[int]) -> tuple[int, list[Job], list[int]]:
        """Have pages leave the device; those that may not are passed over.

        Returns:
            How many places on the device are free, or will be without a further copy; copies to be made for the
            others; and pages for which there is no room below.
        """
        at_once, without = 0, []
        moves: dict[Way, list[tuple[int, int, int]]] = {Way.TO_HOST: [], Way.TO_DISK: []}
        for page in pages:
            if not self.may_leave(page):
                continue
            if self.table.moving[page]:
                self._jobs[page].stays.discard(page)  # its copy is under way already
                at_once += 1
                continue
            if self.table.host[page] != NOWHERE or self.table.disk[page] != NOWHERE:
                self._leave(page)
                self.counts.evicted_clean += 1
                at_once += 1
                continue
            way, slot = self._room_below()
            if slot == NOWHERE:
                without.append(page)
                continue
            self.table.moving[page] = Moving.OUT
            moves[way].append((page, self.table.device[page], slot))
        return at_once, self._begin(moves), without

    def copy_ahead(self, pages: Iterable[int]) -> list[Job]:
        """Copies on the host of pages that stay on the device, so that they can leave at once later."""
        moves: list[tuple[int, int, int]] = []
        for page in pages:
            if self.host is None or not self.may_leave(page) or self.table.moving[page]:
                continue
            if self.table.host[page] != NOWHERE:
                continue
            slots = self.host.take(1)
            if slots is None:
                break
            self.table.moving[page] = Moving.OUT
            moves.append((page, self.table.device[page], slots[0]))
        jobs = self._begin({Way.TO_HOST: moves})
        for job in jobs:
            job.stays |= {page for page, _, _ in job.moves}
        return jobs

    def drop_copies(self, pages: Iterable[int]) -> int:
        """Give back what is on the host of pages that are on the device as well; returns how many there were."""
        found = [page for page in pages if page in self._clean and not self.table.moving[page]]
        for page in found:
            self._give_host(page)
        return len(found)

    def demote(self, pages: Iterable[int]) -> list[Job]:
        """Copies of pages from the host to the disk, as far as there is room; not of such as are on the device."""
        moves: list[tuple[int, int, int]] = []
        for page in pages:
            table = self.table
            if table.moving[page] or table.device[page] != NOWHERE or table.host[page] == NOWHERE:
                continue
            slots = self.disk.take(1) if self.disk is not None else None
            if slots is None:
                break
            table.moving[page] = Moving.DOWN
            moves.append((page, table.host[page], slots[0]))
        return self._begin({Way.HOST_TO_DISK: moves})

    def keep(self, pages: Iterable[int]) -> None:
        """Let pages that are about to leave stay."""
        for page in pages:
            if self.table.moving[page] in (Moving.OUT, Moving.DOWN):
                self._jobs[page].cancelled.add(page)

    # -- returning ---------------------------------------------------------------------------------------------------

    def load(self, pages: Iterable[int]) -> tuple[list[Job], int]:
        """Have pages return to the device; those on their way out stay.

        Returns:
            Copies to be made, and for how many pages there was no room on the device.
        """
        moves: dict[Way, list[tuple[int, int, int]]] = {Way.FROM_HOST: [], Way.FROM_DISK: []}
        short = 0
        for page in pages:
            moving = self.table.moving[page]
            if moving in (Moving.OUT, Moving.DOWN):
                self._jobs[page].cancelled.add(page)
            elif moving == Moving.IN:
                self._jobs[page].cancelled.discard(page)
            elif self.table.device[page] == NOWHERE and not self.lost(page):
                slots = self.device.take(1)
                if slots is None:
                    short += 1
                    continue
                from_host = self.table.host[page] != NOWHERE
                source = self.table.host[page] if from_host else self.table.disk[page]
                self.table.device[page], self.table.moving[page] = slots[0], Moving.IN
                moves[Way.FROM_HOST if from_host else Way.FROM_DISK].append((page, source, slots[0]))
        return self._begin(moves), short

    def cancel_load(self, pages: Iterable[int]) -> None:
        """Let pages that are about to return stay below."""
        for page in pages:
            if self.table.moving[page] == Moving.IN:
                self._jobs[page].cancelled.add(page)

    # -- copies that begin and end -----------------------------------------------------------------------------------

    def start(self, job: Job) -> Sequence[tuple[int, int, int]]:
        """What of a job is still wanted: its copies as page, source and target. The rest is over."""
        gone = [move for move in job.moves if move[0] in job.cancelled or not self.table.refs[move[0]]]
        for page, _, target in gone:
            self._undo(job, page, target)
        job.moves = [move for move in job.moves if self._jobs.get(move[0]) is job]
        return job.moves

    def finish(self, job: Job) -> None:
        """A job's copies are done, or failed."""
        for page, _, target in job.moves:
            if page in job.failed:
                self._fail(job, page, target)
            elif page in job.cancelled or not self.table.refs[page]:
                self._undo(job, page, target)
            else:
                self._arrive(job, page, target)
        job.moves = []

    def _arrive(self, job: Job, page: int, target: int) -> None:
        table, size = self.table, self.device.page_bytes
        del self._jobs[page]
        table.moving[page] = Moving.NO
        if job.way.enters_device:
            self.counts.loaded += 1
            self.counts.bytes_in += size
            if table.host[page] != NOWHERE:
                self._clean[page] = None
            return
        self.counts.bytes_out += size
        if job.way is Way.TO_HOST:
            table.host[page] = target
        else:
            table.disk[page] = target
        if page in job.stays:
            self._clean[page] = None
        elif job.way.leaves_device:
            self._leave(page)
        else:
            self._give_host(page)
            self.counts.demoted += 1

    def _undo(self, job: Job, page: int, target: int) -> None:
        """A copy is not wanted any more: give its target back."""
        del self._jobs[page]
        self.table.moving[page] = Moving.NO
        self.counts.cancelled += 1
        self._give_target(job.way, page, target)
        if not self.table.refs[page]:
            self._free(page)

    def _fail(self, job: Job, page: int, target: int) -> None:
        """A copy could not be made: below there is no room after all, or what is there is damaged."""
        del self._jobs[page]
        self.table.moving[page] = Moving.NO
        self._give_target(job.way, page, target)
        if job.way.enters_device:
            self.counts.damaged += 1
            self._drop_below(page)
        else:
            self.counts.failed += 1
        if not self.table.refs[page]:
            self._free(page)

    def _give_target(self, way: Way, page: int, target: int) -> None:
        if way.enters_device:
            self.table.device[page] = NOWHERE
            self.device.give([target])
        elif way is Way.TO_HOST:
            assert self.host is not None
            self.host.give([target])
        else:
            assert self.disk is not None
            self.disk.give([target])

    def _begin(self, moves: dict[Way, list[tuple[int, int, int]]]) -> list[Job]:
        jobs = [Job(way, listed) for way, listed in moves.items() if listed]
        for job in jobs:
            self._jobs.update(dict.fromkeys((page for page, _, _ in job.moves), job))
        return jobs

    # -- places ------------------------------------------------------------------------------------------------------

    def _room_below(self) -> tuple[Way, int]:
        """A free place on the host, else on the disk."""
        if self.host is not None:
            slots = self.host.take(1) or (self.host.take(1) if self._drop_oldest_clean() else None)
            if slots is not None:
                return Way.TO_HOST, slots[0]
        slots = self.disk.take(1) if self.disk is not None else None
        return Way.TO_DISK, slots[0] if slots is not None else NOWHERE

    def _drop_oldest_clean(self) -> bool:
        """Free the host copy of the page that returned to the device longest ago."""
        for page in self._clean:
            self._give_host(page)
            return True
        return False

    def _leave(self, page: int) -> None:
        self.device.give([self.table.device[page]])
        self.table.device[page] = NOWHERE
        self._clean.pop(page, None)
        self.counts.evicted += 1

    def _drop_below(self, page: int) -> None:
        self._give_host(page)
        if self.table.disk[page] != NOWHERE:
            assert self.disk is not None
            self.disk.give([self.table.disk[page]])
            self.table.disk[page] = NOWHERE

    def _give_host(self, page: int) -> None:
        self._clean.pop(page, None)
        if self.table.host[page] != NOWHERE:
            assert self.host is not None
            self.host.give([self.table.host[page]])
            self.table.host[page] = NOWHERE

    def _free(self, page: int) -> None:
        self._drop_below(page)
        if self.table.device[page] != NOWHERE:
            self.device.give([self.table.device[page]])
        self.forgotten(page)
        self.table.forget(page)
