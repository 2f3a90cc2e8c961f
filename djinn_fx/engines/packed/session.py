"""A rewritten region opened with a set of weights: packed where that was measured to pay, the rest read as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from djinn_fx.costmodels.memory.plan import memory_plan
from djinn_fx.engines.packed import ops as packed_ops
from djinn_fx.engines.packed.alias import Roots, foldable, is_fresh
from djinn_fx.engines.packed.code import Choice, Products, Writer
from djinn_fx.engines.packed.conv import conv_shape
from djinn_fx.engines.packed.graph import convolutions, product_fields, products
from djinn_fx.engines.packed.shared import Packs
from djinn_fx.engines.packed.speed import ProductSpeed, Shape
from djinn_fx.srg.graph import attribute, fake_value, tensors_of
from djinn_fx.srg.lower import lower
from djinn_fx.srg.memory import Holds, MemoryPlan, MemoryRow
from djinn_fx.srg.record import GraphKind, Residency
from djinn_fx.threads import let_others_go_first

#: Copies of which no more than this share are a graph's own are those that others share.
ALONE = 0.1


class PackedPlan:
    """What is known of a region before it sees weights.

    Args:
        gm: see :func:`packed_graph.rewritten`.
        weights: places of the inputs that keep their values from call to call.
        speed: tells the fastest way for a shape.

    Attributes:
        gm: as given.
        watched: places of the weights of which copies are kept: those that are packed, or folded into a constant.
    """

    def __init__(self, gm: GraphModule, weights: Sequence[int], speed: ProductSpeed) -> None:
        self.graph: Graph = gm.graph
        self.gm = gm
        self._speed = speed
        placeholders = self.graph.find_nodes(op="placeholder")
        self._places = {node: place for place, node in enumerate(placeholders)}
        self._weights = frozenset(placeholders[place] for place in weights)
        self._foldable = foldable(self.graph, self._weights)
        self.watched = tuple(sorted({self._places[one] for node in self.copied for one in self._made_of(node)}))

    @property
    def copied(self) -> tuple[Node, ...]:
        """The values of which copies are kept: right sides of products that are packed, constants made once."""
        right: list[Any] = [node.args[1] for node, how in self._ways().items() if how != "aten"]
        return tuple(dict.fromkeys((*right, *self._folded())))

    @property
    def shares_copies(self) -> bool:
        """Whether other graphs over these weights can hold the copies too: but for little, they are oneDNN's."""
        sizes = {node: sum(one.nbytes for one in tensors_of(fake_value(node))) for node in self.copied}
        products = {node: how for node, how in self._ways().items() if node.target is not packed_ops.convolution}
        shared: set[Any] = {node.args[1] for node, how in products.items() if how == "onednn"}
        alone = sum(size for node, size in sizes.items() if node not in shared)
        return alone <= ALONE * sum(sizes.values())

    def memory(self, residency: Mapping[str, Residency], threads: int = 0) -> MemoryPlan:
        """Who lives when in a call once the weights are bound, copies of weights included.

        Args:
            residency: what each input is, by its name.
            threads: of torch's kernels; 0: as many as torch uses here.
        """
        srg = lower(self.gm, GraphKind.INFERENCE, residency)
        for node in srg.ops:
            if node.meta.get("over"):  # it writes over its first argument
                srg.update(node, is_view=True)
        made = memory_plan(srg, threads=threads)
        once, end = {node.name for node in self._foldable}, max(1, len(made.steps))
        rows = [row for row in made.rows if row.name not in once]
        for node in self.copied:
            nbytes = srg.record(node).nbytes
            rows.append(
                MemoryRow(name=node.name, holds=Holds.COPY, nbytes=nbytes, start=0, end=end, device="cpu", given=True)
            )
        return replace(made, rows=tuple(rows))

    # -- what is kept -----------------------------------------------------------------------------------------------

    def _made_of(self, node: Node) -> set[Node]:
        """The weights that a constant is made of."""
        if node in self._weights:
            return {node}
        return set().union(*(self._made_of(source) for source in node.all_input_nodes))

    def _folded(self) -> list[Node]:
        """The constants to be made once: new memory, read by something that is done in every call."""
        roots = Roots(self.graph)
        found = []
        for node in self.graph.nodes:
            if node not in self._foldable or all(user in self._foldable for user in node.users):
                continue
            if all(root in self._foldable and is_fresh(root) for root in roots.of(node)):
                found.append(node)
        return found

    def _ways(self) -> dict[Node, str]:
        """How each product and convolution is to be done."""
        ways = {node: self._speed.best(shape_of(node)) if rows_of(node) else "aten" for node in products(self.graph)}
        for node in convolutions(self.graph):
            shape = conv_shape(node)
            ways[node] = self._speed.best(shape) if 0 not in shape.x else "aten"
        return ways

    # -- opening ------------------------------------------------------------------------------------------------------

    def open(self, given: Mapping[int, torch.Tensor]) -> PackedSession:
        """The region with these weights, by place: all that are watched, or none.

        Without any the region reads its weights on every call.
        """
        let_others_go_first()  # who opens it in a thread has its own threads of the products' library
        with packed_ops.real_values():
            return self._open({self._node(place): value.detach() for place, value in given.items()})

    def _node(self, place: int) -> Node:
        found: Node = self.graph.find_nodes(op="placeholder")[place]
        return found

    def _open(self, given: Mapping[Node, torch.Tensor]) -> PackedSession:
        values: dict[Node, Any] = dict(given)
        bound = all(self._node(place) in given for place in self.watched)
        choices: dict[Node, Choice] = {}
        packs, ways = Packs(), self._ways()
        if "mkl" in ways.values():
            packed_ops.make_room_for_mkl()
        for node, how in ways.items():
            right: Any = node.args[1]
            may = bound and all(self._places[one] in self.watched for one in self._made_of(right))
            choices[node] = self._choice(node, how if may else "aten", values, packs)
        folded = [node for node in self._folded() if self._is_read(node, choices)] if bound else []
        known = {node: self._value(node, values) for node in folded}
        held = list(given.values())
        copies = [value for one in known.values() for value in tensors_of(one)]
        copies += [choice.weight for choice in choices.values() if choice.weight is not None]
        memory = sum(_new_bytes(value, held) for value in copies)
        memory += sum(choice.bytes for choice in choices.values())
        writer = Writer(self.graph, {**known, **self._attributes()})
        writer.special = Products(writer, choices)
        return PackedSession(writer.function(), memory, packs)

    def _is_read(self, node: Node, choices: Mapping[Node, Choice]) -> bool:
        """Whether a constant is read by anything but what reads a packed copy of it."""

        def by_copy(user: Node) -> bool:
            choice = choices.get(user)
            others = [one for place, one in enumerate(user.args) if place != 1]
            return choice is not None and choice.stands_alone and user.args[1] is node and node not in others

        return any(user not in self._foldable and not by_copy(user) for user in node.users)

    def _attributes(self) -> dict[Node, Any]:
        return {node: attribute(self.gm, node.target) for node in self.graph.find_nodes(op="get_attr")}

    def _value(self, node: Node, values: dict[Node, Any]) -> Any:
        """A constant's value; what it is made of is kept in ``values``."""
        if node in values:
            return values[node]
        if node.op == "get_attr":
            values[node] = attribute(self.gm, node.target)
            return values[node]
        args, kwargs = torch.fx.node.map_arg((node.args, dict(node.kwargs)), lambda one: self._value(one, values))
        values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        return values[node]

    def _choice(self, node: Node, how: str, values: dict[Node, Any], packs: Packs) -> Choice:
        if how == "aten":
            return Choice(how="aten")
        right: Any = node.args[1]
        fresh = right not in values
        weight = self._value(right, values)
        # What MKL is given and does not write to holds no memory (make_room_for_mkl): the weight's size is the measure.
        size = weight.numel() * weight.element_size()
        if fresh and right.op == "call_function":
            del values[right]  # it is big, and seldom wanted twice
        if node.target is packed_ops.convolution:
            shape = conv_shape(node)
            steps = (list(shape.stride), list(shape.padding), list(shape.dilation), shape.groups)
            return Choice(how=how, packed=packed_ops.pack_convolution(weight, *steps, list(shape.x)), bytes=size)
        rows, plain = rows_of(node), weight.t()
        if how == "onednn":
            return Choice(how=how, rows=rows, exact=is_exact(node), packed=packs.pack(plain, rows))
        return Choice(how=how, rows=rows, weight=plain, packed=packed_ops.pack_mkl_op()(plain, rows), bytes=size)


class PackedSession:
    """A region ready to be called; see ``engines.bound.Session``."""

    def __init__(self, function: Any, memory_bytes: int, packs: Packs) -> None:
        self._function = function
        self._own_bytes, self._packs = memory_bytes, packs

    @property
    def memory_bytes(self) -> int:
        """Of packed weights and folded constants, counted from their sizes; of what sessions share, its share."""
        return self._own_bytes + self._packs.memory_bytes

    def run(self, args: list[Any]) -> list[Any]:
        """The region's results. Leaves the list as it is."""
        results: list[Any] = self._function(args)
        return results


def shape_of(node: Node) -> Shape:
    """What is to be measured for a product."""
    x, right, bias, after, _ = product_fields(node)
    k, n = fake_value(right).shape
    return Shape(
        m=rows_of(node),
        k=int(k),
        n=int(n),
        dtype=fake_value(x).dtype,
        bias=bias is not None,
        after=after,
    )


def rows_of(node: Node) -> int:
    """How many rows a product has, in the sizes the region was traced with. Guards nothing."""
    rows = 1
    for size in fake_value(node.args[0]).shape[:-1]:  # type: ignore[arg-type]
        rows *= int(size.node.hint) if isinstance(size, torch.SymInt) else size
    return rows


def is_exact(node: Node) -> bool:
    """Whether a product has the same number of rows in every call."""
    return all(type(size) is int for size in fake_value(node.args[0]).shape)  # type: ignore[arg-type]


def _new_bytes(value: torch.Tensor, held: Sequence[torch.Tensor]) -> int:
    storage = value.untyped_storage()
    if any(storage._cdata == one.untyped_storage()._cdata for one in held):
        return 0
    return int(storage.nbytes())
