"""When an engine fails: only that region runs eagerly, with the reason on record, or the error is raised."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed

from djinn_fx.engines.base import Artefact, RegionGraph
from djinn_fx.engines.inductor.engine import InductorEngine
from djinn_fx.errors import EngineError
from djinn_fx.reasons import ReasonKind
from tests.backend.support import AT_REPEATS, INDUCTOR, Noted, check_training, cutting, djinn, same, stacked

CUT = {"passes": AT_REPEATS, "expected_calls": 1, "progress": False}


def _eager_artefact(region: RegionGraph) -> Artefact:
    """Stands for what Inductor makes, without its price."""

    def run(args: list[Any]) -> Any:
        given = tuple(args)
        args.clear()
        return region.gm(*given)

    return Artefact(header={"engine": "inductor"}, payload=None, ready=run)


@pytest.fixture
def last_fails(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Inductor fails on the region that holds the head; the list names the regions it was asked for."""
    asked: list[str] = []

    def compile_one(self: InductorEngine, region: RegionGraph, *, alone: bool = False) -> Artefact:
        asked.append(region.label)
        if "repeat" not in region.label and "layers" not in region.label:
            raise EngineError(f"inductor could not compile {region.label}: out of luck")
        return _eager_artefact(region)

    monkeypatch.setattr(InductorEngine, "compile", compile_one)
    return asked


def test_one_region_falls_back(last_fails: list[str], caplog: pytest.LogCaptureFixture) -> None:
    module, x = stacked(layers=12), torch.randn(5, 6)
    noted = Noted()
    with torch.no_grad(), caplog.at_level(logging.WARNING, logger="djinn_fx"):
        same(djinn(module, CUT)(x), module(x))
    (graph,) = noted.graphs
    engines = [build.engine for build in graph.builds]
    assert engines.count("eager") >= 1
    assert engines.count("inductor") >= 10, "the other regions keep their engine"
    failed = [build for build in graph.builds if build.outcome == "fallback"]
    assert [reason.kind for build in failed for reason in build.reasons] == [ReasonKind.FALLBACK] * len(failed)
    assert any(reason.kind is ReasonKind.FALLBACK for reason in graph.reasons)
    assert any("out of luck" in record.getMessage() for record in caplog.records)


def test_raise(last_fails: list[str]) -> None:
    with pytest.raises(BackendCompilerFailed, match="out of luck"), torch.no_grad():
        djinn(stacked(layers=12), {**CUT, "on_failure": "raise"})(torch.randn(5, 6))


def test_fall_back_while_training(last_fails: list[str]) -> None:
    noted = Noted()
    check_training(stacked(layers=12), torch.randn(5, 6), options=CUT)
    assert "fallback" in noted.outcomes()


def test_failure_is_remembered_and_forgotten(last_fails: list[str]) -> None:
    """A second process does not try again at once; clearing the cache makes it try."""
    from djinn_fx.backend import reset

    module, x = stacked(layers=12), torch.randn(5, 6)
    with torch.no_grad():
        same(djinn(module, CUT)(x), module(x))
        first = len(last_fails)
        reset()
        torch._dynamo.reset()
        same(djinn(module, CUT)(x), module(x))
    again = last_fails[first:]
    assert not any("repeat" not in label and "layers" not in label for label in again), again


def test_a_remembered_failure_is_raised_too(last_fails: list[str]) -> None:
    """on_failure="raise" means it also when the failure is known from before."""
    module, x = stacked(layers=12), torch.randn(5, 6)
    with torch.no_grad():
        same(djinn(module, CUT)(x), module(x))
        torch.compiler.reset()
        with pytest.raises(BackendCompilerFailed, match="out of luck"):
            djinn(module, {**CUT, "on_failure": "raise"})(x)


def test_inductor_really_fails() -> None:
    """Inductor meets an error of its own: the result is still right, and the cause is told."""

    def broken(*_: Any, **__: Any) -> Any:
        raise NotImplementedError("no such lowering")

    patched = pytest.MonkeyPatch()
    patched.setattr("torch._inductor.standalone_compile", broken)
    noted = Noted()
    try:
        run = djinn(lambda x: x.sin() * 3, INDUCTOR)
        same(run(torch.ones(3)), torch.ones(3).sin() * 3)
    finally:
        patched.undo()
    assert ReasonKind.FALLBACK in [reason.kind for reason in noted.reasons()]


def test_a_region_the_engine_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inductor has nothing to do for a region that only computes sizes: it runs eagerly, and says so."""
    monkeypatch.setattr(InductorEngine, "compile", lambda self, region, **_: _eager_artefact(region))

    def function(x: torch.Tensor) -> torch.Tensor:
        half = x.shape[0] // 2 + 1
        return torch.zeros(half * 3) + x.sum()

    noted = Noted()
    run = djinn(function, {"passes": cutting(size=1), "progress": False}, dynamic=True)
    for size in (4, 6):
        same(run(torch.ones(size)), function(torch.ones(size)))
    builds = [build for graph in noted.graphs for build in graph.builds]
    assert {build.engine for build in builds} == {"inductor", "eager"}
    refused = [build for build in builds if build.engine == "eager"]
    assert {reason.kind for build in refused for reason in build.reasons} == {ReasonKind.ENGINE_REFUSED}
