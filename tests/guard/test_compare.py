"""What counts as a difference: numbers by type and work, NaN and Inf, huge and tiny numbers, shared memory."""

from __future__ import annotations

import functools
import math
import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from djinn_fx.guard import compare
from djinn_fx.guard.compare import alias_miss, difference, gap_of, misses
from djinn_fx.guard.tolerance import Arithmetic, Tolerance, tolerance, tolerance_in_single, work_of
from djinn_fx.srg.effects import draws_random_numbers
from tests.graphs import trace


class TestNumbers:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("work", [Arithmetic.ELEMENTWISE, Arithmetic.SUMS, Arithmetic.UNKNOWN])
    def test_one_rounding_is_none_and_fifty_times_the_bound_is_one(self, dtype: torch.dtype, work: Arithmetic) -> None:
        right = torch.randn(64, 64).to(dtype)
        bounds = tolerance(right, work)
        assert bounds is not None

        def check(share: float) -> str | None:
            wrong = (right.double() * (1 + share)).to(dtype)
            return difference([wrong], [right], lambda tensor: tolerance(tensor, work))

        assert check(torch.finfo(dtype).eps / 2) is None
        assert check(50 * bounds.whole) is not None

    def test_what_single_precision_accepts_at_once_double_precision_accepts(self) -> None:
        """Masks, numbers that are not finite, zeros, all magnitudes: whatever answers are made of."""
        numbers = random.Random(0)
        odd = (math.nan, math.inf, -math.inf, 0.0, -65504.0, 3.3e38, 1e13, 1e-30)
        at_once = later = 0
        for case in range(2000):
            count, dtype = numbers.choice((1, 7, 1000)), numbers.choice((torch.float32, torch.float16, torch.bfloat16))
            right = torch.randn(count) * 10.0 ** numbers.uniform(-12, 16 if case % 2 else 2)
            wrong = right * (1 + 10.0 ** numbers.uniform(-9, -1) * torch.randn(count))
            for one in (right, wrong, *([(right, wrong)] if case % 3 else [])):
                if numbers.random() < 0.1:
                    place, value = numbers.randrange(count), numbers.choice(odd)
                    for each in one if isinstance(one, tuple) else (one,):
                        each[place] = value
            wrong = torch.zeros(count) if numbers.random() < 0.03 else wrong
            wrong, right = wrong.to(dtype), right.to(dtype)
            limits = numbers.choice((Tolerance(1e-5, 1e-4), Tolerance(2e-3, 1e-2), Tolerance(1e-1, 2e-1)))
            accepted, exactly = compare._clearly_within(wrong, right, limits), gap_of(wrong, right).within(limits)
            assert exactly or not accepted, (wrong, right, limits)
            at_once, later = at_once + accepted, later + (exactly and not accepted)
        assert at_once > 300
        assert later > 100

    def test_moves_must_be_exact(self) -> None:
        right = torch.randn(8)
        exact = lambda tensor: tolerance(tensor, Arithmetic.MOVES)  # noqa: E731
        assert difference([right.clone()], [right], exact) is None
        assert difference([torch.nextafter(right, right + 1)], [right], exact) is not None
        denormal = torch.full((8,), 1e-40)
        assert difference([torch.zeros(8)], [denormal], exact) is None  # an engine may flush these

    def test_one_wrong_element_among_many(self) -> None:
        right = torch.randn(3_000_000)  # several chunks
        wrong = right.clone()
        wrong[-7] += 0.2
        assert "at worst" in str(difference([wrong], [right]))

    def test_a_mask_does_not_hide_the_rest(self) -> None:
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            right = torch.randn(50, 50).to(dtype)
            right[0] = torch.finfo(dtype).min
            assert difference([right.clone()], [right]) is None
            wrong = right.clone()
            wrong[1:] *= 2
            assert difference([wrong], [right]) is not None, dtype
            wrong = right.clone()
            wrong[0] /= 2
            assert "huge" in str(difference([wrong], [right])), dtype

    def test_undefined_and_infinite_places(self) -> None:
        inf, nan = float("inf"), float("nan")
        right = torch.tensor([1.0, inf, -inf, nan, 2.0])
        assert difference([right.clone()], [right]) is None
        for other in ([1.0, inf, inf, nan, 2.0], [1.0, inf, -inf, 0.0, 2.0], [nan, inf, -inf, nan, 2.0]):
            assert difference([torch.tensor(other)], [right]) is not None

    def test_nothing_but_zeros(self) -> None:
        assert "zero throughout" in str(difference([torch.zeros(9)], [torch.randn(9)]))
        assert difference([torch.full((9,), 1e-9)], [torch.zeros(9)]) is None
        assert difference([torch.full((9,), 1e-3)], [torch.zeros(9)]) is not None

    def test_complex_and_sparse_and_float8(self) -> None:
        z = torch.randn(5, dtype=torch.complex64)
        assert difference([z * (1 + 1e-7)], [z]) is None
        assert difference([z.conj().resolve_conj()], [z]) is not None
        small = torch.randn(64).to(torch.float8_e4m3fn)
        assert difference([small.clone()], [small]) is None
        assert difference([(small.float() * 2).to(torch.float8_e4m3fn)], [small]) is not None
        sparse = torch.eye(4).to_sparse()
        assert difference([sparse.clone()], [sparse]) is None
        assert difference([sparse * 2], [sparse]) is not None
        assert difference([torch.eye(4)], [sparse]) is not None

    def test_numbers_that_are_no_tensors(self) -> None:
        nan = float("nan")
        assert difference([3, 2.0, True, None, nan], [3, 2.0, True, None, nan]) is None
        for mine, other in ((3, 4), (3, 3.0), (True, 1), (None, 0), (nan, 1.0)):
            assert difference([mine], [other]) is not None

    def test_bfloat16_where_it_was_allowed(self) -> None:
        right = torch.randn(64, 64)
        rounded = right.bfloat16().float()
        assert difference([rounded], [right], lambda one: tolerance(one, Arithmetic.SUMS)) is not None
        assert (
            difference([rounded], [right], lambda one: tolerance(one, Arithmetic.SUMS, precision="allow-bf16")) is None
        )

    def test_weights_of_8_bits_where_they_were_allowed(self) -> None:
        right = torch.randn(64, 64)
        moved = right * (1 + 0.05 * torch.randn(64, 64))
        names = ("allow-bf16", "allow-int8-weights")
        bounds = {name: functools.partial(tolerance, work=Arithmetic.SUMS, precision=name) for name in names}
        assert difference([moved], [right], bounds["allow-bf16"]) is not None
        assert difference([moved], [right], bounds["allow-int8-weights"]) is None
        assert difference([right * 1.2], [right], bounds["allow-int8-weights"]) is not None
        exact = functools.partial(tolerance, work=Arithmetic.MOVES, precision="allow-int8-weights")
        assert difference([moved], [right], exact) is not None
        assert difference([right.double()], [right.double() * (1 + 1e-6)], bounds["allow-int8-weights"]) is not None

    def test_a_layout_that_was_promised_is_right_too(self) -> None:
        eager, promised = torch.randn(2, 3, 4), (1, 8, 2)
        made = torch.empty_strided((2, 3, 4), promised).copy_(eager)
        assert [miss.numbers for miss in misses([made], [eager])] == [False]
        assert list(misses([made], [eager], layouts=[promised])) == []
        assert list(misses([eager.clone()], [eager], layouts=[promised])) == []

    def test_a_gap_is_what_it_says(self) -> None:
        gap = gap_of(torch.tensor([3.0, 4.0, 0.0]), torch.tensor([0.0, 0.0, 2.0]))
        assert gap.norm == pytest.approx(29**0.5)
        assert (gap.worst, gap.of_norm, gap.of_worst) == (4.0, 2.0, 2.0)


class TestWork:
    @pytest.mark.parametrize(
        ("function", "work"),
        [
            (lambda x: x.t().reshape(-1)[2:].clone(), Arithmetic.MOVES),
            (lambda x: torch.where(x > 0, x, 0.0), Arithmetic.MOVES),
            (lambda x: F.gelu(x) * 2, Arithmetic.ELEMENTWISE),
            (lambda x: x.bfloat16(), Arithmetic.ELEMENTWISE),
            (lambda x: x @ x, Arithmetic.SUMS),
            (lambda x: torch.softmax(x, -1), Arithmetic.SUMS),
            (lambda x: F.layer_norm(x, (8,)), Arithmetic.SUMS),
            (lambda x: F.scaled_dot_product_attention(x[None, None], x[None, None], x[None, None]), Arithmetic.SUMS),
            (lambda x: F.conv2d(x[None, None], x[None, None, :3, :3]), Arithmetic.UNKNOWN),
            (lambda x: torch.fft.rfft(x), Arithmetic.UNKNOWN),
            (lambda x: (x > 0).sum(), Arithmetic.MOVES),  # a whole number: exact anyway
        ],
    )
    def test_by_the_ops(self, function: Any, work: Arithmetic) -> None:
        assert work_of(trace(function, torch.empty(8, 8))) is work

    def test_hundreds_of_sums_count_as_unknown(self) -> None:
        def deep(x: torch.Tensor) -> torch.Tensor:
            for _ in range(200):
                x = x @ x
            return x

        assert work_of(trace(deep, torch.empty(2, 2))) is Arithmetic.UNKNOWN

    def test_random_numbers(self) -> None:
        x = torch.empty(1, 1, 8, 8)
        assert draws_random_numbers(trace(lambda x: F.dropout(x, 0.5), x))
        assert draws_random_numbers(trace(lambda x: torch.rand_like(x), x))
        assert not draws_random_numbers(trace(lambda x: F.scaled_dot_product_attention(x, x, x), x))


class TestSharing:
    def check(self, found: list[Any], expected: list[Any], args: list[Any]) -> bool:
        return alias_miss(found, args, expected, args) is not None

    def test_with_arguments(self) -> None:
        x, y = torch.randn(4), torch.randn(4)
        assert not self.check([x[1:], y.clone()], [x[:2], y.clone()], [x, y])
        assert self.check([x.clone()], [x], [x, y])
        assert self.check([x], [x.clone()], [x, y])
        assert self.check([y], [x], [x, y])

    def test_among_results(self) -> None:
        a, b = torch.randn(4), torch.randn(4)
        assert not self.check([a, a[1:]], [b, b[:1]], [])
        assert self.check([a, a[1:]], [b, b.clone()], [])
        assert self.check([a, a.clone()], [b, b[1:]], [])

    def test_through_memory_of_another_owner(self) -> None:
        x = torch.randn(4)
        other = torch.from_numpy(x.numpy()[1:])  # another storage, the same bytes
        assert self.check([other], [x[1:].clone()], [x])

    def test_nothing_has_no_memory(self) -> None:
        x = torch.empty(0)
        assert not self.check([x, x, 3], [x.clone(), x, 3], [x])


def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    found, expected = torch.randn(10, 33), torch.randn(33, 10).t()
    whole = gap_of(found, expected)
    monkeypatch.setattr(compare, "_CHUNK", 7)
    parts = gap_of(found, expected)
    assert parts.norm == pytest.approx(whole.norm)
    assert (parts.worst, parts.of_worst) == (whole.worst, whole.of_worst)


class TestInSingle:
    """Of an engine that computes double precision in single: TensorRT."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_rounding_is_no_difference(self, dtype: torch.dtype) -> None:
        exact = torch.randn(64, 64)
        assert difference([exact.to(dtype) * 1.0], [(exact * (1 + 1e-4)).to(dtype)], tolerance_in_single) is None

    @pytest.mark.parametrize(
        ("found", "expected"),
        [
            (torch.zeros(3), torch.ones(3)),
            (torch.ones(3), torch.zeros(3)),
            (torch.tensor([1.0, float("nan")]), torch.tensor([float("nan"), 1.0])),
            (torch.tensor([1.0, float("inf")]), torch.tensor([1.0, float("-inf")])),
            (torch.tensor([1, 2]), torch.tensor([1, 3])),
            (torch.ones(3), torch.ones(4)),
            (torch.ones(3), torch.ones(3).half()),
            (torch.ones(2, 3), torch.ones(3, 2).t()),
            (torch.cat([torch.ones(999), torch.tensor([1.5])]), torch.ones(1000)),
            (None, torch.ones(3)),
            (3, 4),
        ],
    )
    def test_is_found(self, found: Any, expected: Any) -> None:
        assert difference([found], [expected], tolerance_in_single) is not None

    def test_the_same_infinities_and_an_empty_tensor_are_none(self) -> None:
        odd = torch.tensor([1.0, float("inf"), float("-inf"), float("nan")])
        assert difference([odd, torch.empty(0)], [odd.clone(), torch.empty(0)], tolerance_in_single) is None

    def test_the_stride_of_one_element_says_nothing(self) -> None:
        assert (
            difference([torch.ones(1, 3)], [torch.ones(1, 3).as_strided((1, 3), (77, 1))], tolerance_in_single) is None
        )
