"""Which element types travel, and as what: numpy knows most of torch's, the others go as integers of the same size."""

from __future__ import annotations

import sys

import numpy as np
import torch

#: Element types that numpy has as well, by torch's names.
_NATIVE = (
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64",
    "float16", "float32", "float64", "complex64", "complex128",
)  # fmt: skip
#: Element types that numpy lacks, and the integers that carry their bits.
_CARRIED = {
    "bfloat16": "uint16",
    "complex32": "uint32",
    "float8_e4m3fn": "uint8",
    "float8_e4m3fnuz": "uint8",
    "float8_e5m2": "uint8",
    "float8_e5m2fnuz": "uint8",
    "float8_e8m0fnu": "uint8",
    "float4_e2m1fn_x2": "uint8",
}

#: By torch's name of a type: the name of what lies in the ``.npy`` bytes.
CARRIERS: dict[str, str] = {name: name for name in _NATIVE} | _CARRIED
#: Torch's types by name.
TORCH_TYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in CARRIERS}
_NAMES = {dtype: name for name, dtype in TORCH_TYPES.items()}


def type_name(dtype: torch.dtype) -> str | None:
    """Torch's name of a type that travels (``"bfloat16"``); None for one that does not."""
    return _NAMES.get(dtype)


def numpy_type(name: str) -> np.dtype:
    """What carries a type of torch's, in this machine's byte order."""
    return np.dtype(CARRIERS[name])


def same_but_for_byte_order(code: str, name: str) -> np.dtype | None:
    """The numpy type of a ``.npy`` header's code (``"<f4"``, ``"|b1"``, ``">f4"``), if it is what carries ``name``."""
    order, own = code[0], numpy_type(name)
    if own.str[1:] != code[1:] or (order == "|") != (own.itemsize == 1):
        return None
    little = sys.byteorder == "little"
    swapped: np.dtype = own.newbyteorder("S")
    return own if order in "|=" or (order == "<") == little else swapped
