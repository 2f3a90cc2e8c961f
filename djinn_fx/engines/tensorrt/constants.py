"""Numbers as bytes, without torch: a converter may run while torch's modes are on, which would trace it."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any

_FORMATS = {"float32": "f", "float16": "e", "int64": "q", "int32": "i", "bool": "?"}


def flat(values: Any) -> Iterator[Any]:
    """The numbers of nested lists."""
    if isinstance(values, (list, tuple)):
        for value in values:
            yield from flat(value)
    else:
        yield values


def shape_of(values: Any) -> tuple[int, ...]:
    """The sizes of nested lists."""
    sizes = []
    while isinstance(values, (list, tuple)):
        sizes.append(len(values))
        values = values[0]
    return tuple(sizes)


def encode(values: Sequence[float | bool], dtype: str) -> bytes:
    """Row-major bytes, each number rounded to the type as torch rounds it.

    Raises:
        ValueError: a number that is not whole, for a type of integers.
    """
    if dtype == "bool":
        return struct.pack(f"<{len(values)}?", *map(bool, values))
    if dtype in ("int64", "int32"):
        if any(value != int(value) for value in values):
            raise ValueError(f"{values} for {dtype}")
        return struct.pack(f"<{len(values)}{_FORMATS[dtype]}", *map(int, values))
    if dtype == "bfloat16":
        return b"".join(_bfloat16(float(value)) for value in values)
    return b"".join(_packed(_FORMATS[dtype], float(value)) for value in values)


def _packed(form: str, value: float) -> bytes:
    try:
        return struct.pack(f"<{form}", value)
    except OverflowError:  # beyond the type's largest: rounds to infinity
        return struct.pack(f"<{form}", math.copysign(math.inf, value))


def _bfloat16(value: float) -> bytes:
    (bits,) = struct.unpack("<I", _packed("f", value))
    if math.isnan(value):
        return struct.pack("<H", 0x7FC0)
    return struct.pack("<H", ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) & 0xFFFF)


def exact(value: float | bool, dtype: str) -> bool:
    """Whether a number is one of the type's."""
    if isinstance(value, bool) or dtype not in ("float16", "bfloat16"):
        return True
    number = float(value)
    if math.isnan(number):
        return True
    if dtype == "bfloat16":
        (back,) = struct.unpack("<f", b"\x00\x00" + _bfloat16(number))
    else:
        (back,) = struct.unpack("<e", _packed("e", number))
    (single,) = struct.unpack("<f", _packed("f", number))
    return bool(back == single)
