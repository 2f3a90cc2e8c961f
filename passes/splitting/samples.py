"""Where each value of a graph has its samples, or why the graph cannot be run on some samples at a time.

Some inputs are taken to have a sample at each place along one dimension. Every op that reads such a value must be in
the table of rules, and its rule must find that each sample's part of the result is made of that sample's part of the
arguments and of what is the same for all. What reads no sample is computed whole. Nothing is concluded from sizes.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Node

from djinn_fx.passes.splitting import maths
from djinn_fx.passes.splitting.call import Edits, Fact, OpCall, Refused, Same, Samples, value_of
from djinn_fx.passes.splitting.same import RULES, same
from djinn_fx.srg.effects import is_random, storages_of, written_nodes
from djinn_fx.srg.graph import SRG, tensors_of
from djinn_fx.srg.record import Residency

#: What may have samples: what a call is given, and caches.
_PASSED = (Residency.INPUT, Residency.STATE)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A graph that may be run on some of its samples at a time.

    Attributes:
        count: of samples.
        facts: of each node's tensors.
        edits: what is otherwise for fewer samples, by node.
    """

    count: int
    facts: Mapping[Node, Sequence[Fact]]
    edits: Mapping[Node, Edits]

    def at(self, node: Node) -> Samples | None:
        """Where a node's first tensor has its samples."""
        facts = self.facts[node]
        return facts[0] if facts and isinstance(facts[0], Samples) else None

    @property
    def written(self) -> tuple[Node, ...]:
        """The inputs that the graph writes into."""
        return tuple(dict.fromkeys(one for node in self.facts for one in written_nodes(node)))


def batch_of(srg: SRG, dims: Sequence[int] = (0, 1)) -> Batch | str:
    """The samples of a graph, or a sentence that says what forbids to part them.

    Args:
        srg: the graph.
        dims: dimensions along which samples are looked for; tried are all inputs that are equally long there.
    """
    whole = _forbids(srg)
    if whole:
        return whole
    inputs = [node for node in srg.inputs if srg.record(node).residency in _PASSED and srg.record(node).outputs]
    why = "no input has two samples or more"
    for dim in dims:
        sizes = [shape[dim] if len(shape := tuple(value_of(node).shape)) > dim else 1 for node in inputs]
        for size in dict.fromkeys(one for one in sizes if one > 1):
            marked = {node: Samples(dim) for node, one in zip(inputs, sizes, strict=True) if one == size}
            found = _walked(srg, marked, size)
            if isinstance(found, Batch):
                return found
            why = why if why.endswith(")") else found  # what the first try, the likeliest one, ran into
    return why


def _forbids(srg: SRG) -> str:
    """What forbids it whichever the samples are; empty if nothing does."""
    for node in srg.nodes:
        if any(meta.is_symbolic or meta.layout != "strided" for meta in srg.record(node).outputs):
            return "its sizes differ from call to call, or a tensor is not strided"
        if any(
            node.target is not torch.ops.aten.copy_.default or one.op != "placeholder" for one in written_nodes(node)
        ):
            return _told(srg, node, "it writes into its argument")
        if is_random(node):
            return _told(srg, node, "it draws random numbers")
    returned = [node for node in srg.output.all_input_nodes if not written_nodes(node)]  # else it is the input itself
    storages = storages_of(srg)
    held = [storage for node in (*srg.inputs, *returned) for storage in set(storages[node])]
    if len(set(held)) != len(held) or any(len(srg.record(node).outputs) != 1 for node in returned):
        return "a result shares its memory with another one or with an input"
    return ""


def _told(srg: SRG, node: Node, why: str) -> str:
    record = srg.record(node)
    return f"{why}: {record.op} ({record.source or node.name})"


def _walked(srg: SRG, marked: Mapping[Node, Samples], count: int) -> Batch | str:
    facts: dict[Node, Sequence[Fact]] = {}
    edits: dict[Node, Edits] = {}
    for node in srg.nodes:
        if node.op == "output":
            continue
        tensors = tensors_of(value_of(node))
        if any(isinstance(one, Samples) for source in node.all_input_nodes for one in facts[source]):
            call = OpCall(node, facts, count) if isinstance(node.target, OpOverload) else None
            try:
                facts[node] = _made(node, call, facts, len(tensors))
            except Refused as refused:
                return _told(srg, node, str(refused))
            if call is not None:
                edits[node] = call.edits
        else:
            facts[node] = [marked[node]] if node in marked else [same(node, facts, count)] * max(1, len(tensors))
    if not any(isinstance(facts[node][0], Samples) for node in srg.output.all_input_nodes):
        return "no result has samples"
    return Batch(count=count, facts=facts, edits=edits)


def _made(node: Node, call: OpCall | None, facts: Mapping[Node, Sequence[Fact]], tensors: int) -> Sequence[Fact]:
    if any(not isinstance(value_of(one), (torch.Tensor, tuple, list)) for one in node.all_input_nodes):
        raise Refused("it reads something that is no tensor")
    if node.target is operator.getitem:
        return [facts[node.args[0]][node.args[1]]]  # type: ignore[index]
    known = RULES.get(str(node.target))
    if known is None and _is_pointwise(node.target):
        known = maths.pointwise
    if known is None or call is None or not tensors:
        raise Refused("it is not known to treat samples one by one")
    found = known(call)
    return [found] * tensors if isinstance(found, (Samples, Same)) else found


def _is_pointwise(target: Any) -> bool:
    """Whether torch says of an op of its own that it works number by number."""
    own = isinstance(target, OpOverload) and target.namespace in ("aten", "prims")
    return own and torch.Tag.pointwise in target.tags
