"""Ops whose rule for fake tensors promises other strides than torch's CPU kernels give, mended where they are traced.

What is traced wrongly is compiled wrongly: the user would see other strides than eager's, and a region would be built
for strides that do not come. Found by comparing both for torch's database of ops in several layouts (``tests/exam``).
Each op here is followed, only where its strides are wrong, by a copy into those of the kernel; an engine makes one
kernel of both. With symbolic sizes nothing is mended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch

aten = torch.ops.aten

#: Gives the strides that the kernel gives its first result, from its arguments and that result.
Rule = Callable[[Sequence[Any], torch.Tensor], tuple[int, ...]]


def decompositions() -> dict[Any, Callable[..., Any]]:
    """For AOTAutograd: these ops, each with the strides that its kernel gives."""
    return {aten.cat.default: _joined, **{op: _mended(op, rule) for op, rule in _RULES.items()}}


def _joined(tensors: Sequence[torch.Tensor], dim: int = 0) -> Any:
    """A tensor joined with nothing, as a cache's first call does: a contiguous copy.

    Inductor, too, makes a copy of it, but keeps the tensor's own strides; a view later on then cannot be made.
    """
    some = [one for one in tensors if one.dim() != 1 or type(one.shape[0]) is not int or one.shape[0]]
    if len(some) != 1 or len(tensors) == 1 or some[0].dim() == 1 or any(one.dtype != some[0].dtype for one in tensors):
        return NotImplemented
    return some[0].clone(memory_format=torch.contiguous_format)


def _mended(op: Any, rule: Rule) -> Callable[..., Any]:
    busy = threading.local()

    def decomposition(*args: Any, **kwargs: Any) -> Any:
        if getattr(busy, "now", False):
            return NotImplemented  # the op itself, called below
        busy.now = True
        try:
            made = op(*args, **kwargs)
        finally:
            busy.now = False
        several = isinstance(made, (tuple, list))
        first, *others = made if several else (made,)
        if not all(map(_plain, (first, args[0]))):
            return made
        strides = rule(args, first)
        if all(a == b or n == 1 for a, b, n in zip(first.stride(), strides, first.shape, strict=True)):
            return made
        first = _relaid(first, strides)
        return (first, *others) if several else first

    return decomposition


def _plain(value: Any) -> bool:
    """Whether it is a number, or a tensor on a CPU whose sizes are all numbers."""
    if not isinstance(value, torch.Tensor):
        return True
    if value.layout is not torch.strided or value.device.type != "cpu" or not _numbers(value):
        return False
    return value.numel() > 0


def _numbers(value: torch.Tensor) -> bool:
    sizes: tuple[Any, ...] = (*value.shape, *value.stride())
    return all(type(size) is int for size in sizes)


def _relaid(value: torch.Tensor, strides: Sequence[int]) -> torch.Tensor:
    """A copy with these strides, which leave no gaps."""
    order = sorted(range(value.dim()), key=lambda dim: -strides[dim])
    back = [order.index(dim) for dim in range(value.dim())]
    return value.permute(order).clone(memory_format=torch.contiguous_format).permute(back)


# Rules


def _contiguous(args: Sequence[Any], result: torch.Tensor) -> tuple[int, ...]:
    return _in_order(result.shape, range(result.dim()))


def _as_input(args: Sequence[Any], result: torch.Tensor) -> tuple[int, ...]:
    """Contiguous in the memory format that the first argument suggests."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(args[0].dim())
    if last is None or result.dim() != args[0].dim() or not _channels_last(args[0]):
        return _contiguous(args, result)
    return _in_order(result.shape, (0, *range(2, result.dim()), 1))


def _channels_last(value: torch.Tensor) -> bool:
    """As ``suggest_memory_format`` in C++: the strides fall in the order of batch, space, channels."""
    least = 0
    if value.stride(1) == 0:
        return False
    for dim in (1, *range(value.dim() - 1, 1, -1), 0):
        size, stride = value.shape[dim], value.stride(dim)
        if size == 0 or stride < least or (dim == 0 and least == value.stride(1)):
            return False
        least = stride * max(size, 1)
    return True


def _rolled(args: Sequence[Any], result: torch.Tensor) -> tuple[int, ...]:
    """Joined from two parts; where one of them is empty, its memory format is not the other's."""
    shifts = args[1] if isinstance(args[1], (list, tuple)) else [args[1]]
    dims = args[2] if len(args) > 2 else []
    sizes = [args[0].shape[dim] for dim in dims]
    if len(sizes) != len(shifts) or not sizes:
        return tuple(result.stride())  # all elements as one row
    whole = any(shift % size == 0 for shift, size in zip(shifts, sizes, strict=True))
    return _contiguous(args, result) if whole else _as_input(args, result)


def _in_order(shape: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    """Strides without gaps, the dimension named last varying fastest."""
    strides, step = [0] * len(shape), 1
    for dim in reversed(order):
        strides[dim] = step
        step *= max(1, shape[dim])
    return tuple(strides)


_RULES: dict[Any, Rule] = {
    aten.native_batch_norm.default: _as_input,
    aten._native_batch_norm_legit.default: _as_input,
    aten._native_batch_norm_legit.no_stats: _as_input,
    aten._native_batch_norm_legit_no_training.default: _as_input,
    aten._native_batch_norm_legit_functional.default: _as_input,
    aten.channel_shuffle.default: _as_input,
    aten.native_channel_shuffle.default: _as_input,
    aten.max_unpool2d.default: _as_input,
    aten.reflection_pad3d.default: _as_input,
    aten.replication_pad3d.default: _as_input,
    aten.roll.default: _rolled,
    aten.log_sigmoid_forward.default: _contiguous,
}
