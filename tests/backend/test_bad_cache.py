"""Whatever state the cache folder is in, results are right and nothing is raised."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from djinn_fx.engines.base import Artefact, RegionGraph
from djinn_fx.engines.inductor.engine import InductorEngine
from djinn_fx.reasons import ReasonKind
from tests.backend.support import AT_REPEATS, Noted, djinn, same, stacked


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Inductor's place is taken by something cheap whose artefacts can be stored; lists what it compiled."""
    made: list[str] = []
    graphs: dict[bytes, torch.fx.GraphModule] = {}

    def compile_one(self: InductorEngine, region: RegionGraph, *, alone: bool = False) -> Artefact:
        made.append(region.label)
        payload = f"artefact {region.structural_hash}".encode()
        graphs[payload] = region.gm
        return Artefact(header={"engine": "inductor"}, payload=payload)

    def load(self: InductorEngine, artefact: Artefact) -> Callable[[list[Any]], Any]:
        assert artefact.payload is not None
        module = graphs[bytes(artefact.payload)]

        def run(args: list[Any]) -> Any:
            given = tuple(args)
            args.clear()
            return module(*given)

        return run

    monkeypatch.setattr(InductorEngine, "compile", compile_one)
    monkeypatch.setattr(InductorEngine, "load", load)
    return made


MODULE = stacked(layers=4)
X = torch.randn(5, 6)


def run_once(folder: Path, forget: bool = True) -> Noted:
    """Compile and compare with eager; as a new process would, unless told otherwise."""
    if forget:
        torch.compiler.reset()
    noted = Noted()
    options = {"passes": AT_REPEATS, "expected_calls": 1, "cache_dir": str(folder), "progress": False}
    with torch.no_grad():
        same(djinn(MODULE, options)(X), MODULE(X))
    return noted


def test_normal(tmp_path: Path, compiled: list[str]) -> None:
    assert set(run_once(tmp_path / "cache").outcomes()) == {"built"}
    first = len(compiled)
    assert set(run_once(tmp_path / "cache").outcomes()) <= {"store", "memory"}
    assert len(compiled) == first
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0, "only its owner may read it"


def test_a_file_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("I was here first")
    noted = run_once(tmp_path / "cache")
    assert any(reason.kind is ReasonKind.CACHE_UNUSABLE for reason in noted.reasons())
    assert (tmp_path / "cache").read_text() == "I was here first"


def test_a_parent_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run_once(tmp_path / "file" / "cache")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only(tmp_path: Path) -> None:
    run_once(tmp_path / "cache")
    folders = [tmp_path / "cache", *(path for path in (tmp_path / "cache").rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o500)
    try:
        run_once(tmp_path / "cache")
    finally:
        for folder in folders:
            folder.chmod(0o700)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_parent_is_read_only(tmp_path: Path) -> None:
    (tmp_path / "parent").mkdir(mode=0o500)
    noted = run_once(tmp_path / "parent" / "cache")
    assert any(reason.kind is ReasonKind.CACHE_UNUSABLE for reason in noted.reasons())


def test_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full: every write fails."""

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    run_once(tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(os, "replace", full)
    run_once(tmp_path / "cache")


def test_a_link_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "elsewhere")
    run_once(tmp_path / "cache")
    assert not [path for path in (tmp_path / "elsewhere").rglob("*") if path.is_file()], "the link was followed"


def test_others_may_write_there(tmp_path: Path, compiled: list[str]) -> None:
    """A folder others can write to is not trusted: mended or left unused, but its entries are not loaded blindly."""
    run_once(tmp_path / "cache")
    (tmp_path / "cache").chmod(0o777)
    run_once(tmp_path / "cache")


def test_deleted_while_in_use(tmp_path: Path) -> None:
    run_once(tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache")
    torch._dynamo.reset()
    run_once(tmp_path / "cache", forget=False)
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    assert set(run_once(tmp_path / "cache").outcomes()) == {"built"}


@pytest.mark.parametrize("damage", ["flip", "empty", "short", "garbage", "folder"])
def test_damaged_entries(tmp_path: Path, compiled: list[str], damage: str) -> None:
    run_once(tmp_path / "cache")
    first = len(compiled)
    for path in [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]:
        data = path.read_bytes()
        if damage == "folder":
            path.unlink()
            path.mkdir()
        elif damage == "flip":
            path.write_bytes(bytes(b ^ 0x10 for b in data))
        else:
            path.write_bytes({"empty": b"", "short": data[: len(data) // 2], "garbage": os.urandom(999)}[damage])
    run_once(tmp_path / "cache")
    assert len(compiled) == 2 * first, "what is damaged is built again"
    if damage != "folder":
        assert set(run_once(tmp_path / "cache").outcomes()) <= {"store", "memory"}


def test_tiny_limit(tmp_path: Path) -> None:
    """A limit below one entry's size: everything is evicted, everything still runs."""
    torch.compiler.reset()
    options = {"passes": AT_REPEATS, "expected_calls": 1, "cache_dir": str(tmp_path), "cache_limit": "1B"}
    with torch.no_grad():
        for _ in range(2):
            same(djinn(MODULE, options)(X), MODULE(X))
            torch.compiler.reset()
