"""The table of kinds of layers, and what their builders have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from djinn_fx.engines.tensorrt.attributes import Attributes
from djinn_fx.engines.tensorrt.network import Layer, Tensor

if TYPE_CHECKING:
    from djinn_fx.engines.tensorrt.assemble import Assembly

Values = Sequence[Any]
Known = Sequence[Tensor | None]
Builder = Callable[["Assembly", Layer, Attributes, Values, Known], list[Any]]

FLOATS = ("float32", "float16", "bfloat16")
NUMBERS = (*FLOATS, "int64", "int32")
INTEGERS = ("int64", "int32")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of layer.

    Attributes:
        build: makes it.
        inputs: how few and how many.
        needed: so many of the first must be given.
        outputs: how many.
    """

    build: Builder
    inputs: tuple[int, int]
    needed: int
    outputs: int = 1


KINDS: dict[str, Kind] = {}


def kind(name: str, needed: int, most: int | None = None, outputs: int = 1) -> Callable[[Builder], Builder]:
    """Enter a builder into the table."""

    def enter(build: Builder) -> Builder:
        assert name not in KINDS, name
        KINDS[name] = Kind(
            build=build, inputs=(needed, needed if most is None else most), needed=needed, outputs=outputs
        )
        return build

    return enter


def names(*names: str) -> dict[str, str]:
    return {name: name.upper() for name in names}


def member(enum: Any, name: str) -> Any:
    return getattr(enum, name)


def tensor(known: Known, index: int) -> Tensor:
    """What is known of an input that must be there."""
    one = known[index]
    assert one is not None  # the description was checked
    return one


def given(values: Values, index: int) -> Any:
    """An input that may be absent."""
    return values[index] if index < len(values) else None


def types(attributes: Attributes, known: Known, index: int, allowed: Sequence[str]) -> None:
    """Refuse an input of a type the layer has no meaning, or another meaning, for."""
    one = known[index] if index < len(known) else None
    if one is not None and one.dtype not in allowed:
        raise attributes.error(f"input {index} is of type {one.dtype}, not {', '.join(allowed)}")


def mask_of(axes: Sequence[int]) -> int:
    """Axes as TensorRT's bit mask."""
    return sum(1 << axis for axis in axes)


def same_ranks(attributes: Attributes, known: Known) -> None:
    """Refuse inputs of different ranks or types."""
    ranks = {one.rank for one in known if one is not None}
    kinds = {one.dtype for one in known if one is not None}
    if len(ranks) > 1 or len(kinds) > 1:
        raise attributes.error(f"inputs of different ranks or types: {[(o.dtype, list(o.shape)) for o in known if o]}")


def vector(attributes: Attributes, known: Known, index: int, length: int) -> None:
    """An input is an integer vector of this length."""
    types(attributes, known, index, INTEGERS)
    if index < len(known) and (one := known[index]) is not None and one.shape != (length,):
        raise attributes.error(f"input {index} is of shape {list(one.shape)}, not [{length}]")
