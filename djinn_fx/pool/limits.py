"""How much the build pool may take of the machine. No torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from djinn_fx.files.control_groups import PROCESS, ROOT, memory_groups, processor_quota
from djinn_fx.pool.procfs import kilobytes

GIB = 2**30
#: Share of the memory this process may use that all builds together may have.
MEMORY_SHARE = 0.5
#: A build may grow to twice what was predicted, or by this much, whichever is more.
SLACK_BYTES = GIB
#: Reserved for a build whose need is not known.
UNKNOWN_BYTES = GIB


@dataclass(frozen=True, kw_only=True)
class PoolLimits:
    """Bounds of a pool.

    Attributes:
        children: builds at the same time, at least 1. As many idle children are kept besides, no more.
        memory_bytes: predicted memory of all running builds together; no single build may grow beyond it.
        idle_s: how long a child without work is kept; 0 for not at all.
        retire_bytes: a child that holds more than this after a build is not used again.
        reply_bytes: largest artefact taken from a child.
        nice: 0 to 19, of the children.
        idle_class: give children the processor only when nobody else wants it (SCHED_IDLE).
        check_available: also look, before a build starts, whether the machine has the memory free at that moment.
    """

    children: int
    memory_bytes: int
    idle_s: float = 60.0
    retire_bytes: int = 2 * GIB
    reply_bytes: int = 8 * GIB
    nice: int = 19
    idle_class: bool = False
    check_available: bool = True

    def __post_init__(self) -> None:
        if self.children < 1 or self.memory_bytes < 1:
            raise ValueError(f"a pool needs a child and memory, not {self.children} and {self.memory_bytes} bytes")

    @classmethod
    def default(cls) -> PoolLimits:
        """For this machine and this process's share of it: one child on two cores, never more than four; at idle
        priority, which alone leaves the calls beside it as fast as they were (docs/decisions/0009)."""
        total = total_bytes()
        return cls(
            children=max(1, min(4, usable_cores() // 2)),
            memory_bytes=int(total * MEMORY_SHARE) if total is not None else 4 * GIB,
            idle_class=True,
        )

    def hard_bytes(self, predicted_bytes: int) -> int:
        """Where a build that was predicted to need so much is killed."""
        if predicted_bytes <= 0:
            return self.memory_bytes
        return min(max(2 * predicted_bytes, predicted_bytes + SLACK_BYTES), self.memory_bytes)

    def reserved_bytes(self, predicted_bytes: int) -> int:
        """What is set aside for a build: its prediction, or a guess where there is none."""
        return predicted_bytes if predicted_bytes > 0 else min(UNKNOWN_BYTES, self.memory_bytes)


def usable_cores(root: Path = ROOT, processes: Path = PROCESS) -> int:
    """Cores this process may use: its affinity and its control groups' quota, at least 1.

    Args:
        root: where the control groups are mounted.
        processes: which groups this process is in.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity is not None else os.cpu_count() or 1
    quota = processor_quota(root, processes)
    return max(1, cores if quota is None else int(min(cores, quota)))


def total_bytes(
    root: Path = ROOT,
    processes: Path = PROCESS,
    meminfo: Path = Path("/proc/meminfo"),
) -> int | None:
    """Memory this process could have if nobody else had any: of the machine, or of its tightest control group.

    None where the machine does not say.
    """
    amounts = [amount for amount in [kilobytes(meminfo, "MemTotal:")] if amount is not None]
    amounts += [limit for limit, _ in memory_groups(root, processes)]
    return min(amounts, default=None)


def available_bytes(
    root: Path = ROOT,
    processes: Path = PROCESS,
    meminfo: Path = Path("/proc/meminfo"),
) -> int | None:
    """Memory that can be had now without anybody being killed; caches the kernel would give up count as free.

    None where the machine does not say.
    """
    amounts = [amount for amount in [kilobytes(meminfo, "MemAvailable:")] if amount is not None]
    amounts += [max(0, limit - used) for limit, used in memory_groups(root, processes)]
    return min(amounts, default=None)
