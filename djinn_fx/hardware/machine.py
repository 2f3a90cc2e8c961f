"""What the operating system tells of this machine: cores, instruction sets, caches, memory, limits. Nothing is timed.

Imports no torch. Linux tells all of it; elsewhere what is not told is 0 or empty.
"""

from __future__ import annotations

import functools
import math
import os
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from djinn_fx.files.control_groups import memory_groups, processor_quota, text_of

GIB = 1024**3
#: Instruction sets that decide how fast numerical code runs, by the names of /proc/cpuinfo.
ISA_FLAGS = (
    *("sse4_2", "avx", "fma", "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    *("asimd", "asimdhp", "asimddp", "sve", "sve2", "bf16", "i8mm"),
)
#: Clock assumed where the machine tells none.
_DEFAULT_CLOCK_HZ = 2.5e9
_CPUS = "/sys/devices/system/cpu"
_NODES = "/sys/devices/system/node"


@dataclass(frozen=True, kw_only=True)
class Cache:
    """One kind of data cache: all that hold the same level.

    Attributes:
        level: 1, 2, 3 …
        size_bytes: size of one of them.
        shared_by: how many of this process's processors share one.
        count: how many of them this process's processors reach.
    """

    level: int
    size_bytes: int
    shared_by: int
    count: int


@dataclass(frozen=True, kw_only=True)
class NumaNode:
    """Memory that some processors reach faster than others do."""

    number: int
    processors: tuple[int, ...]
    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class Machine:
    """This machine as far as this process may use it.

    Attributes:
        model: the CPU's name, as the operating system gives it.
        architecture: ``"x86_64"``, ``"aarch64"`` …
        part: what tells cores of one architecture apart: x86's vendor and family, Arm's part number; empty if untold.
        threads: logical processors this process may run on, by its affinity and its control group's quota.
        cores: physical cores among them; hyper-threads of one core share its vector units and do not count twice.
        clock_hz: base clock in cycles per second.
        flags: all instruction-set flags.
        caches: data caches, nearest first.
        memory_bytes: memory this process may use: the machine's, or its control group's limit if that is less.
        memory_limit_bytes: that limit; None if there is none.
        quota: processors' worth of time the control group allows; None if there is no quota.
        numa: memory nodes; one or none where all memory is equally near.
        virtual: whether a hypervisor says that this is a virtual machine, whose caches and clock may be shared.
    """

    model: str
    architecture: str
    part: str
    threads: int
    cores: int
    clock_hz: float
    flags: frozenset[str]
    caches: tuple[Cache, ...]
    memory_bytes: int
    memory_limit_bytes: int | None
    quota: float | None
    numa: tuple[NumaNode, ...]
    virtual: bool

    @property
    def isa(self) -> tuple[str, ...]:
        """The instruction sets that matter for numerical code."""
        return tuple(flag for flag in ISA_FLAGS if flag in self.flags)

    @property
    def last_cache_bytes(self) -> int:
        """All caches of the last level together: a chip of several dies has one on each. 0 where unknown."""
        return self.caches[-1].size_bytes * self.caches[-1].count if self.caches else 0


@functools.cache
def probe_machine() -> Machine:
    """This machine, read once per process."""
    return read_machine()


def machine_identity() -> dict[str, str | int]:
    """What must be equal for measurements made here to hold: stable from one start of the machine to the next.

    Memory is rounded up to an eighth of its power of two, since a kernel keeps a varying part to itself. The clock of
    the moment, the affinity's exact processors and the machine's name are left out.
    """
    machine = probe_machine()
    return {
        "model": machine.model,
        "architecture": machine.architecture,
        "cores": machine.cores,
        "threads": machine.threads,
        "isa": " ".join(machine.isa),
        "last_cache_bytes": machine.last_cache_bytes,
        "memory_gib": _round_up_gib(machine.memory_bytes),
    }


def read_machine() -> Machine:
    """Read this machine anew."""
    blocks = _processor_blocks(text_of("/proc/cpuinfo"))
    first = next(iter(blocks.values()), {})
    allowed = _allowed()
    quota = processor_quota()
    limit = min((bound for bound, _ in memory_groups()), default=None)
    most = math.ceil(quota) if quota else len(allowed)
    flags = frozenset((first.get("flags") or first.get("Features") or "").split())
    total = _physical_memory()
    return Machine(
        model=first.get("model name") or platform.processor() or platform.machine(),
        architecture=platform.machine(),
        part=_part(first),
        threads=max(1, min(len(allowed), most)),
        cores=max(1, min(_cores(blocks, allowed), most)),
        clock_hz=_clock_hz(first),
        flags=flags,
        caches=_caches(allowed),
        memory_bytes=min(total, limit) if limit else total,
        memory_limit_bytes=limit if limit and limit < total else None,
        quota=quota,
        numa=_numa_nodes(),
        virtual="hypervisor" in flags,
    )


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """A kernel's list of processors, such as ``"0-3,8"``."""
    found: list[int] = []
    for part in text.strip().split(","):
        low, _, high = part.partition("-")
        if low.isdigit():
            found.extend(range(int(low), int(high or low) + 1))
    return tuple(found)


def _allowed() -> frozenset[int]:
    """The processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _processor_blocks(cpuinfo: str) -> dict[int, dict[str, str]]:
    """What /proc/cpuinfo says, a table for each processor."""
    blocks: dict[int, dict[str, str]] = {}
    for text in re.split(r"\n\s*\n", cpuinfo):
        fields = dict(re.findall(r"^([^:\n]+?)\s*:[ \t]*(.*)$", text, re.MULTILINE))
        if fields.get("processor", "").isdigit():
            blocks[int(fields["processor"])] = fields
    return blocks


def _part(fields: Mapping[str, str]) -> str:
    if "CPU part" in fields:
        return fields["CPU part"].strip().lower()
    return " ".join(fields[name] for name in ("vendor_id", "cpu family") if name in fields)


def _cores(blocks: Mapping[int, Mapping[str, str]], allowed: frozenset[int]) -> int:
    """Physical cores among the allowed processors."""
    mine = [block for number, block in blocks.items() if number in allowed]
    places = {
        (block["physical id"], block["core id"]) for block in mine if "core id" in block and "physical id" in block
    }
    return min(len(allowed), len(places) or len(allowed))


def _clock_hz(fields: Mapping[str, str]) -> float:
    """Base clock: from the model name, else the kernel's figure, else the present clock rounded to 0.1 GHz."""
    named = re.search(r"@\s*([0-9.]+)\s*GHz", fields.get("model name", ""))
    if named:
        return float(named[1]) * 1e9
    for file in ("base_frequency", "cpuinfo_max_freq"):
        kilohertz = text_of(f"{_CPUS}/cpu0/cpufreq/{file}").strip()
        if kilohertz.isdigit() and int(kilohertz) > 0:
            return int(kilohertz) * 1e3
    present = re.match(r"[0-9.]+", fields.get("cpu MHz", ""))
    return max(1.0, round(float(present[0]) / 100) / 10) * 1e9 if present else _DEFAULT_CLOCK_HZ


def _caches(allowed: Iterable[int]) -> tuple[Cache, ...]:
    """The data caches that these processors reach, by /sys."""
    mine = frozenset(allowed)
    found: dict[int, dict[tuple[int, ...], int]] = {}
    for cpu in sorted(mine):
        for index in range(8):
            folder = f"{_CPUS}/cpu{cpu}/cache/index{index}"
            level, size = text_of(f"{folder}/level").strip(), _cache_size(text_of(f"{folder}/size"))
            if not level.isdigit():
                break
            if text_of(f"{folder}/type").strip() in ("Data", "Unified") and size:
                sharers = parse_cpu_list(text_of(f"{folder}/shared_cpu_list")) or (cpu,)
                found.setdefault(int(level), {})[sharers] = size
    return tuple(
        Cache(
            level=level,
            size_bytes=max(groups.values()),
            shared_by=max(len(mine.intersection(sharers)) for sharers in groups),
            count=len(groups),
        )
        for level, groups in sorted(found.items())
    )


def _cache_size(text: str) -> int:
    """A size as /sys writes it: ``"48K"``, ``"2M"``."""
    match = re.fullmatch(r"\s*([0-9]+)([KMG]?)\s*", text)
    return int(match[1]) << 10 * " KMG".index(match[2] or " ") if match else 0


def _numa_nodes() -> tuple[NumaNode, ...]:
    nodes = []
    for number in parse_cpu_list(text_of(f"{_NODES}/online")):
        memory = re.search(r"MemTotal:\s*([0-9]+) kB", text_of(f"{_NODES}/node{number}/meminfo"))
        processors = parse_cpu_list(text_of(f"{_NODES}/node{number}/cpulist"))
        size = int(memory[1]) * 1024 if memory else 0
        nodes.append(NumaNode(number=number, processors=processors, memory_bytes=size))
    return tuple(nodes)


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 8 * GIB


def _round_up_gib(size: int) -> int:
    whole = max(1, math.ceil(size / GIB))
    step = max(1, (1 << whole.bit_length() - 1) // 8)
    return math.ceil(whole / step) * step
