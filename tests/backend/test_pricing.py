"""Cost models through torch.compile: who prices a plan, what calls teach, and that none of it can break a call."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed

import djinn_fx
from djinn_fx.compiling import region_times
from djinn_fx.compiling.captured import CapturedGraph
from djinn_fx.compiling.region_times import Lessons, RegionTimes
from djinn_fx.costmodels.estimate import Estimate
from djinn_fx.costmodels.profile import profile_folder
from djinn_fx.costmodels.work.work import Work, WorkGraph
from djinn_fx.hardware.device import Device
from djinn_fx.reasons import ReasonKind
from djinn_fx.runtime import sampled
from djinn_fx.runtime.sampled import GAP, SAMPLES, WARM
from djinn_fx.settings.table import Settings
from djinn_fx.store.opening import open_store
from tests.backend.support import AT_REPEATS, Noted, djinn, same, stacked

EAGER: dict[str, Any] = {"engine": "eager"}
X = torch.linspace(-1, 1, 12).reshape(2, 6)
BURST = WARM + 1 + GAP * (SAMPLES - 1)


class Mine:
    """A user's model: every op takes a second, every region what its engine's name is long."""

    name = "mine"

    def op(self, work: Work, device: Device) -> Estimate:
        return Estimate(time_s=1.0, low_s=0.5, high_s=2.0, provenance="mine")

    def region(self, graph: WorkGraph, device: Device, engine: str) -> Estimate:
        seconds = float(len(engine))
        return Estimate(time_s=seconds, low_s=seconds / 2, high_s=2 * seconds, provenance="mine")


@pytest.fixture(autouse=True)
def _own_lessons(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(region_times, "_LESSONS", {})
    with torch.no_grad():
        yield


def learned_by(run: Any, times: int = BURST) -> None:
    """So many calls, and what they taught."""
    for _ in range(times):
        run(X)
    for thread in threading.enumerate():
        if thread.name == "djinn learns":
            thread.join(30)


def one_graph(options: dict[str, Any], module: torch.nn.Module, times: int = 1) -> CapturedGraph:
    torch._dynamo.reset()
    noted = Noted()
    run = djinn(module, options)
    same(run(X), module(X))
    learned_by(run, times - 1)
    (graph,) = noted.graphs
    return graph


def known_times(**options: Any) -> RegionTimes:
    settings = Settings.load(options=options)
    return RegionTimes(open_store(settings)[0], settings)


def test_a_users_model_prices_ops_and_regions() -> None:
    graph = one_graph({**EAGER, "cost_model": Mine()}, stacked())
    assert {cost.time_s for node in graph.srg.ops if (cost := graph.srg.record(node).cost)} == {1.0}
    assert [region.cost.time_s for region in graph.plan.regions] == [float(len("eager"))]
    assert {region.cost.provenance for region in graph.plan.regions} == {"mine"}
    assert [reason.kind for reason in graph.reasons].count(ReasonKind.PRICED) == 1


def test_a_users_model_that_raises_is_an_error_that_names_the_pass() -> None:
    class Broken(Mine):
        def op(self, work: Work, device: Device) -> Estimate:
            raise ZeroDivisionError("no")

    with pytest.raises(BackendCompilerFailed, match=r"'estimate-cost' failed with ZeroDivisionError"):
        one_graph({**EAGER, "cost_model": Broken()}, stacked())


@pytest.mark.parametrize(
    ("options", "message"), [({"device": "h1000"}, "h1000"), ({"topology": "dgx-h1000"}, "dgx-h100")]
)
def test_hardware_that_is_none_is_one_clear_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BackendCompilerFailed, match=message):
        one_graph({**EAGER, **options}, stacked())


@pytest.mark.parametrize("text", ["", "{", '{"sha256": "0", "content": {}}'])
def test_a_broken_profile_breaks_nothing_and_is_told(text: str) -> None:
    folder = profile_folder()
    folder.mkdir(parents=True, mode=0o700)
    (folder / "profile.json").write_text(text)
    graph = one_graph(EAGER, stacked())
    assert ReasonKind.CACHE_UNUSABLE in {reason.kind for reason in graph.plan.reasons}


def test_calls_teach_and_the_next_plan_knows_what_its_regions_took() -> None:
    module = stacked()
    first = one_graph(EAGER, module, BURST)
    (region,) = first.plan.regions
    assert region.cost.provenance != "measured"
    known = known_times(**EAGER).time(region.structural_hash, "eager")
    assert known is not None
    assert known.calls == SAMPLES
    again = one_graph(EAGER, module)
    assert again.plan.regions[0].cost.provenance == "measured"
    assert again.plan.regions[0].cost.time_s == known.time_s
    assert again.plan.times[0].provenance == "measured"


def test_regions_that_repeat_teach_together() -> None:
    options = {**EAGER, "passes": AT_REPEATS, "expected_calls": 1}
    graph = one_graph(options, stacked(layers=12), BURST)
    hashes = [region.structural_hash for region in graph.plan.regions]
    repeated = max(hashes, key=hashes.count)
    known = known_times(**EAGER).time(repeated, "eager")
    assert known is not None
    assert known.calls == SAMPLES * hashes.count(repeated) > SAMPLES


def test_lessons_are_kept_for_the_next_process() -> None:
    module = stacked()
    graph = one_graph(EAGER, module, BURST)
    store, _ = open_store(Settings.load(options=EAGER))
    kept = Lessons(store).about(graph.pricing.base.name)
    assert kept.to_json()
    assert {row["engine"] for row in kept.to_json()} == {"eager"}


@pytest.mark.parametrize(
    "options",
    [
        {"cost_model": "calibrated"},
        {"verify": "sample:0.5"},
        {"device": "t4"},
        {"topology": "dgx-h100"},
        {"cost_model": "datasheet"},
        {"cache_limit": "0"},
    ],
)
def test_nothing_is_kept_where_it_is_not_wanted(options: dict[str, Any]) -> None:
    graph = one_graph({**EAGER, **options}, stacked(), BURST)
    assert known_times(**EAGER).time(graph.plan.regions[0].structural_hash, "eager") is None


def test_sizes_that_differ_from_call_to_call_teach_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("djinn_fx.compiling.learning.Sampled", None)
    module = stacked()
    run = djinn(module, EAGER, dynamic=True)
    for rows in (2, 3, 5):
        x = torch.randn(rows, 6)
        same(run(x), module(x))


def test_a_lesson_that_fails_breaks_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(RegionTimes, "note", fails)
    one_graph(EAGER, stacked(), 2 * BURST)


def test_a_trial_teaches_about_all_who_took_part() -> None:
    module = stacked(width=16)
    x = torch.randn(4, 16)
    torch._dynamo.reset()
    noted = Noted()
    options = {"engine": ["packed", "eager"]}
    run = djinn(module, options)
    for _ in range(2000):
        same(run(x), module(x), rtol=1e-4, atol=1e-5)
        if all(one.decided for one in djinn_fx.status(run).contests):
            break
        djinn_fx.wait_until_ready(run)  # times taken beside what is made ready tell nothing
    learned_by(lambda _: None)
    (graph,) = noted.graphs
    (region,) = graph.plan.regions
    known = known_times(engine=("packed", "eager"))
    assert {name for name in ("packed", "eager") if known.time(region.structural_hash, name)}
    assert {one.engine for one in region.times} == {"packed", "eager"}


def test_the_answers_of_timed_calls_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampled, "WARM", 0)
    module = stacked()
    run = djinn(module, {**EAGER, "passes": AT_REPEATS, "expected_calls": 1})
    for _ in range(BURST):
        same(run(X), module(X))


def test_a_topology_in_djinn_yaml_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "djinn.yaml").write_text("topology:\n  preset: dgx-h1000\n")
    with pytest.raises(BackendCompilerFailed, match=r"djinn\.yaml:2:"):
        one_graph(EAGER, stacked())
