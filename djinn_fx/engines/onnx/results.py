"""How a region's results are made of the model's outputs: strides, aliases, numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch.fx import Node

from djinn_fx.engines.bound.signature import Argument, Given, Literal, Result, Same, Size, View
from djinn_fx.engines.lowering.effects import Effects
from djinn_fx.engines.lowering.formulas import Formulas, expression_of, is_contiguous
from djinn_fx.engines.onnx.conditions.floats import stored_whole
from djinn_fx.engines.onnx.graph import GraphBuilder, Refused, Value


class Results:
    """Makes the model's outputs for a region's results."""

    def __init__(
        self,
        builder: GraphBuilder,
        formulas: Formulas,
        places: Mapping[Node, int],
        values: Mapping[Node, Any],
        fake: Callable[[Node], Any],
    ) -> None:
        self._builder = builder
        self._formulas = formulas
        self._places = places
        self._values = values
        self._fake = fake
        self._seen: dict[Node, int] = {}
        #: The result that owns a memory, by the fake tensors' storage.
        self._owners: dict[int, tuple[int, torch.Tensor]] = {}

    def of(self, returned: Any, effects: Effects) -> tuple[Result, ...]:
        """One entry per result, in order.

        Raises:
            Refused: a result that a model cannot give.
        """
        results: list[Result] = []
        for index, one in enumerate(returned):
            results.append(self._result(one, index, effects))
            if isinstance(one, Node):
                self._seen.setdefault(one, index)
        return tuple(results)

    def _result(self, node: Any, index: int, effects: Effects) -> Result:
        if not isinstance(node, Node):
            return _literal(node)
        if node in self._seen:
            return Same(result=self._seen[node])
        fake = self._fake(node)
        if isinstance(fake, torch.SymInt):
            return Size(formula=self._formulas.of(fake))
        if not isinstance(fake, torch.Tensor):
            return _literal(fake)
        source = effects.shown(node)
        if source is not None:
            return self._of_argument(node, source, effects)
        storage = int(fake.untyped_storage()._cdata)
        if storage in self._owners:
            return self._of_result(fake, *self._owners[storage])
        self._owners[storage] = (index, fake)
        return self._given(self._values[node], fake)

    def _of_argument(self, node: Node, source: Node, effects: Effects) -> Result:
        fake, whole = self._fake(node), self._fake(source)
        place = self._places[source]
        if effects.is_whole(node):
            return Argument(place=place)
        if fake.dtype is not whole.dtype:
            raise Refused("it returns an argument's memory as another type")
        return View(
            place=place,
            result=None,
            sizes=self._formulas.all_of(fake.shape),
            strides=self._formulas.all_of(fake.stride()),
            offset=self._formulas.of(fake.storage_offset() - whole.storage_offset()),
        )

    def _of_result(self, fake: torch.Tensor, index: int, owner: torch.Tensor) -> Result:
        """A view of an earlier result, if that one's memory holds all of it."""
        if fake.dtype is not owner.dtype or not _covers(owner, fake):
            raise Refused("it returns two views of one memory, neither of which is the whole")
        return View(
            place=None,
            result=index,
            sizes=self._formulas.all_of(fake.shape),
            strides=self._formulas.all_of(fake.stride()),
            offset=self._formulas.of(fake.storage_offset() - owner.storage_offset()),
        )

    def _given(self, value: Value, fake: torch.Tensor) -> Result:
        dtype = str(fake.dtype).removeprefix("torch.")
        stored_whole(self._builder, value)
        sizes, strides = list(fake.shape), list(fake.stride())
        if is_contiguous(sizes, strides):
            return Given(output=self._builder.output(value), dtype=dtype)
        formulas = self._formulas.all_of(sizes), self._formulas.all_of(strides)
        for dim, (size, stride) in enumerate(zip(sizes, strides, strict=True)):
            if expression_of(stride) == 0 and expression_of(size) != 1:
                value, sizes[dim] = self._builder.slice(value, dim, 0, 1, size=1), 1
        order = _order(sizes, strides)
        if order is None:
            return Given(
                output=self._builder.output(value), dtype=dtype, sizes=formulas[0], strides=formulas[1], dense=False
            )
        output = self._builder.output(self._builder.transpose(value, order))
        return Given(output=output, dtype=dtype, sizes=formulas[0], strides=formulas[1])


def _literal(value: Any) -> Literal:
    if value is None or isinstance(value, (bool, int, float)):
        return Literal(value=value)
    raise Refused(f"it returns a {type(value).__name__}")


def _order(sizes: Sequence[Any], strides: Sequence[Any]) -> list[int] | None:
    """The dimensions from the outermost in memory to the innermost; None if memory has gaps, or that cannot be told.

    Dimensions of size 1 may have any stride.
    """
    left = [dim for dim, size in enumerate(sizes) if expression_of(size) != 1]
    ones = [dim for dim, size in enumerate(sizes) if expression_of(size) == 1]
    inner: list[int] = []
    wanted: Any = 1
    while left:
        found = next((dim for dim in reversed(left) if expression_of(strides[dim]) == wanted), None)
        if found is None:
            return None
        left.remove(found)
        inner.append(found)
        wanted = wanted * expression_of(sizes[found])
    return [*ones, *reversed(inner)]


def _covers(owner: torch.Tensor, view: torch.Tensor) -> bool:
    """Whether the memory of one result holds another: told for a dense owner that starts where its storage does."""
    if expression_of(owner.storage_offset()) != 0 or _order(list(owner.shape), list(owner.stride())) is None:
        return False
    whole, part = (_product(one.shape) for one in (owner, view))
    if isinstance(whole, int):
        return whole == _bytes(owner) // owner.element_size()
    return bool(sympy.expand(whole - part) == 0)


def _product(sizes: Sequence[Any]) -> Any:
    total: Any = 1
    for size in sizes:
        total = total * expression_of(size)
    return total


def _bytes(tensor: torch.Tensor) -> int:
    size = expression_of(tensor.untyped_storage().nbytes())
    return size if isinstance(size, int) else -1


__all__ = ["Results"]
