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
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.lib import format as npy

from djinn_fx.errors import EngineError
from djinn_fx.remote.wire.types import CARRIERS, TORCH_TYPES, numpy_type, same_but_for_byte_order, type_name

#: ``.npy`` headers of numpy's are a multiple of this, so that data which follow one are aligned.
ALIGNMENT = 64
#: How the length of a header is written, by the bytes that an array of a version begins with.
_LENGTHS = {b"\x93NUMPY" + version: struct.Struct(code) for version, code in
            ((b"\x01\x00", "<H"), (b"\x02\x00", "<I"), (b"\x03\x00", "<I"))}  # fmt: skip
_PLAIN = (torch.Tensor, torch.nn.Parameter)
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
        data: what follows it: a view of the tensor's memory, or of a copy; or that packed.
        codec: by which it is packed, if it is.
        of: the payload that was packed.
    """

    dtype: str
    axes: tuple[int, ...] | None
    head: bytes
    data: memoryview
    codec: str | None = None
    of: Payload | None = None

    @property
    def nbytes(self) -> int:
        """How many bytes it takes."""
        return len(self.head) + len(self.data)

    @property
    def item_bytes(self) -> int:
        """Of one element."""
        return numpy_type(self.dtype).itemsize

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of type, axes and ``.npy`` bytes, packed or not, in hex; taken once."""
        if self.of is not None:
            return self.of.digest
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
    if type(tensor) not in _PLAIN or tensor.layout is not torch.strided or tensor.is_meta:
        kind = "meta tensor" if tensor.is_meta else f"{type(tensor).__name__} with layout {tensor.layout}"
        raise EngineError(f"a {kind} cannot be sent: only plain strided tensors with values travel")
    plain = tensor.detach() if tensor.requires_grad else tensor
    if not plain.is_cpu or plain.is_conj() or plain.is_neg():
        plain = plain.resolve_conj().resolve_neg().cpu()
    layout = _layout(plain.dtype, plain.shape, plain.stride())
    if layout is None:
        plain = plain.contiguous()
        layout = _layout(plain.dtype, plain.shape, plain.stride())
        assert layout is not None
    if layout.carrier is not None:
        plain = plain.view(layout.carrier)
    if layout.order is not None:
        plain = plain.permute(layout.order)
    data = plain.numpy().data.cast("B") if plain.numel() else memoryview(b"")
    return Payload(layout.name, layout.axes, layout.head, data)


class _Layout(NamedTuple):
    """How dense tensors of one type, shape and strides are stored.

    Attributes:
        name: torch's, of the element type.
        carrier: as what the elements are stored, if not as that.
        order: of the dimensions in which the memory is contiguous, if that is another than theirs.
        axes: as :attr:`Payload.axes`.
        head: the ``.npy`` header.
    """

    name: str
    carrier: torch.dtype | None
    order: tuple[int, ...] | None
    axes: tuple[int, ...] | None
    head: bytes


@functools.lru_cache(maxsize=4096)
def _layout(dtype: torch.dtype, shape: torch.Size, strides: tuple[int, ...]) -> _Layout | None:
    """How such a tensor is stored; None: its memory has gaps or repeats.

    Raises:
        EngineError: it does not travel.
    """
    name = type_name(dtype)
    if name is None:
        raise EngineError(f"a tensor of {dtype} cannot be sent; types that travel: {', '.join(CARRIERS)}")
    if len(shape) > _MAX_DIMS:
        raise EngineError(f"a tensor of {len(shape)} dimensions cannot be sent: at most {_MAX_DIMS} travel")
    carrier = TORCH_TYPES[CARRIERS[name]] if CARRIERS[name] != name else None
    usual = tuple(range(len(shape)))
    order = _dense_order(shape, strides)
    if order is None:
        return None
    if order == usual:
        return _Layout(name, carrier, None, None, _header(numpy_type(name).str, False, tuple(shape)))
    if order == usual[::-1]:
        return _Layout(name, carrier, order, None, _header(numpy_type(name).str, True, tuple(shape)))
    stored = tuple(shape[dim] for dim in order)
    return _Layout(name, carrier, order, order, _header(numpy_type(name).str, False, stored))


def _dense_order(shape: torch.Size, strides: tuple[int, ...]) -> tuple[int, ...] | None:
    """An order of the dimensions in which the memory is contiguous, the usual one first; None if there is none."""
    usual = tuple(range(len(shape)))
    by_stride = tuple(sorted(usual, key=lambda dim: -strides[dim]))
    for order in (usual, usual[::-1], by_stride):
        wanted, contiguous = 1, True
        for dim in reversed(order):
            contiguous &= shape[dim] == 1 or strides[dim] == wanted
            wanted *= shape[dim]
        if contiguous or not wanted:
            return order
    return None


def _header(code: str, fortran: bool, shape: tuple[int, ...]) -> bytes:
    """What numpy writes before an array's data."""
    into = io.BytesIO()
    npy.write_array_header_1_0(into, {"descr": code, "fortran_order": fortran, "shape": shape})
    return into.getvalue()


def parted(buffer: Any) -> tuple[memoryview, memoryview]:
    """The ``.npy`` header that a buffer begins with, and what follows it.

    Raises:
        EngineError: no such header.
    """
    raw = buffer if type(buffer) is memoryview else memoryview(buffer).cast("B")
    length_code = _LENGTHS.get(bytes(raw[:8]))
    if length_code is None:
        raise EngineError("a payload that is no .npy array of version 1 to 3")
    begins = 8 + length_code.size
    length = length_code.unpack_from(raw, 8)[0] if len(raw) >= begins else _MAX_HEADER + 1
    if length > min(_MAX_HEADER, len(raw) - begins):
        raise EngineError("a .npy array whose header is cut short or too long")
    return raw[: begins + length], raw[begins + length :]


def tensor_of(head: memoryview, data: memoryview, dtype: str, axes: Sequence[int] | None = None) -> torch.Tensor:
    """The tensor of a payload, over the data's own memory unless that is badly aligned or of the other byte order.

    A tensor over memory that must not be written (``bytes``, an array of an object store) does not know it: whoever
    writes into tensors copies first (:attr:`djinn_fx.remote.wire.frame.Frame.readonly`).

    Args:
        head: the ``.npy`` header.
        data: what follows it, and nothing else.
        dtype: torch's name of the element type.
        axes: as :attr:`Payload.axes`.

    Raises:
        EngineError: these bytes are no array of that type, or not a whole one.
    """
    stored = _stored(bytes(head), dtype, None if axes is None else tuple(axes))
    if len(data) != stored.nbytes:
        raise EngineError(f"a tensor of shape {stored.shape} takes {stored.nbytes} bytes; {len(data)} are there")
    tensor = torch.from_numpy(_array(data, stored)) if stored.nbytes else _empty(stored)
    if CARRIERS[dtype] != dtype:
        tensor = tensor.view(TORCH_TYPES[dtype])
    return tensor if stored.order is None else tensor.permute(stored.order)


def sizes_of(head: memoryview, dtype: str) -> tuple[int, int]:
    """Bytes of all elements that a header tells of, and of one.

    Raises:
        EngineError: it is no header of a tensor of that type.
    """
    stored = _stored(bytes(head), dtype, None)
    return stored.nbytes, stored.dtype.itemsize


class _Stored(NamedTuple):
    """What a ``.npy`` header says.

    Attributes:
        dtype: of the elements, in the byte order in which they are stored.
        fortran: whether the first dimension is the innermost.
        shape: of the array.
        nbytes: of the elements.
        order: of the array's dimensions in the tensor, if it is another.
    """

    dtype: np.dtype
    fortran: bool
    shape: tuple[int, ...]
    nbytes: int
    order: tuple[int, ...] | None


@functools.lru_cache(maxsize=4096)
def _stored(head: bytes, dtype: str, axes: tuple[int, ...] | None) -> _Stored:
    """What a header says of a tensor of that type.

    Raises:
        EngineError: it is none of such a tensor.
    """
    if dtype not in CARRIERS:
        raise EngineError(f"a tensor of the unknown type {dtype[:40]!r}")
    header = head[8 + _LENGTHS[head[:8]].size :]
    found = _HEADER.fullmatch(header)
    if found is None:
        raise EngineError(f"a .npy header that is no plain array of numbers: {header[:120]!r}")
    code, shape = found[1].decode(), tuple(int(size) for size in found[3].replace(b" ", b"").split(b",") if size)
    if len(shape) > _MAX_DIMS or math.prod(max(size, 1) for size in shape) > _MAX_ELEMENTS:
        raise EngineError("a .npy array with more dimensions or elements than a tensor has")
    stored = same_but_for_byte_order(code, dtype)
    if stored is None:
        raise EngineError(f"a tensor of {dtype} is carried by {numpy_type(dtype).str!r}; the bytes say {code!r}")
    if axes is not None and sorted(axes) != list(range(len(shape))):
        raise EngineError(f"axes {list(axes)} for a tensor of {len(shape)} dimensions")
    order = None if axes is None else tuple(axes.index(dim) for dim in range(len(shape)))
    return _Stored(stored, found[2] == b"True", shape, math.prod(shape) * stored.itemsize, order)


class _Memory:
    """Memory that torch is to see as it sees any other; torch has no tensors that cannot be written, and would warn."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self.__array_interface__ = {**array.__array_interface__, "data": (array.ctypes.data, False)}


def _array(raw: memoryview, stored: _Stored) -> np.ndarray:
    """The array over these bytes, or over a copy if torch could not read them there."""
    if stored.dtype.kind == "b" and int(np.frombuffer(raw, dtype=np.uint8).max()) > 1:
        raise EngineError("a tensor of truth values with bytes that are neither 0 nor 1")
    array: np.ndarray[Any, Any] = np.ndarray(stored.shape, stored.dtype, raw, order="F" if stored.fortran else "C")
    if not stored.dtype.isnative:
        array = array.astype(stored.dtype.newbyteorder("="))
    elif not array.flags.aligned:
        array = array.copy(order="K")
    elif raw.readonly:
        array = np.asarray(_Memory(array))
    return array


def _empty(stored: _Stored) -> torch.Tensor:
    """A tensor without elements."""
    dtype = torch.from_numpy(np.empty(0, stored.dtype.newbyteorder("="))).dtype
    if not stored.fortran:
        return torch.empty(stored.shape, dtype=dtype)
    return torch.empty(stored.shape[::-1], dtype=dtype).permute(tuple(reversed(range(len(stored.shape)))))
