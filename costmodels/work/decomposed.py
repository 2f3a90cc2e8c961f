"""Operations of an op without a rule: those of the ops it is made of, where torch knows how to take it apart."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch._decomp import decomposition_table
from torch._ops import OpOverload
from torch.fx import Node
from torch.fx.experimental.proxy_tensor import make_fx

from djinn_fx.costmodels.work.call import Call, Counted
from djinn_fx.costmodels.work.work import Work
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.lower import lower
from djinn_fx.srg.record import TensorMeta

#: How deep an op may be taken apart; torch's decompositions end after two or three steps.
_DEEPEST = 4
_depth = 0


def decomposed(call: Call, price: Callable[[SRG, Node], Work]) -> Counted:
    """Operations of the parts, at the call's sizes; tracing takes milliseconds, and equal calls share the result.

    Args:
        call: of the op.
        price: the work of one part, which may be an op without a rule again.

    Raises:
        ValueError: torch cannot take the op apart, or the sizes are expressions.
    """
    if call.sizes.hints is not None:
        raise ValueError("it has no rule but is counted by its parts, which needs numbers for sizes")
    target = call.target
    how = decomposition_of(target)
    if how is None:
        raise LookupError("no rule for this op")
    metas: list[TensorMeta] = []
    args = _frozen([call.sizes.argument(value) for value in call.node.args], metas)
    kwargs = _frozen({name: call.sizes.argument(value) for name, value in call.node.kwargs.items()}, metas)
    described = tuple((meta.shape, meta.strides, meta.dtype) for meta in metas)
    return _counted(target, described, args, kwargs, price)


def decomposition_of(target: Any) -> Callable[..., Any] | None:
    """How torch takes an op apart; None if it cannot."""
    if not isinstance(target, OpOverload):
        return None
    if target in decomposition_table:
        return decomposition_table[target]
    return target.decompose if target._can_decompose() else None


def _frozen(value: Any, metas: list[TensorMeta]) -> Any:
    """An argument as a key: tensors by position, lists as tuples, mappings as pairs."""
    if isinstance(value, TensorMeta):
        metas.append(value)
        return _Tensor(len(metas) - 1)
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(item, metas) for item in value)
    if isinstance(value, dict):
        return tuple((name, _frozen(item, metas)) for name, item in value.items())
    return value


class _Tensor:
    """A tensor's position in a key."""

    __slots__ = ("place",)

    def __init__(self, place: int) -> None:
        self.place = place

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Tensor) and other.place == self.place

    def __hash__(self) -> int:
        return hash(("tensor", self.place))


def _thawed(value: Any, tensors: tuple[torch.Tensor, ...]) -> Any:
    if isinstance(value, _Tensor):
        return tensors[value.place]
    if isinstance(value, tuple):
        return [_thawed(item, tensors) for item in value]
    return value


@functools.lru_cache(maxsize=1024)
def _counted(
    target: OpOverload, described: tuple[Any, ...], args: Any, kwargs: Any, price: Callable[[SRG, Node], Work]
) -> Counted:
    global _depth
    how = decomposition_of(target)
    assert how is not None, f"{target} was asked to be taken apart, and cannot be"

    def run(*tensors: torch.Tensor) -> Any:
        return how(*_thawed(args, tensors), **{name: _thawed(value, tensors) for name, value in kwargs})

    samples = [_sample(shape, strides, dtype) for shape, strides, dtype in described]
    if _depth >= _DEEPEST:
        raise ValueError("its parts have parts, too deep to count")
    _depth += 1
    try:
        with torch.no_grad():
            srg = lower(make_fx(run, tracing_mode="fake", _error_on_data_dependent_ops=False)(*samples))
        return _sum(srg, target, price)
    finally:
        _depth -= 1


def _sample(shape: Any, strides: Any, dtype: str) -> torch.Tensor:
    return torch.empty_strided(shape, strides or _packed(shape), dtype=getattr(torch, dtype), device="meta")


def _packed(shape: Any) -> list[int]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(1, size)
    return strides[::-1]


def _sum(srg: SRG, target: OpOverload, price: Callable[[SRG, Node], Work]) -> Counted:
    if any(node.target is target for node in srg.ops):
        raise LookupError("no rule for this op")
    works = [price(srg, node) for node in srg.ops]
    for work in works:
        if work.problem is not None:
            raise ValueError(f"in its parts, {work.op}: {work.problem}")
    return (
        sum(work.matmul_flops for work in works),
        sum(work.vector_flops for work in works),
        sum(work.special_flops for work in works),
        (),
    )
