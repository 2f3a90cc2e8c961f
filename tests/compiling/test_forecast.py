"""Estimates order the engines of a trial, and leave one out only where even its interval has no hope."""

from __future__ import annotations

import pytest

from djinn_fx.compiling.forecast import by_forecast, forecast, left_out
from djinn_fx.dispatch.contests.trial import HOPELESS
from djinn_fx.reasons import ReasonKind
from djinn_fx.srg.plan import EngineTime, Region, together


def time_on(engine: str, time_s: float, provenance: str = "calibrated", spread: float = 1.1) -> EngineTime:
    return EngineTime(
        engine=engine, time_s=time_s, low_s=time_s / spread, high_s=time_s * spread, provenance=provenance
    )


def region(*times: EngineTime) -> Region:
    ordered = tuple(sorted(times, key=lambda one: one.time_s))
    return Region(index=0, label="r", nodes=(), inputs=(), outputs=(), structural_hash="h", times=ordered)


NAMES = ("openvino", "onnxruntime", "packed")


def test_the_fastest_by_estimate_comes_first() -> None:
    times = [time_on("openvino", 3.0), time_on("onnxruntime", 2.5), time_on("packed", 2.0)]
    assert by_forecast(region(*times), NAMES) == (("packed", "onnxruntime", "openvino"), ())


@pytest.mark.parametrize("spread", [1.0, 1.2, 2.0])
def test_out_is_only_whose_whole_interval_is_beyond_hope(spread: float) -> None:
    limit = HOPELESS * spread * spread
    for factor, out in ((0.99, ()), (1.01, ("openvino",))):
        times = [
            time_on("openvino", limit * factor, spread=spread),
            time_on("onnxruntime", 1.0, spread=spread),
            time_on("packed", 1.1, spread=spread),
        ]
        assert by_forecast(region(*times), NAMES)[1] == out


@pytest.mark.parametrize("provenance", ["datasheet", "unpriced"])
def test_datasheets_order_nothing(provenance: str) -> None:
    times = [time_on("openvino", 9.0, provenance), time_on("onnxruntime", 2.0), time_on("packed", 1.0)]
    assert by_forecast(region(*times), NAMES) == (NAMES, ())
    assert by_forecast(region(), NAMES) == (NAMES, ())


def test_the_runner_up_is_told_with_its_estimate() -> None:
    (reason,) = forecast(
        region(time_on("openvino", 3e-3), time_on("packed", 2e-3), time_on("eager", 1e-3, "datasheet"))
    )
    assert reason.kind is ReasonKind.PRICED
    assert reason.runner_up == "openvino"
    assert reason.runner_up_cost is not None
    assert "3.0 ms" in reason.runner_up_cost
    assert forecast(region(time_on("packed", 1.0, "datasheet"), time_on("eager", 2.0, "datasheet"))) == ()


def test_who_is_left_out_is_named_with_what_it_would_take() -> None:
    reason = left_out(region(time_on("openvino", 9e-3), time_on("packed", 1e-3)), "openvino")
    assert reason.kind is ReasonKind.ENGINE_REFUSED
    assert reason.runner_up == "packed"


def test_regions_one_after_the_other_add_up() -> None:
    both = together("inductor", [time_on("inductor", 1.0), time_on("inductor", 2.0)])
    assert (both.time_s, both.provenance) == (3.0, "calibrated")
    assert both.low_s == pytest.approx(3.0 / 1.1)
    assert together("inductor", [time_on("inductor", 1.0), time_on("inductor", 2.0, "measured")]).provenance == "mixed"
