"""The work of an op and of a region, read from a graph's records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch.fx import Node

from djinn_fx.costmodels.kinds import kind_of
from djinn_fx.costmodels.roofline import operations
from djinn_fx.costmodels.rules import is_free, shape_of, tensors_of
from djinn_fx.costmodels.traffic import GATHERS, node_bytes, packet_name, traffic
from djinn_fx.costmodels.work import Read, Work, WorkGraph
from djinn_fx.srg.graph import SRG, fake_value
from djinn_fx.srg.record import Residency

_HELD = (Residency.PARAMETER, Residency.BUFFER, Residency.CONSTANT)


def work_of(srg: SRG, node: Node, sizes: Mapping[str, int] | None = None) -> Work:
    """What one op does.

    Args:
        srg: the graph.
        node: a call in it.
        sizes: a value for each symbol of the graph; None: those of the example.
    """
    record = srg.record(node)
    op = packet_name(record.op)
    if is_free(node):
        return Work(op=op, kind="free")
    if record.is_view and not record.mutates:
        return Work(op=op, kind="view")
    flops, problem = operations(node)
    read, write = traffic(srg, node, record)
    weights = sum(node_bytes(srg, source) for source in node.all_input_nodes if is_weight(srg, source))
    kind = kind_of(node.target)
    weights = min(weights, read)
    contracts = kind in ("matmul", "conv", "attention")
    shapes = [shape_of(t) for source in node.all_input_nodes for t in tensors_of(fake_value(source))]
    return Work(
        op=op,
        kind=kind,
        dtype=_dtype(srg, node),
        matmul_flops=flops if contracts else 0,
        vector_flops=0 if contracts else flops,
        weight_bytes=weights,
        read_bytes=read - weights,
        write_bytes=write,
        gather_bytes=read if op in GATHERS else 0,
        elements=max((_count(s) for s in [*shapes, *map(shape_of, tensors_of(fake_value(node)))]), default=0),
        sides=_sides_or_none(kind, node, shapes),
        problem=problem,
    )


def _count(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _dtype(srg: SRG, node: Node) -> str:
    metas = [meta for source in node.all_input_nodes for meta in srg.record(source).outputs]
    floating = [meta.dtype for meta in metas if "float" in meta.dtype]
    if floating:
        return floating[0]
    outputs = srg.record(node).outputs
    return outputs[0].dtype if outputs else "float32"


def _sides_or_none(kind: str, node: Node, shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    try:
        return _sides(kind, node, shapes)
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return ()


def _sides(kind: str, node: Node, shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    outputs = [shape_of(t) for t in tensors_of(fake_value(node))]
    if kind == "matmul":
        left, right = [s for s in shapes if len(s) >= 2][-2:]
        if packet_name(str(node.target)) in ("aten.linear",):
            right = right[::-1]
        batch = _count(left[:-2]) if len(left) > 2 and len(right) > 2 else 1
        rows = left[-2] if len(right) > 2 else _count(left[:-1])
        return batch, rows, right[-1], left[-1]
    if kind == "conv":
        weight, groups = shapes[1], int(node.args[8]) if len(node.args) > 8 else 1  # type: ignore[arg-type]
        return shapes[0][0], weight[0], weight[1], groups, _count(outputs[0][2:]), _count(weight[2:])
    if kind == "attention":
        query, key, value = shapes[:3]
        return query[0], query[1], key[1], query[2], key[2], query[3], value[3]
    if kind in ("norm", "softmax", "reduction", "scan", "sort") and shapes and shapes[0]:
        length = shapes[0][-1]
        return _count(shapes[0]) // max(1, length), length
    return ()


def is_weight(srg: SRG, node: Node) -> bool:
    """Whether a value is a parameter or buffer, or a view of one."""
    while srg.record(node).is_view and not srg.record(node).mutates and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return srg.record(node).residency in _HELD and node.op != "call_function"


def work_graph(srg: SRG, names: Sequence[str] | None = None, sizes: Mapping[str, int] | None = None) -> WorkGraph:
    """The work of a region or of the whole graph, and how values flow in it.

    Args:
        srg: the graph.
        names: a region's nodes; None: every call of the graph.
        sizes: as for :func:`work_of`.
    """
    chosen = None if names is None else frozenset(names)
    nodes = [node for node in srg.ops if chosen is None or node.name in chosen]
    index = {node: place for place, node in enumerate(nodes)}
    roots: dict[Node, Node] = {}
    ops: list[Work] = []
    reads: list[tuple[Read, ...]] = []
    escapes = [False] * len(nodes)
    for node in nodes:
        work = work_of(srg, node, sizes)
        ops.append(work)
        looks_through = work.costs_nothing and bool(node.all_input_nodes)
        roots[node] = _root(roots, node.all_input_nodes[0]) if looks_through else node
        if looks_through:
            reads.append(())
        else:
            reads.append(
                tuple(
                    Read(
                        producer=index.get(_root(roots, source), -1),
                        nbytes=node_bytes(srg, source),
                        is_weight=is_weight(srg, source),
                    )
                    for source in node.all_input_nodes
                )
            )
        if any(user not in index for user in node.users) or srg.record(node).mutates:
            escapes[index[node]] = True
            if roots[node] in index:
                escapes[index[roots[node]]] = True
    return WorkGraph(
        ops=tuple(ops), reads=tuple(reads), escapes=tuple(escapes), names=tuple(node.name for node in nodes)
    )


def _root(roots: dict[Node, Node], node: Node) -> Node:
    return roots.get(node, node)
