"""Lowering: one record on every node, read off the graph alone."""

from __future__ import annotations

import math
import operator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from djinn_fx.errors import LoweringError
from djinn_fx.srg import GraphKind, Residency, lower
from djinn_fx.srg.graph import fake_value, size_hint
from djinn_fx.srg.lower import op_name, target_name
from djinn_fx.srg.record import Cost, total
from tests import graphs


@pytest.mark.parametrize("name", graphs.BUILDERS)
def test_every_node_has_a_record_that_fits_its_value(name: str) -> None:
    srg = graphs.lowered(graphs.BUILDERS[name]())
    for node in srg.nodes:
        record = srg.record(node)
        value = fake_value(node)
        tensors = list(value) if isinstance(value, (tuple, list)) else [value]
        tensors = [tensor for tensor in tensors if isinstance(tensor, Tensor)]
        assert [meta.dtype for meta in record.outputs] == [str(t.dtype).removeprefix("torch.") for t in tensors]
        hints = [math.prod(size_hint(size) for size in t.shape) * t.element_size() for t in tensors]
        assert [meta.nbytes for meta in record.outputs] == hints


def test_kind_and_residency_come_from_the_caller() -> None:
    srg = graphs.lowered(graphs.decoder_step_with_kv_cache(), GraphKind.BACKWARD)
    assert srg.kind is GraphKind.BACKWARD
    found = {node.name: srg.record(node).residency for node in srg.inputs}
    assert found["cache_k_1"] is Residency.STATE
    assert found["w_qkv_1"] is Residency.PARAMETER
    assert found["x_1"] is Residency.INPUT
    assert {srg.record(node).residency for node in srg.ops} == {Residency.ACTIVATION}


def test_mutation_is_read_off_the_schema() -> None:
    srg = graphs.lowered(graphs.decoder_step_with_kv_cache())
    writes = {srg.record(node).mutates for node in srg.ops if srg.record(node).mutates}
    assert writes == {("cache_k_1",), ("cache_v_1",)}


def test_views_share_the_storage_of_their_base() -> None:
    srg = graphs.lowered(graphs.shared_storage())
    base, view, other = (srg.record(srg.node(name)) for name in ("mul", "view", "add"))
    assert view.is_view
    assert not base.is_view
    assert view.outputs[0].storage == base.outputs[0].storage != other.outputs[0].storage


def test_parts_of_a_view_are_views_and_parts_of_a_result_are_not() -> None:
    srg = graphs.lowered(graphs.attention_block())
    unpacked = [node for node in srg.ops if node.target is operator.getitem]
    by_producer = {str(node.args[0]): srg.record(node).is_view for node in unpacked}
    assert by_producer["split"] is True
    assert by_producer["native_layer_norm"] is False


def test_symbolic_sizes_stay_text_and_a_constant_one_becomes_a_number() -> None:
    srg = graphs.lowered(graphs.symbolic_mlp())
    meta = srg.record(srg.node("x_1")).outputs[0]
    assert meta.is_symbolic
    assert all(isinstance(size, str) for size in meta.shape)
    assert meta.nbytes == graphs.BATCH * graphs.WIDTH * torch.float32.itemsize
    everything = [m for node in srg.nodes for m in srg.record(node).outputs]
    texts = {size for m in everything for size in (*m.shape, *m.strides) if isinstance(size, str)}
    assert not any(text.isdecimal() for text in texts)


def test_lowering_adds_no_guard() -> None:
    gm = graphs.symbolic_mlp()
    value = fake_value(next(iter(gm.graph.nodes)))
    env = value.shape[0].node.shape_env
    before = len(env.guards)
    lower(gm)
    assert len(env.guards) == before


def test_a_call_of_a_module_is_refused_with_its_place() -> None:
    gm = torch.fx.symbolic_trace(torch.nn.Sequential(torch.nn.Linear(2, 3)))
    with pytest.raises(LoweringError, match="call_module"):
        lower(gm)


def test_names_of_targets_are_qualified() -> None:
    assert target_name(torch.ops.aten.mm.default) == "aten.mm.default"
    assert target_name(operator.getitem) == "operator.getitem"
    assert target_name(torch.ops.higher_order.cond) == "higher_order.cond"
    assert target_name(math.floor) == "math.floor"


def test_other_nodes_are_named_by_their_opcode() -> None:
    gm = graphs.two_layer_mlp()
    assert [op_name(node) for node in gm.graph.nodes if not node.op.startswith("call_")][-1] == "output"


def test_a_record_is_replaced_field_by_field_and_an_unknown_field_is_refused() -> None:
    srg = graphs.lowered(graphs.two_layer_mlp())
    node = next(iter(srg.ops))
    before = srg.record(node)
    srg.update(node, region=3, device="cpu")
    assert srg.record(node) == replace(before, region=3, device="cpu")
    assert before.region is None
    with pytest.raises(TypeError, match="colour"):
        srg.update(node, colour="red")


def test_costs_add_up_one_after_the_other() -> None:
    costs = [Cost(flops=1, read_bytes=2, write_bytes=3, time_s=0.1 * at, low_s=0.2, high_s=0.3) for at in range(9)]
    assert total(costs) == sum(costs[1:], costs[0])
    mixed = [*costs, replace(costs[0], provenance="measured")]
    assert total(mixed) == sum(mixed[1:], mixed[0])
    assert total(mixed).provenance == "mixed"
    assert total([]) == Cost()
