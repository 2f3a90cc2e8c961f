"""Which storages are alive while a graph's ops run one by one, by a dispatch mode."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from djinn_fx.calibrate.live_memory import copied
from djinn_fx.srg.graph import tensors_of
from djinn_fx.srg.record import GraphKind


class _Alive(TorchDispatchMode):
    """Notes, for each op, the storages that are there while it runs."""

    supports_higher_order_operators = True  # a checkpoint's random numbers are drawn by one

    def __init__(self, given: Sequence[Any]) -> None:
        super().__init__()
        self.nbytes: dict[StorageWeakRef, int] = {}
        self.during: list[set[StorageWeakRef]] = []
        self.note(given)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        alive = {one for one in self.nbytes if not one.expired()}
        result = func(*args, **(kwargs or {}))
        self.during.append(alive | self.note(result))
        return result

    def note(self, value: Any) -> set[StorageWeakRef]:
        """Take the storages behind tensors into account from now on."""
        found = {StorageWeakRef(one.untyped_storage()): one.untyped_storage().nbytes() for one in tensors_of(value)}
        self.nbytes.update(found)
        return set(found)


def activation_peak(
    run: Callable[[list[Any]], Any], args: Sequence[Any], given_away: Sequence[int], kind: GraphKind
) -> int:
    """Most bytes of activations at once: what a call adds to weights and inputs, gradients apart.

    Args:
        run: takes its arguments in a list.
        args: what it is called with.
        given_away: places of the arguments that only the call holds: what was saved for it.
        kind: of the graph; what a backward graph returns are gradients.
    """
    given = copied(args, given_away)
    gc.collect()
    with torch.no_grad(), _Alive([given[place] for place in given_away]) as alive:
        held = {StorageWeakRef(one.untyped_storage()) for one in tensors_of(list(args))}
        result = run(given)
    results = {StorageWeakRef(one.untyped_storage()) for one in tensors_of(list(result))}
    left_out = held | results if kind is GraphKind.BACKWARD else held
    return max((sum(alive.nbytes[one] for one in during - left_out) for during in alive.during), default=0)
