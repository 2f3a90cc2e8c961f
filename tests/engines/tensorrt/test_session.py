"""Sessions without a GPU: what is bound, made, written and refused, with a runtime that reads memory by address."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from bench.engines import gpu
from djinn_fx.engines.base import Declined
from djinn_fx.engines.bound.signature import Argument, Given, Literal, Same, Size, View
from djinn_fx.engines.ranges.program import Check, CheckProgram
from djinn_fx.engines.tensorrt.run import session
from djinn_fx.engines.tensorrt.run.calling import Calling, Copy, Limit, Made, Place, Taken
from djinn_fx.engines.tensorrt.run.session import OutsideProfile
from djinn_fx.errors import EngineError
from djinn_fx.guard import guarded
from djinn_fx.guard.guarded import GuardedRegion
from djinn_fx.guard.making import guarded_alone
from djinn_fx.reasons import Reason, ReasonKind
from tests.engines.tensorrt import converting
from tests.engines.tensorrt.fake_gpu import ALIGNMENT, FakeDriver
from tests.engines.tensorrt.fake_gpu import session as made_session

F32 = "float32"


@pytest.fixture(autouse=True)
def _cpu_alignment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "ALIGNMENT", ALIGNMENT)


def static(**changes: Any) -> Calling:
    """y = f(x, w), sizes 2 by 3."""
    given = {
        "arguments": 2,
        "inputs": (
            Taken(name="x", argument=0, dtype=F32, shape=(2, 3)),
            Taken(name="w", argument=1, dtype=F32, shape=(2, 3)),
        ),
        "outputs": (Made(name="y", dtype=F32, shape=(2, 3)),),
        "results": (Given(output=0, dtype=F32, dense=False, sizes=(2, 3), strides=(3, 1)),),
    }
    return Calling(**{**given, **changes})  # type: ignore[arg-type]


def dynamic() -> Calling:
    """Of x, k0 by 3: twice x, its number of rows, and 7."""
    return Calling(
        arguments=2,
        inputs=(Taken(name="x", argument=1, dtype=F32, shape=("k0", 3)),),
        outputs=(Made(name="y", dtype=F32, shape=("k0", 3)),),
        results=(
            Given(output=0, dtype=F32, dense=False, sizes=("k0", 3), strides=(1, "k0")),
            Size(formula=["*", 2, ["+", "k0", 1]]),
            Literal(value=7),
            Same(result=0),
        ),
        limits=(Limit(symbol="k0", least=2, most=5),),
    )


def add(given: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    return [given[0] + given[1]]


def twice(given: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    return [2 * given[0]]


class TestBinding:
    def test_an_address_is_told_only_when_it_changed(self) -> None:
        run, driver = made_session(static(), add)
        x, w = torch.randn(2, 3), torch.randn(2, 3)
        (first,) = run([x, w])
        context = driver.contexts[0]
        assert sorted(context.told) == ["w", "x", "y"]
        context.told.clear()
        (second,) = run([x, w])  # `first` is alive, so the output lies elsewhere
        assert context.told == ["y"]
        other = torch.randn(2, 3)
        context.told.clear()
        run([x, other])
        assert "w" in context.told
        assert "x" not in context.told
        assert torch.equal(first, x + w)
        assert torch.equal(second, x + w)

    def test_an_address_told_to_a_context_that_refused_is_told_again(self) -> None:
        run, driver = made_session(static(), add)
        x, w = torch.randn(2, 3), torch.randn(2, 3)
        run([x, w])
        context, other = driver.contexts[0], torch.randn(2, 3)
        tell = context.set_address

        def refuses(name: str, address: int) -> None:
            raise EngineError("tensorrt: run: no")

        context.set_address = refuses  # type: ignore[method-assign]
        with pytest.raises(EngineError):
            run([x, other])
        context.set_address = tell  # type: ignore[method-assign]
        assert torch.equal(run([x, other])[0], x + other)

    def test_what_tensorrt_cannot_read_in_place_is_copied(self) -> None:
        run, _ = made_session(static(), add)
        shifted = torch.randn(7)[1:].view(2, 3)  # 4 bytes behind an aligned address
        turned = torch.randn(3, 2).t()
        negated = torch._neg_view(torch.randn(2, 3))
        for x in (shifted, turned, negated):
            assert torch.equal(run([x, turned])[0], x + turned)

    def test_the_list_is_emptied_and_nothing_is_held(self) -> None:
        run, _ = made_session(static(), add)
        args = [torch.randn(2, 3), torch.randn(2, 3)]
        run(args)
        assert args == []
        before = _tensors()
        for _ in range(20):
            run([torch.randn(2, 3), torch.randn(2, 3)])
        assert _tensors() == before

    def test_a_double_number_in_host_memory_is_rounded(self) -> None:
        calling = static(inputs=(Taken(name="x", argument=0, dtype=F32, shape=(2, 3)),
                                 Taken(name="w", argument=1, dtype=F32, shape=())))  # fmt: skip
        run, _ = made_session(calling, add)
        x = torch.randn(2, 3)
        assert torch.equal(run([x, torch.tensor(0.1, dtype=torch.float64)])[0], x + 0.1)

    def test_an_argument_of_another_type_is_refused_and_left_alone(self) -> None:
        run, _ = made_session(static(), add)
        args = [torch.randn(2, 3), torch.randn(2, 3).double()]
        with pytest.raises(EngineError, match="float64"):
            run(args)
        assert len(args) == 2


def _tensors() -> int:
    gc.collect()
    return sum(type(one) is torch.Tensor for one in gc.get_objects())


class TestStreams:
    def test_each_stream_has_its_own_context_and_the_plan_is_loaded_once(self) -> None:
        run, driver = made_session(static(), add)
        x, w = torch.randn(2, 3), torch.randn(2, 3)
        for stream in (7, 8, 7, 8):
            driver.current = stream
            run([x, w])
        assert driver.loads == 1
        assert [context.runs for context in driver.contexts] == [[7, 7], [8, 8]]

    def test_the_context_used_longest_ago_goes_after_the_device_is_done(self) -> None:
        run, driver = made_session(static(), add, max_contexts=2)
        x, w = torch.randn(2, 3), torch.randn(2, 3)
        for stream in (1, 2, 1, 3, 1, 2):
            driver.current = stream
            assert torch.equal(run([x, w])[0], x + w)
        # 3 takes the place of 2, which then takes that of 3
        assert [context.runs for context in driver.contexts] == [[1, 1, 1], [2], [3], [2]]
        assert driver.settled == 2

    def test_threads_share_a_context_without_mixing_addresses(self) -> None:
        run, _ = made_session(static(), add)
        wrong: list[int] = []

        def work(seed: int) -> None:
            x = torch.full((2, 3), float(seed))
            for step in range(50):
                if not torch.equal(run([x, torch.full((2, 3), float(step))])[0], x + step):
                    wrong.append(seed)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert wrong == []


class TestSizes:
    def test_sizes_are_told_and_results_follow_them(self) -> None:
        run, driver = made_session(dynamic(), twice)
        for rows in (2, 5, 5):
            x = torch.randn(rows, 3)
            y, size, constant, same = run([rows, x])
            assert torch.equal(y, 2 * x)
            assert y.stride() == (1, rows)
            assert (size, constant) == (2 * (rows + 1), 7)
            assert same is y
        assert driver.contexts[0].told.count("shape x") == 2

    @pytest.mark.parametrize("rows", [1, 6])
    def test_outside_the_profile_nothing_is_touched(self, rows: int) -> None:
        run, driver = made_session(dynamic(), twice)
        args = [rows, torch.randn(rows, 3)]
        assert run.accepts is not None
        assert not run.accepts(args)
        with pytest.raises(OutsideProfile):
            run(args)
        assert len(args) == 2
        assert driver.contexts == []

    def test_a_symbol_that_differs_between_its_places_is_outside(self) -> None:
        calling = replace(
            dynamic(),
            inputs=(
                Taken(name="x", argument=0, dtype=F32, shape=("k0", 3)),
                Taken(name="z", argument=1, dtype=F32, shape=(3, "k0")),
            ),
        )
        run, _ = made_session(calling, lambda given: [given[0] + given[1].t()])
        assert run.accepts is not None
        assert run.accepts([torch.randn(4, 3), torch.randn(3, 4)])
        assert not run.accepts([torch.randn(4, 3), torch.randn(3, 5)])

    def test_a_plan_of_fixed_sizes_asks_nothing(self) -> None:
        assert made_session(static(), add)[0].accepts is None

    def test_an_expanded_result(self) -> None:
        calling = static(results=(Given(output=0, dtype=F32, dense=False, sizes=(2, 3), strides=(0, 1)),))
        run, _ = made_session(calling, lambda given: [given[0][:1].expand(2, 3)])
        x = torch.randn(2, 3)
        (y,) = run([x, x])
        assert y.stride() == (0, 1)
        assert torch.equal(y, x[:1].expand(2, 3))


class TestWrites:
    def calling(self, **changes: Any) -> Calling:
        return static(outputs=(Made(name="y", dtype=F32, shape=None),), copies=(Copy(output=0, input=1),),
                      results=(Argument(place=1), View(place=1, result=None, sizes=(3,), strides=(1,), offset=3)),
                      **changes)  # fmt: skip

    def test_an_argument_is_overwritten_and_handed_through(self) -> None:
        run, _ = made_session(self.calling(), add)
        x, cache = torch.randn(2, 3), torch.randn(8, 3)
        expected = x + cache[3:5]
        given = cache[3:5]
        through, view = run([x, given])
        assert through is given
        assert torch.equal(cache[3:5], expected)
        assert torch.equal(view, expected[1])
        assert view.data_ptr() == cache[4].data_ptr()

    def test_a_plan_that_writes_in_place_gets_the_arguments_memory(self) -> None:
        run, driver = made_session(self.calling(), add, aliases={"y": "w"})
        x, w = torch.randn(2, 3), torch.randn(2, 3)
        expected = x + w
        run([x, w])
        addresses = driver.contexts[0].addresses
        assert addresses["y"] == addresses["w"] == w.data_ptr()
        assert torch.equal(w, expected)

    def test_in_place_on_memory_it_cannot_read_is_copied_back(self) -> None:
        run, _ = made_session(self.calling(), add, aliases={"y": "w"})
        x, w = torch.randn(2, 3), torch.randn(3, 2).t()
        expected = x + w
        run([x, w])
        assert torch.equal(w, expected)

    def test_a_result_made_in_place_does_not_change_with_the_argument(self) -> None:
        calling = replace(
            self.calling(), results=(Given(output=0, dtype=F32, dense=False, sizes=(2, 3), strides=(3, 1)),)
        )
        run, _ = made_session(calling, add, aliases={"y": "w"})
        x, w = torch.randn(2, 3), torch.randn(2, 3)
        (y,) = run([x, w])
        kept = y.clone()
        w.zero_()
        assert torch.equal(y, kept)

    def test_a_plan_that_would_overwrite_what_must_stay_is_not_run(self) -> None:
        run, driver = made_session(static(), add, aliases={"y": "w"})
        with pytest.raises(EngineError, match="must stay"):
            run([torch.randn(2, 3), torch.randn(2, 3)])
        assert driver.contexts == []

    def test_a_failed_run_leaves_everything(self) -> None:
        run, driver = made_session(self.calling(), add)
        args = [torch.randn(2, 3), torch.ones(2, 3)]
        driver.fails = True
        with pytest.raises(EngineError):
            run(args)
        assert torch.equal(args[1], torch.ones(2, 3))


class TestConditions:
    """What a plan would compute otherwise than torch is declined, and nothing is written."""

    def calling(self, **changes: Any) -> Calling:
        flag = Made(name="flag", dtype="bool", shape=())
        return static(
            outputs=(Made(name="y", dtype=F32, shape=None), flag),
            copies=(Copy(output=0, input=1),),
            results=(Argument(place=1),),
            **changes,
        )

    def test_a_flag_that_is_down_leaves_the_call_to_torch(self) -> None:
        def computed(given: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
            return [given[0] + given[1], torch.tensor(bool(given[0].sum() > 0))]

        run, _ = made_session(self.calling(flag=1), computed)
        w = torch.ones(2, 3)
        args = [-torch.ones(2, 3), w]
        with pytest.raises(Declined):
            run(args)
        assert len(args) == 2
        assert torch.equal(w, torch.ones(2, 3))
        run([torch.ones(2, 3), w])
        assert torch.equal(w, torch.full((2, 3), 2.0))

    def test_arguments_are_looked_at_before_anything_runs(self) -> None:
        indices = Taken(name="w", argument=1, dtype="int64", shape=(2, 3))
        program = CheckProgram(places=(1,), checks=(Check(0, 0, ["+", "n0", -1], "an index is out of range"),))
        calling = static(
            inputs=(Taken(name="x", argument=0, dtype=F32, shape=(2, 3)), indices),
            program=program,
            elsewhere=(Place("n0", 0, 1),),
        )
        run, driver = made_session(calling, lambda given: [given[0].gather(1, given[1])])
        x = torch.randn(2, 3)
        with pytest.raises(Declined):
            run([x, torch.full((2, 3), 3)])
        assert driver.contexts == []
        assert torch.equal(run([x, torch.full((2, 3), 2)])[0], x[:, 2:].expand(2, 3))

    def test_while_a_graph_is_recorded_it_is_declined(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        calling = self.calling(flag=1)
        run = session.Session(b"plan", calling, FakeDriver(calling, add), label="region")
        with pytest.raises(Declined):
            run([torch.ones(2, 3), torch.ones(2, 3)])


class TestAnotherPlan:
    @pytest.mark.parametrize(
        "says",
        [
            {"x": (True, F32, (2, 3)), "w": (True, F32, (2, 3))},
            {"x": (True, F32, (2, 3)), "w": (True, "float16", (2, 3)), "y": (False, F32, (2, 3))},
            {"x": (True, F32, (2, 4)), "w": (True, F32, (2, 3)), "y": (False, F32, (2, 3))},
            {"x": (True, F32, (2, 3)), "w": (False, F32, (2, 3)), "y": (False, F32, (2, 3))},
            {"x": (True, F32, (2, 3)), "w": (True, F32, (2, 3)), "y": (False, F32, (2, 3)), "z": (True, F32, ())},
        ],
    )
    def test_is_refused_before_it_runs(self, says: Any) -> None:
        run, driver = made_session(static(), add)
        driver.says = says
        with pytest.raises(EngineError, match="load"):
            run([torch.randn(2, 3), torch.randn(2, 3)])
        assert driver.contexts == []

    def test_on_another_device(self) -> None:
        driver = FakeDriver(static(), add)
        run = session.Session(b"plan", static(), driver, label="region")
        with pytest.raises(EngineError, match="cpu"):
            run([torch.randn(2, 3), torch.randn(2, 3)])


class TestMapping:
    def test_json_and_back(self) -> None:
        views = static(results=(*static().results, View(place=None, result=0, sizes=(3,), strides=(1,), offset=3)))
        conditions = TestConditions().calling(flag=1, elsewhere=(Place("n0", 0, 1),))
        for calling in (static(), dynamic(), TestWrites().calling(), views, conditions):
            assert Calling.from_json(calling.to_json()) == calling

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            (("schema",), 99),
            (("inputs", 0, "argument"), 2),
            (("inputs", 0, "argument"), -1),
            (("results", 0, "output"), 1),
            (("results", 0, "kind"), "Nothing"),
            (("results", 0, "strides"), ["k9", 1]),
            (("copies",), [{"output": 0, "input": 5}]),
            (("limits",), [{"symbol": "k0", "least": 1, "most": 2}]),
            (("outputs", 0, "shape"), None),
            (("outputs",), None),
            (("flag",), 7),
            (("elsewhere",), [["n0", 9, 0]]),
            (("program",), {}),
        ],
    )
    def test_a_damaged_one_is_refused(self, path: Sequence[Any], value: Any) -> None:
        data = static().to_json()
        inner = data
        for step in path[:-1]:
            inner = inner[step]
        inner[path[-1]] = value
        with pytest.raises(ValueError):
            Calling.from_json(data)


class Dropped:
    """Notes why."""

    def __init__(self) -> None:
        self.reasons: list[Reason] = []

    def __call__(self, reason: Reason) -> None:
        self.reasons.append(reason)


class TestFirstRun:
    """The guard of all engines, around a session. The very first call tries the plan twice."""

    def pair(
        self, function: Any, calling: Calling | None = None, verify: str = "first"
    ) -> tuple[GuardedRegion, FakeDriver, Dropped, list[int]]:
        """A checked session of x + w (written into w where the mapping says so), and how often eager was called."""
        chosen = calling or static()
        run, driver = made_session(chosen, function)
        dropped, eager = Dropped(), [0]

        def reference(args: list[Any]) -> list[Any]:
            eager[0] += 1
            x, w = args
            args.clear()
            if chosen.copies:
                w.add_(x)
                return [w, w[1]]
            return [x + w]

        return guarded_alone(run, reference, dropped, engine="tensorrt", verify=verify), driver, dropped, eager

    def test_right_once_is_trusted(self) -> None:
        run, driver, dropped, eager = self.pair(add)
        x, w = torch.randn(2, 3), torch.randn(2, 3)
        for _ in range(3):
            assert torch.equal(run([x, w])[0], x + w)
        assert eager == [1]
        assert len(driver.contexts[0].runs) == 4
        assert dropped.reasons == []

    def test_the_setting_verify_counts(self) -> None:
        for verify, compared in (("off", 0), ("sample:1", 5)):
            run, _, dropped, eager = self.pair(add, verify=verify)
            for _ in range(5):
                x, w = torch.randn(2, 3), torch.randn(2, 3)
                assert torch.equal(run([x, w])[0], x + w)
            assert eager == [compared]
            assert dropped.reasons == []

    def test_later_answers_are_compared_too(self) -> None:
        calls = [0]

        def wrong_later(given: Any) -> list[torch.Tensor]:
            calls[0] += 1
            return add(given) if calls[0] < 4 else [given[0] - given[1]]

        run, _, dropped, _ = self.pair(wrong_later)
        for _ in range(30):
            run([torch.randn(2, 3), torch.randn(2, 3)])
        assert [reason.kind for reason in dropped.reasons] == [ReasonKind.QUARANTINED]

    @pytest.mark.parametrize(
        "function",
        [
            lambda given: [given[0] - given[1]],
            lambda given: [torch.zeros(2, 3)],
            lambda given: [torch.full((2, 3), float("nan"))],
            lambda given: [(given[0] + given[1]) * 1.01],
            lambda given: [(given[0] + given[1]).index_fill(1, torch.tensor([2]), float("inf"))],
        ],
    )
    def test_wrong_numbers_never_leave(self, function: Any) -> None:
        run, driver, dropped, eager = self.pair(function)
        for _ in range(3):
            x, w = torch.randn(2, 3), torch.randn(2, 3)
            assert torch.equal(run([x, w])[0], x + w)
        assert eager == [4]  # asked again, whether it agrees with itself
        assert len(driver.contexts[0].runs) <= 2
        assert [reason.kind for reason in dropped.reasons] == [ReasonKind.QUARANTINED]

    def test_writes_are_tried_on_a_copy_and_compared(self) -> None:
        run, _, dropped, eager = self.pair(add, TestWrites().calling())
        for _ in range(3):
            x, w = torch.randn(2, 3), torch.randn(2, 3)
            expected = x + w
            through, _ = run([x, w])
            assert torch.equal(w, expected)
            assert through is w
        assert (eager, dropped.reasons) == ([1], [])

    def test_a_wrong_write_is_found(self) -> None:
        run, _, dropped, eager = self.pair(lambda given: [given[0] - given[1]], TestWrites().calling())
        for _ in range(2):
            x, w = torch.randn(2, 3), torch.randn(2, 3)
            expected = x + w
            run([x, w])
            assert torch.equal(w, expected)
        assert eager == [3]
        assert len(dropped.reasons) == 1

    def test_a_run_that_fails_later_goes_on_eagerly(self) -> None:
        run, driver, dropped, eager = self.pair(add)
        x, w = torch.randn(2, 3), torch.randn(2, 3)
        run([x, w])
        driver.fails = True
        assert torch.equal(run([x, w])[0], x + w)
        assert torch.equal(run([x, w])[0], x + w)
        assert eager == [3]
        assert len(dropped.reasons) == 1

    def test_sizes_outside_the_profile_go_to_eager(self) -> None:
        run, _ = made_session(dynamic(), twice)
        eager: list[int] = []

        def reference(args: list[Any]) -> list[Any]:
            rows, x = args
            eager.append(rows)
            y = torch.empty_strided(x.shape, (1, rows)).copy_(2 * x)
            return [y, 2 * (rows + 1), 7, y]

        safe = guarded_alone(run, reference, Dropped(), engine="tensorrt", verify="first")
        for rows in (3, 9, 4):
            x = torch.randn(rows, 3)
            assert torch.equal(safe([rows, x])[0], 2 * x)
        assert eager == [3, 9, 4]  # 3 and 4 to compare, 9 because it must
        safe([3, torch.randn(3, 3)])
        assert eager == [3, 9, 4]

    def test_while_a_graph_is_captured_nothing_is_compared(self, monkeypatch: pytest.MonkeyPatch) -> None:
        run, driver, _, eager = self.pair(add)
        monkeypatch.setattr(guarded, "capturing", lambda: True)
        run([torch.randn(2, 3), torch.randn(2, 3)])
        assert (eager, driver.contexts) == ([1], [])
        monkeypatch.setattr(guarded, "capturing", lambda: False)
        run([torch.randn(2, 3), torch.randn(2, 3)])
        assert eager == [2]
        assert len(driver.contexts) == 1


class TestWholeWay:
    """torch.compile, converter, the model in ONNX Runtime, a session."""

    def check(self, function: Any, *calls: Sequence[Any], dynamic: bool | None = False) -> None:
        made, actual, expected = converting.run(function, *calls, dynamic=dynamic)
        assert made.refusals == []
        assert made.calls == len(calls)
        for got, wanted in zip(actual, expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)

    def test_layer(self) -> None:
        layer = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 8)).eval()
        self.check(layer, (torch.randn(4, 8),), (torch.randn(4, 8),))

    def test_sizes_that_change(self) -> None:
        layer = torch.nn.Linear(8, 8).eval()
        self.check(lambda x: layer(x).transpose(0, 1), (torch.randn(4, 8),), (torch.randn(6, 8),), dynamic=True)

    def test_a_cache_that_is_written(self) -> None:
        def step(cache: torch.Tensor, x: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
            cache.index_copy_(1, place, x)
            return cache.sum(1)

        self.check(step, *((torch.zeros(2, 6, 4), torch.randn(2, 1, 4), torch.tensor([at])) for at in (0, 3)))

    def test_a_decoder_step_with_a_static_cache(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("transformers")
        monkeypatch.setattr(gpu, "DEVICE", "cpu")
        step, inputs = gpu.case("llama-2-decode", torch.float32, True)
        ids, place = inputs["input_ids"], inputs["cache_position"]
        self.check(step, (ids, place), (ids + 1, place))
        assert isinstance(step, gpu.DecodeStep)
        assert step.cache.layers[1].keys[:, :, step.place].abs().sum() > 0
