"""Pins: which modules a path means, what goes before what, and what is refused."""

from __future__ import annotations

import pytest

from djinn_fx.errors import SettingsError
from djinn_fx.passes.placing.pins import Pins, dotted
from djinn_fx.settings.devices import Pin

MODULES = ["", "model", "model.embed", "model.layers", *(f"model.layers.{n}" for n in range(12)), "model.layers.3.mlp"]


def pins(**devices: str) -> Pins:
    return Pins([Pin(module=module, device=device) for module, device in devices.items()])


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("L['self'].model.layers.0.fc", "model.layers.0.fc"),
        ("L['self'].model.layers[0].fc", "model.layers.0.fc"),
        ("L['self']._modules['model']._modules['layers']._modules['0']", "model.layers.0"),
        ("L['fn'].d['a']", "d.a"),
        ("L['args'][0].model.layers[3].mlp", "model.layers.3.mlp"),
        ("L['self']", ""),
        ("model.layers.0", "model.layers.0"),
    ],
)
def test_paths_are_those_of_named_modules(source: str, path: str) -> None:
    assert dotted(source) == path


def test_a_range_means_its_numbers_and_all_that_is_below() -> None:
    found = pins(**{"model.layers.2-10": "cpu:0"})
    named = [name for name in MODULES if found.of(name) is not None]
    assert named == [*(f"model.layers.{n}" for n in range(2, 11)), "model.layers.3.mlp"]


def test_a_name_is_not_the_beginning_of_another() -> None:
    assert pins(**{"model.layers.1": "cpu:0"}).of("model.layers.11") is None


def test_a_longer_path_goes_before_a_shorter_one() -> None:
    found = pins(**{"": "cpu:0", "model.layers": "cpu:1", "model.layers.3": "cpu:2"})
    devices = [found.of(name) for name in ("", "model.embed", "model.layers.2", "model.layers.3.mlp")]
    assert [one.device for one in devices if one is not None] == ["cpu:0", "cpu:0", "cpu:1", "cpu:2"]


def test_two_that_contradict_each_other_are_refused() -> None:
    found = pins(**{"model.layers.0-5": "cpu:0", "model.layers.5-9": "cpu:1"})
    assert found.of("model.layers.4") is not None
    with pytest.raises(SettingsError) as caught:
        found.of("model.layers.5.mlp")
    for word in ("model.layers.5 ", "model.layers.0-5", "cpu:0", "model.layers.5-9", "cpu:1"):
        assert word in str(caught.value)
    with pytest.raises(SettingsError, match="contradict"):
        found.check(MODULES)


def test_two_that_say_the_same_do_not_contradict_each_other() -> None:
    found = pins(**{"model.layers.0-5": "cpu:0", "model.layers.5-9": "cpu:0"})
    found.check(MODULES)
    assert found.of("model.layers.5") is not None


@pytest.mark.parametrize(
    ("path", "nearest"),
    [("model.layer.3", "model.layers.3"), ("model.embd", "model.embed"), ("model.layer.0-11", "model.layers.0-11")],
)
def test_an_unknown_module_is_told_the_nearest(path: str, nearest: str) -> None:
    with pytest.raises(SettingsError) as caught:
        pins(**{path: "cpu:0"}).check(MODULES)
    assert path in str(caught.value)
    assert nearest in str(caught.value)


def test_one_that_is_like_none_is_told_what_there_is() -> None:
    with pytest.raises(SettingsError, match="it has model"):
        pins(**{"transformer.h.0": "cpu:0"}).check(MODULES)
