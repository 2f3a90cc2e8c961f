"""The device rows: complete, sourced, plausible; found by every name that a driver or a person gives them."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
import yaml

from djinn_fx.errors import SettingsError
from djinn_fx.hardware.catalogue import catalogue, default_device, devices_file, find_device, known_device
from djinn_fx.hardware.device import Device, this_machine
from djinn_fx.hardware.rows import SCHEMA, parse_devices
from djinn_fx.units import parse_bytes

GPUS = sorted(name for name, row in catalogue().items() if row.kind == "cuda")
CPUS = sorted(name for name, row in catalogue().items() if row.kind == "cpu")
#: float32 multiply-adds a cycle in a multiprocessor: NVIDIA's whitepapers of each architecture; AMD's 64-lane compute
#: units, which CDNA 3 feeds two at a time.
LANES = {"a100": 64, "v100": 64, "p100": 64, "t4": 64, "mi250": 64}
WIDE = {"mi300x": 128, "h100": 128, "h200": 128, "b200": 128, "l40s": 128, "l4": 128, "rtx-": 128}


@pytest.mark.parametrize("name", sorted(catalogue()))
def test_rows_are_sourced_and_dated(name: str) -> None:
    row = find_device(name)
    assert row.source.startswith("https://")
    assert datetime.date(2026, 1, 1) <= datetime.date.fromisoformat(row.retrieved)
    assert row.title
    assert row.processors > 0
    assert row.cache_bytes >= parse_bytes("3MiB")
    assert bool(row.efficiency) == bool(row.efficiency_source)
    assert all(0.3 < share <= 1 for share in row.efficiency.values())


@pytest.mark.parametrize("name", GPUS)
def test_gpus_are_plausible(name: str) -> None:
    row = find_device(name)
    assert 1e12 < row.peak("float32") < row.peak("float16") < 1e16
    assert row.peak("float64") < row.peak("float32") * 1.001
    assert parse_bytes("8GB") < row.memory_bytes < parse_bytes("1TB")
    assert 1e11 < row.bandwidth_bytes_s < 1e13
    assert 0 < row.launch_overhead_s < 1e-4


@pytest.mark.parametrize("name", GPUS)
def test_gpus_rates_follow_from_their_units_and_clock(name: str) -> None:
    lanes = next(count for start, count in {**LANES, **WIDE}.items() if name.startswith(start))
    row = find_device(name)
    assert row.processors * row.clock_hz * lanes * 2 == pytest.approx(row.peak("float32"), rel=0.03)


@pytest.mark.parametrize("name", CPUS)
def test_cpus_are_plausible(name: str) -> None:
    row = find_device(name)
    cycles = row.peak("float32") / row.processors / row.clock_hz  # at most, since the clock is the boost clock
    assert cycles <= 64
    assert 5e8 < row.bandwidth_bytes_s / row.processors < 1e10
    assert row.peak("float64") == pytest.approx(row.peak("float32") / 2, rel=1e-4)
    assert 2.4e9 < row.clock_hz < 5e9
    assert parse_bytes("100GB") < row.memory_bytes < parse_bytes("1TB")


@pytest.mark.parametrize(
    ("name", "float32", "half", "bandwidth", "memory"),
    [
        ("b200", 75.0, 2250.0, 8.0, "180GB"),
        ("h200", 67.0, 989.5, 4.8, "141GB"),
        ("h100-sxm", 67.0, 989.5, 3.35, "80GB"),
        ("h100-pcie", 51.0, 756.5, 2.0, "80GB"),
        ("a100-40gb", 19.5, 312.0, 1.555, "40GB"),
        ("a100-80gb", 19.5, 312.0, 2.039, "80GB"),
        ("l40s", 91.6, 362.05, 0.864, "48GB"),
        ("l4", 30.3, 121.0, 0.3, "24GB"),
        ("t4", 8.1, 65.0, 0.32, "16GB"),
        ("v100", 15.7, 125.0, 0.9, "32GB"),
        ("p100", 10.6, 21.2, 0.732, "16GB"),
        ("rtx-4090", 82.6, 165.2, 1.008, "24GB"),
        ("rtx-5090", 104.8, 209.5, 1.792, "32GB"),
        ("mi300x", 163.4, 1307.4, 5.3, "192GB"),
        ("mi250", 45.3, 362.1, 3.2768, "128GB"),
    ],
)
def test_the_datasheets_figures(name: str, float32: float, half: float, bandwidth: float, memory: str) -> None:
    row = find_device(name)
    assert row.peak("float32") == pytest.approx(float32 * 1e12)
    assert row.peak("float16") == pytest.approx(half * 1e12)
    assert row.bandwidth_bytes_s == pytest.approx(bandwidth * 1e12)
    assert row.memory_bytes == parse_bytes(memory)


def test_several_server_cpus_of_each_kind() -> None:
    arm = {"graviton2", "graviton3", "graviton4", "grace", "altra-q80-30", "altra-max-m128-30"}
    assert arm <= set(CPUS)
    assert len(set(CPUS) - arm) >= 5


@pytest.mark.parametrize(
    ("reported", "row"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-pcie-40gb"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80gb"),
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA B200", "b200"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("Tesla T4", "t4"),
        ("Tesla V100-SXM2-16GB", "v100-sxm-16gb"),
        ("Tesla V100-PCIE-32GB", "v100-pcie-32gb"),
        ("Tesla P100-PCIE-16GB", "p100-pcie"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 5090", "rtx-5090"),
        ("AMD Instinct MI300X", "mi300x"),
        ("AMD Instinct MI250X / MI250", "mi250-die"),
        ("AMD EPYC 9654 96-Core Processor", "epyc-9654"),
        ("Intel(R) Xeon(R) Platinum 8380 CPU @ 2.30GHz", "xeon-8380"),
        ("Intel(R) Xeon(R) Platinum 8480+", "xeon-8480"),
    ],
)
def test_what_a_driver_reports_is_found(reported: str, row: str) -> None:
    assert find_device(reported).name == row
    found = known_device(reported)
    assert found is not None
    assert found.name == row


@pytest.mark.parametrize("name", ["H100 SXM", "h100_sxm", "NVIDIA H100-SXM", "h100"])
def test_case_spaces_hyphens_and_vendors_do_not_count(name: str) -> None:
    assert find_device(name).name == "h100-sxm"


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA A100-SXM4-80GB MIG 1g.10gb",
        "NVIDIA H100 80GB HBM3 MIG 3g.40gb",
        "NVIDIA GB200",
        "",
    ],
)
def test_another_device_with_a_like_name_is_not_taken_for_it(name: str) -> None:
    assert known_device(name) is None


def test_every_name_leads_to_its_own_row() -> None:
    for name, row in catalogue().items():
        for called in (name, row.title, *row.aliases):
            assert find_device(called).name == name


def test_memory_is_decimal() -> None:
    assert find_device("a100-80gb").memory_bytes == 80 * 10**9


def test_this_machine_and_defaults() -> None:
    assert find_device("this-machine") is this_machine()
    assert known_device("this-machine") is this_machine()
    assert default_device("cpu") is this_machine()
    assert default_device("cuda").name == "a100-80gb"


def test_a_near_miss_is_suggested() -> None:
    with pytest.raises(SettingsError, match=r"no device 'h100-sxn' in the catalogue; did you mean 'h100-sxm'\?"):
        find_device("h100-sxn")


def test_what_is_like_nothing_lists_what_there_is() -> None:
    with pytest.raises(SettingsError, match=r"no device 'abacus' in the catalogue. Known: this-machine, b200"):
        find_device("abacus")


def users_file(folder: Path, *aliases: str, name: str = "lab-gpu") -> Path:
    row = {
        "kind": "cuda",
        "peak_flops": {"float32": 1e12},
        "bandwidth": "900 GB/s",
        "memory": "8GB",
        "launch_overhead": "4us",
        "source": "measured in the lab",
        "aliases": list(aliases),
    }
    file = folder / "lab.yaml"
    file.write_text(yaml.safe_dump({"schema": SCHEMA, "devices": {name: row}}), encoding="utf-8")
    return file


def test_a_row_of_a_users_file(tmp_path: Path) -> None:
    file = users_file(tmp_path, "the big one")
    assert find_device(f"{file}#lab-gpu").bandwidth_bytes_s == 9e11
    assert find_device(f"{file}#The Big One").launch_overhead_s == 4e-6


def test_a_users_file_without_that_row(tmp_path: Path) -> None:
    file = users_file(tmp_path)
    with pytest.raises(SettingsError, match=r"no device 'lab-gpus' in .*lab.yaml; did you mean 'lab-gpu'"):
        find_device(f"{file}#lab-gpus")
    with pytest.raises(SettingsError, match="cannot be read as a file of devices"):
        find_device(f"{tmp_path / 'none.yaml'}#lab-gpu")


def test_further_rows_come_first() -> None:
    mine = Device(
        name="t4",
        kind="cuda",
        peak_flops={"float32": 1.0},
        bandwidth_bytes_s=1.0,
        memory_bytes=1,
        launch_overhead_s=0.0,
        source="mine",
        aliases=("my card",),
    )
    assert find_device("t4", {"t4": mine}) is mine
    assert find_device("MY-CARD", {"t4": mine}) is mine
    assert find_device("l4", {"t4": mine}).name == "l4"


def test_two_rows_of_one_name_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(users_file(tmp_path, "same").read_text(encoding="utf-8"), encoding="utf-8")
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    data["devices"]["other"] = data["devices"]["lab-gpu"]
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    with pytest.raises(SettingsError, match="'lab-gpu' and 'other' are both called 'same'"):
        find_device(f"{file}#something")


def test_the_data_file_is_found() -> None:
    assert devices_file().is_file()


def table_line(name: str, row: Device) -> str:
    """The row's line in docs/devices.md."""
    half = row.peak_flops.get("bfloat16") or row.peak_flops.get("float16")
    figures = (
        f"{row.peak('float32') / 1e12:.4g}",
        f"{half / 1e12:.5g}" if half else "—",
        f"{row.bandwidth_bytes_s / 1e9:.5g}",
        f"{row.memory_bytes / 1e9:.0f}",
        str(row.processors),
        f"{row.clock_hz / 1e9:.4g}",
        f"{row.cache_bytes / 2**20:.4g}",
    )
    return " | ".join((f"| `{name}`", row.title, *figures)) + " |"


def test_the_pages_table_is_the_data_files() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "devices.md"
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    wanted = [table_line(name, row) for name, row in catalogue().items()]
    assert lines[-len(wanted) :] == wanted


def test_the_pages_example_is_a_file_of_devices() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "devices.md"
    example = page.read_text(encoding="utf-8").split("```yaml\n")[1].split("```")[0]
    assert parse_devices(example, "lab.yaml")[0]["lab-gpu"].bandwidth_bytes_s == 9e11
    with pytest.raises(SettingsError) as caught:
        parse_devices(example.replace("bandwidth", "bandwith"), "lab.yaml")
    assert str(caught.value) in page.read_text(encoding="utf-8")
