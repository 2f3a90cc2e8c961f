"""Graphs made of forms: their Python code is written when somebody wants it, and then as torch would have."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch.fx import Graph, GraphModule
from torch.fx.graph import PythonCode

from djinn_fx.srg.form.reading import Unwritten


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Graph]]:
    """The graphs whose code was written."""
    found: list[Graph] = []
    write = Graph.python_code

    def writing(graph: Graph, *args: object, **others: object) -> PythonCode:
        found.append(graph)
        return write(graph, *args, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(Graph, "python_code", writing)
    return found


def made() -> GraphModule:
    graph = Graph()
    x = graph.placeholder("x")
    graph.output((graph.call_function(torch.ops.aten.mul.Tensor, (x, 3.0)),))
    return Unwritten({}, graph, class_name="Made")


def test_the_first_call_writes_the_code(written: list[Graph]) -> None:
    one = made()
    assert not written
    for _ in range(2):
        assert one(torch.ones(2))[0].tolist() == [3.0, 3.0]
    assert len(written) == 1


def test_who_asks_for_the_code_is_given_it() -> None:
    """Torch makes cache keys of what ``recompile`` returns."""
    assert "mul" in made().code
    assert "mul" in made().recompile().src
    assert "mul" in made().print_readable(print_output=False)


@pytest.mark.parametrize("called", [False, True])
def test_a_copy_and_a_graph_that_is_changed_compute_what_they_say(called: bool) -> None:
    one = made()
    if called:
        one(torch.ones(1))
    other = copy.deepcopy(one)
    (node,) = other.graph.find_nodes(op="call_function", target=torch.ops.aten.mul.Tensor)
    node.update_arg(1, 5.0)
    other.recompile()
    assert [made(torch.ones(1))[0].item() for made in (one, other)] == [3.0, 5.0]
