"""A graph for which engines competed, met again: nothing is traced, own ops answer what the engine does not."""

from __future__ import annotations

import importlib.util
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

import djinn_fx
from djinn_fx.backend import compilations
from djinn_fx.compiling.graph import forget
from djinn_fx.engines.bound.holders import SWEEPERS
from djinn_fx.engines.bound.region import BoundRegion
from djinn_fx.errors import EngineError
from djinn_fx.saved import contested, early
from djinn_fx.saved.early import Early
from djinn_fx.settings.table import Settings
from djinn_fx.store.opening import open_store

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

#: Engines that decline an index out of range, so that torch's own error is raised.
LOOKING = [name for name in ("openvino", "onnxruntime") if importlib.util.find_spec(name) is not None]
needs_one = pytest.mark.skipif(not LOOKING, reason="neither OpenVINO nor ONNX Runtime is installed")


class Words(nn.Module):
    """Looks rows up and adds in place what it has counted."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 32)
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))

    def forward(self, ids: torch.Tensor, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = x + self.table(ids)
        for layer in self.layers:
            hidden = torch.relu(layer(hidden))
        return hidden, ids.sum() * 1000


@pytest.fixture(autouse=True)
def _without_gradients() -> Any:
    with torch.no_grad():
        yield


def inputs(rows: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(rows) % 50, torch.randn(rows, 32)


def words() -> nn.Module:
    torch.manual_seed(0)
    return Words().eval()


def same(run: Any, module: nn.Module, given: Sequence[torch.Tensor]) -> None:
    for found, expected in zip(run(*given), module(*given), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def until(true: Callable[[], bool], call: Callable[[], None], calls: int = 300) -> None:
    """Call until something is so."""
    for _ in range(calls):
        call()
        if true():
            return
        time.sleep(0.005)
    raise AssertionError("it has not become so")


def decided(run: Any) -> bool:
    contests = djinn_fx.status(run).contests
    return bool(contests) and all(contest.decided for contest in contests)


def first_process(module: nn.Module, options: dict[str, Any], dynamic: bool | None = None) -> Any:
    """Compile and call until the trial is decided; then forget all that is not on disk."""
    run = torch.compile(module, backend="djinn", options=options, dynamic=dynamic)
    until(lambda: decided(run), lambda: same(run, module, inputs()))
    torch._dynamo.reset()
    forget()
    counters.clear()


def joined(name: str) -> None:
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(30)


def second_process(module: nn.Module, options: dict[str, Any], dynamic: bool | None = None) -> Any:
    return torch.compile(module, backend="djinn", options=options, dynamic=dynamic)


@needs_one
class TestKept:
    @pytest.mark.parametrize("engine", [LOOKING[0] if LOOKING else "", [*LOOKING, "packed"]], ids=["one", "several"])
    def test_the_second_process_traces_nothing(self, engine: Any) -> None:
        module, options = words(), {"engine": engine}
        first_process(module, options)
        run = second_process(module, options)
        same(run, module, inputs())
        assert counters["aot_autograd"]["autograd_cache_hit"] == 1
        assert not compilations()
        until(lambda: decided(run), lambda: same(run, module, inputs()))
        (contest,) = djinn_fx.status(run).contests
        assert len(contest.entrants) == 1
        assert contest.entrants[0].answers

    def test_the_engine_is_opened_while_torch_looks_for_the_graph(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module, options = words(), {"engine": LOOKING}
        first_process(module, options)
        joined("djinn notes a graph")
        begin, open_winner, bind = Early.begin, early.open_winner, BoundRegion._bind
        opened: list[Any] = []
        bound: list[str] = []

        def begin_first(one: Early) -> None:
            begin(one)
            joined("djinn opens early")

        def opening(*args: Any) -> Any:
            opened.append(open_winner(*args))
            return opened[-1]

        def binding(region: BoundRegion, weights: Any) -> Any:
            bound.append(region.engine)
            return bind(region, weights)

        monkeypatch.setattr(Early, "begin", begin_first)
        monkeypatch.setattr(early, "open_winner", opening)
        monkeypatch.setattr(BoundRegion, "_bind", binding)
        run = second_process(module, options)
        same(run, module, inputs())
        assert [one.sets for one in opened] == [1]
        assert bound == [opened[0].engine]
        assert counters["aot_autograd"]["autograd_cache_hit"] == 1
        until(lambda: decided(run), lambda: same(run, module, inputs()))
        module.layers[0].weight.data.mul_(2.0)  # what was opened early is watched too
        until(lambda: decided(run), lambda: same(run, module, inputs()))

    @pytest.mark.parametrize("engine", [LOOKING[0] if LOOKING else "", [*LOOKING, "packed"]], ids=["one", "several"])
    def test_what_the_engine_declines_is_torchs_to_answer(self, engine: Any) -> None:
        module, options = words(), {"engine": engine}
        first_process(module, options)
        run = second_process(module, options)
        until(lambda: decided(run), lambda: same(run, module, inputs()))
        ids, x = inputs()
        for wrong in (-1, 50, 2**40):
            with pytest.raises(IndexError):
                run(torch.where(ids == 3, wrong, ids), x)
        same(run, module, (ids, x))
        (contest,) = djinn_fx.status(run).contests
        assert contest.decided
        assert counters["aot_autograd"]["autograd_cache_hit"] == 1

    def test_a_trial_that_was_not_over_goes_on_in_the_next_process(self) -> None:
        """As of a graph that is seldom called: nothing is traced, and who was beaten is not tried again."""
        module, options = words(), {"engine": [*LOOKING, "packed", "eager"]}
        answered: dict[str, int] = {}
        for number in range(20):
            counters.clear()
            run = second_process(module, options)
            for _ in range(12):
                same(run, module, inputs())
                djinn_fx.wait_until_ready(run, timeout=60)  # what is done beside calls
                time.sleep(0.02)
            assert counters["aot_autograd"]["autograd_cache_hit"] == (number > 0)
            assert bool(compilations()) == (number == 0)
            (contest,) = djinn_fx.status(run).contests
            for one in contest.entrants:
                answered[one.engine] = answered.get(one.engine, 0) + one.answers
            if contest.decided:
                break
            torch._dynamo.reset()
            forget()
        else:
            raise AssertionError("it never ended")
        assert number > 0, "what is to be shown takes more than one process"
        assert all(answered[engine] for engine in (*LOOKING, contest.engine))
        torch._dynamo.reset()
        forget()
        run = second_process(module, options)
        same(run, module, inputs())
        djinn_fx.wait_until_ready(run, timeout=60)
        until(lambda: decided(run), lambda: same(run, module, inputs()))
        (last,) = djinn_fx.status(run).contests
        assert {one.engine for one in last.entrants if one.answers} <= {contest.engine}

    def test_the_best_of_a_trial_that_was_not_over_answers_the_next_process_from_its_first_call(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Own ops would have to answer while it is opened beside them, at a low priority."""
        module, options = words(), {"engine": [*LOOKING, "packed"]}
        run = second_process(module, options)
        for _ in range(3):
            same(run, module, inputs())
        joined("djinn notes who leads")
        (contest,) = djinn_fx.status(run).contests
        assert not contest.decided, "what is to be shown is a trial that is not over"
        leader = next(one.engine for one in contest.entrants if one.answers)
        torch._dynamo.reset()
        forget()
        monkeypatch.setattr(contested, "PATIENCE_S", 60.0)
        run = second_process(module, options)
        same(run, module, inputs())
        (contest,) = djinn_fx.status(run).contests
        assert contest.engine == leader
        assert [one.answers for one in contest.entrants if one.engine == leader] == [1]
        assert len(contest.entrants) > 1, "the others are still to be tried"
        until(lambda: decided(run), lambda: same(run, module, inputs()))

    def test_an_artefact_that_is_gone_is_a_miss(self) -> None:
        module, options = words(), {"engine": [*LOOKING, "packed"]}
        first_process(module, options)
        store, _ = open_store(Settings.load())
        assert store is not None
        gone = [one.key for one in store.entries() if "what" not in one.header]
        assert gone
        for key in gone:
            store.entry_path(key).unlink()
        run = second_process(module, options)
        same(run, module, inputs())
        assert len(compilations()) == 1
        until(lambda: decided(run), lambda: same(run, module, inputs()))

    @pytest.mark.parametrize("engine", [LOOKING[0] if LOOKING else "", [*LOOKING, "packed"]], ids=["one", "several"])
    def test_an_engine_that_cannot_open_leaves_the_next_process_the_choice(
        self, engine: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Own ops answer in this process; in the next one the graph is planned anew, with all that may answer it."""
        module, options = words(), {"engine": engine}
        first_process(module, options)

        def refuses(*given: Any) -> Any:
            raise EngineError("no memory")

        with monkeypatch.context() as context:
            context.setattr(BoundRegion, "_open", refuses)
            run = second_process(module, options)
            same(run, module, inputs())
            assert counters["aot_autograd"]["autograd_cache_hit"] == 1
            until(lambda: bool(djinn_fx.status(run).refused), lambda: same(run, module, inputs()))
            same(run, module, inputs())
        torch._dynamo.reset()
        forget()
        same(second_process(module, options), module, inputs())
        assert len(compilations()) == 1

    def test_sizes_that_differ_from_call_to_call(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module, options = words(), {"engine": [*LOOKING, "packed"]}
        first_process(module, options, dynamic=True)
        monkeypatch.setattr(contested, "PATIENCE_S", 60.0)
        run = second_process(module, options, dynamic=True)
        same(run, module, inputs())
        (contest,) = djinn_fx.status(run).contests
        assert [one.answers for one in contest.entrants if one.engine == contest.engine] == [1]
        for rows in (8, 3, 40, 8, 5):
            same(run, module, inputs(rows))
        assert counters["aot_autograd"]["autograd_cache_hit"] == 1
        assert not compilations()

        def one_is_decided() -> bool:  # those of other sizes have had too few calls
            return any(contest.decided for contest in djinn_fx.status(run).contests)

        until(one_is_decided, lambda: same(run, module, inputs()))

    def test_other_weights_of_the_same_shape(self) -> None:
        module, options = words(), {"engine": [*LOOKING, "packed"]}
        first_process(module, options)
        for weight in module.parameters():
            weight.mul_(0.5)
        run = second_process(module, options)
        until(lambda: decided(run), lambda: same(run, module, inputs()))
        for weight in module.parameters():
            weight.mul_(3)
        same(run, module, inputs())

    def test_graphs_traced_by_several_threads_share_what_is_packed(self) -> None:
        """Dynamo traces in each thread that comes first; the weights are packed once."""
        module, options = words(), {"engine": LOOKING}
        first_process(module, options)
        before = set(SWEEPERS)
        run = second_process(module, options)
        begin = threading.Barrier(3)

        def call() -> None:
            begin.wait()
            with torch.no_grad():
                same(run, module, inputs())

        with ThreadPoolExecutor(3) as pool:
            for one in [pool.submit(call) for _ in range(3)]:
                one.result()
        djinn_fx.wait_until_ready(run, timeout=60)
        same(run, module, inputs())
        packed = [one for one in SWEEPERS if isinstance(one, BoundRegion) and one not in before]
        assert len(packed) == 1
        assert packed[0].sets == 1
