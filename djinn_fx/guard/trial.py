"""What a trial run needs so that it changes nothing: copies of what is written, a watch on the rest, random numbers."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import GraphModule, Node

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


def written_places(gm: GraphModule) -> tuple[int, ...]:
    """Places of the inputs that a graph writes into, directly or through a view."""
    places = {node: place for place, node in enumerate(gm.graph.find_nodes(op="placeholder"))}
    found: set[int] = set()
    for node in gm.graph.nodes:
        if not isinstance(node.target, OpOverload):
            continue
        for place in _written_arguments(node.target):
            given = node.args[place] if place < len(node.args) else None
            found.update(places[one] for one in map(_base, _nodes(given)) if one in places)
    return tuple(sorted(found))


@functools.lru_cache(maxsize=4096)
def _written_arguments(target: OpOverload) -> tuple[int, ...]:
    arguments = enumerate(target._schema.arguments)
    return tuple(place for place, one in arguments if one.alias_info is not None and one.alias_info.is_write)


def _nodes(value: Any) -> list[Node]:
    if isinstance(value, (list, tuple)):
        return [one for one in value if isinstance(one, Node)]
    return [value] if isinstance(value, Node) else []


def _base(node: Node) -> Node:
    """What a view is a view of."""
    while isinstance(node.target, OpOverload) and node.target.is_view and isinstance(node.args[0], Node):
        node = node.args[0]
    return node


class Watch:
    """Sees whether a run writes into arguments that it must leave alone.

    Args:
        args: what the run is given.
        free: places that it may write into, and what shares memory with them.
    """

    def __init__(self, args: Sequence[Any], free: Iterable[int]) -> None:
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
        """Places that were written, as far as can be seen; what was kept whole is put back."""
        found = []
        for place, value, before, index in self._kept:
            now = _look(value, index)
            if torch.equal(_bits(now), _bits(before)):
                continue
            found.append(place)
            if index is None:
                with torch.no_grad():
                    writable(value).copy_(_narrowed(before, value))
        return found


def _look(value: torch.Tensor, index: torch.Tensor | None) -> torch.Tensor:
    """A copy of the elements, all or the chosen ones."""
    plain = value.detach()
    if index is None:
        return plain.clone(memory_format=torch.contiguous_format)
    places, rest = [], index
    for size in reversed(plain.shape):
        places.append(rest % size)
        rest = rest // size
    return plain[tuple(reversed(places))]


def _spread(value: torch.Tensor) -> torch.Tensor:
    count = value.numel()
    return torch.linspace(0, count - 1, min(_PROBED, count), dtype=torch.float64).long().to(value.device)


def _bits(values: torch.Tensor) -> torch.Tensor:
    """As bytes: an undefined number equals itself."""
    return values.reshape(-1).view(torch.uint8)


def writable(value: torch.Tensor) -> torch.Tensor:
    """An expanded tensor without its repeated elements, which cannot be written."""
    return _narrowed(value.detach(), value)


def _narrowed(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    for dim, (size, stride) in enumerate(zip(like.shape, like.stride(), strict=True)):
        if size > 1 and stride == 0:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor


class Randomness:
    """The state of the random number generators a region may draw from, so that two runs draw the same.

    Args:
        args: the region's arguments; their devices' generators are meant.
    """

    def __init__(self, args: Sequence[Any]) -> None:
        cuda = {value.device for value in args if isinstance(value, torch.Tensor) and value.device.type == "cuda"}
        self._devices = sorted(cuda, key=str)
        self._states = self.now()

    def now(self) -> list[torch.Tensor]:
        """The present states."""
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in self._devices)]

    def rewind(self) -> None:
        """Go back to where it was when this was made."""
        self.set(self._states)

    def set(self, states: Sequence[torch.Tensor]) -> None:
        """Go to these states."""
        torch.set_rng_state(states[0])
        for device, state in zip(self._devices, states[1:], strict=True):
            torch.cuda.set_rng_state(state, device)


def capturing() -> bool:
    """Whether a CUDA graph is being captured: nothing can be compared meanwhile."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
