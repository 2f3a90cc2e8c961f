"""find-state: which inputs hold what outlives a call: caches, running statistics, counters.

An input is state if the graph writes it, or if it is appended to, the result is read by the graph's own attention
and handed back to the caller (a cache that grows). Parameters stay parameters, even where an optimiser writes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch.fx import Node

from djinn_fx.passes.base import PassContext, PassResult
from djinn_fx.passes.meaning.dataflow import base_name, dtype_of, mutated_inputs, shape_of
from djinn_fx.passes.meaning.op_tables import JOINS, MOVES
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.record import GraphKind, Phase, Residency

GENERATING = (Phase.DECODE, Phase.PREFILL, Phase.CROSS)


@dataclass(frozen=True, kw_only=True)
class FindState:
    """Set residency ``state`` on inputs that hold persistent state."""

    name: ClassVar[str] = "find-state"
    after: ClassVar[tuple[str, ...]] = ("annotate-phase",)
    requires: ClassVar[tuple[str, ...]] = ()
    ensures: ClassVar[tuple[str, ...]] = ()

    def run(self, srg: SRG, context: PassContext) -> PassResult:
        """Mark the inputs."""
        found = written(srg) if srg.kind is not GraphKind.BACKWARD else {}
        for node, detail in grown(srg).items():
            found.setdefault(node, detail)
        reasons = []
        for node, detail in found.items():
            reason = Reason(kind=ReasonKind.STATE, detail=detail, node=node.name)
            srg.update(node, reason=reason, residency=Residency.STATE)
            reasons.append(reason)
        return PassResult(modified=bool(found), reasons=tuple(reasons))


def written(srg: SRG) -> dict[Node, str]:
    """Inputs whose memory the graph writes, each with the cause in words."""
    found = {}
    for node, writer in mutated_inputs(srg).items():
        residency = srg.record(node).residency
        if residency is Residency.PARAMETER:
            continue
        what = "buffer" if residency is Residency.BUFFER else "input"
        found[node] = f"{what} written in place by {writer.name} ({srg.record(writer).op})"
    return found


def grown(srg: SRG) -> dict[Node, str]:
    """Inputs that are joined with fresh values and returned in that form, each with the cause in words.

    A cache that grows is concatenated along its tokens, [batch, heads, tokens, head_dim]; one of fixed size is
    scattered into. Either way the result has the input's rank and goes out, and generating ops read it as well.
    """
    returned = set(srg.output.all_input_nodes)
    found: dict[Node, str] = {}
    for place in srg.inputs:
        record = srg.record(place)
        if record.residency is not Residency.INPUT or len(shape_of(place)) < 2 or not _is_floating(place):
            continue
        joined = _joined(place)
        if (
            joined is None
            or len(shape_of(joined)) != len(shape_of(place))
            or srg.record(joined).phase not in GENERATING
        ):
            continue
        out = joined if joined in returned else next((u for u in _views_after(joined) if u in returned), None)
        if out is not None and any(user.op != "output" for user in joined.users):
            found[place] = f"joined with fresh values by {joined.name}, read by the graph and returned"
    return found


def _is_floating(node: Node) -> bool:
    dtype = dtype_of(node)
    return dtype is not None and (dtype.is_floating_point or dtype.itemsize == 1)


def _joined(place: Node) -> Node | None:
    """The op that puts fresh values to an input or a view of it."""
    pending = [place]
    while pending:
        node = pending.pop()
        for user in node.users:
            if user.op != "call_function":
                continue
            name = base_name(user)
            if name in JOINS and len(user.all_input_nodes) > 1 and _has_fresh(user, node):
                return user
            if name in MOVES:
                pending.append(user)
    return None


def _has_fresh(join: Node, old: Node) -> bool:
    """Whether a join also takes a floating value that an op of the graph has computed."""
    fresh = (source for source in join.all_input_nodes if source is not old and source.op == "call_function")
    return any(_is_floating(source) for source in fresh)


def _views_after(node: Node) -> list[Node]:
    """Views and copies of a value, up to three ops away."""
    found: list[Node] = []
    level = [node]
    for _ in range(3):
        level = [u for one in level for u in one.users if u.op == "call_function" and base_name(u) in MOVES]
        found += level
    return found
