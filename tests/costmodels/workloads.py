"""Small graphs of work made by hand, for the tests of the time models."""

from __future__ import annotations

from collections.abc import Sequence

from djinn_fx.costmodels.work.work import Read, Work, WorkGraph


def linear(rows: int, depth: int, columns: int) -> Work:
    """``[rows, depth] @ [depth, columns]`` with a weight."""
    return Work(
        op="aten.mm",
        kind="matmul",
        matmul_flops=2 * rows * depth * columns,
        weight_bytes=4 * depth * columns,
        read_bytes=4 * rows * depth,
        write_bytes=4 * rows * columns,
        elements=max(rows * depth, depth * columns, rows * columns),
        sides=(1, rows, columns, depth),
    )


def pointwise(elements: int, op: str = "aten.mul", operands: int = 2) -> Work:
    """An elementwise op on tensors of that many elements."""
    return Work(
        op=op,
        kind="elementwise",
        vector_flops=elements,
        read_bytes=4 * elements * operands,
        write_bytes=4 * elements,
        elements=elements,
    )


def rowwise(kind: str, rows: int, length: int) -> Work:
    """A norm, softmax or reduction along rows."""
    written = rows if kind == "reduction" else rows * length
    return Work(
        op=f"aten.{kind}",
        kind=kind,
        vector_flops=5 * rows * length,
        read_bytes=4 * rows * length,
        write_bytes=4 * written,
        elements=rows * length,
        sides=(rows, length),
    )


def view() -> Work:
    """A view."""
    return Work(op="aten.view", kind="view")


def graph(ops: Sequence[Work], edges: Sequence[Sequence[int]], outputs: Sequence[int]) -> WorkGraph:
    """A graph from what each op reads: indexes of ops, -1 for something from outside.

    Args:
        ops: the works.
        edges: for each op, its producers.
        outputs: the ops whose values are read outside.
    """

    def read(index: int, producer: int) -> Read:
        made = ops[producer].write_bytes if producer >= 0 else ops[index].read_bytes
        return Read(producer=producer, nbytes=made)

    def reads(index: int) -> tuple[Read, ...]:
        weight = ops[index].weight_bytes
        own = (Read(producer=-1, nbytes=weight, is_weight=True),) if weight else ()
        return (*(read(index, producer) for producer in edges[index]), *own)

    return WorkGraph(
        ops=tuple(ops),
        reads=tuple(reads(index) for index in range(len(ops))),
        escapes=tuple(index in outputs for index in range(len(ops))),
    )


def single(work: Work) -> WorkGraph:
    """One op that reads from outside."""
    return graph([work], [[-1]], [0])


def chain(ops: Sequence[Work]) -> WorkGraph:
    """Each op reads the one before; the last is the output."""
    return graph(ops, [[index - 1] for index in range(len(ops))], [len(ops) - 1])
