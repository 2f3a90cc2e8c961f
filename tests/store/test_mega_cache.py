"""Artefacts in torch's portable cache: only if asked for, verified on arrival, never the end of the others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.compiler._cache import CacheArtifactManager

from djinn_fx import backend
from djinn_fx.settings.table import Settings
from djinn_fx.store.format import encode
from djinn_fx.store.mega_cache import KIND, DjinnCacheArtifact
from djinn_fx.store.opening import open_store
from djinn_fx.store.store import Store

KEY = "ab" * 32


@pytest.fixture(autouse=True)
def _fresh_bundle() -> object:
    with CacheArtifactManager.with_fresh_cache():
        yield


def _bundle(folder: Path, count: int = 2) -> bytes:
    store, _ = open_store(Settings(cache_dir=str(folder), mega_cache=True))
    assert store is not None
    for number in range(count):
        assert store.put(f"{number:064x}", {"engine": "none"}, b"payload %d" % number)
    saved = torch.compiler.save_cache_artifacts()
    assert saved is not None
    return saved[0]


def test_a_store_records_only_if_it_is_asked_to(tmp_path: Path) -> None:
    for asked in (False, True):
        store, _ = open_store(Settings(cache_dir=str(tmp_path), mega_cache=asked))
        assert store is not None
        store.put(KEY, {"engine": "none"}, b"payload")
        store.get(KEY)
        saved = torch.compiler.save_cache_artifacts()
        assert (saved is not None) == asked
    assert saved is not None
    assert saved[1].artifacts[KIND] == [KEY]


def test_what_is_read_from_the_cache_is_recorded_too(tmp_path: Path) -> None:
    Store(tmp_path).put(KEY, {"engine": "none"}, b"payload")
    store, _ = open_store(Settings(cache_dir=str(tmp_path), mega_cache=True))
    assert store is not None
    assert store.get(KEY) is not None
    saved = torch.compiler.save_cache_artifacts()
    assert saved is not None
    assert saved[1].artifacts[KIND] == [KEY]


def test_a_bundle_fills_the_cache_that_the_settings_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = _bundle(tmp_path / "here")
    monkeypatch.setenv("DJINN_CACHE_DIR", str(tmp_path / "there"))
    info = torch.compiler.load_cache_artifacts(bundle)
    assert info is not None
    assert len(info.artifacts[KIND]) == 2
    entry = Store(tmp_path / "there").get(f"{1:064x}")
    assert entry is not None
    assert (entry.header, entry.payload) == ({"engine": "none"}, b"payload 1")


def test_a_damaged_artefact_is_left_out_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJINN_CACHE_DIR", str(tmp_path / "there"))
    whole = [b"".join(encode(f"{number:064x}", {"engine": "none"}, b"payload")) for number in range(3)]
    whole[0] = whole[0][:-1] + b"?"
    whole[1] = whole[1][:20]
    for number, content in enumerate(whole):
        CacheArtifactManager.record_artifact(KIND, f"{number:064x}", content)
    saved = torch.compiler.save_cache_artifacts()
    assert saved is not None
    assert torch.compiler.load_cache_artifacts(saved[0]) is not None
    store = Store(tmp_path / "there")
    assert [entry.key for entry in store.entries()] == [f"{2:064x}"]


def test_what_is_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = _bundle(tmp_path / "here", 1)
    monkeypatch.setenv("DJINN_CACHE_DIR", str(tmp_path / "there"))
    Store(tmp_path / "there").put(f"{0:064x}", {"engine": "none"}, b"mine")
    torch.compiler.load_cache_artifacts(bundle)
    entry = Store(tmp_path / "there").get(f"{0:064x}")
    assert entry is not None
    assert entry.payload == b"mine"


def test_a_key_that_is_none_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJINN_CACHE_DIR", str(tmp_path / "there"))
    for key in ("../../escape", "", "ABC"):
        DjinnCacheArtifact(key, b"anything").populate_cache()
    assert not (tmp_path / "there").exists()


@pytest.mark.slow
def test_a_model_compiled_elsewhere_is_not_compiled_again(
    tmp_path: Path, repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    options = {"engine": "inductor", "mega_cache": True, "cache_dir": str(tmp_path / "here")}
    with torch.no_grad():
        torch.compile(torch.nn.Linear(8, 8), backend="djinn", options=options)(torch.randn(2, 8))
    saved = torch.compiler.save_cache_artifacts()
    assert saved is not None
    assert saved[1].artifacts[KIND]
    (tmp_path / "bundle").write_bytes(saved[0])
    code = f"""
import sys, torch, djinn_fx.store.mega_cache
from djinn_fx import backend
torch.compiler.load_cache_artifacts(open({str(tmp_path / "bundle")!r}, "rb").read())
with torch.no_grad():
    torch.compile(torch.nn.Linear(8, 8), backend="djinn", options={{"engine": "inductor"}})(torch.randn(2, 8))
print([build.outcome for graph in backend.compilations() for build in graph.builds])
"""
    environ = {"DJINN_CACHE_DIR": str(tmp_path / "there"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor2")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=repo, env={**os.environ, **environ}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # The graph is torch's own to find, the region ours: neither is built.
    assert done.stdout.strip() in ("[]", "['store']")
    backend.reset()
