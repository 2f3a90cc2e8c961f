"""A parameter whose numbers are in a file: every operator that needs them is lent them while it runs.

It is torch's own way to have tensors without storage (a wrapper subclass with ``__torch_dispatch__``), below autograd,
so that what is kept for a backward is the handle and never memory that another weight will have. Views of it are
handles too. The operator's own schema says what it would write.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import torch

from djinn_fx.errors import OffloadError
from djinn_fx.runtime.offload.weights import Weights

_HOW = "it is read from a file for each use. Copy it first: weight.clone()"


class OffloadedWeight(torch.Tensor):
    """A parameter, or a view of one, that is read from a file when it is used.

    Args:
        weights: who lends it.
        key: which one it is.
        twin: a tensor on the meta device with its sizes, strides and offset.
    """

    _weights: Weights
    _key: int
    _twin: torch.Tensor

    @staticmethod
    def __new__(cls, weights: Weights, key: int, twin: torch.Tensor) -> OffloadedWeight:
        made: OffloadedWeight = torch.Tensor._make_wrapper_subclass(
            cls,
            twin.size(),
            strides=twin.stride(),
            storage_offset=twin.storage_offset(),
            dtype=twin.dtype,
            device=weights.place.device,
        )
        made._weights, made._key, made._twin = weights, key, twin
        return made

    def __init__(self, weights: Weights, key: int, twin: torch.Tensor) -> None:
        super().__init__()

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _run(func, args, kwargs or {})

    # -- what torch does without asking the dispatcher -----------------------------------------------------------------

    def _set_data(self, value: torch.Tensor) -> None:
        _refuse("assigning .data would replace", self, "weights of an offloaded model cannot change")

    data = property(lambda self: self.detach(), _set_data)

    def _set_requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    requires_grad = property(lambda self: False, _set_requires_grad)

    def requires_grad_(self, requires_grad: bool = True) -> OffloadedWeight:
        """Only False: an offloaded model does not train."""
        if requires_grad:
            _refuse(
                "a gradient was asked for of", self, "an offloaded model does not train; load it in memory for that"
            )
        return self

    def numpy(self, *, force: bool = False) -> NoReturn:
        """Refused: the array would outlive the memory."""
        _refuse("numpy() was called on", self, _HOW)

    def __array__(self, dtype: Any = None) -> NoReturn:
        _refuse("numpy asked for", self, _HOW)

    def data_ptr(self) -> NoReturn:
        """Refused: there is no fixed address."""
        _refuse("data_ptr() was called on", self, _HOW)

    def untyped_storage(self) -> NoReturn:
        """Refused: there is no storage."""
        _refuse("the storage was asked for of", self, _HOW)

    def __dlpack__(self, *args: Any, **kwargs: Any) -> NoReturn:
        _refuse("another library asked for", self, _HOW)

    def tolist(self) -> Any:
        """The numbers as Python's."""
        return self.clone().tolist()

    def __deepcopy__(self, memo: Any) -> NoReturn:
        _refuse("a copy was asked for of", self, "call load_offloaded again for a second model")

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        _refuse("pickling was asked for of", self, "its numbers are in the file already; weight.clone() can be pickled")

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        one = self._weights.stored[self._key]
        file = self._weights.shards.files[one.file].name
        return f"OffloadedWeight({one.name!r} in {file}, {tuple(self.shape)}, {self.dtype})"


def _refuse(what: str, weight: OffloadedWeight, remedy: str) -> NoReturn:
    raise OffloadError(f"{what} the offloaded weight {weight._weights.stored[weight._key].name!r}: {remedy}")


@functools.partial(torch.compiler.disable, reason="what happens here must not be traced: memory is only lent")
def _run(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """An operator that was given a handle."""
    written = _written(func, args, kwargs)
    if written is not None:
        _refuse(f"{func} would write into", written, "weights of an offloaded model cannot change")
    if _is_composite(func):  # in inference mode these come whole; what they consist of says more
        made = func.decompose(*args, **kwargs)
        if made is not NotImplemented:
            return made
    if _makes_views(func):
        return _views(func, args, kwargs)
    if func is torch.ops.aten.embedding.default:
        looked_up = _rows(*args, **kwargs)
        if looked_up is not None:
            return looked_up
    with contextlib.ExitStack() as leases:
        given: dict[int, torch.Tensor] = {}

        def lent(one: OffloadedWeight) -> torch.Tensor:
            if one._key not in given:
                given[one._key] = leases.enter_context(one._weights.lease(one._key))
            return _placed(one, given[one._key])

        made = func(*_swapped(args, lent), **_swapped(kwargs, lent))
        return _owned(made, list(given.values()))


def _written(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> OffloadedWeight | None:
    """A handle where the operator writes."""
    for place, name in _writes(func):
        value = args[place] if place < len(args) else kwargs.get(name)
        for one in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(one, OffloadedWeight):
                return one
    return None


@functools.lru_cache(maxsize=1024)
def _writes(func: Any) -> tuple[tuple[int, str], ...]:
    arguments = func._schema.arguments
    return tuple((n, a.name) for n, a in enumerate(arguments) if a.alias_info is not None and a.alias_info.is_write)


@functools.lru_cache(maxsize=1024)
def _is_composite(func: Any) -> bool:
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"))


@functools.lru_cache(maxsize=1024)
def _makes_views(func: Any) -> bool:
    """Whether results share an argument's memory and nothing is computed."""
    return any(one.alias_info is not None and not one.alias_info.is_write for one in func._schema.returns)


def _views(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Views are made of the meta twins: nothing is read for them."""
    handles: list[OffloadedWeight] = []

    def twin(one: OffloadedWeight) -> torch.Tensor:
        handles.append(one)
        return one._twin

    made = func(*_swapped(args, twin), **_swapped(kwargs, twin))
    base = handles[0]
    storage = base._twin.untyped_storage()._cdata

    def handle(view: torch.Tensor) -> torch.Tensor:
        if view.untyped_storage()._cdata != storage:
            raise AssertionError(f"{func} says that it makes a view, and made something else")
        return OffloadedWeight(base._weights, base._key, view)

    return _mapped(made, torch.Tensor, handle)


def _placed(one: OffloadedWeight, whole: torch.Tensor) -> torch.Tensor:
    """A handle's part of the weight that was lent."""
    twin = one._twin
    if twin.dtype != whole.dtype:
        whole = whole.view(-1).view(twin.dtype)
    return torch.as_strided(whole, twin.size(), twin.stride(), whole.storage_offset() + twin.storage_offset())


def _owned(made: Any, lent: Sequence[torch.Tensor]) -> Any:
    """Results, none of them in memory that was only lent."""
    storages = {one.untyped_storage()._cdata for one in lent}

    def own(one: torch.Tensor) -> torch.Tensor:
        return one.clone() if one.untyped_storage()._cdata in storages else one

    return _mapped(made, torch.Tensor, own)


def _rows(
    weight: Any, indices: Any, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> torch.Tensor | None:
    """An embedding from the rows that it needs, unless the weight is in memory; None where it is to be lent whole."""
    if not isinstance(weight, OffloadedWeight) or isinstance(indices, OffloadedWeight):
        return None
    one = weight._weights.stored[weight._key]
    if weight._weights.stays(weight._key) or weight._twin.shape != one.shape or not weight._twin.is_contiguous():
        return None
    wanted, where = torch.unique(indices, return_inverse=True)
    numbers = wanted.tolist()
    if numbers and not (numbers[0] >= 0 and numbers[-1] < one.shape[0]):
        raise IndexError("index out of range in self")  # torch's own words
    if 2 * len(numbers) > one.shape[0] or weight._twin.dtype.itemsize * weight._twin.numel() != one.size:
        return None
    return torch.nn.functional.embedding(where.view(indices.shape), weight._weights.rows(weight._key, numbers))


def _swapped(value: Any, give: Callable[[OffloadedWeight], torch.Tensor]) -> Any:
    return _mapped(value, OffloadedWeight, give)


def _mapped(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """A value with everything of a kind in it changed, in lists, tuples and dictionaries too."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, (list, tuple)):
        parts = [_mapped(one, kind, change) for one in value]
        return type(value)(parts) if type(value) in (list, tuple) else tuple(parts)
    if isinstance(value, dict):
        return {name: _mapped(one, kind, change) for name, one in value.items()}
    return value
