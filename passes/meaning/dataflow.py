"""What each value of a graph belongs to: the facts that :mod:`djinn_fx.passes.meaning.streams` finds.

A *root* is where a sequence enters the graph: an embedding over integer inputs, a floating input, learned queries.
The *stream* of a value is the set of roots of the sequence it belongs to, as a bit mask. Weights have no root.
Attention moves information between sequences but its result belongs to the queries' sequence, so a decoder's stream
stays the decoder's after it has looked at an encoder. Nothing here looks at names of modules, classes or inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Node

from djinn_fx.passes.meaning.masks import Numbers
from djinn_fx.srg.graph import META_KEY, SRG, fake_value, tensors_of
from djinn_fx.srg.lower import target_name
from djinn_fx.srg.record import Modality, OpRecord, Size


class RootKind(Enum):
    """How a sequence enters the graph."""

    EMBEDDING = "embedding"
    INPUT = "input"
    LEARNED = "learned"


@dataclass
class Root:
    """Where a sequence enters the graph.

    Attributes:
        kind: how.
        node: the embedding, the input, or the attention that reads with learned queries.
        tokens: length of the sequence, if it can be told.
        modality: what is read; None until the stem has been seen.
        projected: whether a matmul or convolution has been applied: cached keys and values never are.
        has_stem: whether it enters through an embedding of sequences or a convolution.
    """

    kind: RootKind
    node: Node
    tokens: Size | None = None
    modality: Modality | None = None
    projected: bool = False
    has_stem: bool = False


@dataclass(frozen=True)
class Scores:
    """A product of queries and keys that may become attention: [..., queries, keys]."""

    node: Node
    query: Node
    key: Node


@dataclass(frozen=True)
class Fact:
    """What is known about one value.

    Attributes:
        stream: bits of the roots it belongs to.
        version: index of the last attention that fed it, -1 before the first.
        raw: the input it is a view of, if no op has changed it.
        source: an input it was computed from without becoming a stream (token ids, masks).
        scores: set while the value is made of attention scores.
        softened: whether these went through exp or softmax.
        causal: whether it is a causal mask, or scores under one.
        opaque: a mask from outside with a row for each query: [..., queries, keys].
        numbers: row or column numbers.
    """

    stream: int = 0
    version: int = -1
    raw: Node | None = None
    source: Node | None = None
    scores: Scores | None = None
    softened: bool = False
    causal: bool = False
    opaque: bool = False
    numbers: Numbers | None = None


NOTHING = Fact()


@dataclass(frozen=True)
class Attention:
    """One attention: where queries of one sequence read keys and values of the same or another.

    Attributes:
        node: the node of the graph; a call of an inner graph stands for what is in it.
        op: the op whose result is [..., queries, head_dim]; in an inner graph where node calls one.
        scores: the product of queries and keys, if it is an op of its own.
        query, key, value: the operands.
        query_fact, key_fact, value_fact: what is known about them.
        query_len, key_len: sizes; text if symbolic.
        causal: the mask has its edge on the diagonal.
        opaque: the mask comes from outside and has a row for each query.
        form: for the reader: which form was recognised.
    """

    node: Node
    op: Node
    scores: Node | None
    query: Node
    key: Node
    value: Node
    query_fact: Fact
    key_fact: Fact
    value_fact: Fact
    query_len: Size
    key_len: Size
    causal: bool
    opaque: bool
    form: str


@dataclass
class Flow:
    """The result of the walk.

    Attributes:
        facts: by node.
        roots: by bit.
        attentions: in graph order; a fact's version is an index into it.
        pooled: ops that pick positions of a sequence by numbers computed from integer inputs.
        looking_back: depthwise convolutions and running sums over tokens, which see only what was before.
        cached: bits of the inputs that fresh values are written or appended to.
        multiplied: bits of the roots that went through a matmul or a convolution.
    """

    facts: dict[Node, Fact] = field(default_factory=dict)
    roots: list[Root] = field(default_factory=list)
    attentions: list[Attention] = field(default_factory=list)
    pooled: list[Node] = field(default_factory=list)
    looking_back: list[Node] = field(default_factory=list)
    cached: int = 0
    multiplied: int = 0

    def fact(self, node: Any) -> Fact:
        """What is known about a value; nothing for a constant."""
        return self.facts.get(node, NOTHING) if isinstance(node, Node) else NOTHING

    def roots_of(self, stream: int) -> list[Root]:
        """The roots in a stream."""
        return [root for index, root in enumerate(self.roots) if stream >> index & 1]

    def new_root(self, root: Root) -> int:
        """Add a root; its bit."""
        self.roots.append(root)
        return 1 << (len(self.roots) - 1)


def shape_of(node: Any) -> tuple[Size, ...]:
    """Shape of the node's first tensor, symbols as text; () if it has none."""
    if not isinstance(node, Node):
        return ()
    record = node.meta.get(META_KEY)
    if isinstance(record, OpRecord):
        return record.outputs[0].shape if record.outputs else ()
    for tensor in tensors_of(fake_value(node)):
        return tuple(str(s.node.expr) if isinstance(s, torch.SymInt) else int(s) for s in tensor.shape)
    return ()


def dtype_of(node: Node) -> torch.dtype | None:
    """Dtype of the node's first tensor."""
    for tensor in tensors_of(fake_value(node)):
        return tensor.dtype
    return None


def is_data_value(fact: Fact, node: Node) -> bool:
    """Whether a value belongs to a sequence; a matrix straight from outside is taken for a weight."""
    return fact.stream != 0 and (fact.raw is None or (len(shape_of(fact.raw)) >= 3 and len(shape_of(node)) >= 3))


def base_name(node: Node) -> str:
    """Qualified name of what a node calls, without the overload: ``aten.mm``."""
    record = node.meta.get(META_KEY)
    name = record.op if isinstance(record, OpRecord) else target_name(node.target)
    return name.rsplit(".", 1)[0] if isinstance(node.target, OpOverload) else name


def mutated_inputs(srg: SRG) -> dict[Node, Node]:
    """Placeholders whose memory an op writes, itself or through a view, each with the first such op."""
    owners = {meta.storage: node for node in srg.inputs for meta in srg.record(node).outputs}
    found: dict[Node, Node] = {}
    for node in srg.ops:
        for name in srg.record(node).mutates:
            for meta in srg.record(srg.node(name)).outputs:
                if meta.storage in owners:
                    found.setdefault(owners[meta.storage], node)
    return found
