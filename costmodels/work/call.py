"""What a cost rule is given and what it returns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch._ops import HigherOrderOperator, OpOverload
from torch.fx import Node

from djinn_fx.costmodels.work.sizes import Sizes, wrapped_op
from djinn_fx.srg.record import OpRecord, TensorMeta


@dataclass(frozen=True, kw_only=True, slots=True)
class Count:
    """What a rule says of one call. All default to nothing; bytes left None are counted from the tensors.

    Attributes:
        kind: one of :data:`djinn_fx.costmodels.work.work.KINDS`.
        matmul_flops: operations in contractions; a multiply-add is two.
        vector_flops: additions, multiplications, comparisons, divisions.
        special_flops: calls of exp, tanh, sqrt and the like.
        sides: the sizes its speed depends on, as :class:`djinn_fx.costmodels.work.work.Work` gives them for the kind.
        read_bytes: bytes of memory read, weights included.
        write_bytes: bytes of memory written.
        gather_bytes: part of them at addresses that only the data tell.
    """

    kind: str = "other"
    matmul_flops: int = 0
    vector_flops: int = 0
    special_flops: int = 0
    sides: tuple[int, ...] = ()
    read_bytes: int | None = None
    write_bytes: int | None = None
    gather_bytes: int = 0


class Call:
    """One call in a graph, as a cost rule sees it: sizes are numbers, tensors are :class:`TensorMeta`.

    Attributes:
        op: name without the overload, e.g. ``"mylib.attention"``.
        node: the node, for what the rest does not tell.
        record: what the graph says about it.
        sources: the nodes whose values it is given, each once.
        outputs: all tensors produced.
    """

    __slots__ = ("_inputs", "node", "op", "outputs", "record", "sizes", "sources")

    def __init__(self, sizes: Sizes, node: Node, record: OpRecord, op: str) -> None:
        self.sizes = sizes
        self.node = node
        self.record = record
        self.op = op
        self.sources = node.all_input_nodes
        self.outputs = sizes.outputs(node)
        self._inputs: list[TensorMeta] | None = None

    @property
    def target(self) -> Any:
        """What is called; of a call that only wraps another op (``auto_functionalized``), that op."""
        return wrapped_op(self.node) or self.node.target

    @property
    def inputs(self) -> list[TensorMeta]:
        """All tensors read, in order of first use; a tensor given twice occurs once."""
        if self._inputs is None:
            outputs = self.sizes.outputs
            self._inputs = [meta for source in self.sources for meta in outputs(source)]
        return self._inputs

    def argument(self, place: int, name: str = "", default: Any = None) -> Any:
        """An argument by position or name; tensors as :class:`TensorMeta`, symbolic sizes as numbers.

        Args:
            place: position in the op's schema.
            name: its name there, for a call that gives it by name.
            default: for an argument that the call does not give.
        """
        node, target = self.node, self.node.target
        if isinstance(target, HigherOrderOperator) and (inner := wrapped_op(node)) is not None:
            return self._wrapped_argument(inner, place, name, default)
        if place < len(node.args):
            return self.sizes.argument(node.args[place])
        if node.kwargs:
            name = name or _argument_name(target, place)
            if name in node.kwargs:
                return self.sizes.argument(node.kwargs[name])
        return default

    def _wrapped_argument(self, inner: OpOverload, place: int, name: str, default: Any) -> Any:
        """An argument of an op inside another call: by name, by position, or as one of ``_all_bases``."""
        node = self.node
        name = name or _argument_name(inner, place)
        if name in node.kwargs:
            return self.sizes.argument(node.kwargs[name])
        base, bases = node.kwargs.get(f"_{name}_base_index"), node.kwargs.get("_all_bases")
        if isinstance(base, int) and isinstance(bases, (list, tuple)):
            return self.sizes.argument(bases[base])
        position = place + 1 + node.args.index(inner)
        return self.sizes.argument(node.args[position]) if position < len(node.args) else default

    def tensor(self, place: int, name: str = "") -> TensorMeta:
        """The tensor that is an argument.

        Raises:
            ValueError: that argument is no tensor.
        """
        found = self.argument(place, name)
        if isinstance(found, TensorMeta):
            return found
        raise ValueError(f"argument {place} is no tensor")

    def shape(self, place: int, name: str = "") -> tuple[int, ...]:
        """The sizes of the tensor that is an argument.

        Raises:
            ValueError: that argument is no tensor.
        """
        return numbers(self.tensor(place, name).shape)

    def output_shape(self, place: int = 0) -> tuple[int, ...]:
        """The sizes of an output.

        Raises:
            IndexError: there are not so many.
        """
        return numbers(self.outputs[place].shape)


def numbers(sizes: Any) -> tuple[int, ...]:
    """Sizes that a graph's :class:`Sizes` has made numbers of, as the type checker cannot know."""
    return sizes  # type: ignore[no-any-return]


def _argument_name(target: Any, place: int) -> str:
    """What an op's schema calls the argument at a position."""
    if not isinstance(target, OpOverload):
        return ""
    schema = target._schema.arguments
    return str(schema[place].name) if place < len(schema) else ""


#: Operations (matmul, vector, special) and sides of one call. Rules of our own return this plain form: it is quick.
Counted = tuple[int, int, int, tuple[int, ...]]
CountRule = Callable[[Call], Counted]


def numel(meta: TensorMeta) -> int:
    """How many elements a tensor has."""
    return math.prod(numbers(meta.shape))
