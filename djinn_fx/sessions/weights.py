"""Noticing that a model's weights are others than those that its sessions' caches were computed with."""

from __future__ import annotations

from typing import Any

import torch

from djinn_fx.engines.bound.watch import Watch
from djinn_fx.reasons import Reason, ReasonKind


class Weights:
    """A model's parameters and buffers as they were.

    Args:
        module: the model.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module
        self._look()

    def _look(self) -> None:
        self._tensors = _tensors_of(self._module)
        self._marks = list(map(_mark, self._tensors))
        dense = [one.detach() for one in self._tensors if one.device.type == "cpu" and one.layout is torch.strided]
        self._dense = dense
        self._watch = Watch(dense) if dense else None

    def changed(self, *, closely: bool = False) -> Reason | None:
        """Why the caches are worth nothing any more; None if the weights are the same.

        Args:
            closely: look for tensors that took others' places, too.
        """
        if closely:
            now = _tensors_of(self._module)
            same = len(now) == len(self._tensors) and all(map(_is, now, self._tensors))
        else:
            same = True
        same = same and list(map(_mark, self._tensors)) == self._marks
        if same and (self._watch is None or self._watch.unchanged(self._dense)):
            return None
        self._look()
        detail = "the model's weights were changed: all that its sessions had cached is computed again"
        return Reason(kind=ReasonKind.CACHE_UNUSABLE, detail=detail)


def _tensors_of(module: torch.nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _mark(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), -1 if tensor.is_inference() else tensor._version


def _is(one: object, other: object) -> bool:
    return one is other
