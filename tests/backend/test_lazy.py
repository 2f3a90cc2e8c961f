"""``compile="background"`` and ``"lazy"`` with real Inductor builds in real child processes."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import djinn_fx
from djinn_fx.backend import compilations
from djinn_fx.compiling.readiness import ModelStatus
from djinn_fx.dispatch import background
from djinn_fx.dispatch.entrant import State
from djinn_fx.dispatch.memory import MEMORY
from djinn_fx.errors import DjinnError, EngineError
from djinn_fx.pool.limits import PoolLimits
from djinn_fx.pool.supervisor import BuildPool
from djinn_fx.reasons import ReasonKind
from tests.backend.support import AT_REPEATS, Noted, Stacked, check, check_training, djinn, same
from tests.waiting import until

_ROOT = Path(__file__).parents[2]
#: Seconds a build may take on a busy machine before a test gives up.
PATIENCE_S = 300.0
BACKGROUND: dict[str, Any] = {"compile": "background", "progress": False}
LAZY: dict[str, Any] = {"compile": "lazy", "progress": False}
#: The default passes, cutting where structure repeats.
CUT: dict[str, Any] = {**BACKGROUND, "passes": AT_REPEATS, "expected_calls": 1}


@pytest.fixture(scope="module")
def children() -> Iterator[BuildPool]:
    """One pool for the module, so that its child is warm; not niced, since nobody else is waiting here."""
    pool = BuildPool(PoolLimits(children=1, memory_bytes=6_000_000_000, nice=0))
    yield pool
    pool.close()


@pytest.fixture(autouse=True)
def pool(children: BuildPool, monkeypatch: pytest.MonkeyPatch) -> BuildPool:
    monkeypatch.setattr(background, "shared_pool", lambda **_: children)
    MEMORY.clear()
    return children


@pytest.fixture
def idle_pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[BuildPool]:
    """A pool that never starts anything: what is submitted stays queued."""

    class Idle(BuildPool):
        def _schedule(self, now: float) -> Any:
            return [], [], []

    pool = Idle(PoolLimits(children=1, memory_bytes=6_000_000_000))
    monkeypatch.setattr(background, "shared_pool", lambda **_: pool)
    yield pool
    pool.close()


def ready(compiled: Callable[..., Any]) -> ModelStatus:
    status = djinn_fx.wait_until_ready(compiled, PATIENCE_S)
    assert status.ready, str(status)
    return status


def test_calls_are_right_before_while_and_after_engines_are_built() -> None:
    module, x = Stacked().eval(), torch.randn(5, 6)
    compiled = djinn(module, CUT)
    with torch.no_grad():
        expected = module(x)
        same(compiled(x), expected)
        assert djinn_fx.status(compiled).unplanned == 1, "the first call runs what Dynamo gave"
        assert compilations() == ()
        same(compiled(x), expected)
        status = djinn_fx.status(compiled)
        assert status.unplanned == 0
        assert {tier.state for region in status.regions for tier in region.entrants} <= {State.QUEUED, State.BUILDING}
        status = ready(compiled)
        assert {region.engine for region in status.regions} == {"inductor"}
        same(compiled(x), expected)


def test_identical_layers_are_one_build(pool: BuildPool) -> None:
    before = pool.counters.built
    module, x = Stacked(layers=12).eval(), torch.randn(5, 6)
    compiled = djinn(module, CUT)
    with torch.no_grad():
        compiled(x)
        status = ready(compiled)
    (graph,) = compilations()[-1:]
    assert len(graph.plan.regions) > 12
    assert pool.counters.built - before == graph.plan.distinct_regions == len(status.regions)
    assert sum(region.repeats for region in status.regions) == len(graph.plan.regions)


def test_training() -> None:
    check_training(Stacked(), torch.randn(5, 6), options=CUT, steps=4)
    module, x = Stacked(), torch.randn(5, 6)
    compiled = djinn(module, CUT)
    for _ in range(3):
        compiled(x).pow(2).sum().backward()
    status = ready(compiled)
    assert {region.engine for region in status.regions} == {"inductor"}
    check_training(Stacked(), torch.randn(5, 6), options=CUT, steps=3)


def test_sizes_that_differ_from_call_to_call() -> None:
    """Not deferred, and every artefact is asked whether it serves the sizes of a call."""
    module = Stacked().eval()
    compiled = djinn(module, BACKGROUND, dynamic=True)
    with torch.no_grad():
        for rows in (5, 9, 17):
            x = torch.randn(rows, 6)
            same(compiled(x), module(x))
        assert djinn_fx.status(compiled).unplanned == 0
        assert {region.engine for region in ready(compiled).regions} == {"inductor"}
        for rows in (5, 64, 1, 3):
            x = torch.randn(rows, 6)
            same(compiled(x), module(x))


def test_a_second_model_finds_what_was_built(pool: BuildPool) -> None:
    x = torch.randn(5, 6)
    with torch.no_grad():
        for fresh in (lambda: None, MEMORY.clear):
            fresh()
            torch._dynamo.reset()
            module = Stacked().eval()
            compiled = djinn(module, CUT)
            compiled(x)
            same(compiled(x), module(x))
            ready(compiled)
            same(compiled(x), module(x))
            before = pool.counters.built
    assert pool.counters.built == before
    assert set(Noted().outcomes()) == set()


def test_mutation_and_aliases() -> None:
    def step(x: torch.Tensor, cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cache.mul_(0.5).add_(x)
        return cache.sum(0), x.t()

    with torch.no_grad():
        compiled = check(step, torch.randn(4, 6), torch.randn(4, 6), options=BACKGROUND, calls=3)
        ready(compiled)
        check(step, torch.randn(4, 6), torch.randn(4, 6), options=BACKGROUND, calls=3)


def test_autocast_and_grad_mode_of_the_first_call_are_those_planned_for() -> None:
    module, x = Stacked().eval(), torch.randn(5, 6)
    compiled = djinn(module, BACKGROUND)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = module(x)
        same(compiled(x), expected)
    ready(compiled)  # outside of both
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        actual = compiled(x)
    assert (actual.dtype, actual.requires_grad) == (torch.bfloat16, False)
    same(actual, expected, rtol=2e-2, atol=2e-2)


class TestWithoutBuilding:
    """Decisions that need no build to end."""

    def test_lazy_builds_nothing_that_has_not_paid(self, idle_pool: BuildPool) -> None:
        module, x = Stacked().eval(), torch.randn(5, 6)
        compiled = djinn(module, LAZY)
        with torch.no_grad():
            for _ in range(40):
                same(compiled(x), module(x))
            assert idle_pool.counters.submitted == 0
            status = djinn_fx.wait_until_ready(compiled, 0.0)
        assert not status.ready
        assert idle_pool.counters.submitted == 1
        assert [tier.state for region in status.regions for tier in region.entrants] == [State.QUEUED]

    def test_a_graph_that_is_called_once_is_never_planned(self, idle_pool: BuildPool) -> None:
        noted = Noted()
        with torch.no_grad():
            djinn(Stacked().eval(), BACKGROUND)(torch.randn(5, 6))
        assert noted.graphs == ()

    def test_explains_when_it_pays(self, idle_pool: BuildPool) -> None:
        compiled, x, noted = djinn(Stacked().eval(), LAZY), torch.randn(5, 6), Noted()
        with torch.no_grad():
            compiled(x)
            djinn_fx.wait_until_ready(compiled, 0.0)
        assert [reason.kind for reason in noted.reasons()].count(ReasonKind.WAITING) == 1

    def test_freeing_the_model_cancels_its_builds(self, idle_pool: BuildPool) -> None:
        compiled, x = djinn(Stacked().eval(), BACKGROUND), torch.randn(5, 6)
        with torch.no_grad():
            compiled(x)
            compiled(x)
        assert len(idle_pool.pending()) == 1
        del compiled
        gc.collect()
        assert until(lambda: idle_pool.pending() == ())
        assert idle_pool.counters.cancelled == 1

    @pytest.mark.parametrize("mode", ["background", "blocking"])
    def test_a_budget_that_is_too_small(self, mode: str, idle_pool: BuildPool) -> None:
        module, x, noted = Stacked().eval(), torch.randn(5, 6), Noted()
        compiled = djinn(module, {"compile": mode, "compile_budget": "1ms", "progress": False})
        with torch.no_grad():
            for _ in range(3):
                same(compiled(x), module(x))
        assert idle_pool.counters.submitted == 0
        told = [reason.kind for reason in noted.reasons()]
        told += [tier.reason.kind for r in djinn_fx.status(compiled).regions for tier in r.entrants if tier.reason]
        assert ReasonKind.BUDGET in told

    def test_waiting_for_what_was_never_called(self) -> None:
        with pytest.raises(DjinnError, match="call it once"):
            djinn_fx.wait_until_ready(djinn(Stacked().eval(), BACKGROUND), 1.0)

    def test_a_function_is_found_by_its_code(self, idle_pool: BuildPool) -> None:
        def function(x: torch.Tensor) -> torch.Tensor:
            return x.sin() + 1

        compiled = djinn(function, BACKGROUND)
        other = djinn(lambda x: x.cos(), BACKGROUND)
        for _ in range(2):
            compiled(torch.randn(3))
            other(torch.randn(3))
        assert djinn_fx.status(compiled).graphs == djinn_fx.status(other).graphs == 1

    def test_pieces_after_a_graph_break_are_found(self, idle_pool: BuildPool) -> None:
        def function(x: torch.Tensor) -> torch.Tensor:
            y = x.sin()
            torch._dynamo.graph_break()
            return y.cos() + 1

        compiled = djinn(function, BACKGROUND)
        for _ in range(2):
            compiled(torch.randn(3))
        assert djinn_fx.status(compiled).graphs == 2


def test_planning_that_fails_leaves_the_graph_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("no plan today")

    monkeypatch.setattr("djinn_fx.compiling.graph.GraphCompiler.plan", fails)
    module, x = Stacked().eval(), torch.randn(5, 6)
    compiled = djinn(module, BACKGROUND)
    with torch.no_grad():
        for _ in range(3):
            same(compiled(x), module(x))
    status = djinn_fx.status(compiled)
    assert not status.ready
    (reason,) = status.reasons
    assert reason.kind is ReasonKind.FALLBACK


def test_a_builder_that_dies_costs_nothing_but_its_engine(
    pool: BuildPool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    faulty = BuildPool(pool.limits, workers={"inductor-region": "tests.backend.dying:build"}, extra_path=[str(_ROOT)])
    monkeypatch.setattr(background, "shared_pool", lambda **_: faulty)
    monkeypatch.setattr(background, "RETRY_S", 0.0)
    try:
        module, x = Stacked().eval(), torch.randn(5, 6)
        compiled = djinn(module, BACKGROUND)
        with torch.no_grad():
            same(compiled(x), module(x))
            status = djinn_fx.wait_until_ready(compiled, PATIENCE_S)
            expected = module(x)

            def given_up() -> bool:
                same(compiled(x), expected)
                return faulty.counters.crashed == background.MAX_TRIES

            assert until(given_up), "tried again, and then given up"
        assert not status.ready
        assert until(lambda: djinn_fx.status(compiled).counts["failed"] == 1)
        (region,) = djinn_fx.status(compiled).regions
        (tier,) = region.entrants
        assert (region.engine, tier.state, tier.retry_after_s) == ("eager", State.FAILED, None)
        assert tier.reason is not None
        assert tier.reason.kind is ReasonKind.FALLBACK
    finally:
        faulty.close()


def test_an_engine_error_while_planning_is_raised_if_the_settings_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise EngineError("out of luck")

    monkeypatch.setattr("djinn_fx.compiling.graph.GraphCompiler.plan", fails)
    compiled = djinn(Stacked().eval(), {**BACKGROUND, "on_failure": "raise"})
    with torch.no_grad():
        compiled(torch.randn(5, 6))
        with pytest.raises(EngineError, match="out of luck"):
            compiled(torch.randn(5, 6))
