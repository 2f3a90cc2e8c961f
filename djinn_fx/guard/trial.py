"""What a trial run needs so that it changes nothing: copies of what is written, and a watch on the rest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

#: Arguments up to this size are kept whole while an engine is tried, together up to the second number of bytes.
_WHOLE_BYTES, _ALL_WHOLE_BYTES = 1 << 20, 64 << 20
#: Of larger ones so many elements are looked at, evenly spread: a write elsewhere stays unseen.
_PROBED = 4096


def copied(args: Sequence[Any], mutated: Iterable[int]) -> list[Any]:
    """The arguments with the memory of those that are written copied.

    Arguments that share memory with one that is written are copied with it, and share the copy in the same way.

    Args:
        args: tensors and numbers.
        mutated: places of the tensors that are written.
    """
    touched = {_memory(args[place]) for place in mutated}
    storages: dict[Any, Any] = {}
    return [_copy(value, storages) if _memory(value) in touched else value for value in args]


def _memory(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return None
    if value.layout is not torch.strided or not value.numel():
        return id(value)
    return value.device, value.untyped_storage().data_ptr()


def _copy(value: Any, storages: dict[Any, Any]) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    if value.layout is not torch.strided or not value.numel() or value.is_conj() or value.is_neg():
        return value.detach().clone()
    storage = storages.setdefault(_memory(value), None)
    if storage is None:
        storage = storages[_memory(value)] = value.untyped_storage().clone()
    empty = torch.empty(0, dtype=value.dtype, device=value.device)
    return empty.set_(storage, value.storage_offset(), value.shape, value.stride())


class ArgumentWatch:
    """Sees whether a run writes into arguments that it must leave alone.

    Args:
        args: what the run is given.
        free: places that it may write into, and what shares memory with them.
        mends: whether what was written is put back; not where somebody else may have written it.
    """

    def __init__(self, args: Sequence[Any], free: Iterable[int], mends: bool = True) -> None:
        self._mends = mends
        may = {_memory(args[place]) for place in free}
        self._kept: list[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor | None]] = []
        spent = 0
        for place, value in enumerate(args):
            if not isinstance(value, torch.Tensor) or value.layout is not torch.strided or not value.numel():
                continue
            if _memory(value) in may or value.is_conj() or value.is_neg():
                continue
            nbytes = value.numel() * value.element_size()
            whole = nbytes <= _WHOLE_BYTES and spent + nbytes <= _ALL_WHOLE_BYTES
            spent += nbytes if whole else 0
            index = None if whole else _spread(value)
            self._kept.append((place, value, _look(value, index), index))

    def written(self) -> list[int]:
        """Places that were written, as far as can be seen; what was kept whole is put back, if it is to be."""
        found = []
        for place, value, before, index in self._kept:
            now = value.detach() if index is None and _aligned(value) else _look(value, index)
            if same_bits(now, before):
                continue
            found.append(place)
            if index is None and self._mends:
                with torch.no_grad():
                    writable(value).copy_(_narrowed(before, value))
        return found


def _look(value: torch.Tensor, index: torch.Tensor | None) -> torch.Tensor:
    """A copy of the elements, all or the chosen ones."""
    plain = value.detach()
    if index is None:
        return plain.clone(memory_format=torch.contiguous_format)
    if plain.is_contiguous():
        return plain.reshape(-1)[index]
    places, rest = [], index
    for size in reversed(plain.shape):
        places.append(rest % size)
        rest = rest // size
    return plain[tuple(reversed(places))]


def _aligned(value: torch.Tensor) -> bool:
    """Whether its elements can be compared where they are."""
    return value.is_contiguous() and value.storage_offset() * value.element_size() % 8 == 0


def _spread(value: torch.Tensor) -> torch.Tensor:
    count = value.numel()
    return torch.linspace(0, count - 1, min(_PROBED, count), dtype=torch.float64).long().to(value.device)


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors of the same type and sizes hold the same; an undefined number equals itself."""
    return torch.equal(_bits(one), _bits(other))


def _bits(values: torch.Tensor) -> torch.Tensor:
    """As whole numbers, for an undefined number equals itself: long ones where they fit, which compares much faster."""
    flat = values.reshape(-1)
    return flat.view(torch.int64 if flat.numel() * flat.element_size() % 8 == 0 else torch.uint8)


def writable(value: torch.Tensor) -> torch.Tensor:
    """An expanded tensor without its repeated elements, which cannot be written."""
    return _narrowed(value.detach(), value)


def _narrowed(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    for dim, (size, stride) in enumerate(zip(like.shape, like.stride(), strict=True)):
        if size > 1 and stride == 0:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor


def capturing() -> bool:
    """Whether a CUDA graph is being captured: nothing can be compared meanwhile."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
