"""What Linux's /proc says about a process and everything it started, and having memory taken back. No torch.

Where /proc is not there, there are no descendants and no sizes: answers are empty or None, never an exception.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import re
import sys
from collections import defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path

from djinn_fx.files.control_groups import text_of

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_PROC = Path("/proc")


def has_children_files() -> bool:
    """Whether the kernel lists a process's children (CONFIG_PROC_CHILDREN), so that a tree is cheap to walk."""
    return Path("/proc/self/task", str(os.getpid()), "children").exists()


def parent_of(pid: int) -> int | None:
    """The parent of a process; None if there is no such process, or it is dead and only waits to be reaped."""
    stat = text_of(_PROC / str(pid) / "stat")
    if not stat:
        return None
    state, parent = stat.rpartition(")")[2].split()[:2]  # the name before it may hold anything
    return None if state in "ZX" else int(parent)


def descendants(pid: int) -> list[int]:
    """Every live process that descends from this one, parents first."""
    children_of = _listed_children if has_children_files() else _children_table().__getitem__
    found: list[int] = []
    todo = [pid]
    while todo:
        for child in children_of(todo.pop()):
            if child not in found:
                found.append(child)
                todo.append(child)
    return found


def marked(setting: str) -> list[int]:
    """Processes of ours that were started with this "NAME=value" in their environment."""
    found = []
    for pid in _numbers(_PROC):
        if setting in text_of(_PROC / str(pid) / "environ").split("\0") and parent_of(pid) is not None:
            found.append(pid)
    return found


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM now, shared pages included; 0 if it is gone."""
    fields = text_of(_PROC / str(pid) / "statm").split()
    return int(fields[1]) * _PAGE_BYTES if len(fields) > 1 else 0


def proportional_bytes(pid: int) -> int | None:
    """The same with pages shared by n processes counted as 1/n; None where the kernel does not say."""
    return kilobytes(_PROC / str(pid) / "smaps_rollup", "Pss:")


def peak_bytes(pid: int) -> int:
    """Largest resident memory so far, or since :func:`reset_peak`; 0 if not known."""
    return kilobytes(_PROC / str(pid) / "status", "VmHWM:") or 0


def reset_peak(pid: int) -> None:
    """Let :func:`peak_bytes` start anew, where the kernel allows it."""
    try:
        (_PROC / str(pid) / "clear_refs").write_text("5")
    except OSError:
        return  # the peak is then that of the process's whole life: too large, never too small


def waited_seconds(pid: int) -> float:
    """How long a process's first thread has been ready to run while the processors did something else.

    0 if it is gone or the kernel does not say.
    """
    fields = text_of(_PROC / str(pid) / "schedstat").split()
    return int(fields[1]) / 1e9 if len(fields) > 1 else 0.0


def oom_kills() -> int | None:
    """How many processes the kernel has killed for want of memory since the start; None if it does not say."""
    for line in text_of(_PROC / "vmstat").splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return None


def _listed_children(pid: int) -> list[int]:
    folder = _PROC / str(pid) / "task"
    return [int(child) for thread in _numbers(folder) for child in text_of(folder / str(thread) / "children").split()]


def _children_table() -> Mapping[int, list[int]]:
    table: defaultdict[int, list[int]] = defaultdict(list)
    for pid in _numbers(_PROC):
        parent = parent_of(pid)
        if parent is not None:
            table[parent].append(pid)
    return table


def _numbers(folder: Path) -> list[int]:
    try:
        return [int(name) for name in os.listdir(folder) if name.isdigit()]
    except OSError:
        return []


def kilobytes(path: Path, field: str) -> int | None:
    """A field of a file of the kernel's that counts in kB, as bytes."""
    for line in text_of(path).splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return None


def give_back() -> None:
    """Have the C library return the freed memory that it keeps for later; glibc alone keeps much."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def give_back_code(libraries: Collection[str]) -> int:
    """Give back the pages of shared libraries that are as they are on the disk; who needs one is shown it again.

    Libraries that build read ten times as much of their code as they need later. Where a process has changed a page
    of a mapping, or has had it swapped out, all of the mapping stays.

    Args:
        libraries: the folders that they lie in, somewhere in their paths.

    Returns:
        The bytes of those that were in memory.
    """
    known = "|".join(re.escape(one) for one in sorted(libraries))
    if not known or sys.platform != "linux":
        return 0
    found, library = 0, ctypes.CDLL(None)
    lines = rf"^([0-9a-f]+)-([0-9a-f]+) r-.p [^\n]*/(?:{known})/[^\n]*\n((?:[A-Z][^\n]*\n)+)"
    for start, end, fields in re.findall(lines, text_of(_PROC / "self" / "smaps"), re.MULTILINE):
        kept = dict(line.split(":", 1) for line in fields.splitlines())
        resident, *changed = (int(kept.get(name, "1 kB").split()[0]) for name in ("Rss", "Anonymous", "Swap"))
        if resident and not any(changed):
            begin = int(start, 16)
            failed = library.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(int(end, 16) - begin), mmap.MADV_DONTNEED)
            found += 0 if failed else resident * 1024
    return found
