"""Reading device rows from a YAML file, the shipped one or a user's: every error names the file and the line."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from djinn_fx.errors import SettingsError, UnitError
from djinn_fx.files.yaml_bounds import read_text
from djinn_fx.hardware.device import Device
from djinn_fx.hardware.yaml_places import Entry, read_entries
from djinn_fx.units import parse_bandwidth, parse_bytes, parse_seconds

SCHEMA = "djinn_fx.devices/1"
#: Number formats a rate may be given for. ``tf32`` is no dtype of torch's; float8, float4 stand for all their variants.
DTYPES = ("float64", "float32", "tf32", "bfloat16", "float16", "float8", "float4", "int8", "int4")
_TOP = ("schema", "default_for", "devices")
_REQUIRED = ("kind", "peak_flops", "bandwidth", "memory", "launch_overhead", "source")
_OPTIONAL = ("title", "aliases", "processors", "clock", "cache", "retrieved", "efficiency", "efficiency_source")

Rows = Mapping[str, Device]


def read_devices(path: Path) -> tuple[Rows, Mapping[str, str]]:
    """Read a data file: the devices by name, and the row that stands for each device type.

    Raises:
        SettingsError: no such file, no YAML, not the schema; a row without a source, an unknown or missing field, a
            field of the wrong kind or out of its range; the message has the file, the line and the column.
    """
    return parse_devices(read_text(path, "a file of devices"), str(path))


def parse_devices(text: str, where: str) -> tuple[Rows, Mapping[str, str]]:
    """Read the text of a data file; ``where`` names it in errors. Raises what :func:`read_devices` raises."""
    root = read_entries(text, where, expanded=True)
    top = root.value if root is not None and isinstance(root.value, dict) else {}
    found = top["schema"].value if "schema" in top else None
    if root is None or found != SCHEMA:
        raise SettingsError(f"{where}:1: expected schema {SCHEMA!r}, found {found!r}")
    root.mapping("a file of devices", _TOP)
    devices = top.get("devices")
    if devices is None or not isinstance(devices.value, dict) or not devices.value:
        raise (devices or root).error("expected devices: a table of rows by name")
    rows = {name: _device(name, devices.key_places[name], row) for name, row in devices.value.items()}
    defaults: dict[str, str] = {}
    given = top.get("default_for")
    if given is not None and given.value is not None:
        if not isinstance(given.value, dict):
            raise root.key_places["default_for"].error("expected default_for: a row for each device type")
        for kind, name in given.value.items():
            if name.value not in rows:
                raise name.error(f"default_for {kind} names {name.value!r}, which is no row")
            defaults[kind] = name.value
    return MappingProxyType(rows), MappingProxyType(defaults)


def _device(name: str, place: Entry, row: Entry) -> Device:
    fields = row.mapping(f"device {name!r}", (*_REQUIRED, *_OPTIONAL))
    for field in _REQUIRED:
        if field not in fields:
            raise place.error(f"device {name!r}: the field {field!r} is missing")

    def read(field: str, convert: Callable[[Any], Any], default: Any = None) -> Any:
        if field not in fields:
            return default
        try:
            return convert(fields[field].plain)
        except (TypeError, ValueError, OverflowError, UnitError) as error:
            raise row.key_places[field].error(f"device {name!r}: {field}: {error}") from error

    for field, names in (("peak_flops", DTYPES), ("efficiency", (*DTYPES, "bandwidth"))):
        if field in fields and isinstance(fields[field].value, dict):
            fields[field].mapping(f"device {name!r}: {field}", names)
    return Device(
        name=name,
        kind=read("kind", _text),
        peak_flops=read("peak_flops", _rates),
        bandwidth_bytes_s=read("bandwidth", _bandwidth),
        memory_bytes=read("memory", _size),
        launch_overhead_s=read("launch_overhead", _duration),
        source=read("source", _text),
        title=read("title", _text, ""),
        aliases=read("aliases", _texts, ()),
        processors=read("processors", _count, 0),
        clock_hz=read("clock", _positive, 0.0),
        cache_bytes=read("cache", _size, 0),
        retrieved=read("retrieved", _day, ""),
        efficiency=read("efficiency", _shares, MappingProxyType({})),
        efficiency_source=read("efficiency_source", _text, ""),
    )


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(f"expected a number, found {value!r}")
    try:
        number = float(value)  # YAML reads 1e12 as text: it wants 1.0e+12
    except ValueError:
        raise ValueError(f"expected a number such as 1.5e12, found {value!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"expected a finite number, found {value!r}")
    return number


def _positive(value: Any) -> float:
    number = _number(value)
    if number <= 0:
        raise ValueError(f"expected more than 0, found {value!r}")
    return number


def _bandwidth(value: Any) -> float:
    """Bytes per second, as a number or with its unit: ``"900 GB/s"``."""
    return parse_bandwidth(value) if isinstance(value, str) and "/" in value else _positive(value)


def _duration(value: Any) -> float:
    """Seconds, as a number or with its unit: ``"4us"``."""
    if isinstance(value, str) and value.strip().endswith("s"):
        return parse_seconds(value)
    number = _number(value)
    if number < 0:
        raise ValueError(f"expected no negative number, found {value!r}")
    return number


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"expected a whole number of at least 1, found {value!r}")
    return value


def _size(value: Any) -> int:
    if not isinstance(value, str):
        raise TypeError(f"expected a size with its unit, such as 80GB, found {value!r}")
    size = parse_bytes(value)
    if size <= 0:
        raise ValueError(f"expected more than 0 bytes, found {value!r}")
    return size


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"expected a text, found {value!r}")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError(f"expected a list of names, found {value!r}")
    return tuple(_text(one) for one in value)


def _day(value: Any) -> str:
    if isinstance(value, datetime.date):
        return value.isoformat()
    return datetime.date.fromisoformat(_text(value)).isoformat()


def _rates(value: Any) -> Mapping[str, float]:
    if not isinstance(value, dict) or "float32" not in value:
        raise TypeError(f"expected operations per second by dtype, float32 among them, found {value!r}")
    return MappingProxyType({str(dtype): _positive(rate) for dtype, rate in value.items()})


def _shares(value: Any) -> Mapping[str, float]:
    if not isinstance(value, dict):
        raise TypeError(f"expected measured shares of peak, found {value!r}")
    shares = {str(what): _positive(share) for what, share in value.items()}
    for what, share in shares.items():
        if share > 1.5:  # a little more than 1 is seen where a clock goes beyond the datasheet's
            raise ValueError(f"{what}: expected a share of the peak, such as 0.8, found {share}")
    return MappingProxyType(shares)
