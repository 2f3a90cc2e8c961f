"""What a node returned, as it travels and as it is compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from djinn_fx.deploy.running.values import put_together, same
from djinn_fx.remote.wire.frame import Frame


@dataclass(frozen=True)
class Answer:
    """Of one node.

    Attributes:
        tree: as :func:`djinn_fx.deploy.running.values.taken_apart` makes it.
        tensors: at the places that it names.
    """

    tree: Any
    tensors: Sequence[torch.Tensor]

    @property
    def value(self) -> Any:
        """What the node returned."""
        return put_together(self.tree, self.tensors)

    def like(self, other: Answer) -> bool:
        """Whether both are the same, within what a compiler may change."""
        return same(self.value, other.value)

    def after(self, count: int) -> Any:
        """The tree, with its tensors behind so many others."""
        return _moved(self.tree, count)


def answer_of(frame: Frame) -> Answer:
    """What a process says of a node that is done."""
    return Answer(frame.fields["tree"], list(frame.tensors.values()))


def _moved(tree: Any, by: int) -> Any:
    (kind, content), *_ = tree.items()
    if kind == "tensor":
        return {kind: content + by}
    if kind == "dict":
        return {kind: [[key, _moved(one, by)] for key, one in content]}
    return tree if kind == "value" else {kind: [_moved(one, by) for one in content]}


__all__ = ["Answer", "answer_of"]
