"""How much a call of a graph is whose sizes differ: calls of similar work share a trial of engines.

What is read stands for it. Arguments of differing sizes count with all their elements (a prompt's tokens, a cache's
keys and values). Weights count where the ops that read them have fixed sizes: each step of a decoder reads all of them,
and little more while its cache is short. In a prefill they meet as many rows as there are tokens, which count already.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from djinn_fx.engines.base import RegionGraph
from djinn_fx.engines.keys import symbol_places
from djinn_fx.srg.graph import fake_value, tensors_of


class CallWork:
    """The work of calls, in elements that are read.

    Args:
        graph: the region.

    Attributes:
        fixed: elements that every call reads.
        differs: whether sizes differ from call to call.
    """

    def __init__(self, graph: RegionGraph) -> None:
        values = graph.example_inputs
        self._tensors = tuple(i for i, one in enumerate(values) if i not in graph.weights and _is_symbolic(one))
        shown = set[Any]().union(*(_symbols(size) for i in self._tensors for size in values[i].shape))
        places = symbol_places(values)
        self.differs = bool(places)
        #: Places of symbols that no tensor shows: how much they mean nobody knows.
        self._numbers = tuple(i for i, dim in places if dim is None and not _symbols(values[i]) <= shown)
        self.fixed = _read_always(graph) if self.differs else 0

    def __call__(self, args: Sequence[Any]) -> int:
        """At least 1."""
        work = self.fixed
        for place in self._tensors:
            work += args[place].numel()
        for place in self._numbers:
            work = max(work, 1) * max(int(args[place]), 1)
        return work or 1


def _is_symbolic(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and any(isinstance(size, torch.SymInt) for size in value.shape)


def _symbols(size: Any) -> set[Any]:
    return set(size.node.expr.free_symbols) if isinstance(size, torch.SymInt) else set()


def _read_always(graph: RegionGraph) -> int:
    """Elements of the weights that only ops of fixed sizes read, by themselves or as views and copies of them."""
    inputs = [node for node in graph.gm.graph.nodes if node.op == "placeholder"]
    return sum(
        math.prod(graph.example_inputs[place].shape)
        for place in graph.weights
        if not _is_symbolic(graph.example_inputs[place]) and not _meets_symbols(inputs[place])
    )


def _meets_symbols(weight: torch.fx.Node) -> bool:
    """Whether an op gives something of differing sizes that has read it, or what was made of it alone."""
    seen, left = {weight}, [weight]
    while left:
        for user in left.pop().users:
            if user.op == "output" or user in seen:
                continue
            seen.add(user)
            if any(map(_is_symbolic, tensors_of(fake_value(user)))):
                return True
            if all(one in seen for one in user.all_input_nodes):
                left.append(user)
    return False
