"""Operations of an op: torch's own formulas where it has them, by hand where it has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from djinn_fx.costmodels.work.rules import rule_of
from djinn_fx.costmodels.work.work import Work
from djinn_fx.costmodels.work.work_of import work_of
from djinn_fx.srg.graph import fake_value
from tests import graphs

aten = torch.ops.aten


def works(function: Callable[..., Any], *args: Any, symbolic: bool = False) -> list[Work]:
    """The work of all ops in a function's graph, which must all have a rule."""
    srg = graphs.lowered(graphs.trace(function, *args, symbolic=symbolic))
    found = [work_of(srg, node) for node in srg.ops]
    assert [work.problem for work in found if work.problem is not None] == []
    return found


def total(function: Callable[..., Any], *args: Any, symbolic: bool = False) -> int:
    """Operations of all ops in a function's graph."""
    return sum(work.flops for work in works(function, *args, symbolic=symbolic))


def last(function: Callable[..., Any], *args: Any) -> Work:
    """The last op's work that is not free."""
    return [work for work in works(function, *args) if not work.costs_nothing][-1]


def by_torch(function: Callable[..., Any], *args: Any) -> int:
    """The same, counted by torch while it runs."""
    with FlopCounterMode(display=False) as counter:
        function(*args)
    return counter.get_total_flops()


M, K, N, B = 3, 5, 7, 2


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (torch.mm, (torch.ones(M, K), torch.ones(K, N))),
        (torch.bmm, (torch.ones(B, M, K), torch.ones(B, K, N))),
        (torch.addmm, (torch.ones(N), torch.ones(M, K), torch.ones(K, N))),
        (torch.baddbmm, (torch.ones(B, M, N), torch.ones(B, M, K), torch.ones(B, K, N))),
        (lambda x, w: F.conv2d(x, w, stride=2, padding=1), (torch.ones(B, 4, 9, 9), torch.ones(6, 4, 3, 3))),
        (lambda x, w: F.conv1d(x, w, groups=2), (torch.ones(B, 4, 9), torch.ones(6, 2, 3))),
        (F.conv_transpose2d, (torch.ones(B, 4, 5, 5), torch.ones(4, 6, 3, 3))),
        (F.linear, (torch.ones(B, M, K), torch.ones(N, K))),
        (torch.matmul, (torch.ones(B, M, K), torch.ones(K, N))),
    ],
)
@pytest.mark.parametrize("symbolic", [False, True])
def test_contractions_agree_with_torch(function: Callable[..., Any], args: tuple[Tensor, ...], symbolic: bool) -> None:
    assert total(function, *args, symbolic=symbolic) == by_torch(function, *args) > 0


def test_gradients_of_a_convolution_agree_with_torch() -> None:
    def gradients(grad: Tensor, x: Tensor, w: Tensor) -> Any:
        mask = [True, True, False]
        return aten.convolution_backward(grad, x, w, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, mask)

    args = (torch.ones(B, 6, 7, 7), torch.ones(B, 4, 9, 9), torch.ones(6, 4, 3, 3))
    assert total(gradients, *args) == by_torch(gradients, *args) > 0


def test_attention_on_the_cpu_counts_as_torch_counts_it_elsewhere() -> None:
    query, key = torch.ones(B, 4, M, K), torch.ones(B, 4, N, K)
    expected = sdpa_flop_count(query.shape, key.shape, key.shape)
    assert expected == 2 * (2 * B * 4 * M * N * K)
    assert total(F.scaled_dot_product_attention, query, key, key) == expected


def test_gradients_of_attention_on_the_cpu() -> None:
    def gradients(grad: Tensor, q: Tensor, k: Tensor, out: Tensor, lse: Tensor) -> Any:
        op = aten._scaled_dot_product_flash_attention_for_cpu_backward
        return op(grad, q, k, k, out, lse, 0.0, False)

    q, k, lse = torch.ones(B, 4, M, K), torch.ones(B, 4, N, K), torch.ones(B, 4, M)
    assert total(gradients, q, q, k, q, lse) == sdpa_backward_flop_count(q.shape, q.shape, k.shape, k.shape)


def test_grouped_queries_count_the_heads_of_the_query() -> None:
    op = aten._scaled_dot_product_flash_attention_for_cpu
    work = last(lambda q, k: op(q, k, k)[0], torch.ones(B, 4, M, K), torch.ones(B, 2, N, K))
    assert work.matmul_flops == work.flops == 2 * (2 * B * 4 * M * N * K)
    assert work.sides == (B, 4, 2, M, N, K, K)
    assert work.read_bytes == 4 * (B * 4 * M * K + B * 2 * N * K)  # key and value are one tensor here


def test_query_heads_that_cannot_share_key_heads_are_unpriced() -> None:
    op = aten._scaled_dot_product_flash_attention_for_cpu
    gm = graphs.trace(lambda q, k: op(q, k, k)[0], torch.ones(B, 4, M, K), torch.ones(B, 3, N, K))
    srg = graphs.lowered(gm)
    work = work_of(srg, srg.node("_scaled_dot_product_flash_attention_for_cpu"))
    assert work.problem is not None
    assert "4 query heads cannot share 3 key heads" in work.problem


def test_a_packed_batch_counts_as_torch_counts_it() -> None:
    def packed(q: Tensor, k: Tensor, offsets: Tensor) -> Tensor:
        return aten._flash_attention_forward(q, k, k, offsets, offsets, 9, 7, 0.0, False, False)[0]

    args = [torch.ones(20, 4, 16, device="meta", dtype=torch.bfloat16), torch.ones(20, 2, 16, device="meta")]
    offsets = torch.zeros(4, dtype=torch.int32, device="meta")
    work = last(packed, args[0], args[1].bfloat16(), offsets)
    assert work.flops == 3 * sdpa_flop_count((1, 4, 9, 16), (1, 2, 7, 16), (1, 2, 7, 16))
    assert work.sides == (3, 4, 2, 9, 7, 16, 16)


@pytest.mark.parametrize(
    ("function", "args", "expected"),
    [
        (torch.add, (torch.ones(M, N), torch.ones(N)), M * N),
        (torch.relu, (torch.ones(M, N),), M * N),
        (lambda x: x.sum(0), (torch.ones(M, N),), M * N),
        (lambda x: x.amax(1), (torch.ones(M, N),), M * N),
        (lambda x: F.softmax(x, -1), (torch.ones(M, N),), 5 * M * N),
        (lambda x: F.layer_norm(x, (N,)), (torch.ones(M, N),), 8 * M * N),
        (lambda x: torch.cat([x, x]), (torch.ones(M, N),), 0),
        (lambda x: x.clone(), (torch.ones(M, N),), 0),
        (lambda x: x.to(torch.float64), (torch.ones(M, N),), 0),
        (lambda x: F.max_pool2d(x, 2), (torch.ones(B, 3, 8, 8),), B * 3 * 4 * 4 * (2 * 2)),
        (lambda x: F.avg_pool2d(x, (2, 4)), (torch.ones(B, 3, 8, 8),), B * 3 * 4 * 2 * (2 * 4)),
        (torch.mv, (torch.ones(M, K), torch.ones(K)), 2 * M * K),
        (torch.dot, (torch.ones(K), torch.ones(K)), 2 * K),
        (torch.addmv, (torch.ones(M), torch.ones(M, K), torch.ones(K)), 2 * M * K),
        (torch.addbmm, (torch.ones(M, N), torch.ones(B, M, K), torch.ones(B, K, N)), 2 * B * M * K * N),
        (torch.fft.fft, (torch.ones(M, 8, dtype=torch.complex64),), 5 * M * 8 * 3),
        (lambda w, i: F.embedding(i, w), (torch.ones(M, N), torch.zeros(4, dtype=torch.int64)), 0),
    ],
)
def test_other_ops(function: Callable[..., Any], args: tuple[Tensor, ...], expected: int) -> None:
    assert total(function, *args) == expected


def test_an_op_that_computes_in_place_is_counted() -> None:
    assert total(lambda x: x.add_(1), torch.ones(M, N)) == M * N


def test_an_op_nobody_knows_has_no_rule() -> None:
    assert rule_of(aten.segment_reduce.default) is None  # once this one has a rule, take another here
    assert rule_of(torch.ops.higher_order.while_loop) is None

    def segments(x: Tensor, lengths: Tensor) -> Tensor:
        return torch.segment_reduce(x, "sum", lengths=lengths, unsafe=True)

    srg = graphs.lowered(graphs.trace(segments, torch.ones(M, N), torch.tensor([1, 2])))
    work = work_of(srg, srg.node("segment_reduce"))
    assert work.problem == "no rule for this op"
    assert work.read_bytes == 4 * M * N + 8 * 2


def test_an_op_without_a_rule_counts_as_its_parts() -> None:
    assert rule_of(aten.std_mean.correction) is not None
    assert rule_of(aten.tensordot.default) is None
    gm = graphs.trace(torch.mm, torch.ones(M, K), torch.ones(K, N))
    node = next(node for node in gm.graph.nodes if node.op == "call_function")
    node.target = aten.tensordot.default
    node.args = (*node.args, [1], [0])
    srg = graphs.lowered(gm)
    work = work_of(srg, srg.node(node.name))
    assert (work.problem, work.matmul_flops) == (None, 2 * M * K * N)
    assert work.read_bytes == 4 * (M * K + K * N)


def test_a_rule_that_does_not_fit_says_why() -> None:
    gm = graphs.trace(torch.mm, torch.ones(M, K), torch.ones(K, N))
    node = next(node for node in gm.graph.nodes if node.op == "call_function")
    node.args = (node.args[0], 3)
    srg = graphs.lowered(gm)
    work = work_of(srg, srg.node(node.name))
    assert work.flops == 0
    assert work.problem is not None
    assert "does not fit" in work.problem


@pytest.mark.parametrize("name", graphs.BUILDERS)
def test_no_rule_turns_a_symbol_into_a_number(name: str) -> None:
    srg = graphs.lowered(graphs.BUILDERS[name]())
    for node in srg.ops:
        if isinstance(value := fake_value(node), Tensor):
            before = [type(size) for size in value.shape]
            work_of(srg, node)
            assert [type(size) for size in value.shape] == before


@pytest.mark.parametrize(
    ("function", "args", "kind", "special", "sides"),
    [
        (torch.exp, (torch.ones(M, N),), "elementwise", M * N, ()),
        (F.gelu, (torch.ones(M, N),), "elementwise", M * N, ()),
        (lambda x: x**2, (torch.ones(M, N),), "elementwise", 0, ()),
        (lambda x: x**0.3, (torch.ones(M, N),), "elementwise", M * N, ()),
        (lambda x: F.softmax(x, 0), (torch.ones(M, N),), "softmax", M * N, (N, M)),
        (lambda x: F.layer_norm(x, (K, N)), (torch.ones(M, K, N),), "norm", 0, (M, K * N)),
        (lambda x: x.sum(0), (torch.ones(M, N),), "reduction", 0, (N, M)),
        (lambda x: x.cumsum(0), (torch.ones(M, N),), "scan", 0, (N, M)),
        (lambda x: x.sort(0)[0], (torch.ones(M, N),), "sort", 0, (N, M)),
        (torch.mm, (torch.ones(M, K), torch.ones(K, N)), "matmul", 0, (1, M, N, K)),
        (F.linear, (torch.ones(B, M, K), torch.ones(N, K)), "matmul", 0, (1, B * M, N, K)),
        (torch.bmm, (torch.ones(B, M, K), torch.ones(B, K, N)), "matmul", 0, (B, M, N, K)),
        (
            lambda x, w: F.conv2d(x, w, groups=4),
            (torch.ones(B, 4, 9, 9), torch.ones(8, 1, 3, 3)),
            "conv",
            0,
            (B, 8, 1, 4, 7 * 7, 3 * 3),
        ),
        (
            lambda x, w: F.conv_transpose2d(x, w, groups=2),
            (torch.ones(B, 4, 5, 5), torch.ones(4, 3, 3, 3)),
            "conv",
            0,
            (B, 6, 2, 2, 5 * 5, 3 * 3),
        ),
        (lambda x: torch.rand_like(x), (torch.ones(M, N),), "random", 0, ()),
        (lambda x: F.interpolate(x, scale_factor=2.0), (torch.ones(1, 1, 4, 4),), "resample", 0, ()),
    ],
)
def test_kinds_and_sides(
    function: Callable[..., Any], args: tuple[Tensor, ...], kind: str, special: int, sides: tuple[int, ...]
) -> None:
    work = last(function, *args)
    assert (work.kind, work.special_flops, work.sides) == (kind, special, sides)
