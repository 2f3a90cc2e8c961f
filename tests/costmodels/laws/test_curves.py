"""The laws of kernels: what must emerge from them whatever the parameters."""

from __future__ import annotations

import numpy as np
import pytest

from djinn_fx.costmodels.laws.curves import CLASSES, GRAIN, NAMES, PARAMETERS, batch, graph_seconds, kernel_seconds
from djinn_fx.costmodels.laws.fusion import OP_BY_OP, kernels
from djinn_fx.costmodels.work.work import KINDS, Work, WorkGraph
from tests.costmodels.workloads import chain, graph, linear, pointwise, rowwise, single

GUESS = np.log([one.guess for one in PARAMETERS])


def seconds(*graphs: WorkGraph, threads: int = 2, **values: float) -> np.ndarray:
    """Times by the guessed parameters, some of them replaced; dots in names are written as two underscores."""
    logs = GUESS.copy()
    for name, value in values.items():
        logs[NAMES.index(name.replace("__", "."))] = np.log(value)
    columns = batch([kernels(one, OP_BY_OP) for one in graphs])
    return graph_seconds(columns, logs[None], threads)[0]


def stack(rows: int, size: int, layers: int) -> WorkGraph:
    """As many products with weights of their own, one after the other."""
    return chain([linear(rows, size, size) for _ in range(layers)])


def share_of(name: str, works: WorkGraph) -> float:
    """How many per cent a graph's time grows by when a parameter grows by one per cent."""
    logs = np.stack([GUESS, GUESS])
    logs[1, NAMES.index(name)] += 0.01
    low, high = graph_seconds(batch([kernels(works, OP_BY_OP)]), logs, 2)[:, 0]
    return float(np.log(high / low) / 0.01)


def test_every_kind_of_work_takes_time_unless_it_costs_nothing() -> None:
    for kind in KINDS:
        work = Work(op=f"aten.{kind}", kind=kind, read_bytes=400, write_bytes=400, elements=100)
        columns = batch([kernels(single(work), OP_BY_OP)])
        time = kernel_seconds(columns, GUESS[None], 2).sum()
        assert (time == 0) == work.costs_nothing, kind


def test_an_empty_graph_costs_its_call() -> None:
    empty = WorkGraph(ops=(), reads=(), escapes=())
    assert seconds(empty, region=3e-6) == pytest.approx([3e-6])


def test_graphs_of_one_batch_do_not_mix() -> None:
    works = [stack(1, 64, 3), single(pointwise(100)), stack(8, 128, 2)]
    together = seconds(*works)
    assert together == pytest.approx([seconds(one)[0] for one in works])


@pytest.mark.parametrize("name", NAMES)
def test_more_of_any_cost_is_never_less_time(name: str) -> None:
    """Rates, calls and bytes; sizes of caches and the overlap work the other way."""
    works = [stack(1, 512, 4), stack(100, 512, 4), chain([pointwise(10**6), rowwise("softmax", 100, 10**4)])]
    logs = np.stack([GUESS, GUESS])
    logs[1, NAMES.index(name)] += 0.5
    low, high = graph_seconds(batch([kernels(one, OP_BY_OP) for one in works]), logs, 2)
    falls = name.startswith("size.") or name == "overlap"
    assert ((high <= low) if falls else (high >= low)).all()


def test_decode_is_bound_by_memory_and_prefill_by_arithmetic() -> None:
    """200 MB of weights: one row waits for them, 512 rows do not."""
    decode, prefill = stack(1, 1024, 48), stack(512, 1024, 48)
    weight_bytes = ("weight.near", "weight.l3", "weight.memory")
    assert sum(share_of(name, decode) for name in weight_bytes) > 0.5
    assert sum(share_of(name, prefill) for name in weight_bytes) < 0.02
    assert share_of("linear.operation", prefill) > 0.9
    assert share_of("linear.operation", decode) < 0.2


def test_the_crossover_moves_with_the_machine() -> None:
    """The rows from which a product takes twice the time of one row: more of them where memory is slower."""

    def crossover(memory: float) -> int:
        rows = [1, 2, 4, 8, 16, 32, 64, 128, 256]
        times = seconds(*(stack(one, 1024, 48) for one in rows), weight__memory=memory)
        return next(one for one, time in zip(rows, times, strict=True) if time > 2 * times[0])

    assert crossover(1e-11) < crossover(3e-11) < crossover(3e-10)


def test_weights_that_stay_in_the_cache_are_read_faster() -> None:
    few, many = seconds(stack(1, 512, 2), stack(1, 512, 200))
    assert many > 130 * few


def test_a_small_op_gains_nothing_by_threads() -> None:
    small, large = single(pointwise(GRAIN - 1)), single(pointwise(100 * GRAIN))
    # rates are those of all threads together: with more of them one thread alone is that much slower
    assert seconds(small, threads=4)[0] > seconds(small, threads=1)[0]
    assert seconds(large, threads=4, fork=1e-12)[0] == pytest.approx(seconds(large, threads=1, fork=1e-12)[0])


def test_a_number_beside_a_tensor_costs_more_to_call() -> None:
    with_number, with_tensor = seconds(single(pointwise(10, operands=1)), single(pointwise(10)), call__scalar=1e-6)
    assert with_number - with_tensor == pytest.approx(1e-6, rel=0.02)


def test_attention_of_one_query_is_bound_by_its_cache() -> None:
    def attention(queries: int, keys: int) -> WorkGraph:
        rows = 8 * keys * 64 * 4
        return single(
            Work(
                op="aten._scaled_dot_product_flash_attention_for_cpu",
                kind="attention",
                matmul_flops=4 * 8 * queries * keys * 64,
                read_bytes=2 * rows + 8 * queries * 64 * 4,
                write_bytes=8 * queries * 64 * 4,
                elements=8 * keys * 64,
                sides=(1, 8, 8, queries, keys, 64, 64),
            )
        )

    short, long, prefill = seconds(attention(1, 32768), attention(1, 65536), attention(4096, 32768))
    assert 1.8 < long / short < 2.2
    assert prefill > 100 * short


def test_sorts_of_kernels_are_named_once() -> None:
    assert len(set(CLASSES)) == len(CLASSES)
    assert len(set(NAMES)) == len(NAMES)


def test_no_kernel_of_a_graph_depends_on_the_order() -> None:
    works = [linear(4, 64, 64), pointwise(500), rowwise("norm", 10, 50)]
    one = graph(works, [[-1], [-1], [-1]], [0, 1, 2])
    other = graph(works[::-1], [[-1], [-1], [-1]], [0, 1, 2])
    assert seconds(one) == pytest.approx(seconds(other))
