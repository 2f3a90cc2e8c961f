"""``--input x:batch=1..8x512:int64``: a tensor by its sizes and its type, where the file has none."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from djinn_fx.errors import SettingsError, did_you_mean

_SIZE = re.compile(r"(?:(?P<name>[^\W\d]\w*)=)?(?P<low>\d+)(?:\.\.(?P<high>\d+))?")
_NAME = re.compile(r"[^\W\d]\w*")
_DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}


@dataclass(frozen=True, kw_only=True)
class Size:
    """One size: fixed, or anything from ``low`` to ``high``."""

    low: int
    high: int
    name: str = ""

    @property
    def varies(self) -> bool:
        """Whether it is a range."""
        return self.high > self.low

    def __str__(self) -> str:
        label = f"{self.name}=" if self.name else ""
        return f"{label}{self.low}..{self.high}" if self.varies else f"{label}{self.low}"


@dataclass(frozen=True, kw_only=True)
class TypedInput:
    """A tensor of these sizes and this type.

    Attributes:
        name: of the parameter; None: the next one by position.
        sizes: one a dimension; a tensor that is made has the largest.
        dtype: of its elements.
    """

    name: str | None
    sizes: tuple[Size, ...]
    dtype: torch.dtype

    def make(self) -> torch.Tensor:
        """One such tensor: random numbers; of integers 0 and 1, which are in the range of every table."""
        shape = [size.high for size in self.sizes]
        if self.dtype.is_floating_point or self.dtype.is_complex:
            return (
                torch.randn(shape).to(self.dtype) if not self.dtype.is_complex else torch.randn(shape, dtype=self.dtype)
            )
        return torch.randint(0, 2, shape).to(self.dtype)

    def mark(self, tensor: torch.Tensor) -> None:
        """Tell Dynamo which sizes vary, and how far."""
        for place, size in enumerate(self.sizes):
            if size.varies:
                torch._dynamo.mark_dynamic(tensor, place, min=size.low, max=size.high)

    def __str__(self) -> str:
        return tensor_text(self.dtype, self.sizes)


def tensor_text(dtype: object, sizes: Iterable[object]) -> str:
    """A tensor's type and sizes, as a report names them: ``int64[2, 16]``."""
    return f"{str(dtype).removeprefix('torch.')}[{', '.join(map(str, sizes))}]"


def read_typed_input(text: str) -> TypedInput:
    """Read ``[name:]sizes[:dtype]``; sizes are joined by ``x``, each ``512``, ``1..8`` or ``batch=1..8``.

    Raises:
        SettingsError: it is none.
    """
    name, sizes, dtype = _parts(text)
    if dtype not in _DTYPES:
        near = did_you_mean(dtype, _DTYPES, "; write a dtype of torch, such as int64")
        raise SettingsError(f"--input {text}: {dtype!r} is no dtype{near}")
    return TypedInput(name=name, sizes=tuple(_sizes(text, sizes)), dtype=_DTYPES[dtype])


def _parts(text: str) -> tuple[str | None, str, str]:
    parts = text.split(":")
    name: str | None = None
    if len(parts) > 1 and _NAME.fullmatch(parts[0]):
        name = parts.pop(0)
    if len(parts) > 2 or (name is not None and not _NAME.fullmatch(name)):
        raise SettingsError(f"--input {text}: write it as name:sizes:dtype, e.g. x:batch=1..8x512:int64")
    return name, parts[0], parts[1] if len(parts) > 1 else "float32"


def _sizes(text: str, sizes: str) -> list[Size]:
    found: list[Size] = []
    place = 0
    while place < len(sizes):
        match = _SIZE.match(sizes, place)
        if match is None or sizes[match.end() :] == "x" or sizes[match.end() : match.end() + 1] not in ("", "x"):
            raise SettingsError(
                f"--input {text}: {sizes[place:]!r} are no sizes; write them as 8x512, one that varies as batch=1..8"
            )
        low, high = int(match["low"]), int(match["high"] or match["low"])
        if high < low:
            raise SettingsError(f"--input {text}: {match[0]!r} is an empty range")
        found.append(Size(low=low, high=high, name=match["name"] or ""))
        place = match.end() + 1
    return found
