"""The table of engines: each is given its own options, and no more."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

import djinn_fx
from djinn_fx.costmodels.laws.fusion import POLICIES
from djinn_fx.engines.registry import ENGINES, OPTIONS, engine
from djinn_fx.errors import SettingsError
from djinn_fx.pool.jobs import WORKERS
from djinn_fx.settings.engines import TRAITS
from djinn_fx.settings.table import ENGINE_NAMES, Settings

FOLDER = Path(djinn_fx.__file__).parent / "engines"


def test_it_holds_the_engines_that_the_settings_know() -> None:
    assert set(ENGINES) == set(TRAITS) == set(ENGINE_NAMES)
    assert set(OPTIONS) <= set(ENGINES)


def test_options_are_settings_or_the_cache() -> None:
    named = {name for options in OPTIONS.values() for name in options}
    assert named <= {*Settings.model_fields, "folder", "store", "filed"}


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_is_made_with_its_options(name: str) -> None:
    settings = Settings(cache_limit="0")
    assert engine(name, settings).name == name


def test_what_an_engine_runs_as_one_kernel_is_said() -> None:
    assert set(POLICIES) == set(ENGINES)


@pytest.mark.parametrize("worker", WORKERS)
def test_what_builds_in_a_child_is_there(worker: str) -> None:
    module, _, function = WORKERS[worker].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("name", ENGINES)
def test_the_libraries_of_an_engine_are_an_extra(name: str, repo: Path) -> None:
    """One for each engine whose versions name more than torch."""
    libraries = set(engine(name, Settings(cache_limit="0")).capability().versions) - {"torch"}
    setup = (repo / "setup.py").read_text("utf-8")
    assert not libraries or re.search(rf'^        "{name}": [A-Z]+,$', setup, re.M)


def test_an_engine_that_nobody_knows_is_refused() -> None:
    with pytest.raises(SettingsError, match="unknown engine 'eagr'"):
        engine("eagr", Settings())


def test_only_the_registry_knows_the_settings() -> None:
    knowing = set()
    for path in FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "djinn_fx.settings.table":
                knowing.add(path.relative_to(FOLDER).as_posix())
    assert knowing == {"registry.py"}
