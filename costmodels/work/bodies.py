"""Calls that run graphs of their own: which graphs, how often, and what their ops are."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

from torch._ops import HigherOrderOperator
from torch.fx import GraphModule, Node

from djinn_fx.costmodels.work.sizes import Sizes
from djinn_fx.srg.graph import SRG, attribute
from djinn_fx.srg.lower import lower
from djinn_fx.srg.record import GraphKind, Residency

#: Run their bodies once each; of several (``cond``) only one runs.
_ONCE = frozenset(
    """invoke_subgraph cond wrap wrap_with_set_grad_enabled wrap_with_autocast tag_activation_checkpoint
    wrap_activation_checkpoint strict_mode hints_wrapper""".split()
)
#: Run their body for every element along the first dimension of their second argument.
_PER_ELEMENT = {"map_impl": 1, "map": 1, "scan": 2}


@dataclass(frozen=True, slots=True)
class Body:
    """One graph that a call runs.

    Attributes:
        srg: the graph, lowered; its inputs are weights where the call's operands are.
        times: how often it runs; an expression where the sizes are.
    """

    srg: SRG
    times: Any


_known: weakref.WeakKeyDictionary[GraphModule, tuple[tuple[bool, ...], SRG]] = weakref.WeakKeyDictionary()


def bodies_of(sizes: Sizes, node: Node) -> list[Body]:
    """The graphs a call runs; of several, one. Empty for a call that runs none, or for a number of times that only
    the data tell (``while_loop``).
    """
    name = node.target.name() if isinstance(node.target, HigherOrderOperator) else ""
    if name not in _ONCE and name not in _PER_ELEMENT:
        return []
    held = [source for source in node.all_input_nodes if source.op == "get_attr"]
    graphs = [value for source in held if isinstance(value := attribute(sizes.srg.gm, source.target), GraphModule)]
    operands = [source for source in node.all_input_nodes if source.op != "get_attr"]
    times = _times(sizes, node, _PER_ELEMENT[name]) if name in _PER_ELEMENT else 1
    return [Body(_lowered(sizes, graph, operands), times) for graph in graphs]


def _times(sizes: Sizes, node: Node, place: int) -> Any:
    stacked = sizes.argument(node.args[place])
    first = stacked[0] if isinstance(stacked, list) else stacked
    return first.shape[0]


def _lowered(sizes: Sizes, graph: GraphModule, operands: list[Node]) -> SRG:
    """The graph's SRG; an input of it is a parameter if the operand that is named like it is one of the model's.

    Operands that are given twice are one node, so inputs are matched from the end only where the numbers agree.
    """
    from djinn_fx.costmodels.work.traffic import is_weight  # traffic prices calls, which may have bodies

    inputs = graph.graph.find_nodes(op="placeholder")
    fitting = operands[-len(inputs) :] if inputs and len(operands) >= len(inputs) else []
    held = tuple(is_weight(sizes, operand) for operand in fitting)
    known = _known.get(graph)
    if known is not None and known[0] == held:
        return known[1]
    names = {source.name: Residency.PARAMETER for source, weight in zip(inputs, held, strict=False) if weight}
    srg = lower(graph, GraphKind.INFERENCE, names)
    _known[graph] = (held, srg)
    return srg
