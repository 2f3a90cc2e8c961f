"""The graph for some of the samples: the same ops with smaller sizes, worked out again from the inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from djinn_fx.passes.splitting.call import Refused, Samples, value_of
from djinn_fx.passes.splitting.samples import Batch
from djinn_fx.srg.effects import written_nodes
from djinn_fx.srg.graph import SRG, fake_value, tensors_of

_Given = tuple[tuple[Any, ...], dict[str, Any]]


def part_of(srg: SRG, batch: Batch, samples: int) -> GraphModule:
    """The graph for so many samples, with compile-time values.

    An input with samples is a view of the whole one, so its storage is the whole one's.

    Raises:
        Refused: an op does not take that size, or gives another one than was concluded; names the op.
    """
    return _Part(srg, batch, samples).made()


class _Part:
    def __init__(self, srg: SRG, batch: Batch, samples: int) -> None:
        self._srg, self._batch, self._samples = srg, batch, samples
        self._graph = Graph()
        self._copies: dict[Node, Node] = {}
        fakes = [one for node in srg.nodes for one in tensors_of(fake_value(node))]
        modes = [mode for one in fakes if (mode := getattr(one, "fake_mode", None)) is not None]
        self._mode: FakeTensorMode = modes[0] if modes else FakeTensorMode()

    def made(self) -> GraphModule:
        """See :func:`part_of`."""
        for node in self._srg.nodes:
            if node.op == "output":
                self._graph.output(map_arg(node.args[0], self._copies.__getitem__)).meta = _meta(node)
            elif node.op == "placeholder" or not self._has_samples(node):
                self._plain(node)
            else:
                self._call(node)
        made = GraphModule(self._srg.gm, self._graph)
        made.meta.update(self._srg.gm.meta)
        return made

    def _has_samples(self, node: Node) -> bool:
        return any(
            isinstance(fact, Samples) for one in (node, *node.all_input_nodes) for fact in self._batch.facts[one]
        )

    def _plain(self, node: Node) -> None:
        """An input, or what no sample takes part in."""
        made = self._copies[node] = self._graph.node_copy(node, self._copies.__getitem__)
        made.meta, at = _meta(node), self._batch.at(node)
        if at is not None:
            with self._mode:
                made.meta["val"] = fake_value(node).narrow(at.dim, 0, self._samples * at.each)

    def _call(self, node: Node) -> None:
        edits, args, kwargs = self._batch.edits.get(node), node.args, dict(node.kwargs)
        given: Mapping[Node, Node] = self._copies
        for name, place, each in edits.sizes if edits is not None else ():
            args, kwargs = _with_size(node.target, (args, kwargs), name, place, self._samples * each)
        if edits is not None and edits.cuts:
            given = {**self._copies, **{one: self._cut(one, dim, each) for one, dim, each in edits.cuts}}
        made = self._graph.create_node(
            "call_function",
            node.target,
            map_arg(args, given.__getitem__),
            map_arg(kwargs, given.__getitem__),
            node.name,
        )
        self._copies[node], made.meta = made, _meta(node)
        made.meta["val"] = self._worked_out(node, made)

    def _cut(self, source: Node, dim: int, each: int) -> Node:
        """The first places of what is the same for all samples."""
        args = (self._copies[source], dim, 0, self._samples * each)
        made = self._graph.call_function(torch.ops.aten.slice.Tensor, args)
        made.meta = {"stack_trace": source.meta.get("stack_trace")}
        made.meta["val"] = self._run(made)
        return made

    def _run(self, made: Node) -> Any:
        with self._mode:
            return made.target(*map_arg(made.args, self._value), **map_arg(made.kwargs, self._value))  # type: ignore[operator]

    def _value(self, node: Node) -> Any:
        value = fake_value(node)
        return self._mode.from_tensor(self._constant(node)) if value is None and node.op == "get_attr" else value

    def _constant(self, node: Node) -> torch.Tensor:
        return value_of(next(one for one, mine in self._copies.items() if mine is node))  # type: ignore[no-any-return]

    def _worked_out(self, node: Node, made: Node) -> Any:
        """What a call gives at the smaller sizes, which must be what was concluded."""
        try:
            value = self._run(made)
        except Exception as error:
            raise Refused(f"{node.target} does not take {self._samples} samples: {error}") from error
        pairs = zip(tensors_of(value_of(node)), tensors_of(value), self._batch.facts[node], strict=True)
        for whole, part, fact in pairs:
            wanted = list(whole.shape)
            if isinstance(fact, Samples):
                wanted[fact.dim] = self._samples * fact.each
            if list(part.shape) != wanted or part.dtype != whole.dtype or part.device != whole.device:
                raise Refused(f"{node.target} gives {list(part.shape)} for {self._samples} samples, not {wanted}")
        return value


def _with_size(target: Any, given: _Given, name: str, place: int | None, size: int) -> _Given:
    """The arguments with one size set: an argument, or one place of an argument that is a list."""
    (args, kwargs), names = given, [one.name for one in target._schema.arguments]
    at = names.index(name)
    value = args[at] if at < len(args) else kwargs[name]
    value = size if place is None else [size if one == place else old for one, old in enumerate(value)]
    return ((*args[:at], value, *args[at + 1 :]), kwargs) if at < len(args) else (args, {**kwargs, name: value})


def _meta(node: Node) -> dict[str, Any]:
    """What a node carries, without what was found out about it."""
    return {key: value for key, value in node.meta.items() if key != "srg"}


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A result of which each run gives a part. Its layout is that which the graph would have given it.

    Attributes:
        at: where the samples are.
        shape, strides, dtype, device: of the whole.
    """

    at: Samples
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def nbytes(self) -> int:
        """Of its storage."""
        last = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        return (last + 1) * self.dtype.itemsize


def wholes_of(srg: SRG, batch: Batch) -> tuple[Whole | int | None, ...]:
    """For each value that the graph returns, the whole that parts make up; None: any run gives all of it.

    A number: the input of that number, which was written into and is returned itself.
    """
    returned: Any = srg.output.args[0]
    listed: Sequence[Any] = returned if isinstance(returned, (tuple, list)) else (returned,)
    return tuple(_whole(srg, batch, one) if isinstance(one, Node) else None for one in listed)


def _whole(srg: SRG, batch: Batch, node: Node) -> Whole | int | None:
    at, value = batch.at(node), value_of(node)
    for written in written_nodes(node):
        return srg.inputs.index(written)
    if at is None:
        return None
    return Whole(at=at, shape=tuple(value.shape), strides=value.stride(), dtype=value.dtype, device=value.device)
