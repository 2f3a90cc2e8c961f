"""A node being converted, as its converter sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from djinn_fx.engines.tensorrt.conversion import Formula
from djinn_fx.engines.tensorrt.emitter import HALVES, Emitter, Value
from djinn_fx.engines.tensorrt.support import FLOATS, Refused, dtype_name, functional_name
from djinn_fx.srg.graph import fake_value
from djinn_fx.srg.lower import target_name

_MISSING: Any = object()


class Call:
    """A node being converted: its arguments by their names in the op's schema, and what it is to give."""

    def __init__(self, node: Node, emitter: Emitter, values: dict[Node, Any]) -> None:
        self.node, self._emitter = node, emitter
        #: Qualified name of the op, without its effect.
        self.name = functional_name(target_name(node.target))
        schema = node.target._schema  # type: ignore[union-attr]
        self._given: dict[str, Any] = {}
        places = iter(node.args)
        for argument in schema.arguments:
            if argument.name in node.kwargs:
                self._given[argument.name] = node.kwargs[argument.name]
            elif not argument.kwarg_only and (given := next(places, _MISSING)) is not _MISSING:
                self._given[argument.name] = given
            else:
                self._given[argument.name] = argument.default_value if argument.has_default_value() else None
        self._values = values

    def __getitem__(self, name: str) -> Any:
        """An argument: a :class:`Value`, a number, a list of these, None; a size is a SymInt."""
        return self._resolved(self._given[name])

    def tensor(self, name: str) -> Value:
        """An argument that must be a tensor.

        Raises:
            Refused: it is not given, or a number.
        """
        value = self[name]
        if not isinstance(value, Value):
            raise Refused(f"with {value!r} for {name}")
        return value

    def _resolved(self, given: Any) -> Any:
        if isinstance(given, Node):
            if given in self._values:
                return self._values[given]
            return fake_value(given)
        if isinstance(given, (list, tuple)):
            return [self._resolved(one) for one in given]
        return given

    def has(self, name: str) -> bool:
        """Whether the op has an argument of that name."""
        return name in self._given

    def fake(self, name: str) -> Any:
        """The compile-time value of an argument."""
        given = self._given[name]
        return fake_value(given) if isinstance(given, Node) else given

    def fakes(self, name: str) -> list[Any]:
        """Of the elements of a list argument."""
        return [fake_value(one) if isinstance(one, Node) else one for one in self._given[name]]

    @property
    def result(self) -> torch.Tensor:
        """The compile-time value of the result, of the first if there are several."""
        value = fake_value(self.node)
        first = value[0] if isinstance(value, (tuple, list)) else value
        assert isinstance(first, torch.Tensor)
        return first

    @property
    def results(self) -> list[torch.Tensor]:
        """The compile-time values of an op with several outputs."""
        return list(fake_value(self.node))

    @property
    def dtype(self) -> str:
        """Element type of the (first) result; float64 only where the result may be float32."""
        name = dtype_name(self.result.dtype)
        return "float32" if name == "float64" else name

    @property
    def shape(self) -> tuple[Formula, ...]:
        """Sizes of the (first) result."""
        return self._emitter.sizes.formulas(self.result.shape)

    def read(self, index: int) -> bool:
        """Whether anybody reads this output of an op with several."""
        return any(user.args[1] == index for user in self.node.users if len(user.args) > 1)


def wide(dtype: str) -> str:
    """The type torch computes in for a value of this type: float32 for halves."""
    return "float32" if dtype in HALVES else dtype


def axis_of(axis: int, rank: int) -> int:
    """An axis counted from 0."""
    return axis % rank if rank else 0


def axes_of(axes: int | Sequence[int] | None, rank: int) -> list[int]:
    """Axes counted from 0; all for None or none given."""
    if axes is None or rank == 0 or (not isinstance(axes, int) and not axes):
        return list(range(rank))
    return sorted({axis_of(axis, rank) for axis in ([axes] if isinstance(axes, int) else axes)})


def needs_float(value: Value) -> None:
    """Refuse what is no floating-point value.

    Raises:
        Refused: it is none.
    """
    if value.dtype not in FLOATS:
        raise Refused(f"of {value.dtype}")
