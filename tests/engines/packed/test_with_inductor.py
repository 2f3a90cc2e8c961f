"""Inductor on packed weights: one artefact for all layers, stored and loaded, and weights followed as they change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from djinn_fx.engines.base import Artefact
from djinn_fx.engines.inductor.engine import InductorEngine
from djinn_fx.engines.packed import ops as packed_ops
from djinn_fx.engines.packed.graph import rewritten
from djinn_fx.engines.packed.with_inductor import PackedInductorEngine, define_operators, make, with_packed_inputs
from djinn_fx.reasons import ReasonKind
from tests.concrete import concrete
from tests.engines.packed.packing import differences, engine_of, region_of, speed_of

pytestmark = pytest.mark.skipif(packed_ops.missing() is not None, reason="this torch cannot pack weights")


class Layer(nn.Module):
    """A normalised feed-forward block; its second product has a weight that is not transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up = nn.LayerNorm(8), nn.Linear(8, 12)
        self.down = nn.Parameter(torch.randn(12, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + nn.functional.gelu(self.up(self.norm(x))) @ self.down


def packed_inductor(way: str) -> PackedInductorEngine:
    """The engine that does all products one way."""
    made = make()
    return PackedInductorEngine(inductor=made.inductor, plain=engine_of(way), speed=speed_of(way))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["mkl", "onednn"])
def test_layers_share_an_artefact_and_weights_are_followed(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    region, engine = region_of(Layer(), torch.randn(2, 3, 8)), packed_inductor(way)
    assert engine.supports(region) is None
    compiles = []
    real = InductorEngine.compile
    monkeypatch.setattr(InductorEngine, "compile", lambda *args, **how: compiles.append(1) or real(*args, **how))
    made = engine.compile(region)
    loaded = engine.load(Artefact(header=json.loads(json.dumps(made.header)), payload=made.payload))
    for run in (made.ready, loaded):
        assert run is not None
        calls = [concrete(region.example_inputs, seed=seed) for seed in range(3)]
        with torch.no_grad():
            for args in calls:
                assert differences(run(list(args)), region.gm(*args)) == []
            for place in region.weights:
                calls[1][place].data.mul_(1.5)
            assert run.attempt(list(calls[1])) is None
            for args in calls:
                assert differences(run(list(args)), region.gm(*args)) == []
            assert run.sets == 3
            for _ in range(4):
                assert differences(run(list(calls[0])), region.gm(*calls[0])) == []
                calls[0][region.weights[-1]].mul_(0.5)
                for place in region.weights:
                    calls[0][place].mul_(0.5)
        assert run.reason is not None
    assert len(compiles) == 1


@pytest.mark.exam
def test_an_artefact_runs_in_a_new_process(tmp_path: Path, repo: Path) -> None:
    region, engine = region_of(Layer(), torch.randn(2, 3, 8)), packed_inductor("mkl")
    made = engine.compile(region)
    assert made.payload is not None
    args = concrete(region.example_inputs)
    with torch.no_grad():
        torch.save((args, region.gm(*args)), tmp_path / "values.pt")
    (tmp_path / "header.json").write_text(json.dumps(made.header))
    (tmp_path / "payload").write_bytes(made.payload)
    script = f"""
import json, pathlib, torch
from djinn_fx.engines.base import Artefact
from djinn_fx.engines.packed.with_inductor import make
here = pathlib.Path({str(tmp_path)!r})
header, payload = json.loads((here / "header.json").read_text()), (here / "payload").read_bytes()
run = make().load(Artefact(header=header, payload=payload))
args, want = torch.load(here / "values.pt")
for one, other in zip(run(args), want, strict=True):
    torch.testing.assert_close(one, other)
"""
    environment = {**os.environ, "PYTHONPATH": str(repo), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("way", ["mkl", "onednn"])
@pytest.mark.parametrize("after", sorted(packed_ops.UNARY))
def test_every_activation_can_follow_a_packed_product(after: str, way: str) -> None:
    class Activated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 12)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return packed_ops.UNARY[after][0](self.linear(x))

    region = region_of(Activated(), torch.randn(3, 8))
    gm, packings = with_packed_inputs(rewritten(region.gm, region.weights), speed_of(way))
    assert [one.how for one in packings] == [way]
    args = concrete(region.example_inputs)
    define_operators()
    with torch.no_grad():
        packed = [packing.pack(args[packing.place]) for packing in packings]
        assert differences(gm(*args, *packed), region.gm(*args)) == []


def test_only_products_that_gain_get_a_packed_weight() -> None:
    region = region_of(Layer(), torch.randn(2, 3, 8))
    for way, hows in (("aten", []), ("mkl", ["mkl", "mkl"]), ("onednn", ["onednn", "onednn"])):
        gm, packings = with_packed_inputs(rewritten(region.gm, region.weights), speed_of(way))
        assert [one.how for one in packings] == hows
        assert len(gm.graph.find_nodes(op="placeholder")) == len(region.example_inputs) + len(hows)
    reason = packed_inductor("aten").supports(region)
    assert reason is not None
    assert reason.kind is ReasonKind.ENGINE_REFUSED


def test_products_of_changing_sizes_are_left_to_what_takes_them_all() -> None:
    region = region_of(Layer(), torch.randn(2, 3, 8), dynamic=True)
    for way, count in (("mkl", 2), ("onednn", 0)):
        assert len(with_packed_inputs(rewritten(region.gm, region.weights), speed_of(way))[1]) == count
