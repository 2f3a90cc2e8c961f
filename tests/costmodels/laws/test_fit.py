"""The fit finds laws again that samples were made by, predicts what it has not seen, and knows how well."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest

from bench.cost.baseline import baseline_seconds, fit_baseline
from djinn_fx.costmodels.estimate import CALIBRATED, MIXED, CostModel
from djinn_fx.costmodels.laws.calibrated import CalibratedModel
from djinn_fx.costmodels.laws.curves import NAMES, PARAMETERS, graph_seconds
from djinn_fx.costmodels.laws.fit import Fitted, columns_of, fit, fit_engine
from djinn_fx.costmodels.profile import Sample
from djinn_fx.costmodels.work.work import Work, WorkGraph
from djinn_fx.hardware.device import this_machine
from tests.costmodels.workloads import chain, linear, pointwise, rowwise, single, view

CPU = this_machine()


def block(rows: int, width: int, layers: int) -> WorkGraph:
    """Like a transformer's feed-forward layers."""
    ops: list[Work] = []
    for _ in range(layers):
        ops += [
            rowwise("norm", rows, width),
            view(),
            linear(rows, width, 4 * width),
            pointwise(4 * rows * width, operands=1),
            linear(rows, 4 * width, width),
            pointwise(rows * width),
        ]
    return chain(ops)


def measured(graphs: Sequence[tuple[str, WorkGraph]], seed: int, engine: str = "eager", noise: float = 0.02):  # type: ignore[no-untyped-def]
    """Samples from laws whose parameters are drawn around the guesses, with noise."""
    truth = np.log([one.guess for one in PARAMETERS])
    truth = truth + 0.6 * np.asarray([one.spread for one in PARAMETERS]) * np.random.default_rng(7).normal(
        size=len(truth)
    )
    made = [
        Sample(engine=engine, threads=2, label=family, family=family, graph=graph, time_s=1.0, spread=0.01)
        for family, graph in graphs
    ]
    times = graph_seconds(columns_of(made), truth[None], 2)[0]
    times = times * np.exp(noise * np.random.default_rng(seed).normal(size=len(times)))
    return [
        Sample(
            engine=engine, threads=2, label=one.label, family=one.family, graph=one.graph, time_s=float(t), spread=0.01
        )
        for one, t in zip(made, times, strict=True)
    ]


SEEN = [
    *((f"linear{k}", single(linear(m, k, n))) for k, n in ((256, 256), (1024, 4096)) for m in (1, 4, 32, 512)),
    *(("pointwise", single(pointwise(n))) for n in (64, 10**4, 10**6, 10**7)),
    *(("softmax", single(rowwise("softmax", n, 64))) for n in (4, 100, 10**4)),
    *((f"block{w}", block(m, w, n)) for w in (256, 640) for m in (1, 16, 128) for n in (1, 3, 12)),
]
NEW = [(f"new{w}", block(m, w, n)) for w in (320, 384, 512, 896) for m in (1, 3, 8, 48, 200) for n in (2, 4, 20)]


@pytest.fixture(scope="module")
def fitted() -> dict[str, object]:
    return fit(measured(SEEN, seed=1))


def test_graphs_not_seen_are_predicted(fitted: dict[str, object]) -> None:
    model = CalibratedModel(fitted)
    truth = measured(NEW, seed=2)
    found = [one.time_s for one in model.regions([sample.graph for sample in truth], CPU, "eager")]
    errors = np.abs(np.log(found) - np.log([sample.time_s for sample in truth]))
    assert np.median(errors) < 0.04
    assert np.mean(errors < 0.1) >= 0.9


def test_four_of_five_truths_lie_in_the_interval() -> None:
    """Over several draws of the noise, on graphs that the fit has not seen, larger and smaller than its samples."""
    inside = []
    for seed in range(4):
        model = CalibratedModel(fit(measured(SEEN, seed=seed, noise=0.05)))
        truth = measured(NEW, seed=100 + seed, noise=0.05)
        estimates = model.regions([sample.graph for sample in truth], CPU, "eager")
        inside += [one.low_s <= s.time_s <= one.high_s for one, s in zip(estimates, truth, strict=True)]
    assert 0.65 <= np.mean(inside) <= 0.95


def test_the_interval_widens_with_the_distance_from_the_samples(fitted: dict[str, object]) -> None:
    model = CalibratedModel(fitted)
    near = model.region(block(16, 320, 3), CPU, "eager")
    sort = Work(op="aten.sort", kind="sort", read_bytes=4 * 10**7, write_bytes=4 * 10**7, elements=10**7)
    far = model.region(single(sort), CPU, "eager")
    assert near.low_s < near.time_s < near.high_s
    assert far.high_s / far.time_s > 1.5 * near.high_s / near.time_s


def test_a_parameter_without_samples_stays_at_its_guess() -> None:
    made = fit_engine(measured([("pointwise", single(pointwise(n))) for n in (64, 10**4, 10**6)], seed=3))
    place = NAMES.index("conv.operation")
    assert made.logs[place] == pytest.approx(np.log(PARAMETERS[place].guess), abs=1e-6)
    assert np.sqrt(made.covariance[place, place]) == pytest.approx(PARAMETERS[place].spread, rel=1e-3)


def test_one_wild_sample_does_not_bend_the_fit() -> None:
    samples = measured(SEEN, seed=4)
    wild = [*samples[:-1], Sample(**{n: getattr(samples[-1], n) for n in Sample.__slots__} | {"time_s": 5.0})]
    usual, bent = (CalibratedModel(fit(one)) for one in (samples, wild))
    for _, works in NEW[:10]:
        ratio = usual.region(works, CPU, "eager").time_s / bent.region(works, CPU, "eager").time_s
        assert abs(np.log(ratio)) < 0.08


def test_the_fit_is_plain_data_and_comes_back_as_it_was(fitted: dict[str, object]) -> None:
    again = json.loads(json.dumps(fitted))
    one, other = CalibratedModel(fitted), CalibratedModel(again)
    works = block(16, 320, 3)
    assert one.region(works, CPU, "eager") == other.region(works, CPU, "eager")
    data = again["engines"]["eager/2"]
    assert Fitted.from_json(data).to_json() == data


def test_a_fit_for_other_laws_is_refused(fitted: dict[str, object]) -> None:
    data = json.loads(json.dumps(fitted))
    data["engines"]["eager/2"]["names"][0] = "renamed"
    with pytest.raises(ValueError, match="djinn calibrate"):
        CalibratedModel(data)
    with pytest.raises(ValueError, match="schema"):
        CalibratedModel({**data, "schema": 99})
    with pytest.raises(ValueError, match="no engine"):
        CalibratedModel({**data, "engines": {}})


def test_an_engine_that_was_not_measured_has_a_wide_interval(fitted: dict[str, object]) -> None:
    model = CalibratedModel(fitted)
    known, strange = (model.region(block(16, 320, 3), CPU, engine) for engine in ("eager", "openvino"))
    assert model.knows("eager")
    assert not model.knows("openvino")
    assert strange.high_s / strange.time_s > (known.high_s / known.time_s) ** 2


def test_it_is_a_cost_model_and_prices_ops(fitted: dict[str, object]) -> None:
    model = CalibratedModel(fitted)
    assert isinstance(model, CostModel)
    works = [linear(4, 256, 256), view(), pointwise(1000)]
    together = model.ops(works, CPU)
    assert together == [model.op(work, CPU) for work in works]
    assert together[1].time_s == 0.0
    assert all(one.provenance == CALIBRATED for one in together)


def test_an_op_without_a_rule_shows_in_the_provenance(fitted: dict[str, object]) -> None:
    odd = Work(op="mylib.op", kind="other", problem="no rule for this op", read_bytes=400, elements=100)
    assert CalibratedModel(fitted).region(single(odd), CPU, "eager").provenance == MIXED


def test_threads_have_fits_of_their_own() -> None:
    two = measured(SEEN, seed=1)
    one = [
        Sample(**{n: getattr(s, n) for n in Sample.__slots__} | {"threads": 1, "time_s": 1.7 * s.time_s}) for s in two
    ]
    fitted = fit([*one, *two])
    assert sorted(fitted["engines"]) == ["eager/1", "eager/2"]
    works = block(128, 640, 6)
    fast, slow = (CalibratedModel(fitted, threads=n).region(works, CPU, "eager").time_s for n in (2, 1))
    assert slow / fast == pytest.approx(1.7, rel=0.08)


def test_samples_of_accelerators_are_left_out() -> None:
    samples = measured(SEEN, seed=1)
    there = [Sample(**{n: getattr(s, n) for n in Sample.__slots__} | {"device": "cuda"}) for s in samples]
    assert fit([*samples, *there])["engines"] == fit(samples)["engines"]


def test_the_calibrated_roofline_has_a_factor_for_every_kind() -> None:
    truth = measured(SEEN, seed=1)
    factors = fit_baseline(truth)
    errors = [abs(np.log(baseline_seconds(factors, sample.graph) / sample.time_s)) for sample in truth]
    assert np.median(errors) < 0.8
