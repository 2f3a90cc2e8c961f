"""Reads a layer's attributes and checks them: a description may come from a file, and TensorRT trusts its caller."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from djinn_fx.engines.tensorrt.network import DTYPE_BYTES, MAX_RANK
from djinn_fx.pool.jobs import BuildError

T = TypeVar("T")

#: Sizes and positions are int64 in TensorRT; a larger number is nobody's intention.
_LIMIT = 2**62
#: Of float32, which TensorRT's parameters are.
_LARGEST = (2 - 2**-23) * 2.0**127
_NEEDED: Any = object()


class Attributes:
    """The attributes of one layer, each to be read once; what nobody reads is a mistake.

    Every method raises :class:`BuildError` (stage ``convert``) for an attribute that is missing or not of its kind.
    """

    def __init__(self, values: Mapping[str, Any], kind: str, node: str) -> None:
        self._values, self._kind, self._node = dict(values), kind, node

    def error(self, detail: str) -> BuildError:
        """The error that says so about this layer."""
        return BuildError(f"{self._kind}: {detail}", stage="convert", node=self._node)

    def done(self) -> None:
        """All attributes were read."""
        if self._values:
            raise self.error(f"unknown attributes {', '.join(sorted(map(str, self._values)))}")

    def _take(self, name: str, default: Any) -> Any:
        if name in self._values:
            return self._values.pop(name)
        if default is _NEEDED:
            raise self.error(f"attribute {name} is missing")
        return default

    def flag(self, name: str, default: bool = _NEEDED) -> bool:
        """True or false."""
        value = self._take(name, default)
        if not isinstance(value, bool):
            raise self.error(f"{name} is {value!r}, not true or false")
        return value

    def number(self, name: str, default: float = _NEEDED) -> float:
        """A finite number of float32's range."""
        value = self._take(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LARGEST:
            raise self.error(f"{name} is {value!r}, not a finite number")
        return float(value)

    def integer(self, name: str, least: int, most: int, default: int = _NEEDED) -> int:
        """An integer of the range, both ends included."""
        value = self._take(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.error(f"{name} is {value!r}, not an integer from {least} to {most}")
        return value

    def choice(self, name: str, choices: Mapping[str, T], default: str = _NEEDED) -> T:
        """One of the named."""
        value = self._take(name, default)
        if not isinstance(value, str) or value not in choices:
            raise self.error(f"{name} is {value!r}, not one of {', '.join(choices)}")
        return choices[value]

    def text(self, name: str) -> str:
        """A string."""
        value = self._take(name, _NEEDED)
        if not isinstance(value, str):
            raise self.error(f"{name} is {value!r}, not a string")
        return value

    def dtype(self, name: str) -> str:
        """An element type."""
        return self.choice(name, {one: one for one in DTYPE_BYTES})

    def integers(
        self, name: str, length: int | None, least: int = -_LIMIT, most: int = _LIMIT, default: Any = _NEEDED
    ) -> tuple[int, ...]:
        """A list of integers of the range; ``length`` None: of any length up to the rank's limit."""
        value = self._take(name, default)
        if (
            not isinstance(value, Sequence)
            or isinstance(value, str)
            or len(value) > MAX_RANK
            or (length is not None and len(value) != length)
            or any(isinstance(one, bool) or not isinstance(one, int) or not least <= one <= most for one in value)
        ):
            count = f"{length} " if length is not None else ""
            raise self.error(f"{name} is {value!r}, not a list of {count}integers from {least} to {most}")
        return tuple(value)

    def integers_or_none(
        self, name: str, length: int | None, least: int = -_LIMIT, default: Any = _NEEDED
    ) -> tuple[int, ...] | None:
        """The same, or None."""
        value = self._take(name, default)
        if value is None:
            return None
        self._values[name] = value
        return self.integers(name, length, least)

    def number_or_none(self, name: str) -> float | None:
        """A finite number, or None."""
        value = self._take(name, None)
        if value is None:
            return None
        self._values[name] = value
        return self.number(name)

    def axes(self, name: str, rank: int) -> tuple[int, ...]:
        """Different axes of a value of this rank, at least one."""
        value = self.integers(name, None, 0, rank - 1)
        if not value or len(set(value)) != len(value):
            raise self.error(f"{name} is {list(value)!r}: at least one axis, none twice")
        return value

    def permutation(self, name: str, rank: int) -> tuple[int, ...] | None:
        """A permutation of the axes of a value of this rank, or None."""
        value = self.integers_or_none(name, rank, 0, None)
        if value is not None and sorted(value) != list(range(rank)):
            raise self.error(f"{name} is {list(value)!r}, not a permutation of {rank} axes")
        return value
