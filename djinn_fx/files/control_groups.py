"""What Linux's control groups leave this process: processors' time and memory, in both versions. No torch."""

from __future__ import annotations

from pathlib import Path

#: Where the groups are mounted, and which ones this process is in.
ROOT, PROCESS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_NO_LIMIT = 2**60  # version 1 writes "no limit" as a number near 2**63


def text_of(path: str | Path) -> str:
    """A file of the operating system's, or nothing where it cannot be read."""
    try:
        return Path(path).read_text("utf-8", "replace")
    except (OSError, ValueError):
        return ""


def processor_quota(root: Path = ROOT, process: Path = PROCESS) -> float | None:
    """The least quota of the groups, in processors; None where there is none."""
    quotas = []
    for folder in _groups(root, process, "cpu"):
        words = _words(folder / "cpu.max")
        words = words or _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
        if len(words) == 2 and all(word.isdigit() and int(word) for word in words):
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def memory_groups(root: Path = ROOT, process: Path = PROCESS) -> list[tuple[int, int]]:
    """Limit and use of every control group above this process that has a limit, bytes."""
    found = []
    for folder in _groups(root, process, "memory"):
        new = (folder / "memory.max").exists()
        limit = _words(folder / ("memory.max" if new else "memory.limit_in_bytes"))
        used = _words(folder / ("memory.current" if new else "memory.usage_in_bytes"))
        if not limit or not limit[0].isdigit() or not 0 < int(limit[0]) < _NO_LIMIT:
            continue
        words = _words(folder / "memory.stat")
        statistics = dict(zip(words[::2], words[1::2], strict=False))
        cache = int(statistics.get("inactive_file" if new else "total_inactive_file", "0"))
        found.append((int(limit[0]), max(0, int(used[0]) - cache) if used else 0))
    return found


def _groups(root: Path, process: Path, controller: str) -> list[Path]:
    """Folders of the control groups this process is in for one controller, innermost first, both versions."""
    found = []
    for line in text_of(process).splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0" and not names:
            bases = [root, root / "unified"]
        elif controller in names.split(","):
            bases = [root / controller, root / names]
        else:
            continue
        for base in bases:
            inner = base / path.strip("/")
            # In a container the path may be the host's, which cannot be seen: the mount's root is the group then.
            inner = inner if inner.is_dir() else base
            found += [inner, *(parent for parent in inner.parents if parent == base or base in parent.parents)]
    return found


def _words(path: Path) -> list[str]:
    return text_of(path).split()
