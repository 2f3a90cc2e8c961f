"""What a device can do, and a rough probe of the machine this runs on. Imports no torch."""

from __future__ import annotations

import functools
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType


@dataclass(frozen=True, kw_only=True)
class Device:
    """One processor with its memory, as a roofline sees it.

    Attributes:
        name: row name in the catalogue, e.g. ``"h100-sxm"``, or ``"this-machine"``.
        kind: device type as torch names it: ``"cpu"``, ``"cuda"``.
        peak_flops: floating-point operations per second by dtype name, dense (no structured sparsity).
        bandwidth_bytes_s: main-memory bandwidth in bytes per second.
        memory_bytes: size of the main memory in bytes.
        launch_overhead_s: seconds it takes to start one kernel.
        source: where the numbers come from: a URL, or how they were probed.
        title: the full name, e.g. ``"NVIDIA H100 SXM5 80GB"``; empty where the name says it all.
        aliases: other names it is found by, among them those a driver reports.
        processors: what runs side by side in it: streaming multiprocessors, compute units, or a CPU's physical
            cores; 0 where unknown.
        clock_hz: boost clock in cycles per second; 0 where unknown.
        cache_bytes: size of the last cache before the main memory (a GPU's L2, a CPU's L3, the Infinity Cache of an
            MI300X); 0 where unknown.
        retrieved: the day on which the source was read, ``"2026-11-21"``; empty where nothing was read.
        efficiency: share of the peak that was measured, by what was measured (``"float32"``, ``"bandwidth"``, …). Never
            multiplied into the peaks above; empty where nothing was measured.
    """

    name: str
    kind: str
    peak_flops: Mapping[str, float]
    bandwidth_bytes_s: float
    memory_bytes: int
    launch_overhead_s: float
    source: str
    title: str = ""
    aliases: tuple[str, ...] = ()
    processors: int = 0
    clock_hz: float = 0.0
    cache_bytes: int = 0
    retrieved: str = ""
    efficiency: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    def peak(self, dtype: str) -> float:
        """Peak operations per second for a dtype; one without a row of its own runs at its stand-in's rate."""
        rate = self.peak_flops.get(dtype)
        if rate is None:
            rate = self.peak_flops.get(_STAND_IN.get(dtype, "float32"))
        return rate if rate is not None else self.peak_flops["float32"]


#: Which row a dtype without one is priced by. Everything else is priced as float32.
_STAND_IN = {
    "float8_e4m3fn": "float8",
    "float8_e5m2": "float8",
    "float8_e4m3fnuz": "float8",
    "float8_e5m2fnuz": "float8",
    "uint8": "int8",
    "complex128": "float64",
}

#: float32 operations per cycle and core: vector lanes x 2 (fused multiply-add) x 2 (such units); AVX and SSE
#: have no fused multiply-add: lanes x 2 (one add unit and one multiply unit).
#: Source: Intel 64 and IA-32 Optimization Reference Manual; Arm Neoverse N1 Software Optimization Guide.
_FLOP_PER_CYCLE = (("avx512f", 64), ("fma", 32), ("avx", 16), ("sse2", 8), ("asimd", 16))
#: bfloat16 operations per cycle and core: AMX does 1,024; AVX512_BF16 does twice float32's 64.
_BF16_PER_CYCLE = (("amx_bf16", 1024), ("avx512_bf16", 128))

#: Clock assumed where the machine tells none.
_DEFAULT_CLOCK_HZ = 2.5e9
#: One DDR4-3200 channel moves 25.6 GB/s (JEDEC JESD79-4); about three quarters of it are attained when streaming.
_CHANNEL_BYTES_S = 0.75 * 25.6e9
#: Seconds to fork and join a team of threads for one kernel: the order of magnitude, not a measurement.
_CPU_LAUNCH_S = 2e-6


@functools.cache
def this_machine() -> Device:
    """The CPU of this machine: nominal numbers read from the operating system, nothing is measured.

    Peak is cores x clock x operations per cycle of the widest vector unit; bandwidth is a conservative default
    of two DDR4-3200 channels, eight for more than 16 cores. Both are upper-end estimates for a roofline, good
    for comparing ops on this machine, not for promising seconds.
    """
    text = _read("/proc/cpuinfo")
    flags = _flags(text)
    cores, clock = _cores(text), _clock_hz(text)
    per_cycle = next((count for flag, count in _FLOP_PER_CYCLE if flag in flags), _default_per_cycle())
    single = cores * clock * per_cycle
    bf16 = next((cores * clock * count for flag, count in _BF16_PER_CYCLE if flag in flags), single)
    half = 2 * single if "avx512_fp16" in flags else single
    int8 = 4 * single if "avx512_vnni" in flags else single
    channels = 2 if cores <= 16 else 8
    return Device(
        name="this-machine",
        kind="cpu",
        peak_flops=MappingProxyType(
            {"float64": single / 2, "float32": single, "bfloat16": bf16, "float16": half, "int8": int8}
        ),
        bandwidth_bytes_s=channels * _CHANNEL_BYTES_S,
        memory_bytes=_memory_bytes(),
        launch_overhead_s=_CPU_LAUNCH_S,
        source=f"nominal: {cores} cores x {clock / 1e9:.1f} GHz x {per_cycle} FLOP a cycle, {channels} channels",
    )


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _flags(cpuinfo: str) -> frozenset[str]:
    """Instruction-set flags: ``flags`` on x86, ``Features`` on Arm."""
    match = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    return frozenset(match[1].split()) if match else frozenset()


def _default_per_cycle() -> int:
    """Where there is no /proc/cpuinfo: NEON on Arm, SSE2 elsewhere (every 64-bit x86 has it)."""
    return 16 if platform.machine().lower() in ("arm64", "aarch64") else 8


def _cores(cpuinfo: str) -> int:
    """Physical cores this process may use: hyper-threads share one vector unit and do not count twice."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    places = re.findall(r"^physical id\s*:\s*(\d+)$.*?^core id\s*:\s*(\d+)$", cpuinfo, re.MULTILINE | re.DOTALL)
    return max(1, min(allowed, len(set(places)) or allowed))


def _clock_hz(cpuinfo: str) -> float:
    """Base clock: from the model name, else the kernel's figure, else the present clock rounded to 0.1 GHz."""
    named = re.search(r"^model name\s*:.*@\s*([0-9.]+)\s*GHz", cpuinfo, re.MULTILINE)
    if named:
        return float(named[1]) * 1e9
    for file in ("base_frequency", "cpuinfo_max_freq"):
        kilohertz = _read(f"/sys/devices/system/cpu/cpu0/cpufreq/{file}").strip()
        if kilohertz.isdigit() and int(kilohertz) > 0:
            return int(kilohertz) * 1e3
    present = re.search(r"^cpu MHz\s*:\s*([0-9.]+)", cpuinfo, re.MULTILINE)
    return max(1.0, round(float(present[1]) / 100) / 10) * 1e9 if present else _DEFAULT_CLOCK_HZ


def _memory_bytes() -> int:
    """Memory this process may use: the machine's, or the control group's limit if that is less."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        total = 8 * 1024**3
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    return min(total, int(limit)) if limit.isdigit() else total
