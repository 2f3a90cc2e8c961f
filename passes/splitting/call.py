"""One op of a graph and where its arguments have their samples: what a rule is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch.fx import Node

from djinn_fx.srg.graph import attribute, fake_value, tensors_of


class Refused(Exception):
    """An op does not treat samples one by one, or is not known to. The text says why."""


@dataclass(frozen=True)
class Samples:
    """Where a value has its samples: along ``dim``, the first sample first, ``each`` places for a sample."""

    dim: int
    each: int = 1


@dataclass(frozen=True)
class Same:
    """What is known of a value that no sample takes part in.

    Attributes:
        alike: dimensions along which all its numbers are equal, besides those of size 1.
        counts: the dimension along which it is 0, 1, 2 and so on, and alike along all others; None: it does not count.
    """

    alike: frozenset[int] = frozenset()
    counts: int | None = None


#: Of a tensor: where its samples are, or what is known where it has none.
Fact = Samples | Same


@dataclass
class Edits:
    """What of a call has to be otherwise for fewer samples.

    Attributes:
        sizes: numbers that are sizes: the argument's name, the place in its list or None, and the places of a sample.
        cuts: arguments without samples of which the first places serve: the node, the dimension, places of a sample.
    """

    sizes: list[tuple[str, int | None, int]] = field(default_factory=list)
    cuts: list[tuple[Node, int, int]] = field(default_factory=list)


class OpCall:
    """See the module's text.

    Args:
        node: calls an operator.
        facts: of the nodes before it, by tensor.
        count: of samples.
    """

    def __init__(self, node: Node, facts: Mapping[Node, Sequence[Fact]], count: int) -> None:
        self.node, self.count = node, count
        self.edits = Edits()
        self._facts = facts
        self._given = bound(node)
        self.outputs = tensors_of(value_of(node))

    def refuse(self, why: str) -> NoReturn:
        """Give up.

        Raises:
            Refused: always.
        """
        raise Refused(why)

    def __getitem__(self, name: str) -> Any:
        """An argument by its name in the schema."""
        return self._given.get(name)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first result."""
        return tuple(self.outputs[0].shape)

    @property
    def sources(self) -> list[Node]:
        """The arguments that are tensors, each once."""
        return [one for one in self.node.all_input_nodes if isinstance(value_of(one), torch.Tensor)]

    def fact(self, node: Any) -> Fact:
        """Of a tensor; of an argument that is left out, nothing is known."""
        return self._facts[node][0] if isinstance(node, Node) else Same()

    def at(self, node: Any) -> Samples | None:
        """Where an argument has its samples."""
        fact = self.fact(node)
        return fact if isinstance(fact, Samples) else None

    def only(self, name: str) -> tuple[Node, Samples]:
        """An argument that must be the only one with samples.

        Raises:
            Refused: it is not.
        """
        if any(self.at(one) for one in self.sources if one is not self[name]):
            self.refuse(f"an argument other than {name!r} has samples")
        found = self.at(self[name])
        assert found is not None, "an op none of whose arguments has samples is not asked about"
        return self[name], found

    def joined(self, sources: Sequence[Node], rank: int) -> Samples:
        """Where samples are once values are broadcast against each other, as the last ``rank`` dimensions align.

        Raises:
            Refused: they lie along different dimensions, or one without samples differs from sample to sample.
        """
        found = {Samples(at.dim + rank - rank_of(one), at.each) for one in sources if (at := self.at(one)) is not None}
        if len(found) != 1:
            self.refuse("samples that lie along different dimensions meet")
        (one,) = found
        for source in sources:
            self.meets(source, Samples(one.dim - rank + rank_of(source), one.each))
        return one

    def meets(self, source: Node, wanted: Samples) -> None:
        """An argument is used sample by sample: it has its samples there, or is the same for all.

        Raises:
            Refused: neither.
        """
        if self.at(source) is not None:
            if self.at(source) != wanted:
                self.refuse("samples that lie along different dimensions meet")
            return
        shape = tuple(value_of(source).shape)
        if wanted.dim < 0 or shape[wanted.dim] == 1:
            return
        fact = self.fact(source)
        if shape[wanted.dim] != self.count * wanted.each or wanted.dim not in getattr(fact, "alike", ()):
            self.refuse(f"{source.name} is no input with samples, and differs from one to the next")
        self.edits.cuts.append((source, wanted.dim, wanted.each))

    def dims(self, name: str, rank: int) -> tuple[int, ...]:
        """Dimensions that an argument names, counted from the front; () where it names none."""
        given = self[name]
        listed = given if isinstance(given, (list, tuple)) else [] if given is None else [given]
        return tuple(int(one) % max(1, rank) for one in listed)


def value_of(node: Node) -> Any:
    """A node's compile-time value; of a constant that has none, the constant."""
    value = fake_value(node)
    return attribute(node.graph.owning_module, node.target) if value is None and node.op == "get_attr" else value


def rank_of(node: Node) -> int:
    """How many dimensions a tensor has."""
    return int(value_of(node).dim())


def shape_of(node: Node) -> tuple[int, ...]:
    """Of a tensor."""
    return tuple(value_of(node).shape)


def bound(node: Node) -> dict[str, Any]:
    """What a call of an operator is given, by the names in its schema, defaults included."""
    declared = node.target._schema.arguments  # type: ignore[union-attr]
    return {
        one.name: node.args[place] if place < len(node.args) else node.kwargs.get(one.name, one.default_value)
        for place, one in enumerate(declared)
    }
