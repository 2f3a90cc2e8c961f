"""What holds for every test: no network, no settings or cache of the person who runs them, a fresh Dynamo."""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Most tests are of one engine and count its compiles; those of the choice between engines ask for it.
os.environ["DJINN_ENGINE"] = "inductor"
# Fixtures of a module run before the test's own folder is there: they must not see this machine's profile either.
# The configuration folder, with the key by which caches are signed, is one for all tests: caches are shared by some.
os.environ["DJINN_CACHE_DIR"] = tempfile.mkdtemp(prefix="djinn-tests-")
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="djinn-tests-")
for _folder in (os.environ["DJINN_CACHE_DIR"], os.environ["XDG_CONFIG_HOME"]):
    atexit.register(shutil.rmtree, _folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def _own_world(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Settings and disk cache of this test alone, and no compiled code left for the next."""
    for name in list(os.environ):
        if name.startswith("DJINN_"):
            monkeypatch.delenv(name)
    world = tmp_path_factory.mktemp("world")
    monkeypatch.setenv("DJINN_CACHE_DIR", str(world / "cache"))
    monkeypatch.setenv("DJINN_ENGINE", "inductor")
    yield
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None:
        dynamo.reset()
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "is_grad_enabled") and not torch.is_grad_enabled():
        torch.set_grad_enabled(True)  # for the next test
        pytest.fail("gradients were left switched off")


@pytest.fixture(autouse=True, scope="module")
def _what_a_file_leaves_stays() -> Iterator[None]:
    """Modules and caches that a file's tests brought: later collections need not look at them again."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture
def repo() -> Path:
    """The repository's root."""
    return ROOT


def pytest_collection_finish() -> None:
    """What is there by now stays: a garbage collection need not look at half a million objects of libraries again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _dearest_files_first(items: list[pytest.Item]) -> None:
    """By the time they took for bench/results/suite.json: a long one begun last would keep one process alone.

    On the clock, as some wait more than they compute. Those that were not measured come first: they may be long.
    """
    with contextlib.suppress(OSError, ValueError, KeyError):
        files = json.loads((ROOT / "bench" / "results" / "suite.json").read_text("utf-8"))["after"]["files"]
        items.sort(key=lambda item: -files.get(item.nodeid.partition("::")[0], {"wall": math.inf})["wall"])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order for several processes, and skip tests marked ``gpu`` where there is no CUDA device."""
    if hasattr(config, "workerinput"):
        _dearest_files_first(items)
    needing = [item for item in items if item.get_closest_marker("gpu")]
    if needing:
        import torch

        if not torch.cuda.is_available():
            for item in needing:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
