"""Reading device rows from a YAML file, the shipped one or a user's: every error names the file and the line."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import yaml

from djinn_fx.errors import SettingsError, UnitError, did_you_mean
from djinn_fx.files.yaml_bounds import checked, read_text
from djinn_fx.hardware.device import Device
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
            field of the wrong kind or out of its range; the message has the file and the line.
    """
    return parse_devices(read_text(path, "a file of devices"), str(path))


def parse_devices(text: str, where: str) -> tuple[Rows, Mapping[str, str]]:
    """Read the text of a data file; ``where`` names it in errors. Raises what :func:`read_devices` raises."""
    document = _Document(text, where)
    data = document.data
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else type(data).__name__
        document.fail((), f"expected schema {SCHEMA!r}, found {found!r}")
    document.known((), data, _TOP)
    devices = data.get("devices")
    if not isinstance(devices, dict) or not devices:
        document.fail(("devices",), "expected devices: a table of rows by name")
    rows = {str(name): _device(document, str(name), ("devices", name), row) for name, row in devices.items()}
    defaults = data.get("default_for") or {}
    if not isinstance(defaults, dict):
        document.fail(("default_for",), f"expected default_for: a row for each device type, found {defaults!r}")
    for kind, name in defaults.items():
        if name not in rows:
            document.fail(("default_for", kind), f"default_for {kind} names {name!r}, which is no row")
    return MappingProxyType(rows), MappingProxyType(dict(defaults))


class _Document:
    """A YAML text, and the line of every key in it."""

    def __init__(self, text: str, where: str) -> None:
        self.where = where
        self._lines: dict[tuple[Any, ...], int] = {}
        loader: Any = None
        try:
            loader = checked(text, where)
            node = loader.get_single_node()
            if node is not None:
                self._note(loader, node, ())
            self.data = loader.construct_document(node) if node is not None else None
        except (yaml.YAMLError, ValueError) as error:
            mark = getattr(error, "problem_mark", None)
            at = f":{mark.line + 1}" if mark else ""
            problem = getattr(error, "problem", None) or str(error).splitlines()[0]
            raise SettingsError(f"{where}{at}: no YAML: {problem}") from error
        finally:
            if loader is not None:
                loader.dispose()

    def _note(self, loader: Any, node: yaml.Node, path: tuple[Any, ...]) -> None:
        """Keep the lines of a table's keys, three levels deep: a row's fields and what is in them."""
        line = node.start_mark.line + 1
        self._lines.setdefault(path, line)
        if isinstance(node, yaml.ScalarNode):
            try:
                loader.construct_object(node)
            except ValueError as error:  # a date that is none
                raise SettingsError(f"{self.where}:{line}: no YAML: {node.value!r}: {error}") from error
        if not isinstance(node, yaml.MappingNode) or len(path) > 3:
            return
        for key_node, value in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise SettingsError(f"{self.where}:{line}: a key must be a name")
            key = (*path, loader.construct_object(key_node))
            if key in self._lines:
                raise SettingsError(
                    f"{self.where}:{line}: {key[-1]!r} is there twice, first on line {self._lines[key]}"
                )
            self._lines[key] = line
            self._note(loader, value, key)

    def fail(self, path: tuple[Any, ...], what: str) -> NoReturn:
        """Raise for the place of ``path``, or of what holds it where it is not there."""
        while path and path not in self._lines:
            path = path[:-1]
        raise SettingsError(f"{self.where}:{self._lines.get(path, 1)}: {what}")

    def known(self, path: tuple[Any, ...], table: Iterable[Any], names: tuple[str, ...], what: str = "key") -> None:
        """Raise if a table has a key that is none of these."""
        for key in table:
            if key not in names:
                hint = did_you_mean(key, names, f"; known: {', '.join(names)}")
                self.fail((*path, key), f"{_of(path)}unknown {what} {key!r}{hint}")


def _of(path: tuple[Any, ...]) -> str:
    return f"device {path[1]!r}: " if len(path) > 1 else ""


def _device(document: _Document, name: str, path: tuple[Any, ...], row: Any) -> Device:
    if not isinstance(row, dict):
        document.fail(path, f"device {name!r}: expected a table of fields, found {type(row).__name__}")
    document.known(path, row, (*_REQUIRED, *_OPTIONAL), "field")
    for field in _REQUIRED:
        if field not in row:
            document.fail(path, f"device {name!r}: the field {field!r} is missing")

    def read(field: str, convert: Callable[[Any], Any], default: Any = None) -> Any:
        if field not in row:
            return default
        try:
            return convert(row[field])
        except (TypeError, ValueError, OverflowError, UnitError) as error:
            document.fail((*path, field), f"device {name!r}: {field}: {error}")

    for field, names in (("peak_flops", DTYPES), ("efficiency", (*DTYPES, "bandwidth"))):
        if isinstance(row.get(field), dict):
            document.known((*path, field), row[field], names)
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
