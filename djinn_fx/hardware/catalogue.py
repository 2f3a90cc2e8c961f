"""Devices by name, read from a data file in which each row names its source. Imports no torch."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from djinn_fx.errors import SettingsError, UnitError
from djinn_fx.hardware.device import Device, this_machine
from djinn_fx.units import parse_bytes

SCHEMA = "djinn_fx.devices/1"
_PACKAGE = Path(__file__).resolve().parent.parent
#: The data lies with the cost models; a folder beside the package in a checkout, inside it when installed.
_DATA = Path("costmodels") / "data" / "devices.yaml"


def devices_file() -> Path:
    """Where the data file is."""
    return _PACKAGE / _DATA if (_PACKAGE / _DATA).exists() else _PACKAGE.parent / _DATA


@functools.cache
def catalogue() -> Mapping[str, Device]:
    """All devices of the shipped data file, by row name."""
    return read_devices(devices_file())[0]


@functools.cache
def _defaults() -> Mapping[str, str]:
    return read_devices(devices_file())[1]


def find_device(name: str) -> Device:
    """The device of that name: a catalogue row, or ``"this-machine"``.

    Raises:
        SettingsError: there is none; the message lists the nearest.
    """
    if name == "this-machine":
        return this_machine()
    rows = catalogue()
    if name not in rows:
        near = difflib.get_close_matches(name.lower().replace(" ", "-"), rows, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise SettingsError(f"no device {name!r} in the catalogue{hint} Known: this-machine, {', '.join(rows)}")
    return rows[name]


def default_device(kind: str) -> Device:
    """The device that stands for a type where nothing better is known: this machine for anything without a row."""
    row = _defaults().get(kind)
    return catalogue()[row] if row else this_machine()


def read_devices(path: Path) -> tuple[Mapping[str, Device], Mapping[str, str]]:
    """Read a data file: the devices by name, and the row that stands for each device type.

    Raises:
        SettingsError: not the schema, a row without a source, a field that is missing or no number.
    """
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        raise SettingsError(f"{path}: expected schema {SCHEMA!r}, found {found!r}")
    rows = {name: _device(name, row, path) for name, row in data["devices"].items()}
    defaults = dict(data.get("default_for", {}))
    for kind, name in defaults.items():
        if name not in rows:
            raise SettingsError(f"{path}: default_for {kind} names {name!r}, which is no row")
    return MappingProxyType(rows), MappingProxyType(defaults)


def _device(name: str, row: dict[str, Any], path: Path) -> Device:
    try:
        if not row["source"]:
            raise ValueError("source is empty")
        return Device(
            name=name,
            kind=str(row["kind"]),
            peak_flops=MappingProxyType({dtype: float(rate) for dtype, rate in row["peak_flops"].items()}),
            bandwidth_bytes_s=float(row["bandwidth"]),
            memory_bytes=parse_bytes(row["memory"]),
            launch_overhead_s=float(row["launch_overhead"]),
            source=str(row["source"]),
            title=str(row.get("title", "")),
            aliases=tuple(str(alias) for alias in row.get("aliases", ())),
            processors=int(row.get("processors", 0)),
            clock_hz=float(row.get("clock", 0.0)),
            cache_bytes=parse_bytes(row["cache"]) if "cache" in row else 0,
            retrieved=str(row.get("retrieved", "")),
        )
    except (KeyError, TypeError, ValueError, AttributeError, UnitError) as error:
        raise SettingsError(f"{path}: device {name!r}: {type(error).__name__}: {error}") from error
