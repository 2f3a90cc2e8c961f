"""Where each page is, and who uses it: a few whole numbers a page."""

from __future__ import annotations

from array import array
from enum import IntEnum

#: In a column of places: no copy there.
NOWHERE = -1


class Moving(IntEnum):
    """What is under way with a page."""

    NO = 0
    OUT = 1
    """From the device to the host or the disk."""
    DOWN = 2
    """From the host to the disk."""
    IN = 3
    """To the device."""


class Table:
    """Columns, by the page's number.

    Attributes:
        refs: how many sessions have the page; 0 for a number that is free, or whose last copy under way is awaited.
        readers: steps under way that read or write it.
        device, host, disk: its place in each pool, or ``NOWHERE``.
        moving: a :class:`Moving`.
    """

    def __init__(self) -> None:
        self.refs = array("i")
        self.readers = array("i")
        self.device = array("i")
        self.host = array("i")
        self.disk = array("i")
        self.moving = array("b")
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self.refs)

    @property
    def in_use(self) -> int:
        """Pages that somebody has, or that are still moving."""
        return len(self.refs) - len(self._free)

    @property
    def nbytes(self) -> int:
        """Bytes that the columns take."""
        columns = (self.refs, self.readers, self.device, self.host, self.disk, self.moving)
        return sum(column.itemsize * len(column) for column in columns) + 8 * len(self._free)

    def add(self, slot: int) -> int:
        """A new page at a place on the device, with one session that has it."""
        if self._free:
            page = self._free.pop()
            self.refs[page], self.device[page] = 1, slot
            return page
        self.refs.append(1)
        self.device.append(slot)
        for column in (self.readers, self.moving):
            column.append(0)
        self.host.append(NOWHERE)
        self.disk.append(NOWHERE)
        return len(self.refs) - 1

    def forget(self, page: int) -> None:
        """Free a page's number; its places were given back."""
        self.refs[page] = self.readers[page] = self.moving[page] = 0
        self.device[page] = self.host[page] = self.disk[page] = NOWHERE
        self._free.append(page)
