"""Later answers: the calls of a shape that are compared again, and results that are not finite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from djinn_fx.guard.guarded import EVERY_ODD
from djinn_fx.guard.later import LATER, Look, ShapeCalls, finite
from djinn_fx.reasons import ReasonKind
from tests.guard.faulty import Faulty, arguments, beside, eager, layer, region_of

INF, NAN = float("inf"), float("nan")


def rooted() -> Any:
    """A region that writes nothing: not finite below zero."""
    return region_of(lambda x: (x.sqrt(), x * 2), torch.ones(5))


def zeros_for_nan(given: list[Any], _: Any) -> Sequence[Any]:
    return [given[0].clamp(min=0).sqrt(), given[0] * 2]


def nan_for_numbers(given: list[Any], _: Any) -> Sequence[Any]:
    return [given[0] * NAN, given[0] * 2]


class TestCalls:
    def test_these_are_compared_and_run_twice(self) -> None:
        region = rooted()
        one = beside(region, Faulty(region))
        eagerly = []
        for number in range(1, LATER[-1] + 200):
            before = one.eager_calls[0]
            one.guard([torch.full((5,), float(number))])
            if one.eager_calls[0] > before:
                eagerly.append(number)
        assert eagerly == [1, *LATER]
        assert one.run.calls == number + len(eagerly)

    @pytest.mark.parametrize("when", LATER)
    def test_one_that_has_become_wrong_is_out_and_eagers_answer_is_given(self, when: int) -> None:
        region = rooted()
        one = beside(region, Faulty(region, lambda given, _: [given[0], given[0]]))
        one.run.when = lambda given: bool(given[0][0] == when)
        for number in range(1, when + 1):
            x = torch.full((5,), float(number))
            assert torch.equal(one.guard([x])[0], x.sqrt())
        assert one.guard.verdict is False
        assert [reason.kind for reason in one.reasons] == [ReasonKind.QUARANTINED]

    def test_memory_that_later_calls_write(self) -> None:
        """It hands out fresh memory at first: a pool that fills up."""
        region = rooted()
        kept = torch.empty(5)

        def reuses(given: list[Any], _: Any) -> Sequence[Any]:
            torch.sqrt(given[0], out=kept)
            return [kept, given[0] * 2]

        one = beside(region, Faulty(region, reuses, starts=5))
        for _ in range(10):
            one.guard([torch.ones(5)])
        assert [reason.kind for reason in one.reasons] == [ReasonKind.QUARANTINED]

    def test_each_shape_is_counted_for_itself(self) -> None:
        region = region_of(lambda x: (x + 1,), torch.ones(4), symbolic=True)
        one = beside(region, Faulty(region))
        symbols = len(region.example_inputs) - 1
        for rows in (4, 6):
            for _ in range(9):
                one.guard([*[rows] * symbols, torch.ones(rows)])
        assert one.eager_calls == [2]
        for rows in (4, 6):
            one.guard([*[rows] * symbols, torch.ones(rows)])
        assert one.eager_calls == [4]

    def test_what_passed_in_an_earlier_process_is_counted_from_its_first_call_here(self) -> None:
        region = rooted()
        one = beside(region, Faulty(region), passed=True)
        for _ in range(10):
            one.guard([torch.ones(5)])
        assert (one.eager_calls, one.run.calls, one.guard.verdict) == ([1], 11, True)


class TestNotFinite:
    def test_a_call_is_compared_at_once(self) -> None:
        region = rooted()
        one = beside(region, Faulty(region, nan_for_numbers))
        one.run.when = lambda given: bool(given[0][0] == 4)
        for number in (1.0, 2.0, 4.0, 4.0):
            x = torch.full((5,), number)
            assert torch.equal(one.guard([x])[0], x.sqrt())
        assert [reason.kind for reason in one.reasons] == [ReasonKind.QUARANTINED]

    def test_where_eagers_are_not_finite_either_ever_less_often(self) -> None:
        region = rooted()
        one = beside(region, Faulty(region))
        one.guard([torch.ones(5)])
        compared = []
        for number in range(1, 40):
            before = one.guard.compared
            one.guard([torch.tensor([4.0, -1.0, 4.0, 4.0, 4.0])])
            if one.guard.compared > before:
                compared.append(number)
        # The 9th is the tenth call of the shape, and compared for that.
        assert compared == [*range(1, EVERY_ODD + 2), 2 * EVERY_ODD + 1]
        assert (one.guard.verdict, one.reasons) == (True, [])

    def test_arguments_that_are_not_finite_explain_it(self) -> None:
        region = rooted()
        one = beside(region, Faulty(region))
        for _ in range(5):
            one.guard([torch.tensor([1.0, NAN, 1.0, INF, 1.0])])
        assert one.eager_calls == [1]

    def test_where_arguments_were_written_the_next_call_is_compared(self) -> None:
        region = region_of(layer, *arguments())

        def fault(given: list[Any], _: Any) -> Sequence[Any]:
            results = list(eager(region)(given))
            results[0] = results[0] * NAN
            return results

        one = beside(region, Faulty(region, fault), mutated=(2,))
        one.run.when = lambda given: bool(given[0][0, 0] > 100)
        large = arguments()
        large[0] = large[0].abs() + 200
        one.guard(arguments())
        assert one.guard(list(large))[0].isnan().all()  # eager cannot be asked about it any more
        found = one.guard(list(large))
        assert found[0].isfinite().all()
        assert [reason.kind for reason in one.reasons] == [ReasonKind.QUARANTINED]


class TestLook:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64])
    @pytest.mark.parametrize("odd", [NAN, INF, -INF])
    def test_any_element_of_a_small_one(self, dtype: torch.dtype, odd: float) -> None:
        values = torch.ones(7, 11, dtype=dtype)
        look = Look([values])
        assert not look.finds([values])
        values[3, 4] = odd
        assert look.finds([values])
        assert not finite([values])

    def test_infinities_that_cancel(self) -> None:
        assert Look([torch.ones(2)]).finds([torch.tensor([INF, -INF])])

    def test_finite_numbers_whose_sum_is_too_large(self) -> None:
        values = torch.full((100,), 3e38)
        assert not Look([values]).finds([values])
        assert finite([values, torch.full((100,), 6e4, dtype=torch.float16)])

    def test_rows_of_a_large_one_at_once(self) -> None:
        values = torch.ones(64, 5000)
        values[63] = NAN
        assert Look([values]).finds([values])

    @pytest.mark.parametrize("form", ["dense", "transposed", "gaps"])
    def test_one_element_of_a_large_one_in_some_turn(self, form: str) -> None:
        values = torch.ones(300, 900)
        values = values.t() if form == "transposed" else values[:, :800] if form == "gaps" else values
        look = Look([values])
        assert not any(look.finds([values]) for _ in range(300))
        values[299, 255] = NAN
        assert any(look.finds([values]) for _ in range(300))

    def test_of_many_the_first_always_and_others_in_turn(self) -> None:
        results = [torch.ones(3) for _ in range(20)]
        look = Look(results)
        for place in range(20):
            odd = [torch.full((3,), NAN) if place == one else value for one, value in enumerate(results)]
            found = [look.finds(odd) for _ in range(7)]
            assert all(found) if place == 0 else any(found)

    def test_what_cannot_be_summed_is_left_out(self) -> None:
        results = [None, 3, torch.arange(3), torch.ones(2, dtype=torch.float8_e4m3fn), torch.tensor([])]
        assert not Look(results).finds(results)


def test_a_shape_that_was_compared_late_waits_for_the_next() -> None:
    shape = ShapeCalls()
    shape.calls = 57
    shape.settled()
    assert shape.due == 100
    shape.calls = 1000
    shape.settled()
    assert shape.due == INF
