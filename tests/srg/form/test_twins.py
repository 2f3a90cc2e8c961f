"""Twins: what is worked out for one op holds for all that are alike, and what may differ keeps them apart."""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch.fx import GraphModule

from djinn_fx.costmodels.memory import workspace
from djinn_fx.costmodels.memory.workspace import Workspaces
from djinn_fx.costmodels.work import work_of
from djinn_fx.costmodels.work.sizes import Sizes
from djinn_fx.costmodels.work.work_of import priced
from djinn_fx.srg import SRG, lower
from djinn_fx.srg.form.twins import Twins
from djinn_fx.srg.record import Residency
from tests import graphs
from tests.programs import DETERMINISTIC, PROGRAMS, Program, build

GRAPHS: dict[str, Callable[[], GraphModule]] = {
    "layers": lambda: graphs.repeated_layers(4),
    "symbols": graphs.symbolic_mlp,
    "writes": graphs.writer_and_readers,
    "views": graphs.shared_storage,
    "attention": graphs.attention_block,
}


def sorts(run: Callable[..., object], *args: Tensor) -> list[int]:
    """Which of a function's ops are twins, by the number of the first of them."""
    srg = graphs.lowered(graphs.trace(run, *args))
    twins = srg.fact(Twins).ops
    first: dict[int, int] = {}
    return [first.setdefault(twins[node], place) for place, node in enumerate(srg.ops)]


ONE, TWO = torch.empty(3, 4), torch.empty(3, 4)


@pytest.mark.parametrize(
    ("run", "args", "wanted"),
    [
        (lambda x: (x.sin(), x.cos(), x.cos().cos()), (ONE,), [0, 1, 1, 1]),
        (lambda x, y: (x + y, y + x, x + x), (ONE, TWO), [0, 0, 2]),
        (lambda x: (x + 1, x + 1.0, x + 1, x + 2), (ONE,), [0, 1, 0, 3]),
        (lambda x: (torch.sum(x, 0), torch.sum(x, 1), torch.sum(x, 0, True)), (ONE,), [0, 1, 2]),
        (lambda x, y: (x.sin(), y.sin()), (ONE, torch.empty(4, 3).t()), [0, 1]),
        (lambda x, y: (x.sin(), y.sin()), (ONE, torch.empty(3, 4, dtype=torch.float64)), [0, 1]),
    ],
)
def test_what_keeps_ops_apart(run: Callable[..., object], args: tuple[Tensor, ...], wanted: list[int]) -> None:
    assert sorts(run, *args) == wanted


def alone(srg: SRG) -> Sizes:
    """The sizes of a graph in which no op is another's twin."""
    sizes = Sizes(srg)
    sizes.twins = {node: place for place, node in enumerate(srg.ops)}
    return sizes


def same_of_all(srg: SRG) -> None:
    """Works and workspaces are those of ops that are looked at one by one."""
    for number, node in enumerate(srg.inputs):
        kind = (Residency.PARAMETER, Residency.INPUT, Residency.STATE)[number % 3]
        srg.update(node, residency=kind)
    together, apart = Sizes(srg), alone(srg)
    own = Workspaces(together, 2)
    for node in srg.ops:
        assert priced(together, node) == priced(apart, node)
        assert own.of(node) == Workspaces(together, 2).of(node)


@pytest.mark.parametrize("make", GRAPHS.values(), ids=GRAPHS)
def test_twins_do_and_take_the_same(make: Callable[[], GraphModule]) -> None:
    same_of_all(graphs.lowered(make()))


@DETERMINISTIC
@given(PROGRAMS)
def test_twins_of_random_programs_do_and_take_the_same(drawn: Program) -> None:
    same_of_all(lower(build(drawn)))


def test_a_rule_is_asked_once_for_all_twins() -> None:
    few, many = (graphs.lowered(graphs.repeated_layers(count)) for count in (3, 12))
    asked = []
    for srg in (few, many):
        with (
            mock.patch.object(work_of, "_priced", side_effect=work_of._priced) as rules,
            mock.patch.object(workspace, "formulas", side_effect=workspace.formulas) as formulas,
        ):
            sizes = Sizes(srg)
            own = Workspaces(sizes, 1)
            for node in srg.ops:
                priced(sizes, node)
                own.of(node)
            asked.append((rules.call_count, formulas.call_count))
    assert asked[0] == asked[1]
    assert asked[0][0] < len(list(few.ops))


def test_facts_are_worked_out_once_until_what_an_op_does_changes() -> None:
    srg = graphs.lowered(graphs.repeated_layers(2))
    asked: list[int] = []

    def count(graph: SRG, times: int) -> int:
        asked.append(times)
        return times * len(list(graph.ops))

    node = next(iter(srg.ops))
    assert srg.fact(count, 1) == srg.fact(count, 1)
    srg.update(node, device="cpu:1", phase=None, region=0)
    assert (srg.fact(count, 2), srg.fact(count, 1)) == (2 * srg.fact(count, 1), len(list(srg.ops)))
    assert asked == [1, 2]
    for change in (
        lambda: srg.update(node, is_view=True),
        lambda: srg.set_record(node, srg.record(node)),
        lambda: srg.reorder(list(srg.ops)),
    ):
        before = len(asked)
        change()
        srg.fact(count, 1)
        assert len(asked) == before + 1
