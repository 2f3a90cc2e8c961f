"""Engines with every fault we can think of: each is caught where it is to be, and wrong numbers never leave."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from djinn_fx.engines.base import Runner
from djinn_fx.errors import EngineError
from djinn_fx.guard import guarded as module
from djinn_fx.guard.facts import MAX_SIGNATURES
from djinn_fx.guard.guarded import MAX_SILENCES
from djinn_fx.guard.later import sampling
from djinn_fx.reasons import ReasonKind
from tests.guard.faulty import Beside, Faulty, arguments, beside, eager, layer, region_of

WRITTEN = (2,)


def layer_region(symbolic: bool = False) -> Any:
    return region_of(layer, *arguments(), symbolic=symbolic)


def call(one: Beside, rows: int = 4, seed: int = 0, attempt: bool = False) -> Any:
    """One call; eager's results and writes, and the guard's, must be equal to the bit or within rounding."""
    args, own = arguments(rows, seed), arguments(rows, seed)
    given = _as_the_region_takes(one, args)
    expected = eager(one.region)(_as_the_region_takes(one, own))
    found = one.guard.attempt(given) if attempt else one.guard(given)
    if found is not None:
        torch.testing.assert_close(list(found), list(expected))
        torch.testing.assert_close(args, own)
    return found


def _as_the_region_takes(one: Beside, args: list[Any]) -> list[Any]:
    """A symbolic region may take sizes first."""
    sizes = [v for v in one.region.example_inputs if isinstance(v, torch.SymInt)]
    assert len(sizes) in (0, 1)
    return [*([args[0].shape[0]] * len(sizes)), *args]


def right(given: list[Any]) -> list[Any]:
    x, w, cache = given
    y = torch.tanh(x @ w)
    z = y * 2 + cache
    cache.copy_(z)
    return [y, z, y.argmax(-1), y.t()]


def changed(place: int, change: Any) -> Any:
    """A fault that changes one result."""

    def fault(given: list[Any], _: Any) -> Sequence[Any]:
        results = right(given)
        results[place] = change(results[place], given)
        return results

    return fault


def one_element(y: torch.Tensor, _: Any) -> torch.Tensor:
    y[1, 2] += 0.01
    return y


def undefined(z: torch.Tensor, _: Any) -> torch.Tensor:
    z = z.clone()
    z[0] = float("nan")
    return z


def infinite(z: torch.Tensor, _: Any) -> torch.Tensor:
    return z.masked_fill(z > z.max() - 1e-6, float("inf"))


def swapped(given: list[Any], _: Any) -> Sequence[Any]:
    y, z, index, _ = right(given)
    return [z, y, index, z.t()]


def forgets_the_write(given: list[Any], _: Any) -> Sequence[Any]:
    return right([*given[:2], given[2].clone()])


def writes_what_it_must_not(given: list[Any], _: Any) -> Sequence[Any]:
    results = right(given)
    given[1][3, 3] += 1
    return results


def raises(given: list[Any], _: Any) -> Sequence[Any]:
    raise RuntimeError("no kernel")


FAULTS = {
    "one element": changed(0, one_element),
    "one per cent": changed(1, lambda z, _: z * 1.01),
    "swapped": swapped,
    "missing": lambda given, _: right(given)[:3],
    "stride": changed(1, lambda z, _: z.t().contiguous().t()),
    "dtype": changed(1, lambda z, _: z.double()),
    "shape": changed(1, lambda z, _: z[None]),
    "nan": changed(1, undefined),
    "inf": changed(1, infinite),
    "zeros": changed(1, lambda z, _: torch.zeros_like(z)),
    "memory nobody wrote": changed(1, lambda z, _: torch.full_like(z, 1e30)),
    "wrong index": changed(2, lambda index, _: (index + 1) % 8),
    "no tensor": changed(2, lambda index, _: None),
    "aliases an input": changed(1, lambda z, given: given[2]),
    "a copy for a view": changed(3, lambda t, _: t.t().clone().t()),
    "forgets the write": forgets_the_write,
    "writes what it must not": writes_what_it_must_not,
}


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_in_the_first_answer(name: str, told: bool) -> None:
    region = layer_region()
    one = beside(region, Faulty(region, FAULTS[name]), mutated=WRITTEN, told=told)
    for seed in range(3):
        call(one, seed=seed)
    assert [reason.kind for reason in one.reasons] == [ReasonKind.QUARANTINED]
    assert one.guard.verdict is False
    assert one.guard.trusted is None
    assert one.run.calls == 1
    assert one.eager_calls[0] >= 3
    assert len(one.reproduced) == 1
    assert one.guard.attempt(arguments()) is None


def test_what_was_written_by_mistake_is_put_back() -> None:
    region = layer_region()
    one = beside(region, Faulty(region, writes_what_it_must_not), mutated=WRITTEN)
    args = arguments()
    one.guard(list(args))
    assert torch.equal(args[1], arguments()[1])


def test_the_reproducer_gets_the_arguments_as_they_were() -> None:
    region = layer_region()
    one = beside(region, Faulty(region, swapped), mutated=WRITTEN)
    one.guard(arguments())
    args, found, expected, why = one.reproduced[0]
    torch.testing.assert_close(args, arguments(), rtol=0, atol=0)
    assert torch.equal(found[0], expected[1])
    assert "result 0" in why


@pytest.mark.parametrize("told", [True, False])
def test_a_right_engine_is_trusted(told: bool) -> None:
    region = layer_region()
    one = beside(region, Faulty(region), mutated=WRITTEN, told=told)
    for seed in range(5):
        call(one, seed=seed)
    assert one.guard.verdict is True
    assert one.reasons == []
    assert one.eager_calls == [1]
    assert one.run.calls == 2 + 4  # tried twice, then alone
    assert one.guard.compared == 1
    assert one.guard.trusted is None  # later calls are counted and looked at


class TestSizes:
    def test_wrong_only_for_the_second_shape(self) -> None:
        region = layer_region(symbolic=True)
        run = Faulty(region, lambda given, _: right([*given[-3:-1], given[-1] + 1]))
        run.when = lambda given: given[-3].shape[0] == 6
        one = beside(region, run, mutated=(len(region.example_inputs) - 1,))
        call(one, 4)
        call(one, 4)
        assert (one.guard.verdict, one.eager_calls) == (True, [1])
        call(one, 6)
        assert one.guard.verdict is False
        assert [reason.kind for reason in one.reasons] == [ReasonKind.QUARANTINED]
        call(one, 4)
        assert one.run.calls == 4

    def test_each_shape_is_compared_once_and_further_ones_are_not(self) -> None:
        region = layer_region(symbolic=True)
        one = beside(region, Faulty(region), mutated=(len(region.example_inputs) - 1,))
        for rows in (2, 3, 2, 3):
            call(one, rows)
        assert one.eager_calls == [2]
        for rows in range(4, 4 + MAX_SIGNATURES):
            call(one, rows)
        assert one.eager_calls == [MAX_SIGNATURES]


class TestSamples:
    def test_wrong_from_the_hundredth_call_on(self) -> None:
        region = layer_region()
        one = beside(region, Faulty(region, swapped, starts=100), verify="sample:0.05", mutated=WRITTEN)
        wrong = 0
        for number in range(1, 301):
            args = arguments(seed=number % 7)
            expected = eager(region)(arguments(seed=number % 7))
            found = one.guard(args)
            wrong += not torch.allclose(found[0], expected[0])
            if one.guard.verdict is False:
                break
        # The first call and the tenth run it twice: it is wrong from call 98 on. The 100th is compared.
        assert (number, wrong) == (100, 2)
        assert [reason.kind for reason in one.reasons] == [ReasonKind.QUARANTINED]
        call(one)

    def test_every_so_many_calls(self) -> None:
        region = layer_region()
        one = beside(region, Faulty(region), verify="sample:0.25", mutated=WRITTEN)
        for seed in range(9):
            call(one, seed=seed)
        assert one.eager_calls == [1 + 8 // 4]
        assert one.guard.trusted is None

    def test_all_of_them(self) -> None:
        region = layer_region()
        one = beside(region, Faulty(region), verify="sample:1", mutated=WRITTEN)
        for seed in range(4):
            call(one, seed=seed)
        assert one.eager_calls == [4]

    @pytest.mark.parametrize("text", ["", "sample", "sample:0", "sample:2", "sample:x", "always", "sample:nan"])
    def test_a_setting_that_is_none(self, text: str) -> None:
        with pytest.raises(ValueError):
            sampling(text)


def test_off_compares_nothing() -> None:
    region = layer_region()
    one = beside(region, Faulty(region, swapped), verify="off", mutated=WRITTEN)
    found = one.guard(arguments())
    expected = eager(region)(arguments())
    assert torch.equal(found[0], expected[1])
    assert one.guard.trusted is one.run
    assert (one.guard.verdict, one.eager_calls) == (None, [0])


def test_memory_that_the_next_call_writes() -> None:
    region = layer_region()
    kept: list[torch.Tensor] = []

    def reuses(given: list[Any], _: Any) -> Sequence[Any]:
        results = right(given)
        if not kept:
            kept.append(results[1].clone())
        kept[0].copy_(results[1])
        results[1] = kept[0]
        return results

    one = beside(region, Faulty(region, reuses), mutated=WRITTEN)
    call(one)
    assert [reason.kind for reason in one.reasons] == [ReasonKind.QUARANTINED]


class TestErrors:
    @pytest.mark.parametrize("error", [EngineError, RuntimeError, AssertionError])
    def test_in_the_first_run(self, error: type[Exception]) -> None:
        region = layer_region()

        def fails(given: list[Any], _: Any) -> Sequence[Any]:
            given[2].zero_()
            raise error("no")

        one = beside(region, Faulty(region, fails), mutated=WRITTEN)
        for seed in range(2):
            call(one, seed=seed)
        assert [reason.kind for reason in one.reasons] == [ReasonKind.FALLBACK]
        assert (one.run.calls, one.eager_calls) == (1, [2])

    def test_after_it_was_trusted(self) -> None:
        region = layer_region()
        run = Later(region)
        one = beside(region, run, mutated=WRITTEN)
        call(one)
        run.fails = True
        call(one)
        call(one)
        assert [reason.kind for reason in one.reasons] == [ReasonKind.FALLBACK]
        assert one.guard.trusted is None
        assert one.guard.attempt(arguments()) is None

    def test_with_the_arguments_gone(self) -> None:
        region = layer_region()
        run = Later(region, empties=True)
        one = beside(region, run, mutated=WRITTEN)
        call(one)
        run.fails = True
        with pytest.raises(EngineError):
            one.guard(arguments())
        assert one.guard.verdict is False

    def test_that_are_the_users(self) -> None:
        region = region_of(lambda x, i: x[i] * 2, torch.randn(4, 3), torch.tensor([0, 1]))
        one = beside(region, Faulty(region))
        with pytest.raises(IndexError):
            one.guard([torch.randn(4, 3), torch.tensor([0, 9])])
        assert (one.guard.verdict, one.reasons) == (None, [])
        assert one.guard([torch.ones(4, 3), torch.tensor([0, 1])])[0].sum() == 12
        assert one.guard.verdict is True


class Later:
    """Right, until it fails."""

    def __init__(self, region: Any, empties: bool = False) -> None:
        self._region, self._empties, self.fails = region, empties, False

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        if self.fails and self._empties:
            args.clear()
        if self.fails:
            raise EngineError("lost")
        return eager(self._region)(args)


class Bound(Runner):
    """An engine that must bind weights before it serves."""

    partial, memory_bytes = True, 77

    def __init__(self, region: Any, fault: Any = None) -> None:
        self._run, self.bound = Faulty(region, fault), 0
        self.attempts = 0

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        self.bound = args[1].data_ptr()
        return self._run(args)

    def attempt(self, args: list[Any]) -> Sequence[Any] | None:
        self.attempts += 1
        return self._run(args) if self.bound == args[1].data_ptr() else None

    def prepare(self, args: Sequence[Any]) -> Any:
        pointer = args[1].data_ptr()
        return None if pointer == self.bound else lambda: setattr(self, "bound", pointer)


class TestBinding:
    def test_unbound_it_answers_none_and_eager_is_not_asked(self) -> None:
        region = layer_region()
        one = beside(region, Bound(region), mutated=WRITTEN)
        args = arguments()
        given = list(args)
        assert one.guard.attempt(given) is None
        assert all(mine is other for mine, other in zip(given, args, strict=True))
        assert one.eager_calls == [0]
        work = one.guard.prepare(args)
        assert work is not None
        work()
        found = one.guard.attempt(given)
        assert found is not None
        assert (one.guard.verdict, one.eager_calls, one.guard.memory_bytes) == (True, [1], 77)

    def test_called_it_binds(self) -> None:
        region = layer_region()
        one = beside(region, Bound(region), mutated=WRITTEN)
        call(one)
        assert one.guard.verdict is True

    def test_wrong_it_is_neither_tried_nor_prepared_again(self) -> None:
        region = layer_region()
        one = beside(region, Bound(region, swapped), mutated=WRITTEN)
        call(one)
        assert one.guard.verdict is False
        assert one.guard.prepare(arguments()) is None
        assert one.guard.attempt(arguments()) is None
        assert one.run.attempts == 0

    def test_silent_when_it_is_compared_it_is_given_up(self) -> None:
        region = layer_region()
        run = Bound(region)
        run.prepare = lambda args: None  # type: ignore[method-assign]
        one = beside(region, run, mutated=WRITTEN)
        for _ in range(MAX_SILENCES + 2):
            found = one.guard.attempt(arguments())
        assert found is None
        assert one.eager_calls == [MAX_SILENCES]
        assert [reason.kind for reason in one.reasons] == [ReasonKind.FALLBACK]

    def test_each_set_of_weights_is_compared(self) -> None:
        from dataclasses import replace

        region = replace(layer_region(), weights=(1,))
        run = Faulty(region, swapped)
        layers = [arguments(seed=seed) for seed in range(3)]
        run.when = lambda given: given[1] is layers[2][1]
        one = beside(region, run, mutated=WRITTEN, bindings=3)
        for _ in range(2):
            for args in layers[:2]:
                one.guard(list(args))
        assert one.eager_calls == [2]
        one.guard(list(layers[2]))
        assert one.guard.verdict is False


def test_what_the_region_writes_need_not_be_named() -> None:
    region = layer_region()
    one = beside(region, Faulty(region))
    assert one.guard.mutated == WRITTEN
    call(one)
    call(one, seed=1)
    assert (one.guard.verdict, one.reasons) == (True, [])


def test_sizes_the_engine_does_not_accept_go_to_eager() -> None:
    region = layer_region(symbolic=True)
    run = Faulty(region)
    run.accepts = lambda args: args[-3].shape[0] < 6  # type: ignore[attr-defined]
    one = beside(region, run, mutated=(len(region.example_inputs) - 1,))
    for rows in (4, 9, 4):
        call(one, rows)
    assert one.eager_calls == [2]
    assert one.guard.attempt(_as_the_region_takes(one, arguments(9))) is None


def test_while_a_graph_is_captured_nothing_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    region = layer_region()
    one = beside(region, Faulty(region), mutated=WRITTEN)
    monkeypatch.setattr(module, "capturing", lambda: True)
    call(one)
    assert (one.run.calls, one.guard.verdict) == (0, None)
    monkeypatch.setattr(module, "capturing", lambda: False)
    call(one)
    assert one.guard.verdict is True


def test_random_numbers_are_drawn_once() -> None:
    region = region_of(lambda x: torch.rand_like(x) + x, torch.randn(3))
    one = beside(region, Faulty(region))
    torch.manual_seed(3)
    expected = [torch.rand(3) for _ in range(3)]
    torch.manual_seed(3)
    for wanted in expected:
        assert torch.equal(one.guard([torch.zeros(3)])[0], wanted)
    assert one.reasons == []


def test_threads_compare_once_and_do_not_wait() -> None:
    region = layer_region()
    started, go_on = threading.Event(), threading.Event()

    def slow(given: list[Any], _: Any) -> Sequence[Any]:
        started.set()
        assert go_on.wait(20)
        return right(given)

    one = beside(region, Faulty(region, slow), mutated=WRITTEN)
    worker = threading.Thread(target=call, args=(one,))
    worker.start()
    assert started.wait(20)
    call(one)  # by eager: the engine is being tried
    assert one.run.calls == 1
    go_on.set()
    worker.join()
    assert one.guard.verdict is True
    assert one.reasons == []


def test_views_of_a_written_argument_are_tried_on_one_copy() -> None:
    def write(cache: torch.Tensor, row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        more = cache + 1
        doubled = row * 2
        cache.copy_(more)
        return doubled, cache[1]

    base = torch.randn(3, 4)
    region = region_of(write, base, torch.empty(4))
    one = beside(region, Faulty(region), mutated=(0,))
    cache = base.clone()
    _, through = one.guard([cache, cache[2]])
    assert torch.equal(cache, base + 1)
    assert through.data_ptr() == cache[1].data_ptr()
    assert (one.guard.verdict, one.reasons) == (True, [])
