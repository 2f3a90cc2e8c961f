"""Operations of an op: torch's own formulas where it has them, by hand where it has none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from djinn_fx.costmodels.attention import ATTENTION, attention_operations
from djinn_fx.costmodels.roofline import operations
from djinn_fx.costmodels.rules import is_free, rule_of
from djinn_fx.srg.graph import fake_value
from tests import graphs

aten = torch.ops.aten


def total(function: Callable[..., Any], *args: Any, symbolic: bool = False) -> int:
    """Operations of all ops in a function's graph, which must all have a rule."""
    gm = graphs.trace(function, *args, symbolic=symbolic)
    count = 0
    for node in gm.graph.nodes:
        if node.op == "call_function" and not is_free(node) and not _is_view(node):
            flops, problem = operations(node)
            assert problem is None, f"{node.target}: {problem}"
            count += flops
    return count


def _is_view(node: Node) -> bool:
    return any(r.alias_info for r in node.target._schema.returns) if hasattr(node.target, "_schema") else False


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
    gm = graphs.trace(lambda q, k: op(q, k, k)[0], torch.ones(B, 4, M, K), torch.ones(B, 2, N, K))
    node = next(node for node in gm.graph.nodes if node.target is op.default)
    assert operations(node) == (2 * (2 * B * 4 * M * N * K), None)


def test_packed_attention_is_refused_not_guessed() -> None:
    gm = graphs.trace(torch.baddbmm, torch.ones(B, M, N), torch.ones(B, M, K), torch.ones(B, K, N))
    node = next(node for node in gm.graph.nodes if node.op == "call_function")
    with pytest.raises(ValueError, match="packed"):
        attention_operations(ATTENTION["_flash_attention_forward"], node)


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
    gm = graphs.trace(lambda x: x.add_(1), torch.ones(M, N))
    node = next(node for node in gm.graph.nodes if node.op == "call_function")
    assert operations(node) == (M * N, None)


def test_an_op_nobody_knows_has_no_rule() -> None:
    assert rule_of(aten.linalg_qr.default) is None
    assert rule_of(torch.ops.higher_order.while_loop) is None


def test_a_rule_that_does_not_fit_says_why() -> None:
    gm = graphs.trace(torch.mm, torch.ones(M, K), torch.ones(K, N))
    node = next(node for node in gm.graph.nodes if node.op == "call_function")
    node.args = (node.args[0], 3)
    flops, problem = operations(node)
    assert flops == 0
    assert problem is not None
    assert "does not fit" in problem


@pytest.mark.parametrize("name", graphs.BUILDERS)
def test_no_rule_turns_a_symbol_into_a_number(name: str) -> None:
    gm = graphs.BUILDERS[name]()
    for node in gm.graph.nodes:
        if node.op == "call_function" and isinstance(value := fake_value(node), Tensor):
            before = [type(size) for size in value.shape]
            operations(node)
            assert [type(size) for size in value.shape] == before
