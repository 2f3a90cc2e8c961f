"""Float64 as the judge: rounding is not quarantined, and what is wrong beyond rounding is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from djinn_fx.guard.precise import fp64_reference
from djinn_fx.guard.trial import ArgumentWatch, copied
from djinn_fx.reasons import ReasonKind
from tests.graphs import trace
from tests.guard.faulty import Beside, beside, region_of


@dataclass
class Instead:
    """An engine that computes a region by other means."""

    function: Any
    calls: int = 0

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        """Run."""
        self.calls += 1
        given = tuple(args)
        args.clear()
        return [self.function(*given)]


def tried(region_function: Any, engine_function: Any, *args: Any, precise: bool = True) -> Beside:
    """One call of a region whose engine computes it by other means."""
    region = region_of(region_function, *args)
    one = beside(region, Instead(engine_function), precise=precise)
    with torch.no_grad():
        one.guard(list(args))
    return one


class TestCancellation:
    """(a + b) - a where b is small: nearly nothing of the result is right, in whatever order it is computed."""

    def arguments(self) -> tuple[torch.Tensor, torch.Tensor]:
        made = torch.Generator().manual_seed(5)
        return 1000 * torch.randn(256, generator=made), 1e-4 * torch.randn(256, generator=made)

    def test_another_order_is_right(self) -> None:
        one = tried(lambda a, b: (a + b) - a, lambda a, b: b.clone(), *self.arguments())
        assert (one.guard.verdict, one.reasons) == (True, [])
        one = tried(lambda a, b: b + 0 * a, lambda a, b: (a * 0) + b, *self.arguments())
        assert one.guard.verdict is True

    def test_without_float64_it_would_be_thought_wrong(self) -> None:
        one = tried(lambda a, b: (a + b) - a, lambda a, b: b.clone(), *self.arguments(), precise=False)
        assert one.guard.verdict is False

    def test_what_is_wrong_beyond_that_is_found(self) -> None:
        a, b = self.arguments()
        one = tried(lambda a, b: (a + b) - a, lambda a, b: (a + 20 * b) - a, a, b)
        assert [reason.kind for reason in one.reasons] == [ReasonKind.QUARANTINED]

    def test_eager_may_have_been_lucky(self) -> None:
        """x * y - x * y is exactly 0 for eager; fused multiply-add leaves the rounding of x * y."""
        x, y = torch.randn(2, 64, generator=torch.Generator().manual_seed(1)) * 1000

        def fused(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return (x.double() * y.double() - (x * y).double()).float()

        assert float(fused(x, y).abs().max()) > 1e-4
        assert tried(lambda x, y: x * y - x * y, fused, x, y).guard.verdict is True
        wrong = tried(lambda x, y: x * y - x * y, lambda x, y: fused(x, y) * 100, x, y)
        assert wrong.guard.verdict is False


class TestHalf:
    def test_an_engine_that_rounds_less_is_right(self) -> None:
        def chain(x: torch.Tensor) -> torch.Tensor:
            for _ in range(30):
                x = torch.sin(x * 1.7) + x * 0.3
            return x

        x = torch.randn(64).bfloat16()
        better = tried(chain, lambda x: chain(x.float()).bfloat16(), x)
        assert better.guard.verdict is True
        assert tried(chain, lambda x: chain(x.float()).bfloat16() * 1.5, x).guard.verdict is False

    def test_overflow_only_in_eager(self) -> None:
        x = torch.tensor([300.0, 2.0], dtype=torch.float16)
        one = tried(lambda x: (x * x) / x, lambda x: x.clone(), x)
        assert one.guard.verdict is True

    def test_overflow_only_in_the_engine(self) -> None:
        x = torch.tensor([300.0, 2.0], dtype=torch.float16)
        one = tried(lambda x: x * 1.0, lambda x: (x * x) / x, x)
        assert one.guard.verdict is False


class TestWholeNumbers:
    def test_a_tie_that_float64_decides_for_the_engine(self) -> None:
        a, b = torch.tensor([1000.0]), torch.tensor([1e-5])
        one = tried(lambda a, b: ((a + b) - a) > 0, lambda a, b: b > 0, a, b)
        assert one.guard.verdict is True

    def test_a_wrong_choice(self) -> None:
        x = torch.randn(16, 16)
        one = tried(lambda x: (x * 2).argmax(-1), lambda x: (x * 2).argmin(-1), x)
        assert one.guard.verdict is False


def test_rows_that_are_masked_throughout() -> None:
    """Eager's safe softmax gives 0 there, a plain one NaN."""

    def attend(q: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(q, q, q, attn_mask=mask)

    def plain(q: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        scores = (q @ q.transpose(-1, -2)) * 8**-0.5
        return torch.softmax(scores.masked_fill(~mask, float("-inf")), -1) @ q

    q = torch.randn(1, 2, 4, 8)
    mask = torch.ones(4, 4, dtype=torch.bool)
    assert tried(attend, lambda q, mask: plain(q, mask).contiguous(), q, mask).guard.verdict is True
    mask[2] = False
    one = tried(attend, plain, q, mask)
    assert one.guard.verdict is False
    assert one.reasons[0].kind is ReasonKind.QUARANTINED


def test_memory_that_nobody_wrote_is_not_compared() -> None:
    region = region_of(lambda x: (x * 2, x.new_empty(3)), torch.randn(3))
    seen = iter(range(10))

    def reference(args: list[Any]) -> Sequence[Any]:
        return [args[0] * 2, torch.full((3,), float(next(seen)))]

    one = beside(region, lambda args: [args[0] * 2, torch.full((3,), 99.0)])
    one.guard._reference = reference
    one.guard([torch.randn(3)])
    assert (one.guard.verdict, one.reasons) == (True, [])


class TestPrecise:
    def run(self, function: Any, *args: Any) -> Any:
        gm = trace(function, *args)
        precise = fp64_reference(gm)
        assert precise is not None
        return precise(list(args))

    @pytest.mark.parametrize(
        "function",
        [
            lambda x: torch.softmax(x.bfloat16(), -1).float() @ x,
            lambda x: F.layer_norm(x.half(), (8,)),
            lambda x: torch.softmax(x.half(), -1, dtype=torch.float32),
            lambda x: torch.zeros(8, dtype=torch.float32) + x.to(torch.float16).sum(dtype=torch.float32),
            lambda x: F.scaled_dot_product_attention(x[None, None], x[None, None], x[None, None], is_causal=True),
            lambda x: F.conv1d(x[None], x[:, :, None]),
            lambda x: F.group_norm(x, 2),
            lambda x: torch.view_as_complex(x.view(4, 8, 2).contiguous()).abs() if x.numel() == 64 else x,
            lambda x: F.gelu(x).topk(3).values,
        ],
    )
    def test_it_is_the_function_in_float64(self, function: Any) -> None:
        x = torch.randn(8, 8)
        (found,) = self.run(lambda x: (function(x),), x)
        assert found.dtype in (torch.float64, torch.complex128)
        torch.testing.assert_close(found.float(), function(x).float(), rtol=2e-2, atol=2e-2)

    def test_it_is_nearer_to_the_truth(self) -> None:
        x = torch.randn(50, 50)
        (found,) = self.run(lambda x: ((x @ x @ x).sum(),), x)
        exact = (x.double() @ x.double() @ x.double()).sum()
        assert found == pytest.approx(float(exact), rel=1e-12)

    def test_arguments_are_left_alone_but_for_what_is_written(self) -> None:
        def write(x: torch.Tensor, cache: torch.Tensor) -> torch.Tensor:
            y = torch.exp(x)
            cache.copy_(y + cache)
            return y

        x, cache = torch.randn(4), torch.randn(4)
        before = x.clone(), cache.clone()
        self.run(lambda x, cache: (write(x, cache),), x, cache)
        assert torch.equal(x, before[0])
        torch.testing.assert_close(cache, before[1] + torch.exp(before[0]))
        assert cache.dtype is torch.float32

    @pytest.mark.parametrize(
        "function",
        [
            lambda x: torch.rand_like(x),
            lambda x: x.view(torch.int32) + 1,
            lambda x: torch.empty_like(x) + x,
            lambda x: torch.arange(4),
            lambda x: x.add_(1),
            lambda x: torch.nextafter(x, x + 1),
        ],
    )
    def test_what_has_no_such_form(self, function: Any) -> None:
        assert fp64_reference(trace(function, torch.empty(4))) is None

    def test_noise_is_as_large_as_the_graphs_rounding_and_the_same_every_time(self) -> None:
        gm = trace(lambda x: (x * 3, x.bfloat16() * 3, x.t()), torch.empty(200, 200))
        precise = fp64_reference(gm)
        assert precise is not None
        x = torch.randn(200, 200)
        exact, one, other = precise([x]), precise.noisy([x]), precise.noisy([x])
        for place, eps in ((0, 2.0**-23), (1, 2.0**-7)):
            share = float(((one[place] - exact[place]) / exact[place]).abs().max())
            assert eps / 4 < share <= 1.6 * eps
        assert torch.equal(one[2], exact[2].double())
        assert all(torch.equal(mine, twin) for mine, twin in zip(one, other, strict=True))


class TestTrial:
    def test_only_what_is_written_is_copied_and_sharing_stays(self) -> None:
        base, x = torch.randn(4, 6), torch.randn(3)
        args = [x, base[1], 5, base.t(), base]
        made = copied(args, [1])
        assert made[0] is x
        assert made[2] == 5
        for place in (1, 3, 4):
            assert torch.equal(made[place], args[place])
            assert made[place].stride() == args[place].stride()
        made[1].zero_()
        assert not made[3][:, 1].any()
        assert base[1].any()

    def test_a_watch_sees_writes_and_puts_them_back(self) -> None:
        small, large, free = torch.randn(30), torch.randn(2_000_000), torch.randn(4)
        expanded = torch.tensor([1.0, float("nan")])[:, None].expand(2, 5)
        args = [small, large, free, expanded, 7, torch.empty(0)]
        before = small.clone()
        watch = ArgumentWatch(args, [2])
        assert watch.written() == []
        free.zero_()
        assert watch.written() == []
        small[3] = 9
        large[-1] += 1
        expanded[0, 0] = 4
        assert watch.written() == [0, 1, 3]
        assert torch.equal(small, before)
        assert expanded[0, 4] == 1.0
        assert watch.written() == [1]  # too large to be kept whole
