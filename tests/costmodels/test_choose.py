"""Which model and device price a graph: what is named, what is present, and that a bad profile breaks nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from djinn_fx.costmodels import choose
from djinn_fx.costmodels.choose import Pricing, Surviving, device_of, pricing, topology_of
from djinn_fx.costmodels.estimate import CALIBRATED, DATASHEET, MEASURED, Estimate
from djinn_fx.costmodels.laws.gpu import GpuModel
from djinn_fx.costmodels.learning import Learned
from djinn_fx.costmodels.measured import Timing
from djinn_fx.costmodels.profile import Conditions, Profile, profile_folder, write_profile
from djinn_fx.costmodels.work.work import Work, WorkGraph
from djinn_fx.errors import SettingsError
from djinn_fx.hardware.device import Device
from djinn_fx.reasons import ReasonKind

HERE = Conditions(machine={"model": "mine"}, versions={"torch": "2.13"}, threads=2)
WORK = Work(op="aten.mm", kind="matmul", matmul_flops=10**9, read_bytes=10**6, write_bytes=10**6)
GRAPH = WorkGraph(ops=(WORK,), reads=((),), escapes=(True,))


class Mine:
    """A user's model."""

    name = "mine"

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer or Estimate(time_s=2.0, low_s=1.0, high_s=3.0, provenance=CALIBRATED)

    def op(self, work: Work, device: Device) -> Any:
        return self.answer

    def region(self, graph: WorkGraph, device: Device, engine: str) -> Any:
        return self.answer


class Times:
    """Times that were measured."""

    def time(self, structural_hash: str, engine: str) -> Timing | None:
        return Timing.of([5.0]) if (structural_hash, engine) == ("h", "eager") else None


def kinds(found: Pricing) -> list[ReasonKind]:
    return [reason.kind for reason in found.reasons]


def keep(folder: Path, **changes: Any) -> Path:
    fields: dict[str, Any] = {
        "made": "2026-11-21T10:00:00+00:00",
        "machine": HERE.machine,
        "versions": HERE.versions,
        "threads": (1, 2),
        "noise": {"between": 0.02},
        "samples": 3,
        "fitted": {},
    }
    return write_profile(Profile(**{**fields, **changes}), profile_folder(folder))


def here(tmp_path: Path) -> Pricing:
    return pricing(conditions=lambda: HERE, cache_dir=str(tmp_path))


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any fit makes a model."""
    monkeypatch.setattr(choose, "CalibratedModel", lambda fitted, name, threads: Mine())


# The device


def test_a_named_device_is_taken_without_a_word() -> None:
    found = pricing("datasheet", device="h100-sxm", kind="cpu")
    assert found.device.name == "h100-sxm"
    assert kinds(found) == [ReasonKind.PRICED]


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(SettingsError, match="h1000"):
        pricing(device="h1000")


def test_a_graph_for_a_gpu_that_nobody_named_says_what_it_is_priced_as(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = pricing(kind="cuda")
    assert found.device.kind == "cuda"
    assert kinds(found).count(ReasonKind.ASSUMED) == 1


def test_the_gpu_that_is_present_is_priced_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_gpu_name", lambda: "Tesla T4")
    row, reasons = device_of(None, "cuda")
    assert (row.name, reasons) == ("t4", [])


def test_a_gpu_without_a_row_is_assumed_to_be_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "_gpu_name", lambda: "NVIDIA Unheard Of")
    row, (reason,) = device_of(None, "cuda")
    assert row.kind == "cuda"
    assert reason.kind is ReasonKind.ASSUMED


def test_a_topology_with_one_sort_of_gpu_says_which(tmp_path: Path) -> None:
    row, reasons = device_of(None, "cuda", topology_of("dgx-h100"))
    assert (row.name, reasons) == ("h100-sxm", [])
    file = tmp_path / "djinn.yaml"
    file.write_text("topology:\n  preset: dgx-h100\n")
    assert device_of(None, "cuda", topology_of(str(file)))[0].name == "h100-sxm"


@pytest.mark.parametrize("text", ["dgx-h1000", "nowhere/djinn.yaml"])
def test_a_topology_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=text.rpartition("/")[2]):
        pricing(topology=text)


# The model


def test_without_a_profile_datasheets_price(tmp_path: Path) -> None:
    found = here(tmp_path)
    assert found.profile is None
    assert found.ops([WORK])[0].provenance == DATASHEET
    assert kinds(found) == [ReasonKind.PRICED]


@pytest.mark.usefixtures("fits")
def test_a_fresh_profile_is_used(tmp_path: Path) -> None:
    keep(tmp_path)
    found = here(tmp_path)
    assert found.profile is not None
    assert found.ops([WORK])[0].time_s == 2.0
    assert kinds(found) == [ReasonKind.PRICED]


@pytest.mark.usefixtures("fits")
@pytest.mark.parametrize("changes", [{"machine": {"model": "other"}}, {"versions": {}}, {"threads": (7,)}])
def test_a_stale_profile_is_not_used_and_that_is_said(tmp_path: Path, changes: dict[str, Any]) -> None:
    keep(tmp_path, **changes)
    found = here(tmp_path)
    assert found.profile is None
    assert found.problem is not None
    assert ReasonKind.CACHE_UNUSABLE in kinds(found)


@pytest.mark.usefixtures("fits")
@pytest.mark.parametrize("damage", ["cut", "text", "empty", "checksum"])
def test_a_damaged_profile_is_not_used_and_that_is_said(tmp_path: Path, damage: str) -> None:
    path = keep(tmp_path)
    whole = path.read_text()
    changed = json.dumps({**json.loads(whole), "sha256": "0" * 64})
    path.write_text({"cut": whole[: len(whole) // 2], "text": "hello", "empty": "", "checksum": changed}[damage])
    found = here(tmp_path)
    assert found.profile is None
    assert ReasonKind.CACHE_UNUSABLE in kinds(found)
    assert found.region(GRAPH, "eager").time_s > 0


def test_a_profile_from_which_no_model_can_be_made_is_not_used(tmp_path: Path) -> None:
    keep(tmp_path, fitted={"schema": "another"})
    found = here(tmp_path)
    assert found.profile is None
    assert found.problem is not None
    assert ReasonKind.CACHE_UNUSABLE in kinds(found)


@pytest.mark.usefixtures("fits")
def test_a_new_profile_is_seen_without_a_restart(tmp_path: Path) -> None:
    assert here(tmp_path).profile is None
    keep(tmp_path)
    assert here(tmp_path).profile is not None


@pytest.mark.usefixtures("fits")
def test_this_machines_profile_does_not_price_another_device(tmp_path: Path) -> None:
    keep(tmp_path)
    other = pricing(device="t4", conditions=lambda: HERE, cache_dir=str(tmp_path))
    assert other.profile is None
    plain = pricing("datasheet", conditions=lambda: HERE, cache_dir=str(tmp_path))
    assert plain.profile is None


@pytest.mark.parametrize(
    "answer", [None, ValueError("no"), "text", Estimate(time_s=-1, low_s=0, high_s=1, provenance="x")]
)
def test_a_calibrated_model_that_fails_gives_way_to_datasheets(answer: Any) -> None:
    class Failing(Mine):
        def op(self, work: Work, device: Device) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        region = op  # type: ignore[assignment]

    surviving = Surviving(Failing())
    device = device_of(None, "cpu")[0]
    assert surviving.op(WORK, device).provenance == DATASHEET
    assert surviving.ops([WORK], device)[0].provenance == DATASHEET
    assert surviving.region(GRAPH, device, "eager").provenance == DATASHEET
    assert surviving.failure is not None


@pytest.mark.parametrize(
    "answer",
    [
        3.0,
        "text",
        Estimate(time_s=-1.0, low_s=-2.0, high_s=0.0, provenance="x"),
        Estimate(time_s=float("nan"), low_s=0.0, high_s=1.0, provenance="x"),
        Estimate(time_s=5.0, low_s=0.0, high_s=1.0, provenance="x"),
        Estimate(time_s=1.0, low_s=0.0, high_s=float("inf"), provenance="x"),
    ],
)
def test_a_users_model_that_answers_nonsense_is_one_clear_error(answer: Any) -> None:
    found = pricing(Mine(answer))
    with pytest.raises(SettingsError, match=r"'mine'.*aten\.mm"):
        found.ops([WORK])
    with pytest.raises(SettingsError, match="'mine'"):
        found.region(GRAPH, "eager")


def test_gpus_are_priced_by_their_kernels_laws_and_only_where_datasheets_are_not_asked_for() -> None:
    found = pricing(device="a100-40gb")
    assert found.model.name == GpuModel.name
    assert found.ops([WORK])[0].time_s > 0
    assert found.region(GRAPH, "tensorrt").time_s > 0
    assert found.reasons[-1].kind is ReasonKind.PRICED
    for other in (pricing("datasheet", device="a100-40gb"), pricing(device="xeon-8480")):
        assert other.model.name != GpuModel.name


def test_a_users_model_prices_everything() -> None:
    found = pricing(Mine(), device="t4")
    assert found.ops([WORK]) == [Mine().answer]
    assert found.region(GRAPH, "inductor") == Mine().answer
    assert kinds(found)[-1] is ReasonKind.PRICED


# What was measured and learned


def test_a_measured_time_wins(tmp_path: Path) -> None:
    found = pricing(Mine(), times=Times())
    assert found.region(GRAPH, "eager", "h").provenance == MEASURED
    assert found.region(GRAPH, "eager", "h").time_s == 5.0
    for engine, structural_hash in (("inductor", "h"), ("eager", "other"), ("eager", "")):
        assert found.region(GRAPH, engine, structural_hash).time_s == 2.0


@pytest.mark.usefixtures("fits")
def test_drift_of_a_profile_is_told(tmp_path: Path) -> None:
    keep(tmp_path)
    learned = Learned()
    for _ in range(3):
        learned.observe("eager", {"attention": 1.0}, 1.0, 2.0)
    found = pricing(conditions=lambda: HERE, cache_dir=str(tmp_path), learned=lambda name: learned)
    assert kinds(found).count(ReasonKind.DRIFT) == 1
    plain = pricing("datasheet", learned=lambda name: learned)
    assert ReasonKind.DRIFT not in kinds(plain)
