"""annotate-phase: which part of the model's work each op belongs to, by structure alone.

First each attention is judged: do its queries read their own sequence or another, are there cached keys, how many
queries, is the mask causal. Then each sequence (stream, see :mod:`djinn_fx.passes.meaning.dataflow`) takes the phase of
its attentions, and each op the phase of its sequence. Ops that belong to no sequence (masks, positions, views of
weights) take the phase of the first op that uses them. Where the evidence is no proof the Reason begins with "likely".
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import ClassVar

from torch.fx import Node

from djinn_fx.passes.base import PassContext, PassResult
from djinn_fx.passes.meaning.dataflow import Attention, Flow, Root, RootKind, base_name, shape_of
from djinn_fx.passes.meaning.op_tables import BIASED_MATMULS, MATMULS, leaves
from djinn_fx.passes.meaning.streams import trace
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.srg.graph import SRG, fake_value, size_hint, tensors_of
from djinn_fx.srg.record import GraphKind, Modality, Phase

#: A few queries against many times as many cached keys are a decode step that checks guessed tokens.
GUESSES = 8
GUESSES_TO_KEYS = 16

#: How a Reason begins whose evidence fits other phases too, if less well.
LIKELY = "likely: "

_RANK = (Phase.DECODE, Phase.PREFILL, Phase.ENCODE)


@dataclass(frozen=True)
class Label:
    """A phase, with what is read if it is an encoder's, and the rule that gave it."""

    phase: Phase
    reason: Reason
    modality: Modality | None = None


@dataclass(frozen=True, kw_only=True)
class AnnotatePhase:
    """Set phase and modality of every op, and the phase of the graph."""

    name: ClassVar[str] = "annotate-phase"
    after: ClassVar[tuple[str, ...]] = ()
    requires: ClassVar[tuple[str, ...]] = ()
    ensures: ClassVar[tuple[str, ...]] = ("phases-known",)

    def run(self, srg: SRG, context: PassContext) -> PassResult:
        """Label the graph."""
        if srg.kind is not GraphKind.INFERENCE:
            phase = Phase.BACKWARD if srg.kind is GraphKind.BACKWARD else Phase.FORWARD
            whole = _label(phase, f"AOTAutograd's {srg.kind.value} graph of a training step", None)
            labels = dict.fromkeys(srg.ops, whole)
        else:
            labels, whole = label_ops(srg)
        for node, label in labels.items():
            srg.update(node, reason=label.reason, phase=label.phase, modality=label.modality)
        srg.phase = whole.phase
        return PassResult(modified=True, reasons=(whole.reason,))


def label_ops(srg: SRG) -> tuple[dict[Node, Label], Label]:
    """The label of every op of an inference graph, and that of the graph."""
    flow = trace(srg)
    judged = judge(flow, srg)
    streams = _stream_labels(flow, judged)
    whole = _whole(flow, streams, srg)
    labels = _cross_ops(flow, judged)
    for node in srg.ops:
        stream = flow.fact(node).stream
        if stream and node not in labels and stream in streams:
            labels[node] = streams[stream]
    _fill(srg, labels, whole)
    return labels, whole


# -- one attention ------------------------------------------------------------------------------------------------


def judge(flow: Flow, srg: SRG) -> list[Label]:
    """One label for each attention, in order."""
    returned = set(srg.output.all_input_nodes)
    own_versions: dict[int, set[int]] = {}
    own_streams = {a.query_fact.stream for a in flow.attentions if a.query_fact.stream & a.key_fact.stream}
    labels: list[Label] = []
    for one in flow.attentions:
        stream = _stream_of(flow, one)
        seen = own_versions.setdefault(stream, set())
        older = one.key_fact.version < one.query_fact.version and one.key_fact.version not in seen
        apart = not (one.key_fact.stream & one.query_fact.stream)
        if apart and _is_cut(flow, one):
            own = _judge_own(flow, one, returned)
            labels.append(_label(own.phase, own.reason.detail, own.reason.node, own.modality, likely=True))
        elif (apart and (one.key_fact.stream or one.query_fact.stream)) or (not apart and older):
            labels.append(_judge_apart(flow, one, stream, own_streams))
        else:
            seen.add(one.key_fact.version)
            labels.append(_judge_own(flow, one, returned))
    return labels


def _is_cut(flow: Flow, one: Attention) -> bool:
    """Whether ready queries come in from outside, as after a graph break, and may be of the keys' own sequence."""
    roots = flow.roots_of(one.query_fact.stream)
    if not roots or any(root.projected or root.kind is not RootKind.INPUT for root in roots):
        return False
    fresh = one.key_fact.stream & ~flow.cached
    is_joined = one.key_fact.stream & flow.cached and any(root.projected for root in flow.roots_of(fresh))
    return bool(is_joined) or one.query_len == one.key_len


def _judge_apart(flow: Flow, one: Attention, stream: int, own_streams: set[int]) -> Label:
    """Queries of one sequence, keys of another."""
    name = one.node.name
    if stream in own_streams:
        return _label(Phase.CROSS, "queries of one sequence read keys of another", name)
    if not one.query_fact.stream or all(r.kind is RootKind.LEARNED for r in flow.roots_of(stream)):
        modality = _modality(flow, one.key_fact.stream)
        return _label(Phase.ENCODE, "learned queries read one sequence: pooling", name, modality)
    if all(not r.projected and r.kind is RootKind.INPUT for r in flow.roots_of(one.key_fact.stream)):
        return _by_length(flow, one, "reads cached keys only")
    return _label(Phase.CROSS, "queries of one sequence read keys of another", name)


def _judge_own(flow: Flow, one: Attention, returned: set[Node]) -> Label:
    """Queries and keys of the same sequence."""
    cached = (one.key_fact.stream | one.value_fact.stream) & ~one.query_fact.stream
    for root in flow.roots_of(cached if one.query_len != one.key_len else 0):
        bit = 1 << flow.roots.index(root)
        if bit & flow.cached or (root.kind is RootKind.INPUT and not root.projected):
            return _by_length(flow, one, "reads cached keys joined with fresh ones")
    name = one.node.name
    if one.causal:
        return _label(
            Phase.PREFILL, f"causal self-attention, {one.query_len} queries, no cached keys ({one.form})", name
        )
    if one.opaque:
        return _label(
            Phase.PREFILL, "self-attention under a mask from outside with a row for each query", name, likely=True
        )
    if leaves(one.key, returned) or leaves(one.value, returned):
        return _label(Phase.PREFILL, "self-attention whose keys are returned for a cache", name)
    modality = _modality(flow, _stream_of(flow, one))
    return _label(Phase.ENCODE, f"self-attention without causal mask or cache ({one.form})", name, modality)


def _by_length(flow: Flow, one: Attention, what: str) -> Label:
    """Decode or prefill against cached keys, by the number of queries."""
    tokens = [root.tokens for root in flow.roots_of(one.query_fact.stream) if root.tokens is not None]
    sizes = f"{one.query_len} queries, {one.key_len} keys"
    if one.query_len == 1 or (tokens and all(count == 1 for count in tokens)):
        return _label(Phase.DECODE, f"one token {what}: {sizes}", one.node.name)
    appended = not any(root.kind is RootKind.INPUT and _same_length(root, one) for root in _cached_roots(flow, one))
    few, many = _hint(one.query), _hint(one.key)
    if appended and 0 < few <= GUESSES and many >= GUESSES_TO_KEYS * few:
        return _label(Phase.DECODE, f"few tokens {what}: {sizes}", one.node.name, likely=True)
    return _label(Phase.PREFILL, f"several tokens, {what}: {sizes}", one.node.name)


def _cached_roots(flow: Flow, one: Attention) -> list[Root]:
    return flow.roots_of((one.key_fact.stream | one.value_fact.stream) & ~one.query_fact.stream)


def _same_length(root: Root, one: Attention) -> bool:
    """Whether the cache is as long as the keys: a cache of fixed size, which may be almost empty."""
    return one.key_len in shape_of(root.node)


def _hint(node: Node) -> int:
    """Example length of a query or key operand [batch, heads, tokens, head_dim]."""
    for tensor in tensors_of(fake_value(node)):
        return size_hint(tensor.shape[-2]) if tensor.dim() > 1 else 1
    return 0


# -- one sequence -------------------------------------------------------------------------------------------------


def _stream_of(flow: Flow, one: Attention) -> int:
    """The stream of the queries; for learned ones, which have none, that of the result."""
    return one.query_fact.stream or flow.fact(one.op).stream


def _stream_labels(flow: Flow, judged: list[Label]) -> dict[int, Label]:
    """One label for each stream: the strongest of its attentions."""
    found: dict[int, Label] = {}
    reads: dict[int, int] = {}
    for one, label in zip(flow.attentions, judged, strict=True):
        stream = _stream_of(flow, one)
        if label.phase is Phase.CROSS:
            reads[stream] = reads.get(stream, 0) | one.key_fact.stream
            continue
        known = found.get(stream)
        if known is None or _RANK.index(label.phase) < _RANK.index(known.phase):
            found[stream] = label
    for stream, read in reads.items():
        found[stream] = _reader(flow, stream, read, found.get(stream))
    _pooled(flow, found)
    return found


def _reader(flow: Flow, stream: int, read: int, known: Label | None) -> Label:
    """The label of a sequence that reads another: a decoder, unless it looks both ways."""
    if known is not None and known.phase is not Phase.ENCODE:
        return known
    tokens = [root.tokens for root in flow.roots_of(stream) if root.tokens is not None]
    if tokens and all(count == 1 for count in tokens):
        return _label(Phase.PREFILL, "first token of a sequence that reads another", None, likely=True)
    modality = _modality(flow, stream) or _modality(flow, read)
    return _label(Phase.ENCODE, "looks both ways and reads another sequence", None, modality)


def _pooled(flow: Flow, found: dict[int, Label]) -> None:
    """A causal text encoder: nothing is cached and one position a sequence is picked at the end."""
    last = len(flow.attentions) - 1
    for node in flow.pooled:
        fact = flow.fact(node)
        known = found.get(fact.stream)
        if known is None or known.phase is not Phase.PREFILL or "no cached keys" not in known.reason.detail:
            continue
        if not any(_stream_of(flow, a) == fact.stream for a in flow.attentions[fact.version + 1 : last + 1]):
            detail = "causal self-attention whose result is pooled at a position computed from the ids"
            found[fact.stream] = _label(Phase.ENCODE, detail, node.name, _modality(flow, fact.stream), likely=True)


def _modality(flow: Flow, stream: int) -> Modality | None:
    """What a sequence is made of: what was seen or heard, else text."""
    seen = {root.modality for root in flow.roots_of(stream)}
    for modality in (Modality.AUDIO, Modality.VISION, Modality.TEXT):
        if modality in seen:
            return modality
    for one in flow.attentions:
        if flow.fact(one.op).stream & stream and not one.query_fact.stream & one.key_fact.stream:
            read = one.key_fact.stream & ~stream
            return _modality(flow, read) if read else None
    return None


# -- the graph ----------------------------------------------------------------------------------------------------


def _whole(flow: Flow, streams: dict[int, Label], srg: SRG) -> Label:
    """The label of the graph: that of its generating part, else of its encoder."""
    for phase in _RANK:
        for label in streams.values():
            if label.phase is phase:
                return label
    return _without_attention(flow, srg)


def _without_attention(flow: Flow, srg: SRG) -> Label:
    """The label of a graph that has no attention: by its stem, and for text by the state it keeps."""
    stems = [root for bit, root in enumerate(flow.roots) if root.has_stem and flow.multiplied >> bit & 1]
    for root in stems:
        if root.modality is Modality.TEXT and (flow.cached or flow.looking_back):
            return _recurrent(flow, root)
    for modality in (Modality.AUDIO, Modality.VISION, Modality.TEXT):
        for root in stems:
            if root.modality is modality:
                how = "embedding of token ids" if modality is Modality.TEXT else "convolution over the input"
                return _label(Phase.ENCODE, f"no attention; {how}", root.node.name, modality, likely=True)
    return _label(Phase.FORWARD, "no attention, no stem", None)


def _recurrent(flow: Flow, root: Root) -> Label:
    if flow.cached and root.tokens == 1:
        return _label(Phase.DECODE, "no attention; one token, state read and written", root.node.name, likely=True)
    what = "state read and written" if flow.cached else "convolutions or sums over tokens that look only back"
    return _label(Phase.PREFILL, f"no attention; several tokens, {what}", root.node.name, likely=True)


# -- ops ----------------------------------------------------------------------------------------------------------


def _cross_ops(flow: Flow, judged: list[Label]) -> dict[Node, Label]:
    """The ops of each cross-attention: from the projections of its operands to that of its result."""
    labels: dict[Node, Label] = {}
    ends = {one.node for one in flow.attentions}
    ends |= {user for node in ends for user in node.users if user.target is operator.getitem}
    for one, label in zip(flow.attentions, judged, strict=True):
        if label.phase is Phase.CROSS:
            labels[one.node] = label
            for operand in _operands_of(one):
                _mark_back(flow, operand, label, labels, ends)
            _mark_forward(one.node, label, labels)
    return labels


def _operands_of(one: Attention) -> list[Node]:
    return list(one.node.all_input_nodes) if one.op is one.node else []


def _mark_back(flow: Flow, start: Node, label: Label, labels: dict[Node, Label], ends: set[Node]) -> None:
    """Mark an operand's makers up to the projection that made it, or another attention."""
    pending = [start]
    while pending:
        node = pending.pop()
        fact = flow.fact(node)
        if node in labels or node in ends or node.op != "call_function" or not fact.stream:
            continue
        labels[node] = label
        if base_name(node) not in MATMULS | BIASED_MATMULS or fact.scores is not None:
            pending.extend(node.all_input_nodes)


def _mark_forward(start: Node, label: Label, labels: dict[Node, Label]) -> None:
    """Mark what follows the attention up to the projection of its result."""
    node = start
    for _ in range(12):
        users = [user for user in node.users if user.op == "call_function"]
        if not users:
            return
        node = users[0]
        name = base_name(node)
        if name in ("aten.add", "aten.add_"):
            return
        labels[node] = label
        if name in MATMULS | BIASED_MATMULS:
            return


def _fill(srg: SRG, labels: dict[Node, Label], whole: Label) -> None:
    """Label the rest: by the first op that uses a value, else by what it is made of, else as the graph."""
    ops = list(srg.ops)
    for node in reversed(ops):
        if node not in labels:
            label = next((labels[user] for user in node.users if user in labels), None)
            if label is not None:
                labels[node] = label
    for node in ops:
        if node not in labels:
            sources = (labels[source] for source in node.all_input_nodes if source in labels)
            labels[node] = next(sources, whole)


def _label(
    phase: Phase, detail: str, node: str | None, modality: Modality | None = None, *, likely: bool = False
) -> Label:
    reason = Reason(kind=ReasonKind.PHASE, detail=f"{LIKELY}{detail}" if likely else detail, node=node)
    return Label(phase, reason, modality if phase is Phase.ENCODE else None)
