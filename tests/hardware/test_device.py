"""A CPU as a device, by what its machine tells; peaks by dtype."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from djinn_fx.hardware.device import Device, device_of, this_machine
from djinn_fx.hardware.machine import Cache, Machine

TWO_CORES = Machine(
    model="Some CPU @ 2.50GHz",
    architecture="x86_64",
    part="GenuineIntel 6",
    threads=4,
    cores=2,
    clock_hz=2.5e9,
    flags=frozenset({"sse2", "avx", "fma", "avx2"}),
    caches=(Cache(level=3, size_bytes=32 * 1024**2, shared_by=4, count=1),),
    memory_bytes=64 * 1024**3,
    memory_limit_bytes=None,
    quota=None,
    numa=(),
    virtual=False,
)


def with_flags(*flags: str, part: str = "GenuineIntel 6", architecture: str = "x86_64") -> Device:
    extra = TWO_CORES.flags if architecture == "x86_64" else frozenset()
    return device_of(replace(TWO_CORES, flags=extra.union(flags), part=part, architecture=architecture))


@pytest.mark.parametrize(("flags", "per_cycle"), [((), 32), (("avx512f",), 64)])
def test_peak_is_cores_times_clock_times_lanes(flags: tuple[str, ...], per_cycle: int) -> None:
    found = with_flags(*flags)
    assert found.peak_flops["float32"] == pytest.approx(2 * 2.5e9 * per_cycle)
    assert found.peak_flops["float64"] == found.peak_flops["float32"] / 2


def test_zen_4_has_avx_512_on_narrow_units() -> None:
    found = with_flags("avx512f", "avx512_bf16", "avx512_vnni", part="AuthenticAMD 25")
    assert found.peak_flops["float32"] == pytest.approx(2 * 2.5e9 * 32)
    assert found.peak_flops["bfloat16"] == 2 * found.peak_flops["float32"]
    assert with_flags("avx512f", part="AuthenticAMD 26").peak_flops["float32"] == pytest.approx(2 * 2.5e9 * 64)


def test_matrix_units_raise_the_peak_of_their_dtype_only() -> None:
    found = with_flags("avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
    assert found.peak_flops["bfloat16"] == pytest.approx(2 * 2.5e9 * 1024)
    assert found.peak_flops["int8"] == pytest.approx(2 * 2.5e9 * 2048)
    assert found.peak_flops["float32"] == pytest.approx(2 * 2.5e9 * 64)


@pytest.mark.parametrize(("part", "per_cycle"), [("0xd0c", 16), ("0xd40", 32), ("0xd4f", 32)])
def test_arms_cores_differ_by_part(part: str, per_cycle: int) -> None:
    found = with_flags("asimd", "asimdhp", "asimddp", "bf16", "i8mm", part=part, architecture="aarch64")
    single = 2 * 2.5e9 * per_cycle
    assert found.peak_flops == {
        "float64": single / 2,
        "float32": single,
        "bfloat16": 4 * single,
        "float16": 2 * single,
        "int8": 8 * single,
    }


@pytest.mark.parametrize(("architecture", "per_cycle"), [("arm64", 16), ("AMD64", 8)])
def test_a_machine_that_tells_no_flags_has_what_all_of_its_kind_have(architecture: str, per_cycle: int) -> None:
    found = device_of(replace(TWO_CORES, flags=frozenset(), part="", architecture=architecture, caches=()))
    assert found.peak("float32") == pytest.approx(2 * 2.5e9 * per_cycle)
    assert found.cache_bytes == 0


def test_more_cores_have_more_channels() -> None:
    many = device_of(replace(TWO_CORES, cores=64))
    assert many.bandwidth_bytes_s == 4 * device_of(TWO_CORES).bandwidth_bytes_s


def test_what_the_machine_tells_is_in_the_row() -> None:
    found = device_of(TWO_CORES)
    assert (found.processors, found.clock_hz, found.cache_bytes) == (2, 2.5e9, 32 * 1024**2)
    assert (found.title, found.memory_bytes, dict(found.efficiency)) == ("Some CPU @ 2.50GHz", 64 * 1024**3, {})


def test_this_machine_is_probed_once() -> None:
    assert this_machine() is this_machine()
    assert "GHz" in this_machine().source


def device(**rates: float) -> Device:
    return Device(
        name="x", kind="cpu", peak_flops=rates, bandwidth_bytes_s=1.0, memory_bytes=1, launch_overhead_s=0.0, source="x"
    )


@pytest.mark.parametrize(
    ("dtype", "row"),
    [
        ("float16", "float16"),
        ("float8_e5m2", "float8"),
        ("float4_e2m1fn_x2", "float4"),
        ("int64", "float32"),
        ("bool", "float32"),
    ],
)
def test_a_dtype_without_a_row_runs_at_its_stand_ins_rate(dtype: str, row: str) -> None:
    rates = {"float32": 1.0, "float16": 2.0, "float8": 4.0, "float4": 8.0}
    assert device(**rates).peak(dtype) == rates[row]


def test_a_stand_in_without_a_row_falls_back_to_float32() -> None:
    assert device(float32=1.0).peak("float8_e4m3fn") == 1.0


def test_measured_shares_change_no_peak() -> None:
    plain = device(float32=1.0)
    assert replace(plain, efficiency={"float32": 0.5}).peak("float32") == plain.peak("float32")


def test_hardware_imports_no_torch_and_measures_nothing() -> None:
    code = (
        "import sys, djinn_fx.hardware.catalogue as c; c.default_device('cpu'); c.find_device('t4');"
        "print([name for name in ('torch', 'djinn_fx.hardware.bandwidth') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
