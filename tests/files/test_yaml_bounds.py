"""Settings and topologies from files of anybody's: every word means what the setting says, every bound is one error."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from djinn_fx.command_line import read_options
from djinn_fx.errors import SettingsError, UnitError
from djinn_fx.files.yaml_bounds import MAX_BYTES, MAX_VALUES, Loader, checked
from djinn_fx.hardware.importers.astra_sim import from_astra_sim
from djinn_fx.hardware.importers.slurm import expand, from_slurm, read_slurm
from djinn_fx.hardware.rows import read_devices
from djinn_fx.hardware.topology.file import read_topology, topology_from_yaml
from djinn_fx.settings.table import PROJECT_FILE, Settings
from djinn_fx.units import parse_bandwidth, parse_bytes, parse_seconds


def load(folder: Path, text: str) -> Settings:
    (folder / PROJECT_FILE).write_text(text, "utf-8")
    return Settings.load(environ={}, cwd=folder)


# Words that YAML 1.1 takes for something else


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("verify: off", "off"),
        ("verify: Off", "off"),
        ("verify: no", "off"),
        ("verify: false", "off"),
        ("verify: !!bool off", "off"),
        ("verify: 'off'", "off"),
        ("verify: on", None),
        ("verify: 0", None),
        ("verify: ~", None),
        ("verify:", None),
        ("cache_limit: 10", None),
        ("cache_limit: 1e9", None),
        ("cache_limit: 1:30", None),
        ("expected_calls: 1e9", 10**9),
        ("expected_calls: 1_000", 1000),
        ("expected_calls: 0x10", 16),
        ("expected_calls: 1:30", None),
        ("expected_calls: 010", None),
        ("expected_calls: 1.5e0", None),
        ("expected_calls: 1e400", None),
        ("expected_calls: " + "9" * 5000 + "x", None),
        ("expected_calls: yes", None),
        ("expected_calls: '10'", None),
        ("expected_calls: !!int x", None),
        ("max_boundary_share: 5e-2", 0.05),
        ("max_boundary_share: 0:1", None),
        ("max_boundary_share: .nan", None),
        ("regions: auto:5e-2", "auto:5e-2"),
        ("regions: auto:0:1", None),
        ("cache_limit: 0", "0B"),
        ("compile_budget: 60s", "60s"),
        ("compile_budget: none", None.__class__),
        ("compile_budget: 1:30", None),
        ("compile_budget: 60", None),
        ("compile_budget: off", None),
        ("target: none", None.__class__),
        ("target: null", None.__class__),
        ("target: 89", None),
        ("cache: on", True),
        ("cache: 0", False),
        ("cache: null", None),
        ("cache_dir: no", "no"),
        ("cache_dir: 2024-01-01", "2024-01-01"),
        ("cache_dir: 10", "10"),
        ("cache_dir: 1:30", "1:30"),
        ("device: 1e9", "1e9"),
        ("engine: [packed, off]", None),
        ("engine: [packed, openvino]", ("packed", "openvino")),
        ("passes: [on, 10]", ("on", "10")),
        ("passes: [~]", None),
        ("precision: off", None),
        ("cost_model: off", None),
    ],
)
def test_a_word_is_taken_as_the_setting_means_it_or_refused_with_its_place(
    tmp_path: Path, line: str, value: Any
) -> None:
    """``None`` stands for refused, its class for none."""
    if value is None:
        with pytest.raises(SettingsError) as caught:
            load(tmp_path, f"\n{line}\n")
        place = f"{tmp_path / PROJECT_FILE}:2:"
        assert str(caught.value).startswith(place)
        assert "\n" not in str(caught.value)
        return
    found = getattr(load(tmp_path, f"\n{line}\n"), line.partition(":")[0])
    assert found == (None if isinstance(value, type) else value)
    assert isinstance(value, type) or type(found) is type(value)


def test_the_same_words_on_a_command_line_and_in_a_call() -> None:
    assert read_options(["verify=off", "cache_dir=no", "expected_calls=1e3"]) == {
        "verify": "off", "cache_dir": "no", "expected_calls": 1000,
    }  # fmt: skip
    assert Settings.load(options={"verify": False}, environ={}).verify == "off"
    with pytest.raises(SettingsError, match="--option passes"):
        read_options(["passes=" + "[" * 20_000])


@pytest.mark.parametrize("word", ["1:30", "010", "1.5:30", "08"])
def test_no_number_is_counted_in_sixties_or_eights(word: str) -> None:
    assert Loader(word).get_single_data() == word
    with pytest.raises(SettingsError, match=r"djinn\.yaml:1:"):
        topology_from_yaml(f"topology: {{preset: dgx-h100, count: {word}}}")


# Bounds

_DEEP = {
    "lists": "passes: " + "[" * 20_000,
    "lists, closed": "passes: " + "[" * 20_000 + "]" * 20_000,
    "tables": "passes: " + "{a: " * 20_000,
    "blocks": "- " * 20_000,
    "keys": "? " * 20_000,
    "lines": "passes:\n" + "".join(" " * depth + "-\n" for depth in range(1, 300)),
    "in a topology": "topology: " + "[" * 20_000,
}
_MUCH = {
    "values": "passes: [" + "a," * (MAX_VALUES + 1) + "]",
    "bytes": "# " + "x" * MAX_BYTES,
    "aliases": "passes:\n - &a0 [x, x]\n"
    + "".join(f" - &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)),
    "itself": "passes: &a [*a]",
}


@pytest.mark.parametrize("text", [*_DEEP.values(), *_MUCH.values()], ids=[*_DEEP, *_MUCH])
def test_a_settings_file_beyond_the_bounds_is_one_error(tmp_path: Path, text: str) -> None:
    began = time.process_time()
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(str(tmp_path / PROJECT_FILE))
    assert time.process_time() - began < 30, "some tenths of a second; without the bounds it is hours"


@pytest.mark.parametrize("read", [topology_from_yaml, lambda text: from_astra_sim(text, "h100-sxm")])
@pytest.mark.parametrize("text", _DEEP.values(), ids=_DEEP)
def test_so_is_a_topology(read: Any, text: str) -> None:
    with pytest.raises(SettingsError):
        read(text)


def test_without_libyaml_the_bounds_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("djinn_fx.files.yaml_bounds._Base", yaml.SafeLoader)
    for text in _DEEP.values():
        with pytest.raises((SettingsError, yaml.YAMLError)):
            checked(text[:2000], "x.yaml")


@pytest.mark.parametrize("read", [read_topology, read_devices, lambda path: read_slurm(path, "h100-sxm", "upi")])
def test_a_file_that_is_none_or_too_large_does_not_hang(tmp_path: Path, read: Any) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**40)
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "large", "zero", "none"):
        with pytest.raises(SettingsError, match=name):
            read(tmp_path / name)


@pytest.mark.parametrize(
    "nodes", ["t[0-999999999]", "t[0-9999][0-9999]", ",".join(["t[0-99999]"] * 9), "t[" + "9" * 5000 + "]"]
)
def test_a_short_text_does_not_stand_for_millions_of_names(nodes: str) -> None:
    with pytest.raises(SettingsError):
        expand(nodes)


def test_a_long_chain_of_switches() -> None:
    chain = [f"SwitchName=s{n} Switches=s{n + 1}" for n in range(3000)]
    assert len(from_slurm("\n".join([*chain, "SwitchName=s3000 Nodes=a"]), "h100-sxm", "upi").nodes) == 3003
    with pytest.raises(SettingsError, match="s2999 -> s3000 -> s2999"):
        from_slurm("\n".join([*chain, "SwitchName=s3000 Switches=s2999"]), "h100-sxm", "upi")


def test_a_full_mesh_and_a_preset_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("djinn_fx.hardware.topology.builder.MAX_LINKS", 500)
    lists = "npus_count: [40000]\nbandwidth: [50.0]\nlatency: [1.0]\n"
    with pytest.raises(SettingsError, match="500 links"):
        from_astra_sim("topology: [FullyConnected]\n" + lists, "h100-sxm")
    with pytest.raises(SettingsError, match="500 links"):
        topology_from_yaml("topology: {preset: dgx-h100, count: 1000000000}")
    many = ", ".join(["1"] * 100)
    with pytest.raises(SettingsError, match="100 dimensions"):
        from_astra_sim(
            f"topology: [{', '.join(['Ring'] * 100)}]\nnpus_count: [{many}]\nbandwidth: [{many}]\nlatency: [{many}]\n",
            "h100-sxm",
        )


def test_hosts_that_are_like_one_another_for_ever() -> None:
    rows = "".join(f"    h{n}: {{like: h{n - 1}}}\n" for n in range(1, 200))
    with pytest.raises(SettingsError, match="stand for one another"):
        topology_from_yaml("topology:\n  hosts:\n    h0: {cpu: this-machine}\n" + rows)


@pytest.mark.parametrize("text", ["9" * 400 + "PB", "9" * 5000 + "PB"])
def test_quantities_are_finite(text: str) -> None:
    for parse, unit in ((parse_bytes, ""), (parse_bandwidth, "/s")):
        with pytest.raises(UnitError):
            parse(text + unit)
    with pytest.raises(UnitError):
        parse_seconds(text.replace("PB", "h"))
