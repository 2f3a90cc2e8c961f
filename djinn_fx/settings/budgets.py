"""Settings about memory: ``keep_weights``, and reading ``memory_budget``, bytes for each device."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from djinn_fx.errors import UnitError
from djinn_fx.settings.field import setting
from djinn_fx.units import parse_bytes

KEEP_WEIGHTS: Any = setting(
    "memory",
    "engines",
    "where weights are that an engine has packed: in memory too, or, `packed`, in a file without a name in the cache "
    "folder, from which the system brings back what is read (docs/engines.md)",
    compiles=True,
)

_DEVICE = re.compile(r"cpu|(cuda|xpu|mps)(:\d{1,3})?")

#: A device and a size as it was written.
Share = tuple[str, str]


def read_shares(value: Any) -> tuple[Share, ...] | None:
    """A mapping, a text such as ``"cpu=2GB,cuda:0=8GB"``, a list of such parts, or of pairs, as pairs.

    Raises:
        ValueError: it is none of these, names no device, or a device twice.
    """
    if value is None:
        return None
    found = [_share(device, size) for device, size in _pairs(value)]
    if not found:
        raise ValueError("name a device")
    if len(dict(found)) != len(found):
        raise ValueError("a device is there twice")
    return tuple(sorted(found))


def _pairs(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        return value.items()
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)):
        raise ValueError("write a size for each device")
    pairs = [one.split("=") if isinstance(one, str) else one for one in parts]
    if not all(isinstance(one, (list, tuple)) and len(one) == 2 for one in pairs):
        raise ValueError("write a device, =, and a size")
    return [(one[0], one[1]) for one in pairs]


def _share(device: Any, size: Any) -> Share:
    name = device.strip() if isinstance(device, str) else ""
    if not _DEVICE.fullmatch(name):
        raise ValueError(f"{device!r} is no device such as cpu or cuda:0")
    if not isinstance(size, str):
        raise ValueError(f"{size!r} has no unit: write 2GB or 512MiB")
    try:
        parse_bytes(size)
    except UnitError as error:
        raise ValueError(str(error)) from error
    return (name if name == "cpu" or ":" in name else f"{name}:0"), size.strip()
