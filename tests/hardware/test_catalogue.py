"""The device rows: complete, sourced, plausible; bad files are one clear error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from djinn_fx.errors import SettingsError
from djinn_fx.hardware.catalogue import SCHEMA, catalogue, default_device, devices_file, find_device, read_devices
from djinn_fx.hardware.device import this_machine
from djinn_fx.units import parse_bytes

ROW: dict[str, Any] = {
    "kind": "cuda",
    "peak_flops": {"float32": 1e12},
    "bandwidth": 1e9,
    "memory": "8GB",
    "launch_overhead": 1e-6,
    "source": "https://example.com",
}


@pytest.mark.parametrize("name", sorted(catalogue()))
def test_rows_are_sourced_and_plausible(name: str) -> None:
    row = find_device(name)
    assert row.source.startswith("https://")
    assert 1e12 < row.peak("float32") < row.peak("float16") < 1e16
    assert parse_bytes("8GB") < row.memory_bytes < parse_bytes("1TB")
    assert 1e11 < row.bandwidth_bytes_s < 1e13
    assert 0 < row.launch_overhead_s < 1e-4


def test_named_devices_are_there() -> None:
    assert {"h100-sxm", "h200", "a100-80gb", "l4", "t4"} <= set(catalogue())


def test_memory_is_decimal() -> None:
    assert find_device("a100-80gb").memory_bytes == 80 * 10**9


def test_this_machine_and_defaults() -> None:
    assert find_device("this-machine") is this_machine()
    assert default_device("cpu") is this_machine()
    assert default_device("cuda").kind == "cuda"


def test_a_near_miss_is_suggested() -> None:
    with pytest.raises(SettingsError, match=r"no device 'H100 SXM' in the catalogue; did you mean 'h100-sxm'\?"):
        find_device("H100 SXM")


def written(folder: Path, data: object) -> Path:
    file = folder / "devices.yaml"
    file.write_text(yaml.safe_dump(data), encoding="utf-8")
    return file


def test_a_complete_row_is_read(tmp_path: Path) -> None:
    rows, defaults = read_devices(
        written(tmp_path, {"schema": SCHEMA, "devices": {"x": ROW}, "default_for": {"cuda": "x"}})
    )
    assert rows["x"].memory_bytes == parse_bytes("8GB")
    assert defaults == {"cuda": "x"}


@pytest.mark.parametrize("field", sorted(ROW))
def test_a_missing_field_is_named(tmp_path: Path, field: str) -> None:
    row = {key: value for key, value in ROW.items() if key != field}
    with pytest.raises(SettingsError, match=f"device 'x': KeyError: '{field}'"):
        read_devices(written(tmp_path, {"schema": SCHEMA, "devices": {"x": row}}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"memory": "8"}, "UnitError"),
        ({"memory": 8}, "TypeError"),
        ({"bandwidth": "fast"}, "ValueError"),
        ({"source": ""}, "source is empty"),
        ({"peak_flops": 3}, "AttributeError"),
    ],
)
def test_a_bad_field_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_devices(written(tmp_path, {"schema": SCHEMA, "devices": {"x": {**ROW, **change}}}))


@pytest.mark.parametrize("data", [None, [], {"schema": "djinn_fx.devices/9"}])
def test_another_schema_is_refused(tmp_path: Path, data: object) -> None:
    with pytest.raises(SettingsError, match=SCHEMA):
        read_devices(written(tmp_path, data))


def test_a_default_must_be_a_row(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="names 'y', which is no row"):
        read_devices(written(tmp_path, {"schema": SCHEMA, "devices": {"x": ROW}, "default_for": {"cuda": "y"}}))


def test_the_data_file_is_found() -> None:
    assert devices_file().is_file()
