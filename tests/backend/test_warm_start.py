"""A second process finds what the first compiled, and never takes what is not its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


class World:
    """Cache folders, and processes that use them."""

    def __init__(self, folder: Path) -> None:
        self.ours, self.torchs = folder / "djinn", folder / "inductor"

    def run(self, *arguments: str, **environment: str) -> dict[str, Any]:
        """What one process reports. Its result must be right, whatever it found."""
        env = {
            **os.environ,
            "DJINN_CACHE_DIR": str(self.ours),
            "TORCHINDUCTOR_CACHE_DIR": str(self.torchs),
            "PYTHONPATH": str(ROOT),
            **environment,
        }
        command = [sys.executable, "-m", "tests.backend.warm", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, timeout=600, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        assert report["right"], "the result is not eager's"
        return report


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Caches that one process has filled."""
    made = World(tmp_path_factory.mktemp("warm"))
    cold = made.run()
    assert cold["outcomes"] == ["built"]
    assert 1 < cold["distinct"] < cold["regions"], cold
    return made


@pytest.fixture
def copy(world: World, tmp_path: Path) -> World:
    """A copy of those caches, to be spoilt."""
    shutil.copytree(world.ours, tmp_path / "djinn")
    shutil.copytree(world.torchs, tmp_path / "inductor")
    return World(tmp_path)


def test_second_process_builds_nothing(world: World) -> None:
    """Not even when its weights are other ones: an artefact holds none."""
    warm = world.run("--scale", "0.5")
    assert warm["whole_graph_hits"] == 1
    assert warm["graphs"] == 0


def test_more_layers_use_the_layers_artefact(world: World) -> None:
    """Another model, of which only the number of layers is different: its regions are all there."""
    report = world.run("--layers", "7")
    assert report["graphs"] == 1
    assert report["outcomes"] == ["store"]


def test_torchs_cache_is_gone(copy: World) -> None:
    """Then torch's copy of the whole graph is gone; the regions come from ours."""
    shutil.rmtree(copy.torchs)
    report = copy.run()
    assert report["outcomes"] == ["store"]
    assert report["whole_graph_hits"] == 0


def test_our_cache_is_gone(copy: World) -> None:
    """Then torch finds the whole graph but not its regions: it is compiled anew."""
    shutil.rmtree(copy.ours)
    assert copy.run()["outcomes"] == ["built"]


@pytest.mark.exam  # test_bad_cache.py does as much in one process
def test_every_entry_is_spoilt(copy: World) -> None:
    spoilt = 0
    for path in copy.ours.rglob("*"):
        if path.is_file() and path.stat().st_size > 200:
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 0xFF
            path.write_bytes(data)
            spoilt += 1
    assert spoilt
    assert copy.run()["outcomes"] == ["built"]


def test_other_options_and_training_do_not_mix(world: World) -> None:
    """Each is compiled for itself, with the caches of all the others in reach."""
    assert world.run("--options", '{"regions": "whole"}', "--layers", "2")["regions"] == 1
    assert world.run("--train", "--layers", "2")["graphs"] == 2
    assert world.run()["graphs"] == 0


@pytest.mark.exam  # dispatch/test_build.py does as much in one process
def test_cache_switched_off(world: World) -> None:
    assert world.run("--options", '{"cache_limit": "0"}')["outcomes"] == ["built"]
