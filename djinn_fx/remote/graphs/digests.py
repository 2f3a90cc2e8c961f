"""Digests of weights that another graph took: the graphs of one model (prefill and decode) read each weight once.

A digest is good for as long as the watch lives that was set before it was taken, and sees no write: through ``.data``,
a numpy array or another process's file no less than through torch (:mod:`djinn_fx.engines.bound.watch`).
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from djinn_fx.engines.bound.watch import Watch
from djinn_fx.threads import new_lock


class Digests:
    """Keeps no weight alive, and no watch. Any thread may use it."""

    def __init__(self) -> None:
        self._taken: weakref.WeakKeyDictionary[Watch, Mapping[Any, str]] = weakref.WeakKeyDictionary()
        self._lock = new_lock()

    def note(self, watch: Watch, weights: Sequence[torch.Tensor], digests: Sequence[str]) -> None:
        """Digests were taken of weights, after a watch was set over them that sees all writes."""
        with self._lock:
            self._taken[watch] = dict(zip(map(_which, weights), digests, strict=True))

    def of(self, weights: Sequence[torch.Tensor]) -> list[str | None]:
        """Of each weight the digest that is known and still good; None where there is none.

        Who means to keep them sets a watch of its own before.
        """
        wanted = [_which(weight) for weight in weights]
        with self._lock:
            taken = [(watch, known) for watch, known in self._taken.items() if not known.keys().isdisjoint(wanted)]
        good: dict[Any, str] = {}
        for watch, known in taken:
            if watch.unchanged(watch.watched):
                good.update(known)
        return [good.get(one) for one in wanted]


def _which(weight: torch.Tensor) -> Any:
    """Tells a weight from others in memory that is alive, and one way to see it from another."""
    seen = (weight.data_ptr(), weight.dtype, tuple(weight.shape), weight.stride(), weight.is_conj(), weight.is_neg())
    return (*seen, str(weight.device))


#: Of this process.
DIGESTS = Digests()
