"""OpenVINO computes 64-bit integers in 32 bits: what may need more is not given to it.

Token numbers, positions and masks never do. What could: numbers that arrive in an argument (looked at in every call),
numbers written in the graph, and operations that soon leave any range. A sum or a product of small numbers is trusted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.fx import Node

from djinn_fx.engines.base import RegionGraph
from djinn_fx.engines.onnx.signature import Fed
from djinn_fx.srg.graph import fake_value, tensors_of
from djinn_fx.srg.lower import target_name

_LEAST, _MOST = -(2**31), 2**31 - 1
_WIDE = frozenset({torch.int64, torch.uint32, torch.uint64})
_WIDE_NAMES = frozenset(str(one).removeprefix("torch.") for one in _WIDE)
#: Operations on whole numbers whose results are soon beyond 32 bits.
_GROWING = frozenset({"aten.pow", "aten.prod", "aten.cumprod", "aten.bitwise_left_shift", "aten.__lshift__"})
#: Operations in which a large number means "to the end".
_CLAMPING = frozenset({"aten.slice", "aten.slice_scatter", "aten.narrow"})
#: Up to this many numbers are looked at one by one.
_FEW = 32


def wide_node(region: RegionGraph) -> Node | None:
    """The first operation whose whole numbers may need more than 32 bits; None if there is none."""
    nodes: list[Node] = list(region.gm.graph.nodes)
    for node in nodes:
        if node.op == "call_function" and any(one.dtype in _WIDE for one in tensors_of(fake_value(node))):
            name = target_name(node.target).rsplit(".", 1)[0]
            if name in _GROWING or (name not in _CLAMPING and any(map(_is_wide, _numbers(node.args)))):
                return node
    return None


class Narrow:
    """Looks at a session's whole numbers before each call.

    Args:
        fed: the session's inputs.
    """

    def __init__(self, fed: Sequence[Fed]) -> None:
        self._places = [place for place, one in enumerate(fed) if one.dtype in _WIDE_NAMES]

    def beyond(self, tensors: Sequence[torch.Tensor]) -> int | None:
        """Which of the inputs holds a number beyond 32 bits; None if none does."""
        return next((place for place in self._places if not is_narrow(tensors[place])), None)


def is_narrow(tensor: torch.Tensor) -> bool:
    """Whether all numbers of a tensor of whole numbers have 32 bits."""
    if tensor.dtype not in _WIDE or not tensor.numel():
        return True
    if tensor.numel() <= _FEW:
        numbers = tensor.reshape(-1).tolist()
        return bool(min(numbers) >= _LEAST and max(numbers) <= _MOST)
    if tensor.dtype is not torch.int64:
        tensor = tensor.to(torch.float64)  # torch finds no extremes of these types
    least, most = torch.aminmax(tensor)
    return int(least) >= _LEAST and int(most) <= _MOST


def _numbers(given: Any) -> Iterator[int]:
    if isinstance(given, (list, tuple)):
        for one in given:
            yield from _numbers(one)
    elif isinstance(given, int):
        yield given


def _is_wide(number: int) -> bool:
    return not _LEAST <= number <= _MOST
