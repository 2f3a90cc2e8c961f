"""Quantities at the edge: text to SI numbers and back. Inside the package everything is bytes and seconds."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime, timezone

from djinn_fx.errors import UnitError

_BYTE_UNITS = {"B": 1}
for _power, _letter in enumerate("KMGTP", start=1):
    _BYTE_UNITS[f"{_letter}B"] = 1000**_power
    _BYTE_UNITS[f"{_letter}iB"] = 1024**_power
_BYTE_UNITS["kB"] = 1000

_SECOND_UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}

_RATE_UNITS: dict[str, float] = {f"{unit}/s": float(size) for unit, size in _BYTE_UNITS.items()}
for _power, _letter in enumerate(("", "k", "M", "G", "T")):
    _RATE_UNITS[f"{_letter}bit/s"] = 1000.0**_power / 8

_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*")
_RATE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+/s)\s*")


def parse_bytes(text: str) -> int:
    """Read a size such as ``"80GB"`` (10**9) or ``"512 MiB"`` (2**20) as bytes.

    Raises:
        UnitError: no number, no unit, or an unknown unit. A bare number is refused: its unit would be a guess.
    """
    return round(_quantity(text, "size", _QUANTITY, _BYTE_UNITS))


def parse_seconds(text: str) -> float:
    """Read a duration such as ``"60s"``, ``"500ms"``, ``"2min"``, ``"1h"`` or ``"5us"`` as seconds.

    Raises:
        UnitError: no number, no unit, or an unknown unit.
    """
    return _quantity(text, "duration", _QUANTITY, _SECOND_UNITS)


def parse_bandwidth(text: str) -> float:
    """Read a rate such as ``"450 GB/s"``, ``"64 GiB/s"`` or ``"100 Gbit/s"`` as bytes per second.

    Raises:
        UnitError: no number, no unit, an unknown unit, or zero: nothing would ever arrive. ``Gb/s`` is refused: some
            mean bits by it, some bytes.
    """
    rate = _quantity(text, "bandwidth", _RATE, _RATE_UNITS)
    if rate == 0:
        raise UnitError(f"a bandwidth of {text!r} would move nothing")
    return rate


def _quantity(text: str, what: str, pattern: re.Pattern[str], units: Mapping[str, float]) -> float:
    match = pattern.fullmatch(text)
    if match is None or match[2] not in units:
        known = ", ".join(units)
        raise UnitError(f"cannot read {text!r} as a {what}: write a number and a unit, one of {known}")
    number = float(match[1]) * units[match[2]]
    if not math.isfinite(number):
        raise UnitError(f"{text[:40]!r} is larger than any number")
    return number


def format_bytes(count: int) -> str:
    """Bytes for a reader, decimal units: ``1_500_000`` is ``"1.5 MB"``."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(round(size, 1)) < 1000 or unit == "TB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")


def format_seconds(seconds: float) -> str:
    """Seconds for a reader: ``"12.3 us"``, ``"4.5 ms"``, ``"6.7 s"``."""
    if round(seconds * 1e6, 1) < 1000:
        return f"{seconds * 1e6:.1f} us"
    if round(seconds * 1e3, 1) < 1000:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds:.1f} s"


def format_count(number: float) -> str:
    """A count for a reader: ``1_500_000`` is ``"1.5 M"``."""
    for unit in ("", " k", " M", " G"):
        if number < 1000:
            return f"{number:.0f}" if not unit else f"{number:.1f}{unit}"
        number /= 1000
    return f"{number:.1f} T"


def now_text() -> str:
    """This second, as what is kept is dated: ISO 8601, UTC."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
