"""What the memory of weights is to this process: private, shared with other processes, a view of a file."""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: A range of addresses, from the first to behind the last.
Span = tuple[int, int]
#: A file as it is: device, inode, size, time of the last write; None if it is not there.
FileState = tuple[int, int, int, int] | None


@dataclass(frozen=True)
class Mapping:
    """A line of /proc/self/maps.

    Attributes:
        start: its first address.
        end: the address behind its last.
        shared: whether writes of other processes show in it.
        path: of the file that it shows, while that has a name; else empty.
        file: whether it shows a file, with a name or without.
        name: what the kernel writes behind it: the file's path, or such as ``[heap]``.
    """

    start: int
    end: int
    shared: bool
    path: str
    file: bool = False
    name: str = ""


class Mappings:
    """The mappings that lie under some ranges of addresses.

    Args:
        spans: the ranges.
    """

    def __init__(self, spans: Iterable[Span]) -> None:
        self.known = tuple(_read(sorted(spans)))
        self._starts = [one.start for one in self.known]

    def over(self, span: Span) -> Sequence[Mapping]:
        """Those that a range lies on, in order."""
        first = max(bisect.bisect_right(self._starts, span[0]) - 1, 0)
        return [one for one in self.known[first : bisect.bisect_left(self._starts, span[1])] if one.end > span[0]]

    def shared(self, span: Span) -> bool:
        """Whether other processes can write to a range."""
        return any(one.shared for one in self.over(span))

    def one(self, start: int, end: int) -> bool:
        """Whether a single mapping covers a range."""
        found = self.over((start, end))
        return len(found) == 1 and found[0].start <= start and end <= found[0].end


def files_under(mappings: Mappings) -> tuple[str, ...]:
    """The files that some mappings show."""
    return tuple(sorted({one.path for one in mappings.known if one.path}))


def state_of(path: str) -> FileState:
    """A file as it is."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _read(spans: Sequence[Span]) -> Iterable[Mapping]:
    """Lines that touch one of the ranges, which are in order; none where there is no such file."""
    if not spans:
        return
    # Ranges may overlap: behind the largest end so far nothing earlier reaches.
    starts = [start for start, _ in spans]
    ends: list[int] = []
    for _, end in spans:
        ends.append(max(end, ends[-1] if ends else 0))
    try:
        with open("/proc/self/maps", "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        place, _, rest = line.partition(b" ")
        low, _, high = place.partition(b"-")
        start, end = int(low, 16), int(high, 16)
        before = bisect.bisect_left(starts, end)  # so many begin before this mapping ends
        if before and ends[before - 1] > start:
            flags, _, _, inode, *path = rest.split(None, 4)
            name, shows = os.fsdecode(path[0]) if path else "", inode != b"0"
            gone = not shows or not name.startswith("/") or name.endswith(" (deleted)")
            shared, shown = flags[3:4] == b"s", "" if gone else name
            yield Mapping(start=start, end=end, shared=shared, path=shown, file=shows, name=name)
