"""What an engine runs as one kernel, and what then touches memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from djinn_fx.costmodels.laws.fusion import POLICIES, Policy, kernels, policy_of
from djinn_fx.costmodels.work.work import Read, Work, WorkGraph
from djinn_fx.settings.table import ENGINE_NAMES
from tests.costmodels.workloads import chain, graph, linear, pointwise, rowwise, view
from tests.examples import examples

N = 1000


def count(works: WorkGraph, engine: str) -> int:
    return len(kernels(works, policy_of(engine)).kernels)


def test_every_engine_has_a_policy() -> None:
    assert set(ENGINE_NAMES) <= set(POLICIES)


def test_eager_runs_op_by_op_and_pays_for_views() -> None:
    works = chain([pointwise(N), view(), pointwise(N), rowwise("softmax", 10, 100)])
    schedule = kernels(works, policy_of("eager"))
    assert [kernel.kind for kernel in schedule.kernels] == ["elementwise", "elementwise", "softmax"]
    assert schedule.views == 1


def test_a_compiler_pays_for_no_view() -> None:
    assert kernels(chain([pointwise(N), view(), pointwise(N)]), policy_of("inductor")).views == 0


def test_inductor_writes_one_loop_of_pointwise_and_rowwise_ops() -> None:
    works = chain([pointwise(N), rowwise("norm", 10, 100), pointwise(N), rowwise("softmax", 10, 100)])
    schedule = kernels(works, policy_of("inductor"))
    (only,) = schedule.kernels
    assert len(only.ops) == 4
    # read once from outside, written once: the three values between are inside
    assert (only.read_bytes, only.write_bytes, only.inner_bytes) == (8 * N, 4 * N, 12 * N)


def test_a_value_that_escapes_is_written_though_it_is_fused() -> None:
    works = graph([pointwise(N), pointwise(N)], [[-1], [0]], [0, 1])
    (only,) = kernels(works, policy_of("inductor")).kernels
    assert (only.write_bytes, only.inner_bytes) == (8 * N, 0)


def test_a_view_that_escapes_keeps_its_base_in_memory() -> None:
    works = graph([pointwise(N), view(), pointwise(N)], [[-1], [0], [0]], [1, 2])
    (only,) = kernels(works, policy_of("inductor")).kernels
    assert only.write_bytes == 8 * N


def test_a_product_ends_a_loop() -> None:
    works = chain([pointwise(640), linear(10, 64, 64), pointwise(640)])
    assert [kernel.kind for kernel in kernels(works, policy_of("inductor")).kernels] == [
        "elementwise", "matmul", "elementwise",
    ]  # fmt: skip


def test_what_follows_a_product_joins_it_up_to_the_engines_limit() -> None:
    works = chain([linear(10, 64, 64), *(pointwise(640) for _ in range(5))])
    assert count(works, "packed") == 1 + 3
    assert count(works, "onnxruntime") == 1 + 4
    assert count(works, "tensorrt") == 1


def test_nothing_follows_a_product_that_others_read_too() -> None:
    works = graph([linear(10, 64, 64), pointwise(640), pointwise(640)], [[-1], [0], [0]], [1, 2])
    assert count(works, "packed") == 3


def test_a_loop_does_not_close_a_cycle_around_a_product() -> None:
    """a -> product -> b, and a -> b: b must not join a, for the product stands between them."""
    works = graph([pointwise(640), linear(10, 64, 64), pointwise(640)], [[-1], [0], [0, 1]], [2])
    schedule = kernels(works, policy_of("inductor"))
    assert len(schedule.kernels) == 3
    assert schedule.kernels[0].write_bytes == 4 * 640


def test_loops_of_other_lengths_stay_apart() -> None:
    works = chain([pointwise(1000), pointwise(333)])
    assert count(works, "inductor") == 2


def test_openvino_takes_any_layout_so_copies_vanish() -> None:
    copy = Work(op="aten.clone", kind="copy", read_bytes=4 * N, write_bytes=4 * N, elements=N)
    works = chain([rowwise("softmax", 10, 100), copy, rowwise("softmax", 10, 100)])
    assert count(works, "openvino") == 2
    assert count(works, "onnxruntime") == 3


def test_a_value_read_twice_by_one_kernel_is_read_once() -> None:
    works = graph([linear(10, 64, 64), pointwise(640), pointwise(640)], [[-1], [0], [0, 1]], [2])
    loop = kernels(works, Policy(loops=frozenset({"elementwise"}))).kernels[1]
    assert (len(loop.ops), loop.read_bytes) == (2, 4 * 640)


@st.composite
def programs(draw: st.DrawFn) -> WorkGraph:
    """Random acyclic graphs of loops, products and views."""
    size = draw(st.integers(1, 14))
    makers = [lambda: pointwise(640), lambda: rowwise("norm", 10, 64), lambda: linear(10, 64, 64), view]
    ops = [draw(st.sampled_from(makers))() for _ in range(size)]
    edges = [
        draw(st.lists(st.integers(-1, index - 1), min_size=1, max_size=1 if ops[index].costs_nothing else 3))
        for index in range(size)
    ]
    return graph(ops, edges, draw(st.lists(st.integers(0, size - 1), min_size=1)))


@examples(60)
@given(works=programs(), engine=st.sampled_from(ENGINE_NAMES))
def test_kernels_hold_every_op_once_and_can_be_ordered(works: WorkGraph, engine: str) -> None:
    """No op is lost or done twice, no operation either, and no two kernels wait for each other."""
    tagged = tuple(
        Work(**{**{name: getattr(work, name) for name in Work.__slots__}, "op": f"{work.op}#{index}"})
        for index, work in enumerate(works.ops)
    )
    named = WorkGraph(ops=tagged, reads=works.reads, escapes=works.escapes)
    schedule = kernels(named, policy_of(engine))
    busy = [work.op for work in tagged if not work.costs_nothing]
    found = [work.op for kernel in schedule.kernels for work in kernel.ops]
    assert sorted(found) == sorted(busy)
    assert sum(k.matmul_flops for k in schedule.kernels) == sum(w.matmul_flops for w in tagged)
    _order(named, {op: place for place, kernel in enumerate(schedule.kernels) for op in (w.op for w in kernel.ops)})


def _order(works: WorkGraph, kernel_of: dict[str, int]) -> None:
    """Fails if the kernels wait for each other in a circle."""
    root: list[int] = []
    waits: dict[int, set[int]] = {number: set() for number in kernel_of.values()}
    for index, work in enumerate(works.ops):
        sources = [root[read.producer] for read in works.reads[index] if read.producer >= 0]
        if work.costs_nothing:
            root.append(sources[0] if sources else -1)
            continue
        root.append(index)
        own = kernel_of[work.op]
        waits[own] |= {kernel_of[works.ops[source].op] for source in sources if source >= 0} - {own}
    while waits:
        free = {number for number, before in waits.items() if not before & waits.keys()}
        if not free:
            pytest.fail("kernels wait for each other in a circle")
        waits = {number: before for number, before in waits.items() if number not in free}


def test_the_sizes_of_reads_are_kept_for_a_single_op() -> None:
    """A broadcast operand is counted once by its rule: the kernel of one op takes the rule's bytes."""
    work = pointwise(N)
    works = WorkGraph(ops=(work,), reads=((Read(producer=-1, nbytes=4), Read(producer=-1, nbytes=4)),), escapes=(True,))
    assert kernels(works, policy_of("inductor")).kernels[0].read_bytes == work.read_bytes
