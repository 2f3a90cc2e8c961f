"""Devices, links and pins as settings: what they read as, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from djinn_fx.errors import SettingsError
from djinn_fx.settings.devices import CudaDevice, DeclaredLink, LocalDevice, Pin
from djinn_fx.settings.table import PROJECT_FILE, Settings

CORES = sorted(os.sched_getaffinity(0))[:2]
pytestmark = pytest.mark.skipif(len(CORES) < 2, reason="needs two processors")


def load(options: Any = None, environ: dict[str, str] | None = None, cwd: Path | None = None) -> Settings:
    return Settings.load(None, options, environ=environ or {}, cwd=cwd)


def two(**first: Any) -> dict[str, Any]:
    return {"cpu:0": {"cores": [CORES[0]], **first}, "cpu:1": {"cores": [CORES[1]]}}


def test_devices_links_and_pins_are_read() -> None:
    options = {
        "devices": two(memory="4GB"),
        "links": {"cpu:0-cpu:1": {"bandwidth": "1GB/s", "latency": "10us"}},
        "pin": {"model.layers.0-11": "cpu:0"},
        "device_map": {"": 1, "lm_head": "cpu:0"},
    }
    settings = load(options)
    assert settings.devices == (
        LocalDevice(name="cpu:0", cores=(CORES[0],), memory_bytes=4 * 10**9),
        LocalDevice(name="cpu:1", cores=(CORES[1],)),
    )
    assert settings.links == (
        DeclaredLink(ends=("cpu:0", "cpu:1"), bandwidth_bytes_s=1e9, latency_s=pytest.approx(1e-5)),
    )
    assert settings.pins == (
        Pin(module="model.layers.0-11", device="cpu:0"),
        Pin(module="", device="cpu:1", written="device_map"),
        Pin(module="lm_head", device="cpu:0", written="device_map"),
    )


def test_a_file_says_the_same(tmp_path: Path) -> None:
    (tmp_path / PROJECT_FILE).write_text(
        f"""
devices:
  cpu:0: {{cores: [{CORES[0]}], memory: 4GB}}
  cpu:1: {{cores: [{CORES[1]}]}}
links:
  cpu:0-cpu:1: {{bandwidth: 1GB/s, latency: 10us}}
pin:
  model.layers.0-11: cpu:0
device_map: auto
""",
        "utf-8",
    )
    settings = load(cwd=tmp_path)
    assert settings.devices == load({"devices": two(memory="4GB")}).devices
    assert [link.ends for link in settings.links] == [("cpu:0", "cpu:1")]
    assert settings.pins == (Pin(module="model.layers.0-11", device="cpu:0"),)
    assert settings.device_map is None


def test_so_does_the_environment() -> None:
    text = f"{{cpu:0: {{cores: [{CORES[0]}]}}}}"
    assert load(environ={"DJINN_DEVICES": text}).devices == (LocalDevice(name="cpu:0", cores=(CORES[0],)),)


def test_they_are_kept_as_json_and_change_what_is_compiled() -> None:
    settings = load({"devices": two(), "pin": {"a": "cpu:1"}})
    kept = json.loads(json.dumps(settings.model_dump(mode="json", exclude={"passes"})))
    assert Settings(**kept) == settings
    others = [load(), load({"devices": two()}), load({"devices": two(memory="4GB")}), settings]
    assert len({one.digest() for one in others}) == len(others)


def test_cuda_devices_are_named_whether_or_not_they_are_here() -> None:
    settings = load({"devices": {"cuda:0": {"memory": "40GB"}, "cuda:1": {}}, "pin": {"a": "cuda:1"}})
    assert settings.devices == (CudaDevice(name="cuda:0", memory_bytes=40 * 10**9), CudaDevice(name="cuda:1"))
    assert [device.index for device in settings.devices] == [0, 1]
    kept = json.loads(json.dumps(settings.model_dump(mode="json", exclude={"passes"})))
    assert Settings(**kept) == settings
    assert load(environ={"DJINN_DEVICES": "{cuda:1: {}}"}).devices == (CudaDevice(name="cuda:1"),)
    assert load({"devices": {"cuda:0": {}}}).digest() != load({"devices": {"cuda:1": {}}}).digest()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"devices": {"cuda:0": {}, **two()}}, "not both"),
        ({"devices": {"cuda:0": {"cores": [0]}}}, "memory"),
        ({"devices": {"cuda:0": {"memory": "4"}}}, "unit"),
        ({"devices": {"cuda": {}}}, "cuda:0"),
        ({"devices": {"cuda:00": {}}}, "cuda:0"),
        ({"devices": {"cuda:0": {}}, "pin": {"a": "cuda:1"}}, "cuda:0"),
        ({"devices": {"cuda:0": {}, "cuda:1": {}}, "links": {"cuda:0-cuda:1": {"bandwidth": "1GB/s"}}}, "own"),
        ({"devices": {"cpu:0": {"cores": [4095]}}}, "4095"),
        ({"devices": {"cpu:0": {"cores": [CORES[0]]}, "cpu:1": {"cores": [CORES[0]]}}}, "cpu:1"),
        ({"devices": {"cpu:0": {"cores": [CORES[0], CORES[0]]}}}, "twice"),
        ({"devices": {"cpu:0": {"cores": []}}}, "cores"),
        ({"devices": {"cpu:0": {"cores": [True]}}}, "cores"),
        ({"devices": {"cpu:0": {}}}, "cores"),
        ({"devices": {}}, "at least one"),
        ({"devices": {"gpu": {"cores": [CORES[0]]}}}, "gpu"),
        ({"devices": two(memory="4")}, "unit"),
        ({"devices": two(memory=4)}, "unit"),
        ({"devices": two(memry="4GB")}, "memory"),
        ({"devices": two(), "pin": {"a": "cpu:11"}}, "cpu:1"),
        ({"devices": two(), "device_map": {"a": 2}}, "cpu:0, cpu:1"),
        ({"devices": two(), "device_map": "balanced"}, "table"),
        ({"pin": {"a": "cpu:0"}}, "devices"),
        ({"devices": two(), "links": {"cpu:0-cpu:2": {"bandwidth": "1GB/s"}}}, "cpu:2"),
        ({"devices": two(), "links": {"cpu:0-cpu:0": {"bandwidth": "1GB/s"}}}, "itself"),
        ({"devices": two(), "links": {"cpu:0": {"bandwidth": "1GB/s"}}}, "hyphen"),
        ({"devices": two(), "links": {"cpu:0-cpu:1": {"latency": "1us"}}}, "bandwidth"),
        ({"devices": two(), "links": {"cpu:0-cpu:1": {"bandwidth": "1GB"}}}, "1GB"),
        ({"devices": two(), "objective": "speed"}, "throughput"),
    ],
)
def test_what_is_wrong_is_one_clear_error(options: Any, word: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(options)
    assert word in str(caught.value)
    assert str(caught.value).count("\n") == 0
