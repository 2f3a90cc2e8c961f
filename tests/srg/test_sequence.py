"""What must run before what: any sequence that keeps it gives the same results, to the last bit."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from djinn_fx.srg import SRG, lower
from djinn_fx.srg.sequence import predecessors
from tests import graphs, programs

aten = torch.ops.aten


def some_sequence(before: Mapping[Node, set[Node]], seed: int) -> list[Node]:
    """The ops in an order of chance that keeps what must come before what."""
    chance, ran, waiting = random.Random(seed), list[Node](), list(before)
    while waiting:
        node = chance.choice([one for one in waiting if before[one] <= set(ran)])
        waiting.remove(node)
        ran.append(node)
    return ran


@programs.DETERMINISTIC
@given(programs.PROGRAMS, st.integers(0, 9))
def test_random_programs_behave_the_same_in_any_sequence_that_is_allowed(program: programs.Program, seed: int) -> None:
    gm = programs.build(program)
    first = programs.behaviour(gm.forward, programs.arguments_of(program.transposed))
    srg = lower(gm)
    for node in some_sequence(predecessors(srg), seed):
        srg.output.prepend(node)
    gm.recompile()
    again = programs.behaviour(gm.forward, programs.arguments_of(program.transposed))
    assert again == first or "refused" in (first, again)


def before(srg: SRG, name: str) -> set[str]:
    """All that must run before an op."""
    direct, found = predecessors(srg), set[Node]()
    waiting = [srg.node(name)]
    while waiting:
        new = direct[waiting.pop()] - found
        found |= new
        waiting += new
    return {node.name for node in found}


def test_a_write_comes_after_readers_of_the_old_value_and_before_those_of_the_new() -> None:
    srg = graphs.lowered(graphs.writer_and_readers())
    assert before(srg, "copy_") == {"add"}
    assert before(srg, "mul") == {"add", "copy_"}


def test_a_write_through_a_view_is_one_of_the_base() -> None:
    def model(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x * 2
        part = y[0]
        early = y + 1
        part.zero_()
        return early, y + 2

    srg = graphs.lowered(graphs.trace(model, torch.empty(3, 4)))
    assert {"mul", "select", "add"} <= before(srg, "zero_")
    assert "zero_" in before(srg, "add_1")


def test_random_numbers_are_drawn_in_graph_order() -> None:
    def model(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return torch.rand_like(x), x + 1, torch.rand_like(x)

    srg = graphs.lowered(graphs.trace(model, torch.empty(4)))
    assert before(srg, "rand_like_1") == {"rand_like"}
    assert before(srg, "add") == set()


def handmade(*targets: Callable[..., Any]) -> SRG:
    """Ops that each read the graph's only input, between two additions that nothing else ties."""
    graph = Graph()
    x = graph.placeholder("x")
    x.meta["val"] = torch.empty(2)
    made = []
    for target in (aten.add.Tensor, *targets, aten.add.Tensor):
        made.append(graph.call_function(target, (x, x) if target is aten.add.Tensor else (x,)))
        made[-1].meta["val"] = torch.empty(2)
    graph.output((made[0], made[-1]))
    return lower(GraphModule(torch.nn.Module(), graph))


def outside(value: Tensor) -> Tensor:
    """A function of which nothing is known."""
    return value


def test_an_op_of_which_nothing_is_known_keeps_its_place() -> None:
    srg = handmade(outside)
    assert before(srg, "outside") == {"add_tensor"}
    assert before(srg, "add_tensor_1") == {"add_tensor", "outside"}


def test_an_assertion_keeps_its_place() -> None:
    srg = handmade(aten._assert_async.default)
    assert before(srg, "add_tensor_1") == {"add_tensor", "_assert_async_default"}


@pytest.mark.parametrize("target", [torch.ops._c10d_functional.wait_tensor.default])
def test_ops_from_elsewhere_keep_their_order_among_themselves(target: Callable[..., Any]) -> None:
    srg = handmade(target, target)
    first, second = (node.name for node in srg.ops if node.target is target)
    assert first in before(srg, second)
    assert before(srg, "add_tensor_1") == set()
