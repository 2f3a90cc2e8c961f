"""Weights as 8-bit whole numbers in OpenVINO's products."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import djinn_fx
from djinn_fx.settings.engines import may_round
from tests.engines.onnx.engine_cases import Traced, close

pytest.importorskip("openvino")
pytest.importorskip("onnx")

from djinn_fx.engines.openvino import compressed
from djinn_fx.engines.openvino.compressed import round_rows
from djinn_fx.engines.openvino.engine import OpenVinoEngine

N, K = 272, 256
#: What the numbers and scales of such a weight take, twice.
BYTES = 2 * (N * K + 4 * N)


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def engine(precision: str = "allow-int8-weights") -> OpenVinoEngine:
    return OpenVinoEngine(precision=precision)


def rounded(weight: Tensor) -> Tensor:
    """A weight [n, k] as products read it."""
    found = round_rows(weight)
    assert found is not None
    numbers, scales = found
    return numbers.float() * scales


def near(found: Tensor, expected: Tensor, share: float) -> bool:
    return bool((found - expected).norm() <= share * expected.norm())


class TestRounding:
    def test_each_number_is_within_half_a_step(self) -> None:
        weight = torch.randn(300, 70) * torch.logspace(-30, 20, 300)[:, None]
        numbers, scales = round_rows(weight)  # type: ignore[misc]
        assert numbers.dtype is torch.int8
        assert scales.shape == (300, 1)
        assert numbers.amin() >= -127
        step = weight.abs().amax(1, keepdim=True) / 127
        assert ((numbers.double() * scales - weight).abs() <= step * 0.5001).all()

    def test_blocks_make_no_difference(self, monkeypatch: pytest.MonkeyPatch) -> None:
        weight = torch.randn(50, 70)
        whole = round_rows(weight)
        monkeypatch.setattr(compressed, "_BLOCK", 7 * 70)
        assert all(map(torch.equal, whole, round_rows(weight)))  # type: ignore[arg-type]

    @pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), 1e35])
    def test_numbers_that_are_none_or_huge_are_not_rounded(self, number: float) -> None:
        weight = torch.randn(50, 70)
        weight[20, 3] = number
        assert round_rows(weight) is None

    def test_zeros_and_the_smallest_numbers(self) -> None:
        assert not rounded(torch.zeros(2, 3)).any()
        assert rounded(torch.full((2, 3), 1e-45)).isfinite().all()


class TestProducts:
    @pytest.mark.parametrize("lies", ["by output", "by input"])
    def test_read_the_rounded_weight(self, lies: str) -> None:
        x, w = torch.randn(3, K), torch.randn(N, K)
        function, given = (
            (lambda x, w: F.linear(x, w).relu(), w) if lies == "by output" else (lambda x, w: (x @ w).relu(), w.t())
        )
        region = Traced(function, x, given.contiguous(), weights=(1,))
        run = region.opened(engine())
        (found,) = region.call(run, x, given.contiguous())
        assert near(found, F.linear(x, rounded(w)).relu(), 5e-3)
        assert not near(found, F.linear(x, w).relu(), 5e-3)
        assert run.memory_bytes == BYTES

    @pytest.mark.parametrize("precision", ["exact", "allow-bf16"])
    def test_read_the_weight_itself_where_that_is_not_allowed(self, precision: str) -> None:
        x, w = torch.randn(3, K), torch.randn(N, K)
        region = Traced(F.linear, x, w, weights=(1,))
        run = region.opened(engine(precision))
        (found,) = region.call(run, x, w)
        assert near(found, F.linear(x, w), 1e-6 if precision == "exact" else 5e-3)
        assert run.memory_bytes == 4 * N * K

    def test_follow_a_change_of_the_weight(self) -> None:
        x, w = torch.randn(3, K), nn.Parameter(torch.randn(N, K))
        region = Traced(F.linear, x, w, weights=(1,))
        run = region.opened(engine())
        region.call(run, x, w)
        w.mul_(3).add_(1)
        assert run.attempt(region.arguments(x, w)) is None
        (found,) = region.call(run, x, w)
        assert near(found, F.linear(x, rounded(w)), 5e-3)

    def test_leave_a_weight_with_nan_as_it_is(self) -> None:
        x, w = torch.randn(3, K), torch.randn(N, K)
        w[5, 7] = float("nan")
        region = Traced(F.linear, x, w, weights=(1,))
        run = region.opened(engine())
        (found,) = region.call(run, x, w)
        assert torch.equal(found.isnan(), F.linear(x, w).isnan())
        assert run.memory_bytes == 4 * N * K

    def test_leave_other_readers_the_weight_as_it_is(self) -> None:
        def tied(tokens: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
            looked_up = F.embedding(tokens, w)
            return looked_up * 1.0, F.linear(looked_up, w)

        tokens, w = torch.tensor([3, 271]), torch.randn(N, K)
        region = Traced(tied, tokens, w, weights=(1,))
        run = region.opened(engine())
        looked_up, product = region.call(run, tokens, w)
        close([looked_up], w[tokens])
        assert near(product, F.linear(w[tokens], rounded(w)), 5e-3)
        assert run.memory_bytes == BYTES

    @pytest.mark.parametrize(("rows", "n"), [(512, N), (3, 48)])
    def test_leave_it_where_nothing_is_gained(self, rows: int, n: int) -> None:
        x, w = torch.randn(rows, K), torch.randn(n, K)
        region = Traced(F.linear, x, w, weights=(1,))
        run = region.opened(engine())
        region.call(run, x, w)
        assert run.memory_bytes == 4 * n * K

    def test_any_number_of_rows(self) -> None:
        x, w = torch.randn(5, K), torch.randn(N, K)
        region = Traced(F.linear, x, w, weights=(1,), symbolic=True)
        run = region.opened(engine())
        for rows in (1, 5, 300):
            x = torch.randn(rows, K)
            (found,) = region.call(run, x, w)
            assert near(found, F.linear(x, rounded(w)), 5e-3)


def test_the_setting_means_nothing_to_engines_that_do_not_round() -> None:
    assert may_round("openvino", "allow-int8-weights") == "allow-int8-weights"
    assert {may_round(name, "allow-int8-weights") for name in ("onnxruntime", "packed", "inductor")} == {"exact"}


def test_the_error_against_float64_is_told() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(K, K, bias=False) for _ in range(3))).eval()
    x = torch.randn(2, K)
    torch._dynamo.reset()
    options = {"engine": "openvino", "precision": "allow-int8-weights"}
    compiled = torch.compile(model, backend="djinn", options=options)
    compiled(x)
    found = compiled(x)
    status = djinn_fx.status(compiled)
    (entrant,) = [one for one in status.contests[0].entrants if one.engine == "openvino"]
    exact = model.double()(x.double())
    share = float((found - exact).abs().max() / exact.abs().max())
    assert entrant.rounding is not None
    assert entrant.rounding.share == pytest.approx(share)
    assert 1e-3 < share < 1e-1
    assert 0 < entrant.rounding.eager < 1e-5
    assert str(entrant.rounding) in str(status)
