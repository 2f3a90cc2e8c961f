"""The choice between engines, through torch.compile: right answers, one winner, remembered, told, and safe."""

from __future__ import annotations

import gc
import importlib.util
import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

import djinn_fx
from djinn_fx.backend import compilations
from djinn_fx.dispatch.contests import copies
from djinn_fx.dispatch.contests.copies import ENOUGH
from djinn_fx.dispatch.contests.decisions import Decision, Outcomes
from djinn_fx.dispatch.entrant import DispatchStatus, State
from djinn_fx.engines import registry
from djinn_fx.engines.base import Artefact, RegionGraph
from djinn_fx.engines.bound.closing import CLOSER
from djinn_fx.engines.bound.holders import SWEEPERS
from djinn_fx.engines.bound.region import BoundRegion
from djinn_fx.engines.eager import EagerEngine
from djinn_fx.engines.packed import shared
from djinn_fx.engines.packed.conv import ConvShape
from djinn_fx.engines.packed.speed import ProductSpeed, Shape
from djinn_fx.reasons import Reason, ReasonKind
from tests.waiting import until

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

INSTALLED = [name for name in ("openvino", "onnxruntime") if importlib.util.find_spec(name) is not None]


class Block(nn.Module):
    def __init__(self, size: int = 32) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.first = nn.Linear(size, 4 * size)
        self.second = nn.Linear(4 * size, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.nn.functional.gelu(self.first(self.norm(x)))
        return x + self.second(hidden)


def model(layers: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(Block() for _ in range(layers))).eval()


def compiled(module: nn.Module, engine: Any = "auto", **options: Any) -> Any:
    return torch.compile(module, backend="djinn", options={"engine": engine, **options})


def same(run: Any, module: nn.Module, x: torch.Tensor, times: int = 1) -> None:
    """So many calls give what eager gives."""
    for _ in range(times):
        torch.testing.assert_close(run(x), module(x), rtol=1e-4, atol=1e-5)


def contest_of(run: Any) -> DispatchStatus:
    (contest,) = djinn_fx.status(run).contests
    return contest


def state_of(run: Any, engine: str) -> State:
    """Where an engine stands with a model."""
    (state,) = [one.state for one in contest_of(run).entrants if one.engine == engine]
    return state


def reasons(kind: ReasonKind) -> list[Reason]:
    return [reason for one in compilations() for reason in one.reasons if reason.kind is kind]


@pytest.fixture(autouse=True)
def _without_gradients() -> Any:
    with torch.no_grad():
        yield


class TestNamed:
    @pytest.mark.parametrize("name", [*INSTALLED, "packed"])
    def test_an_engine_that_is_named_answers_always(self, name: str) -> None:
        module, x = model(), torch.randn(3, 32)
        run = compiled(module, name)
        same(run, module, x, 8)
        contest = contest_of(run)
        assert contest.engine == name
        assert {one.engine for one in contest.entrants} == {name}

    def test_a_list_is_tried_and_no_other(self) -> None:
        module, x = model(), torch.randn(3, 32)
        run = compiled(module, ["packed", "eager"])
        for _ in range(2000):
            time.sleep(0.001)  # for what is made ready beside the calls
            same(run, module, x)
            if contest_of(run).decided:
                break
        contest = contest_of(run)
        assert contest.decided
        assert {one.engine for one in contest.entrants} == {"packed", "eager"}
        assert contest.reason is not None
        assert contest.reason.kind is ReasonKind.ENGINE_CHOSEN
        assert contest.reason.runner_up in ("packed", "eager")

    def test_a_library_that_is_missing_is_said_and_inductor_takes_its_place(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *rest: None if name == "openvino" else found(name)
        )
        module, x = model(), torch.randn(3, 32)
        same(compiled(module, "openvino"), module, x)
        assert reasons(ReasonKind.ENGINE_REFUSED)
        assert {build.engine for one in compilations()[-1:] for build in one.builds} == {"inductor"}

    def test_training_is_inductors(self) -> None:
        module, x = model(1).train(), torch.randn(3, 32)
        with torch.enable_grad():
            run = compiled(module)
            run(x).sum().backward()
        assert not djinn_fx.status(run).contests
        assert {build.engine for one in compilations()[-2:] for build in one.builds} == {"inductor"}


def nothing_is_kept() -> bool:
    """Whether no copies of weights are left; what is compared beside the last calls holds weights for a while."""
    gc.collect()
    CLOSER.wait()
    return not any(one.sets for one in SWEEPERS if isinstance(one, BoundRegion)) and not list(shared._KNOWN)


class TestAuto:
    def test_somebody_wins_and_the_next_process_begins_with_the_winner(self) -> None:
        module, x = model(), torch.randn(3, 32)
        run = compiled(module)
        for _ in range(2000):
            time.sleep(0.001)  # for what is made ready beside the calls
            same(run, module, x)
            if contest_of(run).decided:
                break
        first = contest_of(run)
        assert first.decided
        assert {one.engine for one in first.entrants} >= {*INSTALLED, "packed", "eager"}
        # Inductor is built once the others were tried, if that may pay; who waits has it built whether or not.
        assert state_of(run, "inductor") is State.COLD
        djinn_fx.wait_until_ready(run, timeout=0.0)
        assert until(lambda: state_of(run, "inductor") is not State.COLD)
        torch._dynamo.reset()
        again = compiled(module)
        same(again, module, x)
        djinn_fx.wait_until_ready(again, timeout=60)
        for _ in range(2000):
            time.sleep(0.001)  # for what is made ready beside the calls
            same(again, module, x)
            if contest_of(again).decided:
                break
        answered = {one.engine for one in contest_of(again).entrants if one.answers}
        assert answered <= {first.engine, "eager"}  # which answers until the winner is ready
        assert contest_of(again).engine == first.engine

    def test_graphs_over_the_same_weights_keep_one_copy_of_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As prefill and decode do: whatever each would win by, and however long the trials last."""
        monkeypatch.setattr(copies, "ROOM", 0)  # these are small
        self._prefill_and_decode()
        torch._dynamo.reset()
        assert until(nothing_is_kept)

    def test_copies_that_cannot_be_shared_are_counted_one_by_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """MKL's layout is for one number of rows: seen where decode's products were faster with it."""

        def best(self: ProductSpeed, shape: Shape | ConvShape) -> str:
            return "mkl" if isinstance(shape, Shape) and shape.m == 1 and shape.n > shape.k else "onednn"

        monkeypatch.setattr(ProductSpeed, "best", best)
        monkeypatch.setattr(copies, "ROOM", 0)
        self._prefill_and_decode()

    def _prefill_and_decode(self) -> None:
        module = nn.Sequential(Block(256), Block(256)).eval()
        run = torch.compile(module, backend="djinn", options={"engine": "auto"}, dynamic=False)
        large, small = torch.randn(256, 256), torch.randn(1, 256)
        weights = sum(one.nbytes for one in module.parameters())
        most = 0

        def decided() -> bool:
            """Whether both trials are over, after a call of each."""
            nonlocal most
            time.sleep(0.001)  # for what is made ready beside the calls
            same(run, module, large, 1)
            same(run, module, small, 2)
            contests = djinn_fx.status(run).contests
            most = max(most, sum(one.memory_bytes for each in contests for one in each.entrants))
            return len(contests) == 2 and all(one.decided for one in contests)

        assert until(decided)
        for _ in range(ENOUGH):  # until it is known who is called how often
            decided()
        assert until(decided)  # who lost the copy may have had none to go on with
        assert most <= 2.1 * weights
        kept = [one.memory_bytes for each in djinn_fx.status(run).contests for one in each.entrants]
        assert sum(kept) <= 1.05 * weights

    def test_sizes_that_differ_have_contests_of_their_own(self) -> None:
        module = model()
        run = torch.compile(module, backend="djinn", options={"engine": ["packed", "eager"]}, dynamic=True)
        for rows in (3, 200, 5, 201, 3, 200):
            same(run, module, torch.randn(rows, 32), 4)
        assert len(djinn_fx.status(run).contests) >= 2

    def test_in_the_background_nobody_waits_and_every_answer_is_right(self) -> None:
        module, x = model(), torch.randn(3, 32)
        run = compiled(module, ["packed", "eager"], compile="background")
        same(run, module, x, 2)
        djinn_fx.wait_until_ready(run, timeout=60)
        for _ in range(2000):
            time.sleep(0.001)  # for what is made ready beside the calls
            same(run, module, x)
            if contest_of(run).decided:
                break
        assert contest_of(run).decided


class Compiling(EagerEngine):
    """In Inductor's place."""

    name = "inductor"  # type: ignore[assignment]

    def compile(self, region: RegionGraph, *, alone: bool = False) -> Artefact:
        return Artefact(header={"engine": "inductor"}, payload=None, ready=super().compile(region).ready)


def make_compiling(**_: Any) -> Any:
    return Compiling()


def test_where_inductor_won_an_earlier_trial_the_regions_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Decision(engine="inductor", seconds={"inductor": 1.0, "packed": 2.0}, created="yesterday")
    monkeypatch.setattr(Outcomes, "known", known)
    monkeypatch.setitem(registry.ENGINES, "inductor", f"{__name__}:make_compiling")
    module, x = model(), torch.randn(3, 32)
    run = compiled(module, ["packed", "inductor"])
    same(run, module, x, 3)
    assert not djinn_fx.status(run).contests
    assert {build.engine for build in compilations()[-1].builds} == {"inductor"}
    assert reasons(ReasonKind.ENGINE_CHOSEN)


class TestWeightsThatChange:
    @pytest.mark.parametrize("name", [*INSTALLED, "packed"])
    @pytest.mark.parametrize("compile_mode", ["blocking", "background"])
    def test_every_way_of_changing_them_is_seen_by_the_next_call(self, name: str, compile_mode: str) -> None:
        module, x = model(1), torch.randn(3, 32)
        run = compiled(module, name, compile=compile_mode)
        same(run, module, x, 3)
        djinn_fx.wait_until_ready(run, timeout=60)
        same(run, module, x, 3)
        changes = [
            lambda w: w.mul_(1.5),
            lambda w: w.data.add_(0.25),
            lambda w: w.__setattr__("data", w.data + 0.5),
            lambda w: w.__setattr__("data", torch.randn_like(w)),
        ]
        for change in changes:
            change(module[0].first.weight)  # type: ignore[index, union-attr]
            same(run, module, x, 2)
        other = {key: torch.randn_like(value) for key, value in module.state_dict().items()}
        module.load_state_dict(other)
        same(run, module, x, 2)


class Wrong(EagerEngine):
    """An engine whose answers are off by a little."""

    name = "packed"  # type: ignore[assignment]
    wrong = True

    def compile(self, region: RegionGraph, *, alone: bool = False) -> Artefact:
        ready = super().compile(region).ready
        assert ready is not None

        def run(args: list[Any]) -> Sequence[Any]:
            return [value + 0.01 if isinstance(value, torch.Tensor) else value for value in ready(args)]

        return Artefact(header={"engine": "packed"}, payload=None, ready=run)


def make_wrong(**_: Any) -> Any:
    return Wrong()


class TestGuard:
    @pytest.fixture(autouse=True)
    def _a_wrong_engine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(registry.ENGINES, "packed", f"{__name__}:make_wrong")

    def test_wrong_numbers_never_leave(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(registry, "engine", registry.engine)
        module, x = model(1), torch.randn(3, 32)
        run = compiled(module, ["packed", "eager"])
        same(run, module, x, 10)
        contest = contest_of(run)
        assert contest.engine == "eager"
        entrant = next(one for one in contest.entrants if one.engine == "packed")
        assert entrant.state is State.FAILED
        assert entrant.reason is not None
        assert entrant.reason.kind is ReasonKind.QUARANTINED

    def test_a_wrong_engine_is_not_tried_again_by_the_next_process(self) -> None:
        module, x = model(1), torch.randn(3, 32)
        same(compiled(module, ["packed", "eager"]), module, x, 3)
        torch._dynamo.reset()
        again = compiled(module, ["packed", "eager"])
        same(again, module, x, 3)
        assert reasons(ReasonKind.QUARANTINED)
        assert all(
            one.engine != "packed" or not one.answers for c in djinn_fx.status(again).contests for one in c.entrants
        )


class Counted(nn.Module):
    """Sums beyond what OpenVINO computes in 32 bits, in every call."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = model(1)

    def forward(self, x: torch.Tensor, stamps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.layers(x), stamps.sum() * 10


@pytest.mark.skipif("openvino" not in INSTALLED, reason="OpenVINO is not installed")
@pytest.mark.parametrize("engine", ["openvino", ["openvino", "packed"]])
def test_an_engine_that_declines_every_call_is_judged_by_these(engine: Any) -> None:
    """A call that is left to eager takes eager's time: the trial ends, and says why eager answered."""
    module, given = Counted(), (torch.randn(3, 32), torch.full((4,), 2**40))
    run = compiled(module, engine)
    for _ in range(2000):
        time.sleep(0.001)  # for what is made ready beside the calls
        for found, expected in zip(run(*given), module(*given), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        if contest_of(run).decided:
            break
    contest = contest_of(run)
    assert contest.decided
    (openvino,) = [one for one in contest.entrants if one.engine == "openvino"]
    assert openvino.median_s is not None
    assert openvino.reason is not None
    assert openvino.reason.kind is ReasonKind.DECLINED
