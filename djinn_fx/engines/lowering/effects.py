"""What a region does to its inputs' memory, and which of its outputs show that memory."""

from __future__ import annotations

from collections import Counter

import torch
from torch.fx import Graph, Node

from djinn_fx.engines.lowering.refused import Refused
from djinn_fx.srg.effects import written_nodes
from djinn_fx.srg.graph import fake_value, tensors_of


class Effects:
    """Writes into inputs, in graph order.

    A write gives its input a new value; the network returns it and the caller copies it back. That is the same as
    writing at once only if nothing reads the old memory through a view taken before: such a region is refused.

    Attributes:
        writers: nodes that write.
        culprit: the node :meth:`check` would complain about.
    """

    def __init__(self, graph: Graph, placeholders: dict[Node, int]) -> None:
        self._order = {node: place for place, node in enumerate(graph.nodes)}
        #: The placeholder that has a storage, and the one whose memory a node shows.
        self._owner: dict[int, Node] = {}
        self._owners: dict[Node, Node | None] = {}
        self._placeholders = placeholders
        self._problem = ""
        self.culprit: Node | None = None
        self.writers: list[Node] = []
        self._target: dict[Node, Node] = {}
        for node in placeholders:
            for tensor in tensors_of(fake_value(node)):
                self._owner.setdefault(_storage(tensor), node)
        keys = Counter(key for node in placeholders for key in {_storage(one) for one in tensors_of(fake_value(node))})
        self._twice = {key for key, count in keys.items() if count > 1}
        for node in graph.nodes:
            if node.op == "call_function":
                self._look(node)

    def _look(self, node: Node) -> None:
        for written in written_nodes(node):
            self.writers.append(node)
            keys = [_storage(tensor) for tensor in tensors_of(fake_value(written))]
            whole = self._whole(written)
            if whole is None or not keys:
                self._complain(node, "it writes into a part of an input, or into a value of the region's own")
            elif keys[0] in self._twice:
                self._complain(node, "it writes into memory that two inputs share")
            else:
                self._target[node] = whole

    def _complain(self, node: Node, problem: str) -> None:
        if self.culprit is None:
            self.culprit, self._problem = node, problem

    def _whole(self, node: Node) -> Node | None:
        """The placeholder that a node is the same tensor as: itself, or what a write gave back."""
        if node in self._placeholders:
            return node
        return self._target.get(node)

    def check(self) -> None:
        """All writes can be copied back afterwards.

        Raises:
            Refused: one cannot; ``culprit`` is it.
        """
        if self.culprit is not None:
            raise Refused(self._problem)

    @property
    def written(self) -> tuple[Node, ...]:
        """Placeholders that are written, in the order of the last writes."""
        last = {self._target[node]: self._order[node] for node in self.writers}
        return tuple(sorted(last, key=lambda node: last[node]))

    def written_by(self, node: Node) -> Node | None:
        """The placeholder a node writes."""
        return self._target.get(node)

    def same_as(self, target: Node) -> list[Node]:
        """The nodes that are this placeholder's memory as a whole: all have its newest value."""
        return [target, *(node for node in self.writers if self._target.get(node) is target)]

    def check_read(self, source: Node, reader: Node) -> None:
        """A value may be read here: no write came between that the value would show.

        Raises:
            Refused: one did.
        """
        if self._whole(source) is not None:
            return  # its newest value is known by the placeholder
        owner = self._owner_of(source)
        for writer in self.writers:
            if self._target.get(writer) is owner and self._order[source] < self._order[writer] < self._order[reader]:
                raise Refused(f"it reads {source.name}, a view of an input, after {writer.name} wrote into the input")

    def _owner_of(self, node: Node) -> Node | None:
        if node not in self._owners:
            tensors = tensors_of(fake_value(node))
            self._owners[node] = self._owner.get(_storage(tensors[0])) if tensors else None
        return self._owners[node]

    def shown(self, node: Node) -> Node | None:
        """The input whose memory a value is: it is given back as that memory, not computed."""
        return self._owner_of(node)

    def is_whole(self, node: Node) -> bool:
        """Whether a value is the input itself."""
        return self._whole(node) is not None


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
