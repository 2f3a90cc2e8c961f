"""Labels of repeats: from module paths of every form, and from structure alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.fx import Node

from djinn_fx.passes.cutting.repeats import _best_cut, _best_run, by_module_stack, by_structure
from djinn_fx.srg import SRG
from tests import graphs


def chain(*paths: str, key: str = "nn_module_stack") -> list[Node]:
    """Ops in a row, each from the module of that path; an empty path is an op without a module stack."""

    def function(x: Tensor) -> Tensor:
        for _ in paths:
            x = x.sin()
        return x

    nodes = list(
        graphs.trace(function, torch.empty(3)).graph.find_nodes(op="call_function", target=torch.ops.aten.sin.default)
    )
    for node, path in zip(nodes, paths, strict=True):
        if path:
            node.meta[key] = {"outer": ("L['self']", torch.nn.Module), "inner": (path, torch.nn.Module)}
    return nodes


def labelled(*paths: str, key: str = "nn_module_stack") -> list[tuple[tuple[int | None, ...], dict[int, str]]]:
    return list(by_module_stack(chain(*paths, key=key)))


# By module stack


def test_a_container_gives_one_label_for_each_index() -> None:
    ((labels, names),) = labelled(
        "L['self'].embed", "L['self'].layers.0.up", "L['self'].layers.0", "L['self'].layers.1.up"
    )
    assert labels == (None, 0, 0, 1)
    assert names == {0: "layers.0", 1: "layers.1"}


@pytest.mark.parametrize(
    "path",
    [
        "L['self'].layers.{}.up",
        "L['self']._modules.layers.{}.up",
        "L['fn'].layers[{}].up",
        "layers.{}",
        "L['args'][0].layers.{}",
    ],
)
def test_forms_of_paths(path: str) -> None:
    ((labels, _),) = labelled(path.format(0), path.format(1), path.format(10))
    assert labels == (0, 1, 2)


def test_each_depth_of_nesting_is_proposed() -> None:
    stages = [f"L['self'].stages.{stage}.blocks.{block}" for stage in (0, 1) for block in (0, 1)]
    (outer, names), (inner, _) = labelled(*stages)
    assert outer == (0, 0, 1, 1)
    assert names[1] == "stages.1"
    assert inner == (0, 1, 2, 3)


def test_two_containers_do_not_share_labels() -> None:
    ((labels, _),) = labelled("L['self'].encoder.0", "L['self'].decoder.0", "L['self'].decoder.1")
    assert labels == (0, 1, 2)


def test_the_same_layer_visited_again_has_its_label_again() -> None:
    ((labels, _),) = labelled("L['self'].layers.0", "L['self'].layers.1", "L['self'].layers.0")
    assert labels == (0, 1, 0)


def test_digits_in_names_are_no_indices() -> None:
    assert labelled("L['self'].conv1", "L['self'].conv2.weight3") == []


def test_one_unit_is_no_repeat() -> None:
    assert labelled("L['self'].layers.0", "L['self'].layers.0.up") == []
    assert labelled("", "", "") == []


def test_a_backward_graph_carries_the_stack_under_another_name() -> None:
    ((labels, _),) = labelled("L['self'].layers.1", "L['self'].layers.0", key="fwd_nn_module_stack")
    assert labels == (0, 1)


# By structure


def layers(count: int, before: int = 0, after: int = 0) -> SRG:
    def model(x: Tensor, *w: Tensor) -> Tensor:
        for _ in range(before):
            x = x.cos() * 3
        for weight in w:
            x = x + torch.tanh(x @ weight)
        for _ in range(after):
            x = x.sin() / 2
        return x

    return graphs.lowered(graphs.trace(model, torch.empty(4, 6), *[torch.empty(6, 6)] * count))


def units(srg: SRG, min_ops: int = 3) -> list[list[str]] | None:
    nodes = list(srg.ops)
    found = by_structure(srg, nodes, min_ops)
    if found is None:
        return None
    labels, names = found
    assert set(labels) - {None} <= set(names)
    by_label: dict[int, list[str]] = {}
    for node, label in zip(nodes, labels, strict=True):
        if label is not None:
            by_label.setdefault(label, []).append(srg.record(node).op)
    return list(by_label.values())


@pytest.mark.parametrize("count", [2, 3, 7, 24])
def test_every_layer_of_a_loop_is_a_unit(count: int) -> None:
    found = units(layers(count))
    assert found is not None
    assert len(found) == count
    assert {tuple(sorted(unit)) for unit in found} == {("aten.add.Tensor", "aten.mm.default", "aten.tanh.default")}


def test_what_comes_before_and_after_is_not_in_a_unit() -> None:
    srg = layers(6, before=1, after=1)
    found = units(srg)
    assert found is not None
    assert len(found) == 6
    assert not {"aten.cos.default", "aten.sin.default"} & {op for unit in found for op in unit}


def test_two_loops_are_two_runs() -> None:
    found = units(layers(5, before=4), min_ops=2)
    assert found is not None
    assert sorted(len(unit) for unit in found) == [2] * 4 + [3] * 5


def test_units_shorter_than_asked_for_are_not_found() -> None:
    assert units(layers(5), min_ops=16) is None


def test_a_graph_without_repeats_has_no_units() -> None:
    assert units(graphs.lowered(graphs.attention_block()), min_ops=8) is None


def test_layers_of_other_sizes_are_no_repeats() -> None:
    def model(x: Tensor, *w: Tensor) -> Tensor:
        for weight in w:
            x = torch.tanh(x @ weight) * 2 + 1
        return x

    weights = [torch.empty(size, size + 1) for size in range(4, 9)]
    assert units(graphs.lowered(graphs.trace(model, torch.empty(3, 4), *weights))) is None


def test_layers_with_other_literals_are_no_repeats() -> None:
    def model(x: Tensor) -> Tensor:
        for number in range(6):
            x = (x * number).tanh() + number
        return x

    assert units(graphs.lowered(graphs.trace(model, torch.empty(3)))) is None


def test_writes_belong_to_no_unit() -> None:
    def model(x: Tensor, *states: Tensor) -> Tensor:
        for state in states:
            x = torch.tanh(x + state)
            state.copy_(x)
        return x

    srg = graphs.lowered(graphs.trace(model, torch.empty(3), *[torch.empty(3) for _ in range(6)]))
    found = units(srg, min_ops=2)
    assert found is not None
    assert "aten.copy_.default" not in {op for unit in found for op in unit}


# The pieces


def test_the_run_that_saves_most_is_taken() -> None:
    tokens = np.array([7, 1, 2, 1, 2, 1, 2, 9, 3, 4, 5, 6, 3, 4, 5, 6, 8])
    # Three times (1, 2) saves four ops, twice (3, 4, 5, 6) saves four too: the shorter period comes first.
    assert _best_run(tokens, 2) == (1, 2, 3)
    assert _best_run(tokens, 3) == (8, 4, 2)
    assert _best_run(np.arange(9), 2) is None


def test_a_long_run_is_not_mistaken_for_a_multiple_of_its_period() -> None:
    tokens = np.array([1, 2, 3, 4] * 10)
    assert _best_run(tokens, 4) == (0, 4, 10)


def test_a_cut_is_made_where_least_is_alive() -> None:
    # Period 3 from op 1: cuts at 1, 4, 7, 10 cross 5 bytes, cuts one op later fewer, if the pattern goes on that far.
    live = np.array([0, 5, 3, 9, 5, 3, 9, 5, 3, 9, 5, 3])
    assert _best_cut(live, 1, 3, 3, 1) == (2, 3)
    assert _best_cut(live, 1, 3, 3, 0) == (1, 3), "3 bytes instead of 5 are not worth one repeat less"
    assert _best_cut(np.where(live == 3, 1, live), 1, 3, 3, 0) == (2, 2), "1 byte instead of 5 is"
