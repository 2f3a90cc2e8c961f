"""What the converters pass around: a tensor of the model under construction, and the refusal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from djinn_fx.engines.lowering.refused import Refused, RefusedWhole


@dataclass(frozen=True)
class Value:
    """A tensor of the model.

    Attributes:
        name: in the model.
        dtype: element type.
        shape: sizes; None for one that differs from call to call. The rank is always known.
        symbols: beside each None, the text of the size's formula where it is known (``"2*s0"``), so that equal sizes
            can be told; empty if none is known. A 0-d int64 value that stands for a size has its own formula here.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int | None, ...]
    symbols: tuple[str | None, ...] = ()

    @property
    def rank(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def formula(self) -> str | None:
        """Of a 0-d value that stands for a size: its formula, if known."""
        return self.symbols[0] if not self.shape and self.symbols else None

    def symbol(self, dim: int) -> str | None:
        """The formula of a size that differs from call to call, if known."""
        return self.symbols[dim] if self.shape and self.symbols else None

    @property
    def is_float(self) -> bool:
        """Whether the elements are real floating-point numbers."""
        return self.dtype.is_floating_point


#: ``onnx.TensorProto.DataType`` of each element type that ONNX has with torch's meaning.
ONNX_TYPES: dict[torch.dtype, int] = {
    torch.float32: 1,
    torch.uint8: 2,
    torch.int8: 3,
    torch.uint16: 4,
    torch.int16: 5,
    torch.int32: 6,
    torch.int64: 7,
    torch.bool: 9,
    torch.float16: 10,
    torch.float64: 11,
    torch.uint32: 12,
    torch.uint64: 13,
    torch.bfloat16: 16,
}

_NUMPY_TYPES = {
    torch.float32: np.float32,
    torch.uint8: np.uint8,
    torch.int8: np.int8,
    torch.uint16: np.uint16,
    torch.int16: np.int16,
    torch.int32: np.int32,
    torch.int64: np.int64,
    torch.bool: np.bool_,
    torch.float16: np.float16,
    torch.float64: np.float64,
    torch.uint32: np.uint32,
    torch.uint64: np.uint64,
}


def onnx_type(dtype: torch.dtype) -> int:
    """ONNX's number for an element type.

    Raises:
        Refused: ONNX has no such type.
    """
    if dtype not in ONNX_TYPES:
        raise Refused(f"ONNX has no {str(dtype).removeprefix('torch.')} with torch's meaning")
    return ONNX_TYPES[dtype]


def raw_bytes(data: object, dtype: torch.dtype) -> tuple[bytes, tuple[int, ...], np.ndarray | None]:
    """Numbers as little-endian bytes of an element type, their shape, and themselves as an array.

    Args:
        data: a number, nested lists of numbers, an array, or a tensor with real memory.
        dtype: the wanted type; numbers are converted as torch would.

    Returns:
        The array is None for bfloat16, which numpy does not have.

    Raises:
        Refused: a fake tensor, or a type ONNX does not have.
    """
    onnx_type(dtype)
    if isinstance(data, torch.Tensor):
        if type(data) not in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer) or data.device.type == "meta":
            raise Refused(f"it holds a constant of class {type(data).__name__}")
        tensor = data.detach().cpu().to(dtype).contiguous()
        if dtype is torch.bfloat16:
            return tensor.view(torch.int16).numpy().tobytes(), tuple(tensor.shape), None
        array = tensor.numpy()
    elif dtype is torch.bfloat16:
        return raw_bytes(torch.tensor(np.asarray(data).tolist(), dtype=dtype), dtype)
    else:
        array = _as_array(np.asarray(data), dtype)
    return np.ascontiguousarray(array).tobytes(), tuple(array.shape), array


def _as_array(given: np.ndarray, dtype: torch.dtype) -> np.ndarray:
    """Numbers as an array of an element type: floats are rounded to nearest, integers must fit, as for torch."""
    wanted = _NUMPY_TYPES[dtype]
    if given.dtype == wanted:
        return given
    if given.dtype.kind == "O":
        raise Refused("it holds a number that no element type holds")
    if dtype in _INTEGERS and given.size and given.dtype.kind in "iuf":
        limits = np.iinfo(wanted)
        if given.min() < limits.min or given.max() > limits.max:
            raise Refused(f"{given.ravel()[0]} is no {np.dtype(wanted).name}")
    with np.errstate(over="ignore", invalid="ignore"):
        return given.astype(wanted)


_INTEGERS = frozenset(dtype for dtype in _NUMPY_TYPES if not dtype.is_floating_point and dtype is not torch.bool)


__all__ = ["ONNX_TYPES", "Refused", "RefusedWhole", "Value", "onnx_type", "raw_bytes"]
