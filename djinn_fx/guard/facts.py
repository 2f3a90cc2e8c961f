"""What the guard needs to know of a region: tolerances, layouts, which calls are compared one by one."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch

from djinn_fx.engines.base import RegionGraph
from djinn_fx.engines.keys import symbol_places
from djinn_fx.guard.compare import Bounds
from djinn_fx.guard.tolerance import Arithmetic, tolerance, work_of
from djinn_fx.srg.effects import draws_random_numbers
from djinn_fx.srg.graph import fake_value, size_hint

#: Input shapes whose answers are compared; of further ones only those with numbers that are not finite.
MAX_SIGNATURES = 16
#: Sets of weights whose answers are compared, where a region serves several layers.
MAX_BINDINGS = 64


class Facts:
    """What the guard needs to know of a region.

    Attributes:
        sets: whether sets of weights are compared one by one.
    """

    def __init__(self, region: RegionGraph | None, bindings: int, precision: str) -> None:
        work = Arithmetic.UNKNOWN if region is None else work_of(region.gm)
        self.bounds: Bounds = functools.partial(tolerance, work=work, precision=precision)
        self.random = region is None or draws_random_numbers(region.gm)
        self.layouts: tuple[Any, ...] = () if region is None else _promised(region)
        self._places = None if region is None else symbol_places(region.example_inputs)
        weights: tuple[int, ...] = getattr(region, "weights", ()) if region is not None else ()
        # The largest one: small ones, such as tables of positions, may be the same for all layers.
        self._weight = max(weights, key=lambda place: _elements(region, place)) if weights and bindings > 1 else None
        self.weights, self.sets = frozenset(weights), self._weight is not None
        self.enough = min(bindings, MAX_BINDINGS) if self._weight is not None else 1
        if self._places != ():
            self.enough = max(self.enough, MAX_SIGNATURES)

    def signature(self, args: Sequence[Any]) -> tuple[Any, ...]:
        """What tells calls apart that are compared one by one."""
        places = self._places
        if places is None:
            return tuple(one.shape if isinstance(one, torch.Tensor) else one if type(one) is int else 0 for one in args)
        sizes = tuple(args[place] if dim is None else args[place].shape[dim] for place, dim in places)
        return sizes if self._weight is None else (*sizes, args[self._weight].data_ptr())


def _elements(region: RegionGraph | None, place: int) -> int:
    value = region.example_inputs[place] if region is not None else None
    return math.prod(map(size_hint, value.shape)) if isinstance(value, torch.Tensor) else 0


def _promised(region: RegionGraph) -> tuple[tuple[int, ...] | None, ...]:
    """Strides of the results as the tracer saw them, where they are numbers."""
    returned: Any = region.gm.graph.output_node().args[0]
    found: list[tuple[int, ...] | None] = []
    for node in returned:
        value = fake_value(node) if isinstance(node, torch.fx.Node) else None
        plain = isinstance(value, torch.Tensor) and value.layout is torch.strided
        strides = tuple(value.stride()) if plain and value is not None else ()
        found.append(strides if plain and all(type(stride) is int for stride in strides) else None)
    return tuple(found)
