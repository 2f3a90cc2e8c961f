"""The work of an op, read from its graph's records."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch.fx import Node

from djinn_fx.costmodels.work import user_rules
from djinn_fx.costmodels.work.bodies import Body, bodies_of
from djinn_fx.costmodels.work.call import Call, Count, numbers, numel
from djinn_fx.costmodels.work.decomposed import decomposed
from djinn_fx.costmodels.work.rules import OpRule, facts_of
from djinn_fx.costmodels.work.sizes import Sizes, wrapped_op
from djinn_fx.costmodels.work.traffic import Traffic, is_weight, traffic
from djinn_fx.costmodels.work.work import SUMMED, Read, Work, WorkGraph, total
from djinn_fx.srg.graph import META_KEY, SRG, fake_value

#: What a rule may raise when a call is not what it knows; anything else is a bug of ours.
_MISFITS = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)

_NO_TRAFFIC = Traffic((), 0)


def work_of(srg: SRG, node: Node, sizes: Mapping[str, int] | None = None) -> Work:
    """What one op does.

    Args:
        srg: the graph.
        node: a call in it.
        sizes: a value for each symbol of the graph; None: those of the example.

    Raises:
        ValueError: a size that the op depends on is not given; names it.
    """
    return work_at(sizes_of(srg, sizes), node)


def work_graph(srg: SRG, names: Sequence[str] | None = None, sizes: Mapping[str, int] | None = None) -> WorkGraph:
    """The work of a region or of the whole graph, and how values flow in it.

    Args:
        srg: the graph.
        names: a region's nodes; None: every call of the graph.
        sizes: as for :func:`work_of`.
    """
    return _kept_or_counted(sizes_of(srg, sizes), names)


def _kept_or_counted(sizes: Sizes, names: Sequence[str] | None) -> WorkGraph:
    """The whole graph's is kept with its sizes, and counted anew if a residency or a user's rule has changed."""
    if names is not None:
        chosen = frozenset(names)
        return _flow(sizes, [node for node in sizes.srg.ops if node.name in chosen])
    key = (user_rules.changes(), tuple(sizes.srg.record(node).residency for node in sizes.srg.inputs))
    if sizes.kept is None or sizes.kept[0] != key:
        sizes.kept = (key, _flow(sizes, list(sizes.srg.ops)))
    graph = sizes.kept[1]
    assert isinstance(graph, WorkGraph), "sizes keep nothing else"
    return graph


def _flow(sizes: Sizes, nodes: list[Node]) -> WorkGraph:
    """Which op made what another reads, and what leaves the region."""
    index = {node: place for place, node in enumerate(nodes)}
    ops: list[Work] = []
    reads: list[tuple[Read, ...]] = []
    escapes = [False] * len(nodes)
    for place, node in enumerate(nodes):
        work, moved = priced(sizes, node)
        ops.append(work)
        reads.append(
            tuple(
                Read(producer=index.get(sizes.root(source), -1), nbytes=nbytes, is_weight=held)
                for source, nbytes, held in moved.reads
            )
        )
        if any(user not in index for user in node.users) or sizes.srg.record(node).mutates:
            escapes[place] = True
            root = index.get(sizes.root(node))
            if root is not None:
                escapes[root] = True
    return WorkGraph(
        ops=tuple(ops), reads=tuple(reads), escapes=tuple(escapes), names=tuple(node.name for node in nodes)
    )


def sizes_of(srg: SRG, values: Mapping[str, int] | None = None) -> Sizes:
    """The graph's tensors at the example's sizes (kept as long as the graph) or at given ones."""
    if values is not None:
        return Sizes(srg, values)
    return srg.fact(Sizes)


def work_at(sizes: Sizes, node: Node) -> Work:
    """What one op does, at the sizes of its graph's tensors."""
    return priced(sizes, node)[0]


def priced(sizes: Sizes, node: Node) -> tuple[Work, Traffic]:
    """The same, and what it reads value by value."""
    facts = facts_of(node.target)
    if facts.is_free:
        return _free(facts.op), _NO_TRAFFIC
    record = node.meta.get(META_KEY) or sizes.srg.record(node)  # which says what is wrong where there is none
    if facts.touches_nothing or (record.is_view and sizes.is_view(node, record)):
        return _view(facts.op), _NO_TRAFFIC
    if facts.is_higher:
        bodies = bodies_of(sizes, node)
        if bodies:
            return _bodies_work(sizes, facts.op, bodies), traffic(Call(sizes, node, record, facts.op), "other")
        inner = wrapped_op(node)
        if inner is not None:
            facts = facts_of(inner)
    call = Call(sizes, node, record, facts.op)
    plain = facts.rule is not None and facts.rule.user is None and not facts.is_higher and not record.is_view
    return _as_its_twin(call, facts.rule) if plain and sizes.hints is None else _priced(call, facts.rule)


def _as_its_twin(call: Call, found: OpRule | None) -> tuple[Work, Traffic]:
    """An op as one that is alike, and whose sources are weights where this one's are."""
    sizes, sources = call.sizes, call.sources
    key = (sizes.twins[call.node], *[is_weight(sizes, source) for source in sources])
    known = sizes.priced.get(key)
    if known is None:
        work, moved = _priced(call, found)
        sizes.priced[key] = work, moved, [sources.index(source) for source, _, _ in moved.reads]
        return work, moved
    work, moved, places = known
    reads = [(sources[at], nbytes, held) for at, (_, nbytes, held) in zip(places, moved.reads, strict=True)]
    return work, moved._replace(reads=tuple(reads))


@functools.lru_cache(maxsize=1024)
def _free(op: str) -> Work:
    return Work(op=op, kind="free")


@functools.lru_cache(maxsize=1024)
def _view(op: str) -> Work:
    return Work(op=op, kind="view")


def _priced(call: Call, found: OpRule | None) -> tuple[Work, Traffic]:
    kind, problem = "other", None
    matmul = vector = special = 0
    sides: tuple[int, ...] = ()
    count: Count | None = None
    try:
        if found is None:
            matmul, vector, special, sides = decomposed(call, work_of)
        elif found.user is not None:
            count = user_rules.checked(found.user(call))
            kind, sides = count.kind, count.sides
            matmul, vector, special = count.matmul_flops, count.vector_flops, count.special_flops
        else:
            kind = found.kind
            matmul, vector, special, sides = found.count(call)
    except _MISFITS as error:
        problem = _told(found is None, error)
    moved = traffic(call, kind)
    weights = read = 0
    for _, nbytes, held in moved.reads:
        if held:
            weights += nbytes
        else:
            read += nbytes
    write, gathered = moved.write, moved.gathered
    if count is not None:
        read, write, gathered = _by_user(count, moved, weights, read)
    work = Work(
        op=call.op,
        kind=kind,
        dtype=_dtype(call),
        matmul_flops=matmul,
        vector_flops=vector,
        special_flops=special,
        weight_bytes=weights,
        read_bytes=read,
        write_bytes=write,
        strided_bytes=moved.strided,
        gather_bytes=gathered,
        elements=_largest(call),
        sides=sides,
        problem=problem,
    )
    return work, moved


def _told(no_rule: bool, error: Exception) -> str:
    """Why an op is unpriced."""
    if no_rule and isinstance(error, (LookupError, ValueError)) and error.args:
        return str(error.args[0])
    return f"the rule for this op does not fit its arguments ({type(error).__name__}: {error})"


def _by_user(count: Count, moved: Traffic, weights: int, read: int) -> tuple[int, int, int]:
    """Bytes read besides weights, written and gathered, as a user's rule says where it does."""
    if count.read_bytes is not None:
        read = max(0, count.read_bytes - weights)
    write = moved.write if count.write_bytes is None else count.write_bytes
    return read, write, count.gather_bytes or moved.gathered


def _dtype(call: Call) -> str:
    """The dtype whose arithmetic applies: of the first floating tensor read, else of the output."""
    for meta in call.inputs:
        dtype = meta.dtype
        if dtype == "float32" or "float" in dtype or "complex" in dtype:
            return dtype
    outputs = call.outputs
    return outputs[0].dtype if outputs else "float32"


def _largest(call: Call) -> Any:
    """Elements of the largest tensor read or written; of expressions, the one that is largest in the example."""
    if call.sizes.hints is None:
        return max([math.prod(numbers(meta.shape)) for meta in (*call.inputs, *call.outputs)], default=0)
    hinted = Call(call.sizes.hints, call.node, call.record, call.op)
    pairs = zip((*hinted.inputs, *hinted.outputs), (*call.inputs, *call.outputs), strict=True)
    return max(((numel(hint), numel(meta)) for hint, meta in pairs), key=lambda pair: pair[0], default=(0, 0))[1]


def _bodies_work(sizes: Sizes, op: str, bodies: list[Body]) -> Work:
    """The work of a call that runs graphs: that of the body that has most to do, as often as it runs."""
    works = [_body_work(sizes, op, body) for body in bodies]
    return max(works, key=_weight)


def _weight(work: Work) -> tuple[int, int]:
    return work.matmul_flops, work.nbytes


def _body_work(outer: Sizes, op: str, body: Body) -> Work:
    srg, times = body.srg, body.times
    sizes = outer.of_body(srg)
    parts = [work_at(sizes, node) for node in srg.ops]
    problems = [f"in its body, {part.op}: {part.problem}" for part in parts if part.problem is not None]
    problems += [f"its body has no sizes at {node.name}" for node in srg.ops if fake_value(node) is None]
    whole = total(parts)
    scaled = {name: getattr(whole, name) * times for name in SUMMED}
    return replace(whole, op=op, problem=problems[0] if problems else None, **scaled)
