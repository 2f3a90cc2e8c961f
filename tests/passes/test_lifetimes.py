"""lifetimes: from a value's op to the last use of its memory, and the peak of all of them."""

from __future__ import annotations

import pytest
import torch

from djinn_fx.passes.base import PassContext, run_passes
from djinn_fx.passes.lifetimes import Lifetimes
from djinn_fx.srg import SRG, GraphKind, Residency, lower
from djinn_fx.srg.effects import storages_of
from tests import graphs


def after(srg: SRG) -> SRG:
    run_passes(srg, [Lifetimes()], PassContext(), check=True)
    return srg


def lifetime(srg: SRG, name: str) -> tuple[int, int]:
    found = srg.record(srg.node(name)).lifetime
    assert found is not None
    return found


def brute_force_peak(srg: SRG) -> int:
    """The largest sum over positions, storage by storage, straight from the definition."""
    storages = storages_of(srg)
    position = {node: index for index, node in enumerate(srg.nodes)}
    total = len(position)
    peak = 0
    for place in range(total):
        live: dict[int, int] = {}
        for storage in {s for mine in storages.values() for s in mine}:
            holders = [node for node in position if storage in storages[node]]
            outside = [node for node in holders if node.op == "placeholder"]
            first = 0 if outside else min(position[node] for node in holders)
            uses = [position[user] for node in holders for user in node.users]
            last = total - 1 if outside else max([first, *uses, *(position[node] for node in holders)])
            if first <= place <= last:
                live[storage] = max(meta.nbytes for node in holders for meta in srg.record(node).outputs)
        peak = max(peak, sum(live.values()))
    return peak


@pytest.mark.parametrize("name", graphs.BUILDERS)
def test_promises_hold(name: str) -> None:
    after(graphs.lowered(graphs.BUILDERS[name]()))


@pytest.mark.parametrize(
    "name", ["two_layer_mlp", "symbolic_mlp", "repeated_layers", "shared_storage", "writer_and_readers"]
)
def test_peak_is_the_largest_sum_of_what_lives(name: str) -> None:
    srg = after(graphs.lowered(graphs.BUILDERS[name]()))
    assert srg.peak_bytes == brute_force_peak(srg)


def test_inputs_and_weights_live_throughout_and_results_to_the_end() -> None:
    srg = after(graphs.lowered(graphs.two_layer_mlp()))
    total = len(list(srg.nodes))
    assert all(lifetime(srg, node.name) == (0, total) for node in srg.inputs)
    assert lifetime(srg, "addmm_1")[1] == total


def test_a_value_lives_until_just_after_its_last_use() -> None:
    srg = after(graphs.lowered(graphs.two_layer_mlp()))
    position = {node.name: index for index, node in enumerate(srg.nodes)}
    assert lifetime(srg, "gelu") == (position["gelu"], position["addmm_1"] + 1)


def test_a_view_keeps_its_base() -> None:
    srg = after(graphs.lowered(graphs.shared_storage()))
    position = {node.name: index for index, node in enumerate(srg.nodes)}
    assert lifetime(srg, "mul") == (position["mul"], position["sum_1"] + 1)
    assert lifetime(srg, "view") == (position["view"], position["sum_1"] + 1)
    assert lifetime(srg, "add") == (position["add"], position["mul_1"] + 1)


def test_a_view_keeps_its_base_when_fake_storages_are_apart() -> None:
    gm = graphs.shared_storage()
    joined = after(graphs.lowered(gm))
    for node in gm.graph.nodes:  # as in a graph read from a file
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            node.meta["val"] = value.clone()
    apart = after(graphs.lowered(gm))
    storages = {apart.record(apart.node(name)).outputs[0].storage for name in ("mul", "view")}
    assert len(storages) == 2
    assert lifetime(apart, "mul") == lifetime(joined, "mul")
    assert apart.peak_bytes == joined.peak_bytes


def test_a_broadcast_view_takes_no_memory() -> None:
    times = 1000
    srg = after(graphs.lowered(graphs.trace(lambda x: (x * 2).expand(times, 8).sum(), torch.empty(1, 8))))
    assert srg.peak_bytes == 4 * (8 + 8 + 1)


def test_a_value_nobody_reads_lives_for_its_own_op() -> None:
    srg = after(graphs.lowered(graphs.attention_block()))
    position = {node.name: index for index, node in enumerate(srg.nodes)}
    assert lifetime(srg, "getitem_7")[1] == position["getitem_7"] + 1


def test_a_backward_graph_frees_saved_activations_but_not_weights() -> None:
    gm = graphs.repeated_layers(1)
    residency = {"x_1": Residency.ACTIVATION, "w_1": Residency.PARAMETER, "w_2": Residency.INPUT}
    srg = after(lower(gm, GraphKind.BACKWARD, residency))
    total = len(list(srg.nodes))
    position = {node.name: index for index, node in enumerate(srg.nodes)}
    assert lifetime(srg, "x_1") == (0, position["add"] + 1)
    assert lifetime(srg, "w_2") == (0, position["mm_1"] + 1)
    assert lifetime(srg, "w_1") == (0, total)
    assert srg.peak_bytes <= after(lower(gm, GraphKind.INFERENCE, residency)).peak_bytes
