"""Learning: what measurements make of corrections, when these are applied, and when a model has drifted."""

from __future__ import annotations

import json
import math
import random
import threading

import pytest

from djinn_fx.costmodels.estimate import CALIBRATED, DATASHEET, LEARNED, UNPRICED, CostModel, Estimate
from djinn_fx.costmodels.learning import ACCURACY_BOUND, LARGEST, RATE, Learned, LearnedModel, shares
from djinn_fx.costmodels.work.work import Work, WorkGraph
from djinn_fx.hardware.catalogue import find_device
from djinn_fx.hardware.device import Device

DEVICE = find_device("a100-80gb")


def estimate(time_s: float = 1.0, provenance: str = CALIBRATED) -> Estimate:
    return Estimate(time_s=time_s, low_s=0.9 * time_s, high_s=1.1 * time_s, provenance=provenance)


class Fixed:
    """A model that always says one second."""

    name = "fixed"

    def op(self, work: Work, device: Device) -> Estimate:
        return estimate()

    def region(self, graph: WorkGraph, device: Device, engine: str) -> Estimate:
        return estimate()


def graph(**flops: int) -> WorkGraph:
    works = tuple(Work(op="aten.op", kind=kind, matmul_flops=count) for kind, count in flops.items())
    return WorkGraph(ops=works, reads=((),) * len(works), escapes=(True,) * len(works))


def test_one_kind_is_known_after_its_first_measurement_and_applied_after_the_second() -> None:
    learned = Learned()
    learned.observe("eager", {"matmul": 1.0}, 1.0, 2.0)
    assert learned.correction("eager", "matmul").log_ratio == pytest.approx(math.log(2))
    assert learned.adjust(estimate(), "eager", {"matmul": 1.0}) == estimate()
    learned.observe("eager", {"matmul": 1.0}, 1.0, 2.0)
    corrected = learned.adjust(estimate(), "eager", {"matmul": 1.0})
    assert corrected.time_s == pytest.approx(2.0)
    assert corrected.provenance == LEARNED
    assert corrected.low_s <= corrected.time_s <= corrected.high_s


def test_kinds_that_come_in_different_mixtures_are_told_apart() -> None:
    truth = {"matmul": math.log(1.5), "attention": math.log(0.6), "norm": 0.0}
    learned, draw = Learned(), random.Random(3)
    for _ in range(400):
        weights = [draw.random() ** 3 for _ in truth]
        parts = {kind: weight / sum(weights) for kind, weight in zip(truth, weights, strict=True)}
        measured = math.exp(sum(parts[kind] * ratio for kind, ratio in truth.items()))
        learned.observe("inductor", parts, 1.0, measured)
    for kind, ratio in truth.items():
        assert learned.correction("inductor", kind).log_ratio == pytest.approx(ratio, abs=0.03)
        assert learned.correction("eager", kind).weight == 0


def test_old_measurements_are_forgotten() -> None:
    learned = Learned()
    for _ in range(20):
        learned.observe("eager", {"conv": 1.0}, 1.0, 3.0)
    for _ in range(20):
        learned.observe("eager", {"conv": 1.0}, 1.0, 1.0)
    left = math.log(3) * (1 - RATE) ** 20
    assert learned.correction("eager", "conv").log_ratio == pytest.approx(left, rel=1e-6)


def test_one_wild_time_does_not_throw_the_estimates_out() -> None:
    learned = Learned()
    learned.observe("eager", {"conv": 1.0}, 1e-9, 1e9)
    assert learned.correction("eager", "conv").log_ratio == pytest.approx(math.log(LARGEST))
    for predicted, measured in ((0.0, 1.0), (1.0, 0.0), (math.nan, 1.0), (1.0, math.inf)):
        learned.observe("eager", {"norm": 1.0}, predicted, measured)
    assert learned.correction("eager", "norm").weight == 0


def test_scattered_times_widen_the_interval() -> None:
    steady, scattered = Learned(), Learned()
    for turn in range(40):
        steady.observe("eager", {"conv": 1.0}, 1.0, 1.0)
        scattered.observe("eager", {"conv": 1.0}, 1.0, 1.5 if turn % 2 else 1 / 1.5)
    assert steady.adjust(estimate(), "eager", {"conv": 1.0}).high_s == pytest.approx(1.1)
    wide = scattered.adjust(estimate(), "eager", {"conv": 1.0})
    assert wide.high_s / wide.time_s > 1.3
    assert wide.time_s / wide.low_s > 1.3


def test_drift_names_the_kind_and_the_accuracy() -> None:
    learned = Learned()
    for _ in range(12):
        learned.observe("inductor", {"attention": 0.8, "norm": 0.2}, 1.0, 1 / 0.82)
        learned.observe("inductor", {"matmul": 1.0}, 1.0, 1.02)
    (drift,) = learned.drifts()
    assert (drift.engine, drift.kind) == ("inductor", "attention")
    assert drift.accuracy == pytest.approx(0.82, abs=1e-6)
    assert drift.accuracy < ACCURACY_BOUND
    assert "0.82 on attention" in str(drift)


def test_one_bad_measurement_is_no_drift() -> None:
    learned = Learned()
    learned.observe("inductor", {"attention": 1.0}, 1.0, 2.0)
    assert learned.drifts() == ()


def test_the_json_form_makes_the_round_trip() -> None:
    learned = Learned()
    learned.observe("eager", {"matmul": 0.7, "norm": 0.3}, 1.0, 1.4)
    again = Learned.from_json(json.loads(json.dumps(learned.to_json())))
    assert again.to_json() == learned.to_json()
    assert again.correction("eager", "matmul") == learned.correction("eager", "matmul")


@pytest.mark.parametrize("data", [3, [{}], [{"engine": "a", "kind": "b", "log_ratio": "x"}], None])
def test_json_that_is_none_is_refused(data: object) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        Learned.from_json(data)


def test_shares_add_up_and_leave_out_what_does_nothing() -> None:
    found = shares(graph(matmul=10**12, view=10**12, norm=10**12), DEVICE)
    assert sum(found.values()) == pytest.approx(1)
    assert found["matmul"] == pytest.approx(0.5)
    assert "view" not in found
    assert shares(graph(view=3), DEVICE) == {}


def test_a_model_with_lessons_is_a_cost_model_and_corrects_regions_and_ops() -> None:
    learned = Learned()
    model = LearnedModel(Fixed(), learned)
    assert isinstance(model, CostModel)
    region = graph(matmul=10**12)
    assert model.region(region, DEVICE, "eager") == estimate()
    for _ in range(3):
        learned.observe("eager", shares(region, DEVICE), 1.0, 1.5)
    assert model.region(region, DEVICE, "eager").time_s == pytest.approx(1.5)
    assert model.region(region, DEVICE, "inductor").time_s == 1.0
    assert model.op(region.ops[0], DEVICE).time_s == pytest.approx(1.5)
    assert [one.time_s for one in model.ops(region.ops, DEVICE)] == [pytest.approx(1.5)]
    assert model.op(Work(op="aten.view", kind="view"), DEVICE) == estimate()


def test_what_has_no_price_is_not_corrected() -> None:
    learned = Learned()
    for _ in range(3):
        learned.observe("eager", {"other": 1.0}, 1.0, 2.0)
    unpriced = estimate(provenance=UNPRICED)
    assert learned.adjust(unpriced, "eager", {"other": 1.0}) == unpriced
    assert learned.adjust(estimate(provenance=DATASHEET), "eager", {"other": 1.0}).provenance == LEARNED


def test_threads_lose_no_measurement() -> None:
    learned = Learned()

    def observe() -> None:
        for _ in range(200):
            learned.observe("eager", {"matmul": 1.0}, 1.0, 1.1)

    threads = [threading.Thread(target=observe) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert learned.correction("eager", "matmul").weight == 800
