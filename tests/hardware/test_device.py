"""The probe of this machine, on the texts of machines that are not here."""

from __future__ import annotations

import subprocess
import sys

import pytest

from djinn_fx.hardware import device
from djinn_fx.hardware.device import Device, this_machine

TWO_CORES_WITH_HYPERTHREADS = "".join(
    f"""processor\t: {index}
model name\t: Some CPU @ 2.50GHz
cpu MHz\t\t: 3100.123
physical id\t: 0
core id\t\t: {index // 2}
flags\t\t: fpu sse2 avx fma avx2 {{extra}}

"""
    for index in range(4)
)


def probe(monkeypatch: pytest.MonkeyPatch, cpuinfo: str, processors: int = 4) -> Device:
    monkeypatch.setattr(device, "_read", lambda path: cpuinfo if path == "/proc/cpuinfo" else "")
    monkeypatch.setattr(device.os, "sched_getaffinity", lambda _: set(range(processors)), raising=False)
    return this_machine.__wrapped__()


@pytest.mark.parametrize(("extra", "per_cycle"), [("", 32), ("avx512f", 64)])
def test_peak_is_cores_times_clock_times_lanes(monkeypatch: pytest.MonkeyPatch, extra: str, per_cycle: int) -> None:
    found = probe(monkeypatch, TWO_CORES_WITH_HYPERTHREADS.format(extra=extra))
    assert found.peak_flops["float32"] == pytest.approx(2 * 2.5e9 * per_cycle)
    assert found.peak_flops["float64"] == found.peak_flops["float32"] / 2


def test_matrix_units_raise_the_peak_of_their_dtype_only(monkeypatch: pytest.MonkeyPatch) -> None:
    found = probe(monkeypatch, TWO_CORES_WITH_HYPERTHREADS.format(extra="avx512f avx512_bf16 amx_bf16"))
    assert found.peak_flops["bfloat16"] == pytest.approx(2 * 2.5e9 * 1024)
    assert found.peak_flops["float32"] == pytest.approx(2 * 2.5e9 * 64)


def test_a_process_with_fewer_processors_gets_fewer_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    one = probe(monkeypatch, TWO_CORES_WITH_HYPERTHREADS.format(extra=""), processors=1)
    assert one.peak_flops["float32"] == pytest.approx(2.5e9 * 32)


def test_the_present_clock_is_rounded_so_that_plans_do_not_flutter(monkeypatch: pytest.MonkeyPatch) -> None:
    text = TWO_CORES_WITH_HYPERTHREADS.format(extra="").replace(" @ 2.50GHz", "")
    assert probe(monkeypatch, text).peak_flops["float32"] == pytest.approx(2 * 3.1e9 * 32)


def test_a_machine_that_tells_nothing_has_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    found = probe(monkeypatch, "")
    assert found.peak("float32") > 0
    assert found.bandwidth_bytes_s > 0
    assert found.memory_bytes > 0


def test_this_machine_is_probed_once() -> None:
    assert this_machine() is this_machine()
    assert "GHz" in this_machine().source


@pytest.mark.parametrize(
    ("dtype", "row"), [("float16", "float16"), ("float8_e5m2", "float8"), ("int64", "float32"), ("bool", "float32")]
)
def test_a_dtype_without_a_row_runs_at_its_stand_ins_rate(dtype: str, row: str) -> None:
    rates = {"float32": 1.0, "float16": 2.0, "float8": 4.0}
    one = Device(
        name="x", kind="cpu", peak_flops=rates, bandwidth_bytes_s=1.0, memory_bytes=1, launch_overhead_s=0.0, source="x"
    )
    assert one.peak(dtype) == rates[row]


def test_a_stand_in_without_a_row_falls_back_to_float32() -> None:
    one = Device(
        name="x",
        kind="cpu",
        peak_flops={"float32": 1.0},
        bandwidth_bytes_s=1.0,
        memory_bytes=1,
        launch_overhead_s=0.0,
        source="x",
    )
    assert one.peak("float8_e4m3fn") == 1.0


def test_hardware_imports_no_torch() -> None:
    code = "import sys, djinn_fx.hardware.catalogue as c; c.default_device('cpu'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
