"""How much other processes computed meanwhile, as the operating system counts it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

_STAT = Path("/proc/stat")


@dataclass(frozen=True)
class Reading:
    """At one moment: seconds on the clock, and processor seconds of all other processes since the machine's start."""

    clock_s: float
    others_s: float


def reading() -> Reading | None:
    """Now; None where the operating system does not tell (other than Linux)."""
    try:
        words = _STAT.read_text().split("\n", 1)[0].split()
        # user, nice, system, idle, iowait, irq, softirq, steal: what is neither idle nor waiting is somebody's work.
        ticks = [int(word) for word in words[1:9]]
    except (OSError, ValueError):
        return None
    busy = sum(ticks) - ticks[3] - ticks[4]
    return Reading(time.perf_counter(), busy / os.sysconf("SC_CLK_TCK") - time.process_time())


def disturbed(since: Reading | None, threads: int, cores: int | None = None) -> bool:
    """Whether others computed more since then than on cores that this process had left to them.

    Args:
        since: an earlier :func:`reading`.
        threads: that this process computed with.
        cores: of the machine; asked of the operating system if None.
    """
    now = reading()
    if since is None or now is None:
        return False
    passed_s = now.clock_s - since.clock_s
    free = max(0, (cores or os.cpu_count() or 1) - threads)
    # The kernel counts in ticks of 10 ms: two of them may be nothing.
    return now.others_s - since.others_s > passed_s * (free + 0.1) + 0.02
