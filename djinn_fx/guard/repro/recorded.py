"""What a reproducer directory holds, as data: ``region.json``, and the arrays beside it.

    region.json       :class:`Recorded`
    inputs/N.npy      argument N, if it is a tensor and was kept whole
    found/N.npy       the engine's result N when it was found wrong, if there was room
    expected/N.npy    eager's
    payload.bin       the artefact, if there was room; its header is in region.json
    README.txt        for the reader

Types that numpy does not know (bfloat16, float8) are stored as whole numbers of the same size, bit for bit. File names
follow from the numbers: none is ever read from ``region.json``.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, Field

REGION, PAYLOAD, README = "region.json", "payload.bin", "README.txt"
INPUTS, FOUND, EXPECTED = "inputs", "found", "expected"

_Size = Field(ge=0, le=2**48)


class Drawn(BaseModel, frozen=True, extra="forbid", strict=True):
    """In the place of a tensor too large to be kept: normal numbers of this mean and spread, within these bounds."""

    seed: int = Field(ge=0, le=2**62)
    mean: float
    std: float = Field(ge=0)
    low: float
    high: float


class TensorRecord(BaseModel, frozen=True, extra="forbid", strict=True):
    """A tensor: type by torch's name, sizes, strides, and where in which memory it begins.

    Attributes:
        storage: tensors of one number share memory.
        offset: in elements, from the first element any of these has.
        drawn: how to make one like it, if it was not kept.
    """

    kind: Literal["tensor"] = "tensor"
    dtype: str = Field(max_length=40)
    device: str = Field(max_length=20, pattern=r"^[a-z]+(:[0-9]{1,3})?$")
    shape: list[int] = Field(max_length=64)
    strides: list[int] = Field(max_length=64)
    offset: int = _Size
    storage: int = Field(ge=0, le=2**20)
    drawn: Drawn | None = None

    @property
    def torch_dtype(self) -> torch.dtype:
        """The type.

        Raises:
            ValueError: torch has none of that name.
        """
        found = getattr(torch, self.dtype, None) if self.dtype.isidentifier() else None
        if not isinstance(found, torch.dtype):
            raise ValueError(f"no type {self.dtype!r} is known here")
        return found

    @property
    def compact(self) -> tuple[int, ...]:
        """Sizes without elements that are repeated by a stride of 0: those of the array that is kept."""
        return tuple(
            min(size, 1) if stride == 0 else size for size, stride in zip(self.shape, self.strides, strict=True)
        )

    @property
    def reach(self) -> int:
        """Elements of memory from the first of its storage to its own last."""
        if not math.prod(self.shape):
            return 0
        return self.offset + 1 + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))


class NumberRecord(BaseModel, frozen=True, extra="forbid", strict=True):
    """An argument that is no tensor; ``text`` as Python writes it, a float in hexadecimal."""

    kind: Literal["number"] = "number"
    type: Literal["int", "float", "bool", "NoneType"]
    text: str = Field(max_length=60)

    def value(self) -> Any:
        """The number.

        Raises:
            ValueError: the text is none.
        """
        if self.type == "float":
            return float.fromhex(self.text)
        if self.type == "int":
            return int(self.text)
        known: dict[tuple[str, str], Any] = {
            ("bool", "True"): True,
            ("bool", "False"): False,
            ("NoneType", "None"): None,
        }
        if (self.type, self.text) not in known:
            raise ValueError(f"{self.text!r} is no {self.type}")
        return known[self.type, self.text]

    @staticmethod
    def of(value: Any) -> NumberRecord:
        """The record of an argument.

        Raises:
            ValueError: it is of no such type.
        """
        name = type(value).__name__
        if name not in ("int", "float", "bool", "NoneType"):
            raise ValueError(f"an argument of type {name} cannot be written down")
        return NumberRecord.model_validate({"type": name, "text": value.hex() if name == "float" else repr(value)})


class Recorded(BaseModel, frozen=True, extra="forbid", strict=True):
    """A region, what it was called with, and what went wrong.

    Attributes:
        version: of this format.
        engine: whose answer was wrong.
        label: of the region.
        region_kind: ``inference``, ``forward`` or ``backward``.
        form: the region's canonical form.
        hints: of its symbols: value, and whether declared positive.
        devices: which device each numbered one of the form is.
        weights: places of the inputs that are weights.
        mutated: places of the inputs that are written.
        inputs: one for each input.
        settings: those that change what is compiled.
        fingerprint: the engine's, when it went wrong.
        threads: torch's.
        wrong: what is wrong, in words.
        created: when, in UTC.
        header: of the artefact.
        payload: whether the artefact's bytes are there.
        results: whether the results of that time are there.
    """

    version: Literal[1] = 1
    engine: str = Field(max_length=40, pattern=r"^[a-z0-9_-]+$")
    label: str = Field(max_length=1000)
    region_kind: Literal["inference", "forward", "backward"]
    form: dict[str, Any]
    hints: list[tuple[int, bool | None]]
    devices: dict[str, str]
    weights: list[int]
    mutated: list[int]
    inputs: list[Annotated[TensorRecord | NumberRecord, Field(discriminator="kind")]]
    settings: dict[str, Any]
    fingerprint: dict[str, str]
    threads: int = Field(ge=1, le=4096)
    wrong: str = Field(max_length=10_000)
    created: str = Field(max_length=40)
    header: dict[str, Any] | None = None
    payload: bool = False
    results: bool = False


#: Numpy's type for torch's, where they are the same.
_SAME: dict[torch.dtype, Any] = {
    torch.float64: np.float64,
    torch.float32: np.float32,
    torch.float16: np.float16,
    torch.complex128: np.complex128,
    torch.complex64: np.complex64,
    torch.int64: np.int64,
    torch.int32: np.int32,
    torch.int16: np.int16,
    torch.int8: np.int8,
    torch.uint8: np.uint8,
    torch.bool: np.uint8,
}
_BITS: dict[int, Any] = {1: np.int8, 2: np.int16, 4: np.int32, 8: np.int64}
_TORCH_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def array_dtype(dtype: torch.dtype) -> Any:
    """Numpy's type of the array that holds a tensor of this type."""
    return np.dtype(_SAME.get(dtype) or _BITS[dtype.itemsize])


def to_array(tensor: torch.Tensor) -> Any:
    """A tensor's elements as an array, bit for bit."""
    plain = tensor.detach().cpu().contiguous()
    if plain.dtype is torch.bool:
        return plain.view(torch.uint8).numpy()
    if plain.dtype not in _SAME:
        plain = plain.view(_TORCH_BITS[plain.element_size()])
    return plain.numpy()


def from_array(array: Any, dtype: torch.dtype) -> torch.Tensor:
    """Inverse of :func:`to_array`, in memory of its own."""
    tensor = torch.from_numpy(array.copy())
    if dtype is torch.bool:
        return tensor != 0
    return tensor if dtype in _SAME else tensor.view(dtype)
