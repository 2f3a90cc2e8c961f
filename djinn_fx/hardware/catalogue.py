"""Devices by name: rows of a data file in which each names its source, or of a file of the user's. Imports no torch."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from djinn_fx.errors import SettingsError
from djinn_fx.hardware.device import Device, this_machine
from djinn_fx.hardware.rows import SCHEMA, Rows, read_devices

__all__ = ["SCHEMA", "catalogue", "default_device", "devices_file", "find_device", "known_device", "read_devices"]

THIS_MACHINE = "this-machine"
#: Between a file of the user's and a row in it: ``"lab.yaml#lab-gpu"``.
FILE_SEPARATOR = "#"
_PACKAGE = Path(__file__).resolve().parent.parent
#: The data lies with the cost models; a folder beside the package in a checkout, inside it when installed.
_DATA = Path("costmodels") / "data" / "devices.yaml"
#: Words of a name that tell no device from another: "Tesla T4" is "NVIDIA T4" is "t4".
_NOISE = re.compile(
    r"\((?:r|tm|c)\)|@\s*[0-9.]+\s*ghz|\b[0-9]+-core\b"
    r"|\b(?:nvidia|amd|intel|aws|ampere computing|corporation|tesla|geforce|instinct|radeon|processor|cpu|gpu)\b"
)


def devices_file() -> Path:
    """Where the data file is."""
    return _PACKAGE / _DATA if (_PACKAGE / _DATA).exists() else _PACKAGE.parent / _DATA


@functools.cache
def catalogue() -> Rows:
    """All devices of the shipped data file, by row name."""
    return _shipped()[0]


@functools.cache
def _shipped() -> tuple[Rows, Mapping[str, str]]:
    return read_devices(devices_file())


def find_device(name: str, extra: Rows = MappingProxyType({})) -> Device:
    """The device of that name.

    Args:
        name: a row's name, title or alias, as a driver reports it (``"NVIDIA A100-SXM4-80GB"``, ``"Tesla T4"``); case,
            spaces, hyphens and vendors' names do not count. Or ``"this-machine"``; or a row of a file of the user's,
            ``"lab.yaml#lab-gpu"``.
        extra: further rows, which come before the shipped ones.

    Raises:
        SettingsError: there is none; the message has the nearest name. Or the user's file is no good.
    """
    file, separator, row = name.rpartition(FILE_SEPARATOR)
    if separator and file:
        rows: Rows = read_devices(Path(file).expanduser())[0]
        found, where = _among(rows, row), file
    else:
        found, where, rows = known_device(name, extra), "the catalogue", {**extra, **catalogue()}
        row = name
    if found is None:
        near = _nearest(row, rows)
        hint = f"; did you mean {near!r}?" if near else "."
        own = "" if separator and file else f"{THIS_MACHINE}, "
        raise SettingsError(f"no device {row!r} in {where}{hint} Known: {own}{', '.join(rows)}")
    return found


def known_device(name: str, extra: Rows = MappingProxyType({})) -> Device | None:
    """The device of that name, as :func:`find_device` finds it among rows; None if there is none.

    For names that a driver reports, where "not in the catalogue" is an answer and no mistake of the user's.
    """
    if name == THIS_MACHINE:
        return this_machine()
    return (_among(extra, name) if extra else None) or _among(catalogue(), name)


def default_device(kind: str) -> Device:
    """The device that stands for a type where nothing better is known: this machine for anything without a row."""
    rows, defaults = _shipped()
    return rows[defaults[kind]] if kind in defaults else this_machine()


def _among(rows: Rows, name: str) -> Device | None:
    """A row by its name, else by what it is also called."""
    if name in rows:
        return rows[name]
    row = (_shipped_names() if rows is catalogue() else _names(rows)).get(_folded(name))
    return rows[row] if row is not None else None


@functools.cache
def _shipped_names() -> Mapping[str, str]:
    return _names(catalogue())


def _names(rows: Rows) -> Mapping[str, str]:
    """The row for each folded name, title and alias.

    Raises:
        SettingsError: two rows have the same.
    """
    found: dict[str, str] = {}
    for row, device in rows.items():
        for name in (row, *device.aliases, *([device.title] if device.title else [])):
            folded = _folded(name)
            if found.setdefault(folded, row) != row:
                raise SettingsError(f"the devices {found[folded]!r} and {row!r} are both called {name!r}")
    return found


def _folded(name: str) -> str:
    """A name without case, spaces, hyphens and the words that tell no device from another."""
    return re.sub(r"[^a-z0-9]", "", _NOISE.sub(" ", name.lower()))


def _nearest(name: str, rows: Rows) -> str | None:
    """The row whose name is most like this one."""
    names = _names(rows)
    near = difflib.get_close_matches(_folded(name), names, n=1, cutoff=0.5)
    return names[near[0]] if near else None
