"""The laws of GPU kernels, their fit, and the cost model made of them."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from bench.cost import gpu_fit
from bench.cost.gpu_fit import Samples, table_json
from djinn_fx.costmodels.estimate import CALIBRATED, DATASHEET, UNPRICED, CostModel
from djinn_fx.costmodels.laws.gpu import COEFFICIENTS, GpuModel, _table, spec_of
from djinn_fx.costmodels.laws.gpu_laws import LAWS, GpuSpec, base_share, coolness, in_sequence, similarity
from djinn_fx.costmodels.work.work import Read, Work, WorkGraph
from djinn_fx.hardware.catalogue import find_device

SPEC = GpuSpec(
    name="gpu",
    flops=2e13,
    bandwidth=1e12,
    processors=100,
    cores=64,
    clock_hz=1.5e9,
    cache_bytes=2.0**25,
    base_share=0.9,
)
SIZES = {
    "linear": np.array([[1.0, rows, 1024, columns] for rows in (128, 512, 4096) for columns in (256, 1024, 8192)]),
    "bmm": np.array([[batch, 512.0, 64, 512] for batch in (1, 8, 64, 512)]),
    "elementwise": np.array([[2.0**exponent, 2, 0] for exponent in (10, 18, 22, 26)]),
    "softmax": np.array([[2.0**14, length] for length in (512, 1024, 2048, 8192)]),
    "norm": np.array([[2.0**14, length] for length in (512, 1024, 2048, 8192)]),
}


def work(kind: str, **given: object) -> Work:
    return Work(op="aten.some", kind=kind, **given)  # type: ignore[arg-type]


PRODUCT = work("matmul", sides=(1, 4096, 2048, 1024), matmul_flops=2 * 4096 * 2048 * 1024, read_bytes=4, write_bytes=4)
POINTWISE = work("elementwise", read_bytes=2**24, write_bytes=2**24)


@pytest.mark.parametrize("name", LAWS)
def test_a_law_never_beats_the_data_sheet_and_grows_with_the_work(name: str) -> None:
    law = LAWS[name]
    seconds = law.seconds(SPEC, SIZES[name], law.start)
    assert (law.seconds(SPEC, 2 * SIZES[name], law.start) > seconds).all()
    if name in ("linear", "bmm"):
        assert (seconds > 2 * SIZES[name].prod(1) / SPEC.flops).all()
    else:
        elements = SIZES[name][:, 0] * (1 if name == "elementwise" else SIZES[name][:, 1])
        assert (seconds > 8 * elements / SPEC.bandwidth).all()


def test_a_product_takes_whole_waves_of_tiles() -> None:
    law = LAWS["bmm"]
    values = law.start.copy()
    values[[one.name for one in law.coefficients].index("whole waves")] = 50.0
    one_wave, fuller, two_waves = law.seconds(
        SPEC, np.array([[99.0, 128, 4096, 128], [100, 128, 4096, 128], [101, 128, 4096, 128]]), values
    )
    assert fuller == pytest.approx(one_wave, rel=0.01)
    assert two_waves > 1.1 * fuller
    assert two_waves - fuller > 10 * (fuller - one_wave)


def test_a_board_short_of_power_computes_below_its_boost_clock() -> None:
    weak = replace(SPEC, base_share=0.3)
    sizes = np.array([[1.0, 16384, 8192, 16384]])
    law = LAWS["linear"]
    hot, strong = (in_sequence(law, spec, sizes, law.start) for spec in (weak, SPEC))
    cool = in_sequence(law, weak, sizes / [1, 64, 8, 64], law.start, 0.9)
    hot_small = in_sequence(law, weak, sizes / [1, 64, 8, 64], law.start, 0.0)
    assert hot > 1.5 * strong
    assert cool < 0.8 * hot_small
    assert 0 < coolness(10.0) < coolness(0.1) < 1


def test_a_row_is_read_again_where_the_cache_is_small() -> None:
    sizes = np.array([[2.0**16, 4096]])
    law = LAWS["norm"]
    small, large = (law.seconds(replace(SPEC, cache_bytes=size), sizes, law.start)[0] for size in (2.0**20, 2.0**30))
    assert 1.4 < small / large < 1.5


@pytest.mark.parametrize("name", LAWS)
def test_a_fit_finds_the_coefficients_that_made_the_samples(name: str) -> None:
    law = LAWS[name]
    sizes = np.concatenate([SIZES[name] * factor for factor in (1, 2, 3, 5)])
    truth = law.start + 2 * law.spread * np.where(np.arange(len(law.start)) % 2, -1, 1)
    sources = []
    for clock in (1.0, 1.3, 1.7):
        spec = replace(SPEC, name=str(clock), flops=SPEC.flops * clock, bandwidth=SPEC.bandwidth * clock)
        sources.append(Samples(spec, sizes, law.seconds(spec, sizes, truth)))
    fitted = gpu_fit.fit(law, sources, start_samples=0.1)
    held = gpu_fit.fit(law, sources, start_samples=1e6)
    assert held.shared == pytest.approx(law.start, abs=1e-3)
    new = replace(SPEC, name="new", flops=SPEC.flops * 1.5, bandwidth=SPEC.bandwidth * 1.5)
    before = np.abs(law.seconds(new, sizes, law.start) / law.seconds(new, sizes, truth) - 1).mean()
    after = np.abs(fitted.seconds(new, sizes) / law.seconds(new, sizes, truth) - 1).mean()
    assert after < 0.5 * before


def test_few_samples_bend_a_law_to_a_device() -> None:
    law = LAWS["linear"]
    random = np.random.default_rng(1)
    sizes = np.column_stack([np.ones(64), *(2.0 ** random.uniform(9, 13, 64) for _ in range(3))])
    fitted = gpu_fit.fit(law, [Samples(SPEC, sizes, law.seconds(SPEC, sizes, law.start))])
    truth = law.start - 3 * law.spread * np.array([one.name == "peak share" for one in law.coefficients])
    samples = Samples(SPEC, sizes, law.seconds(SPEC, sizes, truth))
    bent = gpu_fit.refine_few(fitted, samples.pick(np.arange(32)))
    rest = samples.pick(np.arange(32, 64))
    assert np.abs(bent(rest.sizes) / rest.seconds - 1).mean() < 0.03
    assert np.abs(fitted.seconds(SPEC, rest.sizes) / rest.seconds - 1).mean() > 0.05


def test_one_odd_device_hardly_moves_what_is_shared() -> None:
    law = LAWS["elementwise"]
    sizes = SIZES["elementwise"]
    alike = [Samples(replace(SPEC, name=str(i)), sizes, law.seconds(SPEC, sizes, law.start)) for i in range(3)]
    odd = Samples(replace(SPEC, name="odd"), sizes, 2 * law.seconds(SPEC, sizes, law.start))
    shared = gpu_fit.fit(law, [*alike, odd]).shared
    bandwidth = [one.name for one in law.coefficients].index("bandwidth share")
    assert abs(shared[bandwidth] - law.start[bandwidth]) < 0.25 * math.log(2)


def test_similar_devices_tell_more() -> None:
    near, far = replace(SPEC, name="near"), replace(SPEC, name="far", cache_bytes=SPEC.cache_bytes / 64)
    weights = similarity(SPEC, [near, far])
    assert weights[0] > 0.5 > 0.1 > abs(weights[1])
    assert similarity(SPEC, []).shape == (0,)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA A100-PCIE-40GB", 765 / 1410),
        ("NVIDIA A100 80GB PCIe", 1065 / 1410),
        ("Tesla T4", 585 / 1590),
        ("NVIDIA L40S", 1110 / 2520),
        ("Tesla V100-SXM2-16GB", 1290 / 1530),
        ("something else", 1.0),
    ],
)
def test_base_clocks_are_found_by_the_drivers_name(name: str, expected: float) -> None:
    assert base_share(name) == pytest.approx(expected)


def test_the_shipped_table_is_whole() -> None:
    data = json.loads(COEFFICIENTS.read_text())
    assert set(data["laws"]) == set(LAWS)
    for name, entry in data["laws"].items():
        assert entry["coefficients"] == [one.name for one in LAWS[name].coefficients]
        assert 0.3 < entry["unseen"][0] < entry["seen"][0] < 1 < entry["seen"][1] < entry["unseen"][1] < 3
    table = _table()
    errors = {name: {"seen": table.seen[name], "unseen": table.unseen[name]} for name in LAWS}
    assert table_json(table.fits, errors, data["source"])["laws"] == data["laws"]


def test_a_table_of_another_form_is_refused(tmp_path: object) -> None:
    path = tmp_path / "table.json"  # type: ignore[operator]
    path.write_text('{"schema": "other"}')
    with pytest.raises(ValueError, match=r"table\.json: schema is 'other'"):
        _table(path)


def test_provenance_tells_what_was_fitted() -> None:
    model = GpuModel()
    assert isinstance(model, CostModel)
    known, unknown = find_device("t4"), find_device("h100-sxm")
    assert model.op(PRODUCT, known).provenance == CALIBRATED
    assert model.op(PRODUCT, unknown).provenance == DATASHEET
    assert model.op(replace(PRODUCT, dtype="float16"), known).provenance == DATASHEET
    assert model.op(replace(POINTWISE, kind="other", problem="no rule"), known).provenance == UNPRICED
    fitted, foretold = model.op(PRODUCT, known), model.op(PRODUCT, unknown)
    assert fitted.low_s < fitted.time_s < fitted.high_s
    assert fitted.high_s / fitted.low_s < foretold.high_s / foretold.low_s


def test_tensor_cores_and_half_the_bytes_make_half_precision_quicker() -> None:
    device = find_device("a100-80gb")
    model = GpuModel()
    assert model.op(replace(PRODUCT, dtype="float16"), device).time_s < 0.4 * model.op(PRODUCT, device).time_s
    assert spec_of(device, "float16").bandwidth == 2 * spec_of(device).bandwidth


def test_engines_that_fuse_move_fewer_bytes() -> None:
    graph = WorkGraph(
        ops=(replace(POINTWISE, elements=2**22),) * 6,
        reads=tuple((Read(producer=i - 1, nbytes=2**24),) for i in range(6)),
        escapes=(*[False] * 5, True),
    )
    device, model = find_device("a100-80gb"), GpuModel()
    eager, inductor = (model.region(graph, device, engine) for engine in ("eager", "inductor"))
    assert inductor.time_s < 0.4 * eager.time_s
    assert model.region(graph, device, "unheard of").time_s == pytest.approx(eager.time_s, rel=0.2)


def test_eager_is_no_quicker_than_its_calls() -> None:
    tiny = replace(POINTWISE, read_bytes=64, write_bytes=64)
    graph = WorkGraph(ops=(tiny,) * 100, reads=((),) * 100, escapes=(True,) * 100)
    estimate = GpuModel().region(graph, find_device("h100-sxm"), "eager")
    assert estimate.time_s >= 100 * 5e-6
    assert estimate.low_s < estimate.time_s < estimate.high_s


def test_views_and_empty_graphs_cost_nothing_and_unknown_hardware_falls_back_to_the_roofline() -> None:
    device, model = find_device("a100-80gb"), GpuModel()
    assert model.op(work("view"), device).time_s == 0
    assert model.region(WorkGraph(ops=(), reads=(), escapes=()), device, "inductor").time_s < 1e-4
    bare = replace(device, processors=0)
    assert model.op(PRODUCT, bare) == model._roofline.op(PRODUCT, bare)
    other = replace(device, bandwidth_bytes_s=2 * device.bandwidth_bytes_s)
    assert model.op(POINTWISE, other).time_s < model.op(POINTWISE, device).time_s


@pytest.mark.parametrize("kind", ["conv", "attention", "softmax", "norm", "gather", "scatter", "sort", "random"])
def test_each_kind_has_a_time(kind: str) -> None:
    sides = {"conv": (8, 64, 64, 1, 3136, 9), "attention": (1, 8, 8, 512, 512, 64, 64), "softmax": (64, 512),
             "norm": (64, 512)}.get(kind, ())  # fmt: skip
    one = work(kind, sides=sides, matmul_flops=10**9, read_bytes=2**22, write_bytes=2**22, gather_bytes=2**20)
    estimate = GpuModel().op(one, find_device("l4"))
    assert 0 < estimate.low_s < estimate.time_s < estimate.high_s < 1
