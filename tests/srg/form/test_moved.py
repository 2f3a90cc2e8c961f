"""A region's graph for another device: every value, literal and record is there, and nothing is learned of sizes."""

from __future__ import annotations

import pytest
import torch

from djinn_fx.errors import LoweringError
from djinn_fx.srg.form.moved import move
from djinn_fx.srg.graph import META_KEY, fake_value, tensors_of
from tests import graphs


def test_symbolic_sizes_stay_and_no_guard_is_added() -> None:
    gm = graphs.symbolic_mlp()
    srg = graphs.lowered(gm)
    before = {node.name: str(getattr(fake_value(node), "shape", None)) for node in gm.graph.nodes}
    sized = next(value for node in gm.graph.nodes for value in tensors_of(fake_value(node)))
    shapes = sized.fake_mode.shape_env  # type: ignore[attr-defined]
    guards = len(shapes.guards)
    move(gm, "cpu", "cuda:1")
    assert {node.name: str(getattr(fake_value(node), "shape", None)) for node in gm.graph.nodes} == before
    assert any("s" in shape for shape in before.values())
    values = [value for node in gm.graph.nodes for value in tensors_of(fake_value(node))]
    assert {str(value.device) for value in values} == {"cuda:1"}
    assert {meta.device for node in srg.ops for meta in node.meta[META_KEY].outputs} == {"cuda:1"}
    assert len(shapes.guards) == guards


def test_what_is_on_other_devices_stays_there() -> None:
    gm = graphs.trace(lambda x: x + torch.ones(3, device="cpu"), torch.empty(3))
    graphs.lowered(gm)
    move(gm, "cuda:0", "cuda:1")
    assert {str(fake_value(node).device) for node in gm.graph.find_nodes(op="placeholder")} == {"cpu"}
    assert "cuda" not in gm.code


def test_a_tensor_that_is_no_fake_one_cannot_be_moved() -> None:
    gm = graphs.trace(lambda x: x + 1, torch.empty(3))
    next(iter(gm.graph.nodes)).meta["val"] = torch.empty(3)
    with pytest.raises(LoweringError, match="cannot be moved"):
        move(gm, "cpu", "cuda:1")
