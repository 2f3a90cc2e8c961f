"""Noticing that weights have changed, cheaply enough to ask before every call.

An engine that keeps a packed copy of weights must know when the copy is stale. Torch has no event for that, so three
things are compared: where each weight's memory is, its version counter, and what is in it, at a few places. The counter
sees every in-place operation (an optimizer's step, ``load_state_dict``); the address sees ``weight.data = other``; the
probe sees in-place operations on ``weight.data``, which count no version (PEFT merges adapters so).

What this cannot see: an operation on ``weight.data`` (or on memory shared by numpy) that leaves every probed element
as it was. Probed are :data:`PROBE_BYTES` bytes (16 elements of float32) at the start, the middle and the end of each.
Tensors made in inference mode have no counter; for them the address and the probe are all there is. Other sizes or
strides over the same memory are not looked for: Dynamo guards those of what it hands over.
"""

from __future__ import annotations

import operator
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

#: Bytes read at each probed place of a weight.
PROBE_BYTES = 64

_DATA_PTR: Any = torch.Tensor.data_ptr
_VERSION: Any = operator.attrgetter("_version")


def picker(places: Sequence[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    """A fast function that takes the elements at these places out of a list."""
    if len(places) > 1:
        return operator.itemgetter(*places)
    return lambda values: [values[place] for place in places]


class Watch:
    """The weights of one call as they were, to be compared with those of later calls.

    Keeps the weights' memory alive, so that an address means the same weight for as long as the watch lives.

    Args:
        weights: dense tensors on the CPU.

    Attributes:
        kept: the weights, detached: what an engine may share memory with.
    """

    def __init__(self, weights: Sequence[torch.Tensor]) -> None:
        before = [_uses(weight) for weight in weights]
        self._objects: tuple[weakref.ref[torch.Tensor], ...] = ()
        self._pointers = [weight.data_ptr() for weight in weights]
        counted = [place for place, weight in enumerate(weights) if not weight.is_inference()]
        self._counted = picker(counted) if len(counted) < len(weights) else None
        self._versions = [weights[place]._version for place in counted]
        self.kept = [weight.detach() for weight in weights]
        self._views = [view for weight in self.kept for view in _probes(weight)]
        self._seen = b"".join(self._views)
        self._before = before
        self._own = [0] * len(before)

    def holds(self, weights: Sequence[torch.Tensor]) -> bool:
        """Whether these are the watched weights, unchanged as far as can be seen."""
        if list(map(_DATA_PTR, weights)) != self._pointers:
            return False
        try:
            counted = weights if self._counted is None else self._counted(weights)
            if list(map(_VERSION, counted)) != self._versions:
                return False
        except RuntimeError:  # a tensor of inference mode over the same memory: it has no counter
            return False
        return b"".join(self._views) == self._seen

    # Weights that nobody else has any more

    def settle(self, weights: Sequence[torch.Tensor], on_death: Callable[[], None]) -> None:
        """Say that all who share memory with ``kept`` by now are the engine's own; be told when a weight dies.

        Args:
            weights: as given before.
            on_death: called, from any thread and at any moment, when somebody's tensor object goes away; ask
                :meth:`orphaned` then.
        """
        now = [_uses(weight) for weight in weights]
        self._own = [max(after - before, 1) for after, before in zip(now, self._before, strict=True)]
        distinct = {id(weight): weight for weight in weights}
        self._objects = tuple(weakref.ref(weight, lambda _: on_death()) for weight in distinct.values())

    def orphaned(self, dying: int = 0) -> bool:
        """Whether nobody else holds the memory of some weight: then no call can bring these weights again.

        Args:
            dying: how many holders are about to let go.
        """
        return any(_uses(kept) - own <= dying for kept, own in zip(self.kept, self._own, strict=True))


def _probes(weight: torch.Tensor) -> Iterator[memoryview]:
    """The probed bytes of a weight; nothing of one without elements.

    Of one that has gaps or overlaps, single elements.
    """
    if not weight.numel():
        return
    extent = 1 + sum((size - 1) * stride for size, stride in zip(weight.shape, weight.stride(), strict=True))
    if extent != weight.numel():
        for index in ([0] * weight.dim(), [size // 2 for size in weight.shape], [size - 1 for size in weight.shape]):
            yield _bytes(weight[tuple(index)].reshape(1))
        return
    flat = weight.as_strided((extent,), (1,))
    count = max(PROBE_BYTES // weight.element_size(), 1)
    for start in sorted({0, max((extent - count) // 2, 0), max(extent - count, 0)}):
        yield _bytes(flat[start : start + count])


def _bytes(part: torch.Tensor) -> memoryview:
    array: Any = part.view(torch.uint8).numpy()
    return memoryview(array).cast("B")


def _uses(weight: torch.Tensor) -> int:
    """How many hold the storage of a tensor."""
    storage = weight.untyped_storage()
    count: int = torch._C._storage_Use_Count(storage._cdata)
    return count - 1  # the storage object made to ask
