"""One tensor as the bytes that ``numpy.save`` would write, and back; neither way copies where memory allows."""

from __future__ import annotations

import functools
import hashlib
import io
import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy

from djinn_fx.errors import EngineError
from djinn_fx.remote.wire.types import CARRIERS, TORCH_TYPES, numpy_type, same_but_for_byte_order, type_name

#: ``.npy`` headers of numpy's are a multiple of this, so that data which follow one are aligned.
ALIGNMENT = 64
_MAGIC = b"\x93NUMPY"
_MAX_HEADER = 10_000
_MAX_DIMS = 32
#: No tensor has more elements, empty dimensions counted as one.
_MAX_ELEMENTS = 2**62
_HEADER = re.compile(
    rb"\{'descr': '([<>|=][A-Za-z]\d{1,3})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,19}, ?)*\d{0,19})\), \} *\n"
)


@dataclass(frozen=True)
class Payload:
    """One tensor, ready to be sent.

    Attributes:
        dtype: torch's name of its element type; the ``.npy`` bytes say as what it is carried.
        axes: which dimension of the tensor each one of the stored array is; None: it is stored as it is.
        head: the ``.npy`` header.
        data: what follows it: a view of the tensor's memory, or of a copy.
    """

    dtype: str
    axes: tuple[int, ...] | None
    head: bytes
    data: memoryview

    @property
    def nbytes(self) -> int:
        """How many bytes the ``.npy`` form has."""
        return len(self.head) + len(self.data)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of type, axes and ``.npy`` bytes, in hex; taken once."""
        return digest_of(self.dtype, self.axes, self.head, self.data)


def digest_of(dtype: str, axes: Sequence[int] | None, *parts: Any) -> str:
    """The digest of a payload whose ``.npy`` bytes are ``parts``, in hex."""
    made = hashlib.sha256(f"{dtype} {'' if axes is None else ','.join(map(str, axes))}\n".encode())
    for part in parts:
        made.update(part)
    return made.hexdigest()


def payload_of(tensor: torch.Tensor) -> Payload:
    """A tensor in numpy's form.

    Dense memory in any order of dimensions is passed on as it is. What has gaps or repeats (a slice, an expanded
    tensor), a lazy conjugate, and what is on another device, is copied.

    Raises:
        EngineError: it is no plain strided tensor with values, or its element type does not travel.
    """
    name = type_name(tensor.dtype)
    if name is None:
        raise EngineError(f"a tensor of {tensor.dtype} cannot be sent; types that travel: {', '.join(CARRIERS)}")
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.layout is not torch.strided or tensor.is_meta:
        kind = "meta tensor" if tensor.is_meta else f"{type(tensor).__name__} with layout {tensor.layout}"
        raise EngineError(f"a {kind} cannot be sent: only plain strided tensors with values travel")
    if tensor.dim() > _MAX_DIMS:
        raise EngineError(f"a tensor of {tensor.dim()} dimensions cannot be sent: at most {_MAX_DIMS} travel")
    plain = tensor.detach().resolve_conj().resolve_neg().cpu()
    if CARRIERS[name] != name:
        plain = plain.view(TORCH_TYPES[CARRIERS[name]])
    order = _dense_order(plain)
    if order is None:
        plain, order = plain.contiguous(), tuple(range(plain.dim()))
    backwards = order == tuple(reversed(range(plain.dim()))) and plain.dim() > 1
    as_it_is = order == tuple(range(plain.dim()))
    stored = plain.permute(order).contiguous()  # which it is already, but for empty ones
    shape = tuple(plain.shape) if backwards else tuple(stored.shape)
    head = _header(numpy_type(name).str, backwards and not as_it_is, shape)
    data = stored.reshape(-1).numpy().data.cast("B") if stored.numel() else memoryview(b"")
    return Payload(dtype=name, axes=None if as_it_is or backwards else order, head=head, data=data)


def _dense_order(tensor: torch.Tensor) -> tuple[int, ...] | None:
    """An order of the dimensions in which the memory is contiguous, the usual one first; None if there is none."""
    usual = tuple(range(tensor.dim()))
    strides = tensor.stride()
    by_stride = tuple(sorted(usual, key=lambda dim: -strides[dim]))
    for order in (usual, usual[::-1], by_stride):
        if tensor.permute(order).is_contiguous():
            return order
    return None


@functools.lru_cache(maxsize=4096)
def _header(code: str, fortran: bool, shape: tuple[int, ...]) -> bytes:
    """What numpy writes before an array's data."""
    into = io.BytesIO()
    npy.write_array_header_1_0(into, {"descr": code, "fortran_order": fortran, "shape": shape})
    return into.getvalue()


def tensor_of(buffer: Any, dtype: str, axes: Sequence[int] | None = None) -> torch.Tensor:
    """The tensor of a payload, over the buffer's own memory unless that is badly aligned or of the other byte order.

    A tensor over memory that must not be written (``bytes``, an array of an object store) does not know it: whoever
    writes into tensors copies first (:attr:`djinn_fx.remote.wire.frame.Frame.readonly`).

    Args:
        buffer: the ``.npy`` bytes, and nothing else.
        dtype: torch's name of the element type.
        axes: as :attr:`Payload.axes`.

    Raises:
        EngineError: these bytes are no array of that type, or not a whole one.
    """
    raw = memoryview(buffer).cast("B")
    if dtype not in CARRIERS:
        raise EngineError(f"a tensor of the unknown type {dtype[:40]!r}")
    code, fortran, shape, start = _parsed(raw)
    stored = same_but_for_byte_order(code, dtype)
    if stored is None:
        raise EngineError(f"a tensor of {dtype} is carried by {numpy_type(dtype).str!r}; the bytes say {code!r}")
    wanted = math.prod(shape) * stored.itemsize
    if len(raw) - start != wanted:
        raise EngineError(f"a tensor of shape {shape} takes {wanted} bytes; {len(raw) - start} are there")
    flat = _flat(raw[start:], stored, dtype)
    tensor = flat.view(shape[::-1]).permute(tuple(reversed(range(len(shape))))) if fortran else flat.view(shape)
    if axes is None:
        return tensor
    if sorted(axes) != list(range(len(shape))):
        raise EngineError(f"axes {list(axes)} for a tensor of {len(shape)} dimensions")
    return tensor.permute(tuple(axes.index(dim) for dim in range(len(shape))))


def _parsed(raw: memoryview) -> tuple[str, bool, tuple[int, ...], int]:
    """Type code, whether the first dimension is the innermost, shape, and where the data begin.

    Raises:
        EngineError: no such header.
    """
    version = bytes(raw[6:8])
    lengths = {b"\x01\x00": "<H", b"\x02\x00": "<I", b"\x03\x00": "<I"}
    if bytes(raw[:6]) != _MAGIC or version not in lengths:
        raise EngineError("a payload that is no .npy array of version 1 to 3")
    prefix = 8 + struct.calcsize(lengths[version])
    length = struct.unpack(lengths[version], raw[8:prefix])[0] if len(raw) >= prefix else _MAX_HEADER + 1
    if length > min(_MAX_HEADER, len(raw) - prefix):
        raise EngineError("a .npy array whose header is cut short or too long")
    header = bytes(raw[prefix : prefix + length])
    found = _HEADER.fullmatch(header)
    if found is None:
        raise EngineError(f"a .npy header that is no plain array of numbers: {header[:120]!r}")
    shape = tuple(int(size) for size in found[3].replace(b" ", b"").split(b",") if size)
    if len(shape) > _MAX_DIMS or math.prod(max(size, 1) for size in shape) > _MAX_ELEMENTS:
        raise EngineError("a .npy array with more dimensions or elements than a tensor has")
    return found[1].decode(), found[2] == b"True", shape, prefix + length


class _Memory:
    """Memory that torch is to see as it sees any other; torch has no tensors that cannot be written, and would warn."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self.__array_interface__ = {**array.__array_interface__, "data": (array.ctypes.data, False)}


def _flat(raw: memoryview, stored: np.dtype, dtype: str) -> torch.Tensor:
    """All elements in the order of memory."""
    if not len(raw):
        return torch.empty(0, dtype=TORCH_TYPES[CARRIERS[dtype]]).view(TORCH_TYPES[dtype])
    if dtype == "bool" and int(np.frombuffer(raw, dtype=np.uint8).max()) > 1:
        raise EngineError("a tensor of truth values with bytes that are neither 0 nor 1")
    array = np.frombuffer(raw, dtype=stored)
    if not stored.isnative:
        array = array.astype(stored.newbyteorder("="))
    elif not array.flags.aligned:
        array = array.copy()
    elif not array.flags.writeable:
        array = np.asarray(_Memory(array))
    flat = torch.from_numpy(array)
    return flat if CARRIERS[dtype] == dtype else flat.view(TORCH_TYPES[dtype])
