"""When no engine is left that was asked for: Inductor takes over, and it is told."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn

import djinn_fx
import djinn_fx.backend
from djinn_fx.costmodels.laws.build_time import SAVED_SHARE
from djinn_fx.dispatch import refusals
from djinn_fx.dispatch.contests.contest import Contest
from djinn_fx.dispatch.contests.pays import EXPERIENCE
from djinn_fx.dispatch.entrant import CHANGED, Entrant, State
from djinn_fx.dispatch.refusals import cannot_serve
from djinn_fx.dispatch.standby import Outlook, Standby
from djinn_fx.engines.base import Runner
from djinn_fx.engines.onnx.serving.engine import OnnxEngine
from djinn_fx.engines.packed.engine import PackedEngine
from djinn_fx.errors import EngineError
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.settings.engines import STANDBY
from tests.waiting import until


def plus_one(args: list[Any]) -> list[Any]:
    return [args[0] + 1]


class Broken(Runner):
    """An engine that cannot be made ready; ``works`` many times it can."""

    partial = True

    def __init__(self, works: int = 0) -> None:
        self.works = works

    def attempt(self, args: list[Any]) -> Sequence[Any] | None:
        if self.works <= 0:
            raise EngineError("broken: no kernel")
        self.works -= 1
        return plus_one(args)

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        raise AssertionError("it has attempt")

    def prepare(self, args: list[Any]) -> Callable[[], None] | None:
        def work() -> None:
            raise EngineError("broken: cannot open whole graph: no kernel")

        return None if self.works else work


class Reserve:
    """An engine that is built when it is asked for, which takes a moment."""

    def __init__(self, takes_s: float = 0.0) -> None:
        self.takes_s, self.made, self.summoned = takes_s, 0, 0
        self.ready = threading.Event()

    def entrant(self) -> Entrant:
        self.made += 1
        return Asked(self)

    def summon(self) -> None:
        self.summoned += 1
        threading.Timer(self.takes_s, self.finish).start()

    def finish(self) -> None:
        with CHANGED:
            self.ready.set()
            CHANGED.notify_all()


class Asked(Entrant):
    """It, in one contest."""

    late = reserve = True

    def __init__(self, made: Reserve) -> None:
        super().__init__("reserve", plus_one)
        self.made = made

    @property
    def building(self) -> bool:
        return self.made.summoned > 0 and not self.arrived()

    def arrived(self) -> bool:
        return self.made.ready.is_set()

    def submit(self) -> None:
        self.made.summon()


def contest_of(*entrants: Entrant, waits: bool = True, standby: Callable[[], Entrant] | None = None) -> Contest:
    return Contest(label="whole graph", entrants=entrants, reference=plus_one, waits=waits, standby=standby)


def call(contest: Contest, times: int = 1) -> None:
    for value in range(times):
        assert list(contest([value])) == [value + 1]


def answers(contest: Contest, engine: str) -> bool:
    """Whether an engine answers the next call."""
    call(contest)
    return contest.engine == engine


def test_who_stands_by_is_not_made_as_long_as_an_engine_serves() -> None:
    reserve = Reserve()
    contest = contest_of(Entrant("good", plus_one), standby=reserve.entrant)
    call(contest, 40)
    assert (reserve.made, contest.refused) == (0, None)
    assert [one.engine for one in contest.entrants] == ["good"]


def test_the_first_call_waits_for_who_stands_by_where_callers_wait() -> None:
    reserve = Reserve(0.2)
    contest = contest_of(Entrant("broken", Broken()), standby=reserve.entrant)
    call(contest)
    assert contest.engine == "reserve"
    assert (reserve.made, reserve.summoned) == (1, 1)


def test_an_engine_that_fails_later_is_replaced_too() -> None:
    reserve = Reserve()
    contest = contest_of(Entrant("broken", Broken(works=12)), standby=reserve.entrant)
    call(contest, 12)
    assert (contest.engine, contest.decided) == ("broken", True)
    assert until(lambda: answers(contest, "reserve"))
    assert reserve.summoned == 1


def test_own_ops_in_the_contest_do_not_keep_it_from_being_built() -> None:
    reserve = Reserve()
    contest = contest_of(Entrant("broken", Broken()), reserve.entrant(), Entrant("eager", plus_one))
    call(contest, 40)
    assert reserve.summoned == 1
    assert {one.engine: one.state for one in contest.entrants}["reserve"] is not State.COLD


def test_who_waits_until_all_is_ready_waits_for_what_is_built_after_a_trial() -> None:
    """From the call that decides on, not only from when a thread has begun to build."""
    asked, go_on = threading.Event(), threading.Event()

    class Slow(Asked):
        def submit(self) -> None:
            asked.set()
            assert go_on.wait(10)

    contest = contest_of(Entrant("good", plus_one), Slow(Reserve()))
    while not contest.decided:
        call(contest)
    assert contest.pending
    assert asked.wait(10)
    assert contest.pending
    go_on.set()
    assert until(lambda: not contest.pending)


def test_in_the_background_it_is_built_without_a_further_call() -> None:
    reserve = Reserve()
    contest = contest_of(Entrant("broken", Broken()), waits=False, standby=reserve.entrant)
    call(contest)
    assert until(lambda: bool(reserve.summoned) and not contest.pending)
    assert reserve.summoned == 1

    assert until(lambda: answers(contest, "reserve"))


def test_a_dropped_engine_is_replaced() -> None:
    reserve = Reserve()
    contest = contest_of(Entrant("wrong", plus_one), standby=reserve.entrant)
    call(contest, 3)
    contest.drop("wrong", Reason(kind=ReasonKind.QUARANTINED, detail="wrong: 2 is not 1"))
    assert reserve.summoned == 1
    assert until(lambda: answers(contest, "reserve"))


def test_where_nobody_stands_by_that_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    refusals._SAID.clear()
    contest = contest_of(Entrant("broken", Broken()))
    with caplog.at_level(logging.WARNING):
        call(contest, 20)
    assert [record.getMessage() for record in caplog.records] == [contest.refused]
    assert contest.status().refused == contest.refused


def test_the_sentence() -> None:
    told = cannot_serve([("a", "a: a: cannot open whole graph: TypeError: no. ")], "inductor")
    assert told.startswith("djinn_fx: a cannot serve this graph: TypeError: no; inductor does. ")
    assert "layer 1" in cannot_serve([("a", "no"), ("b", "b: no")], None, "layer 1")


def test_a_standby_builds_once() -> None:
    built: list[bool] = []

    def build() -> Any:
        built.append(True)
        return plus_one, ()

    standby = Standby(build)
    assert not standby.arrived()
    for _ in range(2):
        standby.summon()
    assert built == [True]
    assert standby.arrived()


class TestCompiled:
    """Through torch.compile."""

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)).eval()

    def run(self, engine: str, times: int = 3) -> Any:
        module = self.model()
        compiled = torch.compile(module, backend="djinn", options={"engine": engine})
        with torch.no_grad():
            for _ in range(times):
                x = torch.randn(3, 16)
                torch.testing.assert_close(compiled(x), module(x), rtol=1e-4, atol=1e-5)
        return djinn_fx.status(compiled)

    def test_an_engine_alone_that_cannot_open_is_inductors(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("onnxruntime")

        def session(*_: Any) -> Any:
            raise EngineError("onnxruntime: cannot open whole graph: no kernel")

        monkeypatch.setattr("djinn_fx.engines.onnx.serving.trial.problem", lambda *_: None)
        monkeypatch.setattr("djinn_fx.engines.onnxruntime.engine.OnnxRuntimeEngine.session", session)
        status = self.run("onnxruntime")
        (contest,) = status.contests
        assert contest.engine == "inductor"
        assert status.ready
        (sentence,) = status.refused
        assert sentence in str(status)
        assert sentence.startswith("djinn_fx: onnxruntime cannot serve this graph: no kernel; inductor does.")

    @pytest.mark.parametrize("engine", ["onnxruntime", "packed"])
    def test_one_that_refuses_when_the_graph_is_planned_is_told(
        self, engine: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def supports(self: Any, region: Any) -> Reason:
            return Reason(kind=ReasonKind.ENGINE_REFUSED, detail=f"{engine}: not today", node=region.label)

        owner = OnnxEngine if engine == "onnxruntime" else PackedEngine
        monkeypatch.setattr(owner, "supports", supports)
        for _ in range(2):  # the second time from the cache
            status = self.run(engine, times=1)
            (sentence,) = status.refused
            assert sentence.startswith(f"djinn_fx: {engine} cannot serve this graph: not today; inductor does.")
            djinn_fx.backend.reset()
            torch._dynamo.reset()

    def test_one_that_takes_no_part_beside_others_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def supports(self: Any, region: Any) -> Reason:
            return Reason(kind=ReasonKind.ENGINE_REFUSED, detail="onnxruntime: not today", node=region.label)

        pytest.importorskip("onnxruntime")
        monkeypatch.setattr("djinn_fx.engines.onnxruntime.engine.OnnxRuntimeEngine.supports", supports)
        status = self.run("auto", times=1)
        assert "onnxruntime" not in {one.engine for one in status.contests[0].entrants}
        assert status.refused == ("onnxruntime takes no part: not today",)
        assert status.refused[0] in str(status)


@pytest.mark.parametrize("least_s", [0.004, None, 0.02])
def test_it_pays_when_as_many_calls_again_save_more_than_building_takes(least_s: float | None) -> None:
    standby = Standby(lambda: (None, ()), outlook=Outlook(ops=[100, 300], least_s=least_s))
    entrant, run_s = standby.entrant(), 0.01
    build_s = sum(EXPERIENCE.build_seconds(STANDBY, ops) for ops in (100, 300))
    saving_s = run_s * SAVED_SHARE[STANDBY] if least_s is None else run_s - least_s
    if saving_s <= 0:
        assert not entrant.pays(run_s, 10**9)
    else:
        assert not entrant.pays(run_s, int(0.99 * build_s / saving_s))
        assert entrant.pays(run_s, int(1.01 * build_s / saving_s))
    assert entrant.pays(None, 1)  # nobody knows
