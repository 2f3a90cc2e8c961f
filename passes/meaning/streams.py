"""The forward walk that finds streams and attentions, in every form ATen has. Linear in the number of ops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch._ops import HigherOrderOperator, OpOverload
from torch.fx import Graph, GraphModule, Node

from djinn_fx.passes.meaning import masks, stems
from djinn_fx.passes.meaning.dataflow import (
    NOTHING,
    Attention,
    Fact,
    Flow,
    Root,
    RootKind,
    Scores,
    base_name,
    dtype_of,
    is_data_value,
    mutated_inputs,
    shape_of,
)
from djinn_fx.passes.meaning.op_tables import (
    BIASED_MATMULS,
    CONVOLUTIONS,
    JOINS,
    LOOKUPS,
    MATMULS,
    MOVES,
    PICKS,
    RUNNING_SUMS,
    SOFTENERS,
    SPECTRA,
    SUMS,
    argument,
    attention_operands,
    leaves,
)
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.record import Size


def trace(srg: SRG) -> Flow:
    """Walk the graph once and find what each value belongs to."""
    walk = _Walk()
    mutated = mutated_inputs(srg)
    for node in srg.inputs:
        walk.facts[node] = stems.entering(walk.flow, node, srg.record(node).residency, node in mutated)
    walk.unprojected = (1 << len(walk.flow.roots)) - 1
    walk.run(srg.gm, srg.gm.graph, None)
    walk.left_open(srg.output.all_input_nodes)
    return walk.flow


class _Walk:
    """The walk over one graph and the graphs inside it."""

    def __init__(self) -> None:
        self.flow = Flow()
        self.facts = self.flow.facts
        self.unprojected = 0
        self.parts: dict[Node, list[Fact]] = {}
        self.handlers: dict[Any, Callable[[Node, str], Fact]] = {}
        self.names: dict[Any, str] = {}

    # -- the walk -----------------------------------------------------------------------------------------------

    def run(self, owner: GraphModule, graph: Graph, outer: Node | None) -> list[Fact]:
        """Walk a graph whose placeholders have facts; the facts of its outputs."""
        self.owner, self.outer = owner, outer
        for node in graph.nodes:
            if node.op == "call_function":
                fact = self.handler(node)(node, self.names[node.target])
                self.facts[node] = fact
                self.written_back(node, fact)
            elif node.op == "get_attr":
                square = masks.is_square(shape_of(node)) and all(size == 1 for size in shape_of(node)[:-2])
                self.facts[node] = Fact(raw=node, causal=square)
        output = next(iter(graph.find_nodes(op="output")))
        values = output.args[0] if isinstance(output.args[0], (tuple, list)) else (output.args[0],)
        return [self.flow.fact(value) for value in values]

    def written_back(self, node: Node, fact: Fact) -> None:
        """After an op in place, the written input holds what the op made."""
        target = node.target
        if (
            isinstance(target, OpOverload)
            and target._schema.is_mutable
            and node.args
            and isinstance(node.args[0], Node)
        ):
            raw = self.facts.get(node.args[0], NOTHING).raw
            self.facts[node.args[0]] = self.facts[raw or node.args[0]] = replace(fact, scores=None)

    def handler(self, node: Node) -> Callable[[Node, str], Fact]:
        """The rule for a target; looked up once."""
        target = node.target
        found = self.handlers.get(target)
        if found is None:
            self.names[target] = name = base_name(node)
            found = self.handlers[target] = self.rule_for(target, name)
        return found

    def rule_for(self, target: Any, name: str) -> Callable[[Node, str], Fact]:
        """Which rule a target follows."""
        if name in MATMULS or name in BIASED_MATMULS:
            return self.matmul
        if name in CONVOLUTIONS:
            return self.convolution
        if name in LOOKUPS or name in PICKS:
            return self.pick
        if name == "operator.getitem":
            return self.item
        if name.startswith(masks.COMPARISONS):
            return self.comparison
        if name in masks.TRIANGLES:
            return self.triangle
        if name in masks.RANGES:
            return lambda node, op: Fact(numbers=masks.range_of(node, op))
        if isinstance(target, HigherOrderOperator):
            return self.flex if "flex_attention" in name else self.higher_order
        if isinstance(target, OpOverload) and attention_operands(target) is not None:
            return self.fused
        return self.other

    def left_open(self, results: Sequence[Node]) -> None:
        """Scores that leave the graph beside their keys: an attention cut in two, whose other half is elsewhere."""
        met = {attention.scores for attention in self.flow.attentions}
        for result in results:
            fact = self.flow.fact(result)
            scores = fact.scores
            if scores is None or scores.node in met or len(shape_of(scores.node)) < 3:
                continue
            if leaves(scores.key, set(results)):
                met.add(scores.node)
                self.attend(scores.node, fact, scores.key, "scores only")

    # -- rules --------------------------------------------------------------------------------------------------

    def other(self, node: Node, op: str) -> Fact:
        """An op without a rule of its own: its result belongs to what its operands belong to."""
        sources = node.all_input_nodes
        if len(sources) == 1:
            return self.alone(node, op, self.facts.get(sources[0], NOTHING))
        facts = [fact for fact in (self.facts.get(source, NOTHING) for source in sources) if fact is not NOTHING]
        if not facts:
            return NOTHING
        stream, version, source, scores, softened, causal, opaque = 0, -1, None, None, False, False, False
        fresh = any(fact.stream and fact.raw is None for fact in facts)
        joins = op in JOINS
        for fact in facts:
            causal, opaque = causal or fact.causal, opaque or fact.opaque
            source = source or fact.source
            if fact.stream and (joins or fact.raw is None or not fresh):
                stream |= fact.stream
                version = max(version, fact.version)
                if joins and fresh and fact.raw is not None:
                    self.flow.cached |= fact.stream
            softened = softened or (fact.softened and fact.raw is None)
            scores = fact if fact.scores is not None and scores is None else scores
        numbers = self.sum_of(node, op) if op in SUMS else None
        if scores is not None:
            return replace(scores, causal=causal, opaque=opaque, softened=softened)
        return Fact(stream, version, None, source, None, softened, causal, opaque, numbers)

    def alone(self, node: Node, op: str, given: Fact) -> Fact:
        """An op with one operand that is not a constant."""
        if given is NOTHING:
            return NOTHING
        if op in MOVES:
            if given.numbers is not None:
                return replace(given, numbers=masks.moved(op, given.numbers, shape_of(node)))
            if (
                given.causal and given.scores is None and shape_of(node)[-2:-1] == (1,)
            ):  # one row for all queries: a padding mask
                return replace(given, causal=False)
            return given
        if op in SOFTENERS and (given.scores is not None or given.stream & self.unprojected):
            return replace(given, raw=None, softened=True)
        if op in RUNNING_SUMS and given.stream and stems.runs_over_tokens(node):
            self.flow.looking_back.append(node)
        if op in SPECTRA and given.stream:
            stems.hear(self.flow, given.stream)
        numbers = self.sum_of(node, op) if op in SUMS else None
        if given.raw is None and given.numbers is numbers and op != "aten.flip":
            return given
        return replace(given, raw=None, numbers=numbers, causal=given.causal and op != "aten.flip")

    def sum_of(self, node: Node, op: str) -> masks.Numbers | None:
        if len(node.args) < 2:
            return None
        constant = next((a for a in node.args[:2] if not isinstance(a, Node)), None)
        return masks.combined(op, self.numbers(node.args[0]), self.numbers(node.args[1]), constant)

    def numbers(self, node: Any) -> masks.Numbers | None:
        """Row or column numbers; an integer input along one axis counts as such."""
        fact = self.flow.fact(node)
        if fact.numbers is not None or fact.source is None:
            return fact.numbers
        axis = masks.axis_of(shape_of(node))
        return masks.Numbers(axis, None) if axis and dtype_of(node) in (torch.int64, torch.int32) else None

    def comparison(self, node: Node, op: str) -> Fact:
        fact = self.other(node, op)
        if len(node.args) < 2:
            return fact
        constant = next((a for a in node.args[:2] if not isinstance(a, Node)), None)
        left, right = self.numbers(node.args[0]), self.numbers(node.args[1])
        causal = masks.compares_on_diagonal(left, right, constant)
        return replace(fact, raw=None, numbers=None, causal=causal or fact.causal)

    def triangle(self, node: Node, op: str) -> Fact:
        return replace(self.other(node, op), raw=None, causal=masks.is_square(shape_of(node)))

    def item(self, node: Node, op: str) -> Fact:
        parts = self.parts.get(node.args[0]) if isinstance(node.args[0], Node) else None
        if parts is not None and isinstance(node.args[1], int) and node.args[1] < len(parts):
            return parts[node.args[1]]
        return self.flow.fact(node.args[0])

    def pick(self, node: Node, op: str) -> Fact:
        """A lookup by integers: an embedding of ids, a table of positions, or a choice of positions of a sequence."""
        table = self.flow.fact(node.args[0])
        indices = node.args[2] if op in ("aten.gather", "aten.index_select") else node.args[1]
        chosen = [n for n in (indices if isinstance(indices, (list, tuple)) else (indices,)) if isinstance(n, Node)]
        facts = [self.flow.fact(one) for one in chosen]
        source = next((fact.source for fact in facts if fact.source is not None), None)
        if table.scores is not None or (table.stream and table.raw is None):
            if source is not None and table.version >= 0 and len(shape_of(node)) <= 2:
                self.flow.pooled.append(node)
            return replace(table, raw=None, numbers=None)
        if table.numbers is not None or (table.source is not None and dtype_of(node) in (torch.int64, torch.int32)):
            return Fact(
                source=table.source or source,
                numbers=masks.picked(table.numbers, [fact.numbers for fact in facts], shape_of(node)),
            )
        stream = 0
        for fact in facts:
            stream |= fact.stream
        if stream or source is None or op == "aten.gather":
            version = max((fact.version for fact in facts), default=-1)
            return Fact(stream=stream or table.stream, version=version, source=source)
        if dtype_of(node) in (torch.int64, torch.int32, torch.bool):
            return Fact(source=source, opaque=table.opaque, causal=table.causal)
        return Fact(stream=self.flow.new_root(stems.embedding(node, shape_of(chosen[-1]))))

    def convolution(self, node: Node, op: str) -> Fact:
        given = self.flow.fact(node.args[0])
        stream = given.stream
        dims = len(shape_of(node.args[1])) - 2
        if not stream and given.source is not None:
            stream = self.flow.new_root(Root(RootKind.INPUT, given.source))
        if stream and given.version < 0:
            stems.see(self.flow, stream, node.args[0], dims)
        self.flow.multiplied |= stream
        self.unprojected &= ~stream
        if stems.looks_back(node, dims):
            self.flow.looking_back.append(node)
        return Fact(stream=stream, version=given.version)

    def matmul(self, node: Node, op: str) -> Fact:
        """A projection, a product of queries and keys, or of attention weights and values."""
        first = 1 if op in BIASED_MATMULS else 0
        left, right = node.args[first], node.args[first + 1]
        if not (isinstance(left, Node) and isinstance(right, Node)):
            return NOTHING
        a, b = self.flow.fact(left), self.flow.fact(right)
        if a.scores is not None and b.scores is None and (a.softened or a.causal):
            if is_data_value(b, right) and (a.softened or b.raw is None):
                return self.attend(node, a, right, "softmax" if a.softened else "masked product")
        elif (
            a.softened
            and b.scores is None
            and is_data_value(b, right)
            and a.stream & self.unprojected
            and len(shape_of(left)) > 2
        ):
            return self.attend(node, replace(a, scores=Scores(left, left, right)), right, "scores from outside")
        elif b.scores is not None and a.scores is None and b.softened and is_data_value(a, left):
            return self.attend(node, b, left, "softmax, transposed")
        elif (
            op != "aten.linear"
            and is_data_value(b, right)
            and (is_data_value(a, left) or (a.raw is None and len(shape_of(left)) > 2))
        ):
            bias = self.flow.fact(node.args[0]) if first else NOTHING
            scores = Scores(node, left, right)
            return Fact(a.stream, a.version, scores=scores, causal=bias.causal, opaque=bias.opaque)
        return self.project(node, a, b, shape_of(left))

    def project(self, node: Node, a: Fact, b: Fact, left_shape: tuple[Size, ...]) -> Fact:
        """A product with weights: the result belongs to the operand that is not a weight."""
        data = b if b.stream and b.raw is None and (a.raw is not None or not a.stream) else a
        stream = data.stream
        if not stream and a.source is not None and a.raw is None and b.raw is not None and left_shape[-1] != 1:
            return Fact(stream=self.flow.new_root(stems.embedding(node, left_shape[:-1])))
        self.flow.multiplied |= stream
        if stream & self.unprojected:
            stems.project(self.flow, stream & self.unprojected)
            self.unprojected &= ~stream
        return Fact(stream=stream, version=data.version, scores=data.scores if b is data else None)

    # -- attentions ---------------------------------------------------------------------------------------------

    def attend(self, node: Node, weights: Fact, value: Node, form: str) -> Fact:
        """Attention weights times values."""
        scores = weights.scores
        assert scores is not None
        shape = shape_of(scores.node)
        query_len, key_len = (shape[-2], shape[-1]) if len(shape) > 1 else (1, shape[-1])
        operands = (scores.query, scores.key, value)
        return self.found(node, operands, (query_len, key_len), weights.causal, weights.opaque, form, scores.node)

    def found(
        self,
        node: Node,
        operands: tuple[Node, Node, Node],
        sizes: tuple[Size, Size],
        causal: bool,
        opaque: bool,
        form: str,
        scores: Node | None = None,
    ) -> Fact:
        """Record an attention; its result belongs to the queries' sequence."""
        query, key, value = operands
        q, k, v = (self.flow.fact(operand) for operand in operands)
        place = self.outer or node
        stream = q.stream or self.flow.new_root(Root(RootKind.LEARNED, place))
        version = len(self.flow.attentions)
        self.flow.attentions.append(
            Attention(place, node, scores, query, key, value, q, k, v, *sizes, causal, opaque, form)
        )
        return Fact(stream=stream, version=version)

    def fused(self, node: Node, op: str) -> Fact:
        """An op whose schema has a query, a key and a value."""
        assert isinstance(node.target, OpOverload)
        positions = attention_operands(node.target)
        assert positions is not None
        values = [argument(node, position) for position in positions]
        if not all(isinstance(value, Node) for value in values):
            return self.other(node, op)
        axis = -2 if "scaled_dot_product" in op or "multi_head" in op or "encoder_layer" in op else -3
        shapes = [shape_of(value) for value in values[:2]]
        if any(len(shape) < -axis for shape in shapes):
            return self.other(node, op)
        mask, causal = NOTHING, False
        for position, declared in enumerate(node.target._schema.arguments):
            if declared.name in ("attn_mask", "attn_bias", "bias", "mask", "src_mask"):
                mask = self.flow.fact(argument(node, position))
            elif declared.name in ("is_causal", "causal"):
                causal = causal or argument(node, position) is True
            elif declared.name == "custom_mask_type":
                causal = causal or argument(node, position) in (1, 2)
        sizes = (shapes[0][axis], shapes[1][axis])
        return self.found(
            node, (values[0], values[1], values[2]), sizes, causal or mask.causal, mask.opaque, op.split(".")[-1]
        )

    def inside(self, node: Node) -> list[GraphModule]:
        """The graphs an op is given."""
        found = [getattr(self.owner, str(n.target), None) for n in node.all_input_nodes if n.op == "get_attr"]
        return [module for module in found if isinstance(module, GraphModule)]

    def flex(self, node: Node, op: str) -> Fact:
        """``flex_attention(query, key, value, score_mod, block_mask, ...)``, each [batch, heads, tokens, head_dim]."""
        query, key, value = node.args[0], node.args[1], node.args[2]
        if not (isinstance(query, Node) and isinstance(key, Node) and isinstance(value, Node)):
            return self.other(node, op)
        causal = any(masks.mask_function_is_causal(module) for module in self.inside(node))
        sizes = (shape_of(query)[-2], shape_of(key)[-2])
        return self.found(node, (query, key, value), sizes, causal, False, "flex_attention")

    def higher_order(self, node: Node, op: str) -> Fact:
        """An op that calls a graph: walk into it."""
        body = next(iter(self.inside(node)), None)
        if body is None:
            return self.other(node, op)
        places = body.graph.find_nodes(op="placeholder")
        flat: list[Any] = []
        torch.fx.node.map_arg(node.args, lambda n: flat.append(n))
        operands = [n for n in flat if n.op != "get_attr"][-len(places) :] if places else []
        if len(operands) != len(places):
            return self.other(node, op)
        for place, operand in zip(places, operands, strict=True):
            self.facts[place] = self.flow.fact(operand)
        owner, outer = self.owner, self.outer
        self.parts[node] = self.run(body, body.graph, outer or node)
        self.owner, self.outer = owner, outer
        return max(self.parts[node], key=lambda fact: (fact.version, fact.stream), default=NOTHING)
