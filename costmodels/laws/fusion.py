"""Which ops of a graph an engine runs as one kernel, and what then still touches memory.

An engine is described by a :class:`Policy`: which kinds of op it writes into one loop, which it lets follow a product
inside the product's own kernel, and whether a view costs a call. From a policy follow the kernels (:func:`kernels`):
a value that is made and read inside one kernel only never reaches memory.

The grouping needs no search for cycles: every kernel has a depth, one more than the deepest it reads. An op may join a
kernel if everything else it reads is less deep, for then none of that can depend on the kernel. Linear in the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from djinn_fx.costmodels.work.work import Read, Work, WorkGraph
from djinn_fx.settings.engines import EAGER, INDUCTOR, INDUCTOR_PACKED, ONNXRUNTIME, OPENVINO, PACKED, TENSORRT

#: Ops with kernels of their own in every engine on a CPU; all that follows may be fused to them by some.
PRODUCTS = frozenset({"matmul", "conv", "attention"})
#: One pass over elements, each output from few inputs.
POINTWISE = frozenset({"elementwise", "copy", "fill", "random", "gather"})
#: Along rows: Inductor writes them into the same loop as the pointwise ops around them.
ROWWISE = frozenset({"norm", "softmax", "reduction"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """How an engine groups ops.

    Attributes:
        loops: kinds that may share one generated loop.
        after_products: kinds that a product's kernel may do to its result before writing it.
        after_limit: how many of them at most.
        calls_views: whether a view costs a call (an interpreter walks the ATen graph).
        drops_copies: whether copies that only change the layout disappear (the kernel's reader takes any layout).
    """

    loops: frozenset[str] = frozenset()
    after_products: frozenset[str] = frozenset()
    after_limit: int = 0
    calls_views: bool = False
    drops_copies: bool = False


#: Kinds that move and compute nothing.
_NOTHING = frozenset({"view", "free"})
_INDUCTOR_LOOPS = POINTWISE | ROWWISE
#: By engine name. What is not here is run op by op.
POLICIES: dict[str, Policy] = {
    EAGER: Policy(calls_views=True),
    # Products are called as they are (no freezing): loops hold everything else.
    INDUCTOR: Policy(loops=_INDUCTOR_LOOPS),
    INDUCTOR_PACKED: Policy(loops=_INDUCTOR_LOOPS, after_products=frozenset({"elementwise"}), after_limit=2),
    PACKED: Policy(after_products=frozenset({"elementwise"}), after_limit=2, calls_views=True),
    # Chains of pointwise ops are one subgraph (snippets); bias, activation and a sum go into the product.
    OPENVINO: Policy(
        loops=frozenset({"elementwise"}), after_products=frozenset({"elementwise"}), after_limit=3, drops_copies=True
    ),
    # Fused by pattern: a bias and an activation; other ops stay single kernels.
    ONNXRUNTIME: Policy(after_products=frozenset({"elementwise"}), after_limit=1),
    TENSORRT: Policy(loops=_INDUCTOR_LOOPS, after_products=frozenset({"elementwise"}), after_limit=8),
}
OP_BY_OP = Policy(calls_views=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """Ops run together. Sizes in bytes; operations as in :class:`~djinn_fx.costmodels.work.work.Work`.

    Attributes:
        main: the op that decides the law: the product, else the one that does most.
        ops: all ops in it, views not among them.
        matmul_flops, vector_flops, special_flops: sums over the ops.
        weight_bytes: parameters and buffers read.
        read_bytes: other values read that were made outside.
        write_bytes: values written that somebody outside reads.
        inner_bytes: values made and read inside only: they stay in registers or the nearest cache.
        strided_bytes, gather_bytes: parts of the traffic that are not contiguous, or at addresses that only data tell.
    """

    main: Work
    ops: tuple[Work, ...]
    matmul_flops: int
    vector_flops: int
    special_flops: int
    weight_bytes: int
    read_bytes: int
    write_bytes: int
    inner_bytes: int
    strided_bytes: int
    gather_bytes: int

    @property
    def kind(self) -> str:
        """Of the deciding op."""
        return self.main.kind

    @property
    def nbytes(self) -> int:
        """Bytes of memory touched."""
        return self.weight_bytes + self.read_bytes + self.write_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """What an engine runs.

    Attributes:
        kernels: in an order in which they can run.
        views: calls of views that the engine pays for.
    """

    kernels: tuple[Kernel, ...]
    views: int


@dataclass(slots=True)
class _Group:
    """A kernel in the making.

    Attributes:
        depth: one more than the deepest group it reads.
        elements: of its largest op.
        product: whether its first op is a product.
        open: whether more may join.
    """

    depth: int
    elements: int
    product: bool
    open: bool
    members: list[int] = field(default_factory=list)


def policy_of(engine: str) -> Policy:
    """The policy of an engine; one without runs op by op."""
    return POLICIES.get(engine, OP_BY_OP)


def kernels(graph: WorkGraph, policy: Policy) -> Schedule:
    """The kernels an engine makes of a graph."""
    reads = _through_views(graph)
    group_of: list[int] = [-1] * len(graph)
    groups: list[_Group] = []
    readers = _reader_counts(graph, reads)
    for index, work in enumerate(graph.ops):
        if work.kind in _NOTHING:
            continue
        before = {group_of[read.producer] for read in reads[index] if read.producer >= 0} - {-1}
        joined = _joinable(graph, index, before, groups, policy, readers)
        if joined < 0:
            depth = 1 + max((groups[one].depth for one in before), default=0)
            is_open = work.kind in policy.loops or (work.kind in PRODUCTS and policy.after_limit > 0)
            groups.append(_Group(depth=depth, elements=work.elements, product=work.kind in PRODUCTS, open=is_open))
            joined = len(groups) - 1
        groups[joined].members.append(index)
        groups[joined].elements = max(groups[joined].elements, work.elements)
        group_of[index] = joined
    made = _made(graph, reads, group_of, groups, policy)
    views = sum(work.kind == "view" for work in graph.ops) if policy.calls_views else 0
    return Schedule(kernels=made, views=views)


def _through_views(graph: WorkGraph) -> list[Sequence[Read]]:
    """What each op reads, with views and unpackings replaced by what they are views of."""
    root = list(range(len(graph)))
    behind_views = False
    for index, work in enumerate(graph.ops):
        if work.kind in _NOTHING:
            source = graph.reads[index][0].producer if graph.reads[index] else -1
            root[index] = root[source] if source >= 0 else -1
            behind_views = True
    if not behind_views:
        return list(graph.reads)
    return [
        reads
        if all(read.producer < 0 or root[read.producer] == read.producer for read in reads)
        else [replace(read, producer=root[read.producer]) if read.producer >= 0 else read for read in reads]
        for reads in graph.reads
    ]


def _reader_counts(graph: WorkGraph, reads: Sequence[Sequence[Read]]) -> list[int]:
    """How many ops read each value; one more if it escapes."""
    counts = [int(escapes) for escapes in graph.escapes]
    for index, work in enumerate(graph.ops):
        if work.kind not in _NOTHING:
            for producer in {read.producer for read in reads[index] if read.producer >= 0}:
                counts[producer] += 1
    return counts


def _joinable(
    graph: WorkGraph, index: int, before: set[int], groups: Sequence[_Group], policy: Policy, readers: Sequence[int]
) -> int:
    """The group an op joins; -1 for none."""
    if not before:
        return -1
    deepest = max(before, key=lambda number: groups[number].depth)
    group = groups[deepest]
    if not group.open or not _fits(graph, graph.ops[index], group, policy, readers):
        return -1
    # What is read beside it must be less deep: else it might itself read the group, or what the group reads.
    beside = max((groups[number].depth for number in before if number != deepest), default=-1)
    return deepest if beside < group.depth else -1


def _fits(graph: WorkGraph, work: Work, group: _Group, policy: Policy, readers: Sequence[int]) -> bool:
    last = group.members[-1]
    if group.product:
        return (
            work.kind in policy.after_products
            and len(group.members) <= policy.after_limit
            and readers[last] == 1
            and work.elements == _written_elements(graph.ops[last])
        )
    if work.kind not in policy.loops:
        return False
    small, large = sorted((max(1, work.elements), max(1, group.elements)))
    return large % small == 0


def _written_elements(work: Work) -> int:
    """Elements of a product's result; of another op its largest tensor's."""
    if work.kind in PRODUCTS and work.write_bytes:
        return work.write_bytes // _ITEM_BYTES.get(work.dtype, 4)
    return work.elements


_ITEM_BYTES = {"float64": 8, "bfloat16": 2, "float16": 2, "int8": 1, "uint8": 1, "complex64": 8, "int64": 8}


def _made(
    graph: WorkGraph,
    reads: Sequence[Sequence[Read]],
    group_of: Sequence[int],
    groups: Sequence[_Group],
    policy: Policy,
) -> tuple[Kernel, ...]:
    """The kernels with what they read and write."""
    leaves = list(graph.escapes)
    for index, work in enumerate(graph.ops):
        if work.kind in _NOTHING:
            if graph.escapes[index] and graph.reads[index]:  # a view that is read outside: its base must be in memory
                source = graph.reads[index][0].producer
                if source >= 0:
                    leaves[source] = True
            continue
        for read in reads[index]:
            if read.producer >= 0 and group_of[read.producer] != group_of[index]:
                leaves[read.producer] = True
    made = [_kernel(graph, reads, group_of, number, group, leaves) for number, group in enumerate(groups)]
    if policy.drops_copies:
        made = [kernel for kernel in made if not (kernel.kind == "copy" and len(kernel.ops) == 1)]
    return tuple(made)


def _kernel(
    graph: WorkGraph,
    reads: Sequence[Sequence[Read]],
    group_of: Sequence[int],
    number: int,
    group: _Group,
    leaves: Sequence[bool],
) -> Kernel:
    ops = tuple(graph.ops[index] for index in group.members)
    main = ops[0] if group.product else max(ops, key=_weight)
    if len(ops) == 1:  # as it is: its own figures know broadcasts and parts of tensors
        return _single(main)
    seen: dict[int, int] = {}
    outside = weights = inner = write = 0
    for index in group.members:
        for read in reads[index]:
            if read.is_weight:
                weights += read.nbytes
            elif read.producer < 0:
                outside += read.nbytes
            elif group_of[read.producer] != number:
                seen[read.producer] = max(seen.get(read.producer, 0), read.nbytes)
        written = graph.ops[index].write_bytes
        if leaves[index]:
            write += written
        else:
            inner += written
    return Kernel(
        main=main,
        ops=ops,
        matmul_flops=sum(work.matmul_flops for work in ops),
        vector_flops=sum(work.vector_flops for work in ops),
        special_flops=sum(work.special_flops for work in ops),
        weight_bytes=weights,
        read_bytes=outside + sum(seen.values()),
        write_bytes=write,
        inner_bytes=inner,
        strided_bytes=sum(work.strided_bytes for work in ops),
        gather_bytes=sum(work.gather_bytes for work in ops),
    )


def _single(work: Work) -> Kernel:
    return Kernel(
        main=work,
        ops=(work,),
        matmul_flops=work.matmul_flops,
        vector_flops=work.vector_flops,
        special_flops=work.special_flops,
        weight_bytes=work.weight_bytes,
        read_bytes=work.read_bytes,
        write_bytes=work.write_bytes,
        inner_bytes=0,
        strided_bytes=work.strided_bytes,
        gather_bytes=work.gather_bytes,
    )


def _weight(work: Work) -> tuple[int, int]:
    return (work.flops, work.nbytes)
