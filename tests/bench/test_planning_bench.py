"""A stretched model has more layers, each with weights of its own; a power is fitted through points."""

from __future__ import annotations

import pytest

from bench.compiling.srg_speed import _llama_of, loop, op_count
from bench.placement.latency import growth, plan_once
from bench.placement.stretched import stretched
from djinn_fx.passes.base import PassContext, run_passes
from djinn_fx.passes.pipeline import DEFAULT
from djinn_fx.srg.lower import lower


def test_copies_of_a_layer_are_layers() -> None:
    """The model of so many more layers has as many ops, inputs and regions, and as many of them differ."""
    short, long = _llama_of(3), _llama_of(6)
    made = stretched(short, 3)
    assert op_count(made) == op_count(long)
    assert len(made.graph.find_nodes(op="placeholder")) == len(long.graph.find_nodes(op="placeholder"))
    found = []
    for gm in (made, long):
        srg = lower(gm)
        run_passes(srg, DEFAULT, PassContext(), check=True)
        hashes = [region.structural_hash for region in srg.regions]
        found.append((len(hashes), len(set(hashes)), sorted(len(region.nodes) for region in srg.regions)))
    assert found[0] == found[1]


def test_a_graph_without_layers_is_not_stretched() -> None:
    with pytest.raises(ValueError, match="layers differ"):
        stretched(loop(64), 2)


def test_every_pass_is_timed() -> None:
    assert [*plan_once(loop(64))] == [*(one.name for one in DEFAULT), "between passes"]


@pytest.mark.parametrize("power", [1.0, 1.5])
def test_a_power_is_found(power: float) -> None:
    assert growth([(ops, 3e-5 * ops**power) for ops in (1_000, 10_000, 65_000)]) == pytest.approx(power)
