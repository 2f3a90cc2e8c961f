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

import functools
import operator
import weakref
from collections import Counter
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


def addresses(tensors: Sequence[torch.Tensor]) -> tuple[int, ...]:
    """Where the tensors' memory is: tells one set of weights from another."""
    return tuple(map(_DATA_PTR, tensors))


class Watch:
    """The weights of one call as they were, to be compared with those of later calls.

    Keeps the weights' memory alive, so that an address means the same weight for as long as the watch lives.

    Args:
        weights: dense tensors on the CPU.

    Attributes:
        kept: the weights, detached: what an engine may share memory with.
        addresses: of the weights.
    """

    def __init__(self, weights: Sequence[torch.Tensor]) -> None:
        self._own: dict[int, int] = {}
        self._counts = _OWN
        self._storages = [weight.untyped_storage()._cdata for weight in weights]
        self._before = [_uses(weight) for weight in weights]
        self._objects: tuple[weakref.ref[torch.Tensor], ...] = ()
        self.addresses = addresses(weights)
        counted = [place for place, weight in enumerate(weights) if not weight.is_inference()]
        self._counted = picker(counted) if len(counted) < len(weights) else None
        self._versions = [weights[place]._version for place in counted]
        self.kept = [weight.detach() for weight in weights]
        self._views = [view for weight in self.kept for view in _probes(weight)]
        self._seen = b"".join(self._views)

    def holds(self, weights: Sequence[torch.Tensor]) -> bool:
        """Whether these are the watched weights, unchanged as far as can be seen."""
        return addresses(weights) == self.addresses and self.unchanged(weights)

    def unchanged(self, weights: Sequence[torch.Tensor]) -> bool:
        """Whether weights at the watched addresses are as they were, as far as can be seen."""
        try:
            counted = weights if self._counted is None else self._counted(weights)
            if list(map(_VERSION, counted)) != self._versions:
                return False
        except RuntimeError:  # a tensor of inference mode over the same memory: it has no counter
            return False
        return b"".join(self._views) == self._seen

    # Weights that nobody else has any more

    def settle(self, weights: Sequence[torch.Tensor], on_death: Callable[[int], None]) -> None:
        """Say that all who have come to share memory with ``kept`` are the engine's own; be told when a weight dies.

        Args:
            weights: as given before.
            on_death: called, from any thread and at any moment, when somebody's tensor object goes away, with what
                :meth:`orphaned` is to be asked with.
        """
        before = dict(zip(self._storages, self._before, strict=True))
        for weight, storage in zip(weights, self._storages, strict=True):
            if storage not in self._own:
                self._own[storage] = max(_uses(weight) - before[storage], 1)
                _OWN[storage] += self._own[storage]
        distinct = {id(weight): (weight, place) for place, weight in enumerate(weights)}
        self._objects = tuple(
            weakref.ref(weight, functools.partial(_tell, on_death, self._storages[place]))
            for weight, place in distinct.values()
        )

    def __del__(self) -> None:
        counts = self._counts  # the module's name for it may be gone when the interpreter ends
        for storage, count in self._own.items():
            counts[storage] -= count
            if not counts[storage]:
                del counts[storage]

    @property
    def bereaved(self) -> bool:
        """Whether a tensor object that was given is gone, or about to go."""
        return any(reference() is None for reference in self._objects)

    def orphaned(self, dying: int = 0) -> bool:
        """Whether nobody but engines holds the memory of some weight: then no call can bring these weights again.

        Args:
            dying: as ``on_death`` was told; 0 at any other time.
        """
        return any(
            _uses(kept) - _OWN[storage] <= (storage == dying)
            for kept, storage in zip(self.kept, self._storages, strict=True)
        )


#: How many of those that hold a storage are sessions, by the storage's address.
_OWN: Counter[int] = Counter()


def _tell(on_death: Callable[[int], None], storage: int, _: object) -> None:
    on_death(storage)


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
