"""What a device can do; this machine's CPU as one, by its nominal numbers. Imports no torch."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from djinn_fx.hardware.machine import Machine, probe_machine


@dataclass(frozen=True, kw_only=True)
class Device:
    """One processor with its memory, as a roofline sees it.

    Attributes:
        name: row name in the catalogue, e.g. ``"h100-sxm"``, or ``"this-machine"``.
        kind: device type as torch names it: ``"cpu"``, ``"cuda"``.
        peak_flops: operations per second by dtype name, dense (no structured sparsity).
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
        retrieved: the day on which the row was last checked, ``"2026-11-21"``; empty where nothing was read.
        efficiency: share of the peak that was measured, by what was measured (``"float32"``, ``"bandwidth"``, …). Never
            multiplied into the peaks above; empty where nothing was measured.
        efficiency_source: what was measured for it, by whom and when.
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
    efficiency_source: str = ""

    def peak(self, dtype: str) -> float:
        """Peak operations per second for a dtype; one without a row of its own runs at its stand-in's rate."""
        rate = self.peak_flops.get(dtype)
        if rate is None:
            rate = self.peak_flops.get(_STAND_IN.get(dtype, "float32"))
        return rate if rate is not None else self.peak_flops["float32"]


#: Which row a dtype without one is priced by. Everything else is priced as float32.
_STAND_IN = {
    "float4_e2m1fn_x2": "float4",
    "float8_e4m3fn": "float8",
    "float8_e5m2": "float8",
    "float8_e4m3fnuz": "float8",
    "float8_e5m2fnuz": "float8",
    "float8_e8m0fnu": "float8",
    "uint8": "int8",
    "complex128": "float64",
}

#: float32 operations per cycle and core: vector lanes x 2 (fused multiply-add) x 2 (such units); AVX and SSE
#: have no fused multiply-add: lanes x 2 (one add unit and one multiply unit).
#: Source: Intel 64 and IA-32 Optimization Reference Manual; Arm Neoverse N1 Software Optimization Guide.
_FLOP_PER_CYCLE = (("avx512f", 64), ("fma", 32), ("avx", 16), ("sse2", 8), ("asimd", 16))
#: Cores that differ from what their flags say, by Machine.part. AMD's family 25 (Zen 4) runs AVX-512 on 256-bit units;
#: Arm's Neoverse V1 (0xd40), V2 (0xd4f) and V3 (0xd84) have twice N1's vector width.
#: Source: AMD's Software Optimization Guide for Zen 4; Arm's guides for those cores.
_OF_PART = {"AuthenticAMD 25": 32, "0xd40": 32, "0xd4f": 32, "0xd84": 32}
#: bfloat16 operations per cycle and core: AMX does 1,024.
_AMX_BF16_PER_CYCLE = 1024
_AMX_INT8_PER_CYCLE = 2048
#: How many times float32's rate, by flag: the first that is there. Arm's bf16 and i8mm are matrix instructions.
_TIMES_FLOAT32 = {
    "bfloat16": (("avx512_bf16", 2), ("bf16", 4)),
    "float16": (("avx512_fp16", 2), ("asimdhp", 2)),
    "int8": (("avx512_vnni", 4), ("avx_vnni", 4), ("i8mm", 8), ("asimddp", 4)),
}

#: One DDR4-3200 channel moves 25.6 GB/s (JEDEC JESD79-4); about three quarters of it are attained when streaming.
_CHANNEL_BYTES_S = 0.75 * 25.6e9
#: Seconds to fork and join a team of threads for one kernel: the order of magnitude, not a measurement.
_CPU_LAUNCH_S = 2e-6


@functools.cache
def this_machine() -> Device:
    """The CPU of this machine: nominal numbers read from the operating system, nothing is measured.

    Peak is cores x clock x operations per cycle of the widest vector unit; bandwidth is a conservative default
    of two DDR4-3200 channels, eight for more than 16 cores. Both are upper-end estimates for a roofline, good
    for comparing ops on this machine, not for promising seconds; :func:`djinn_fx.hardware.bandwidth.measured_machine`
    has the bandwidth that was measured.
    """
    return device_of(probe_machine())


def device_of(machine: Machine) -> Device:
    """A machine's CPU as a device, by its nominal numbers."""
    single = machine.cores * machine.clock_hz * _per_cycle(machine)
    channels = 2 if machine.cores <= 16 else 8
    clock = f"{machine.clock_hz / 1e9:.1f} GHz"
    return Device(
        name="this-machine",
        kind="cpu",
        peak_flops=MappingProxyType(_rates(machine, single)),
        bandwidth_bytes_s=channels * _CHANNEL_BYTES_S,
        memory_bytes=machine.memory_bytes,
        launch_overhead_s=_CPU_LAUNCH_S,
        source=f"nominal: {machine.cores} cores x {clock} x {_per_cycle(machine)} FLOP a cycle, {channels} channels",
        title=machine.model,
        processors=machine.cores,
        clock_hz=machine.clock_hz,
        cache_bytes=machine.last_cache_bytes,
    )


def _per_cycle(machine: Machine) -> int:
    """float32 operations per cycle and core; where no flags are told, NEON on Arm, SSE2 elsewhere."""
    if machine.part in _OF_PART:
        return _OF_PART[machine.part]
    neon = machine.architecture.lower() in ("arm64", "aarch64")
    return next((count for flag, count in _FLOP_PER_CYCLE if flag in machine.flags), 16 if neon else 8)


def _rates(machine: Machine, single: float) -> dict[str, float]:
    """Operations per second by dtype, given float32's."""
    rates = {"float64": single / 2, "float32": single}
    for dtype, ways in _TIMES_FLOAT32.items():
        rates[dtype] = single * next((times for flag, times in ways if flag in machine.flags), 1)
    cycles = machine.cores * machine.clock_hz
    for dtype, flag, count in (
        ("bfloat16", "amx_bf16", _AMX_BF16_PER_CYCLE),
        ("float16", "amx_fp16", _AMX_BF16_PER_CYCLE),
        ("int8", "amx_int8", _AMX_INT8_PER_CYCLE),
    ):
        if flag in machine.flags:
            rates[dtype] = cycles * count
    return rates
