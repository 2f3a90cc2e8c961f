"""Cost rules of users: found, checked, never in the way of a compile; and the worked example of docs/cost_rules.md."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from djinn_fx import costmodels
from djinn_fx.costmodels import Call, Count, Work
from djinn_fx.costmodels.work.work_of import work_graph, work_of
from djinn_fx.srg import SRG
from tests import graphs

ROWS, COLUMNS = 3, 8


@torch.library.custom_op("djinn_cost_test::scaled_add", mutates_args=())
def scaled_add(x: Tensor, y: Tensor, scale: float) -> Tensor:
    return x + scale * y


@scaled_add.register_fake
def _(x: Tensor, y: Tensor, scale: float) -> Tensor:
    return torch.empty_like(x)


OP = torch.ops.djinn_cost_test.scaled_add


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    costmodels.forget_rule(OP)
    costmodels.forget_rule(torch.ops.aten.mm)


def graph(symbolic: bool = False) -> SRG:
    args = (torch.ones(ROWS, COLUMNS), torch.ones(ROWS, COLUMNS))
    return graphs.lowered(graphs.trace(lambda x, y: OP(x, y, 2.0), *args, symbolic=symbolic))


def work(srg: SRG | None = None) -> Work:
    srg = srg or graph()
    (node,) = srg.ops
    return work_of(srg, node)


def two_an_element(call: Call) -> Count:
    rows, columns = call.shape(0)
    return Count(kind="elementwise", vector_flops=2 * rows * columns)


def test_an_op_of_a_user_is_unpriced_until_it_has_a_rule() -> None:
    assert work().problem == "no rule for this op"
    costmodels.rule(OP)(two_an_element)
    found = work()
    assert (found.problem, found.kind, found.vector_flops) == (None, "elementwise", 2 * ROWS * COLUMNS)
    assert (found.read_bytes, found.write_bytes) == (2 * 4 * ROWS * COLUMNS, 4 * ROWS * COLUMNS)


@pytest.mark.parametrize("named", [OP, OP.default, scaled_add])
def test_ops_may_be_named_in_three_ways(named: Any) -> None:
    costmodels.rule(named)(two_an_element)
    assert work().vector_flops == 2 * ROWS * COLUMNS
    costmodels.forget_rule(named)
    assert work().problem is not None


def test_bytes_are_the_rules_where_it_says_them() -> None:
    costmodels.rule(OP)(lambda call: Count(kind="gather", read_bytes=10, write_bytes=20, gather_bytes=5))
    found = work()
    assert (found.read_bytes, found.write_bytes, found.gather_bytes) == (10, 20, 5)


def test_arguments_by_position_and_by_name() -> None:
    seen: list[Any] = []

    def look(call: Call) -> Count:
        seen.extend([call.argument(2), call.argument(9, "nothing", "default"), call.op, call.output_shape()])
        return Count()

    costmodels.rule(OP)(look)
    work()
    assert seen == [2.0, "default", "djinn_cost_test.scaled_add", (ROWS, COLUMNS)]


def test_a_second_rule_is_refused_unless_it_replaces() -> None:
    costmodels.rule(OP)(two_an_element)
    with pytest.raises(ValueError, match=r"scaled_add already has a cost rule: two_an_element at .*test_user_rules.py"):
        costmodels.rule(OP)(lambda call: Count())
    costmodels.rule(OP, replace=True)(lambda call: Count(vector_flops=1))
    assert work().vector_flops == 1


def test_a_rule_of_ours_is_replaced_only_on_purpose() -> None:
    with pytest.raises(ValueError, match="already has a cost rule of djinn-fx; pass replace=True"):
        costmodels.rule(torch.ops.aten.mm)(lambda call: Count())
    costmodels.rule(torch.ops.aten.mm, replace=True)(lambda call: Count(kind="matmul", matmul_flops=7))
    srg = graphs.lowered(graphs.trace(torch.mm, torch.ones(2, 2), torch.ones(2, 2)))
    assert work_of(srg, srg.node("mm")).matmul_flops == 7


def test_what_is_no_op_is_refused() -> None:
    with pytest.raises(TypeError, match="is no op"):
        costmodels.rule(torch.add)


def _raising(call: Call) -> Count:
    raise KeyError("lost")


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda call: 3, "a cost rule returns a Count, not int"),
        (lambda call: Count(kind="magic"), "kind 'magic' is none of"),
        (lambda call: Count(vector_flops=-1), "vector_flops is negative"),
        (lambda call: Count(vector_flops=0.5), "not a whole number"),
        (_raising, "KeyError: 'lost'"),
        (lambda call: Count(vector_flops=call.shape(2)[0]), "argument 2 is no tensor"),
    ],
)
def test_a_wrong_rule_leaves_the_op_unpriced_and_says_why(function: Callable[[Call], Any], says: str) -> None:
    costmodels.rule(OP)(function)
    found = work()
    assert found.problem is not None
    assert says in found.problem
    assert found.flops == 0
    assert found.read_bytes == 2 * 4 * ROWS * COLUMNS


def test_a_kept_graph_is_counted_anew_when_a_rule_comes() -> None:
    srg = graph()
    assert work_graph(srg).ops[0].problem is not None
    assert work_graph(srg) is work_graph(srg)
    costmodels.rule(OP)(two_an_element)
    assert work_graph(srg).ops[0].problem is None


def test_a_rule_works_on_symbols_too() -> None:
    from djinn_fx.costmodels.symbolic import symbolic_total

    costmodels.rule(OP)(two_an_element)
    total = symbolic_total(graph(symbolic=True))
    assert total.unpriced == ()
    assert total.at(dict.fromkeys(total.symbols, 10)).vector_flops in (200, 2 * 10 * COLUMNS)


def test_the_worked_example_of_the_documentation_runs(repo: Path) -> None:
    text = (repo / "docs" / "cost_rules.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    space: dict[str, Any] = {}
    exec(compile(example, "docs/cost_rules.md", "exec"), space)
    costmodels.forget_rule(space["window_sum"])
    assert space["work"].problem is None
