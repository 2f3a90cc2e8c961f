"""The command ``djinn repro``: a wrong answer is written down, read again, run, and found again; bad directories."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from djinn_fx.cli.main import main
from djinn_fx.engines import registry
from djinn_fx.engines.base import Artefact, Capability, RegionGraph
from djinn_fx.errors import EngineError, StoreError
from djinn_fx.guard.repro import write as reproducer
from djinn_fx.guard.repro.read import read
from djinn_fx.guard.repro.write import FOLDER, Reproducer
from djinn_fx.settings.table import Settings
from tests.guard.faulty import arguments, beside, eager, layer, region_of


@dataclass
class BadEngine:
    """Adds something to the first result; its artefact's payload says how much."""

    error: float = 1.0
    versions: str = "1"
    loads: list[bytes] = field(default_factory=list)
    fails: bool = False
    name: str = "bad"

    def capability(self) -> Capability:
        return Capability(can_build=True, can_run=True)

    def supports(self, region: RegionGraph) -> None:
        return None

    def fingerprint(self) -> dict[str, str]:
        return {"engine": "bad", "version": self.versions}

    def compile(self, region: RegionGraph, *, alone: bool = False) -> Artefact:
        if self.fails:
            raise EngineError("bad: no")
        return Artefact(header={}, payload=None, ready=self.callable(region, self.error))

    def load(self, artefact: Artefact) -> Any:
        assert artefact.payload is not None
        self.loads.append(artefact.payload)
        region = layer_region()
        return self.callable(region, float(artefact.payload))

    def callable(self, region: RegionGraph, error: float) -> Callable[[list[Any]], Sequence[Any]]:
        own = eager(region)

        def run(args: list[Any]) -> Sequence[Any]:
            results = list(own(args))
            results[0].add_(error)
            return results

        return run


def layer_region(symbolic: bool = False) -> RegionGraph:
    return region_of(layer, *arguments(), symbolic=symbolic)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> BadEngine:
    made = BadEngine()
    real = registry.engine

    def look_up(name: str, settings: Settings) -> Any:
        return made if name == "bad" else real(name, settings)

    monkeypatch.setitem(registry.ENGINES, "bad", "tests:none")
    monkeypatch.setattr("djinn_fx.guard.repro.replay.engine", look_up)
    return made


def writer(region: RegionGraph, root: Path, **others: Any) -> Reproducer:
    return Reproducer(
        region=region,
        engine="bad",
        fingerprint={"engine": "bad", "version": "1"},
        settings=Settings(),
        root=root,
        **others,
    )


@pytest.fixture
def folder(tmp_path: Path, engine: BadEngine) -> Path:
    """As a guarded region writes it."""
    region = layer_region()
    entry = Artefact(header={"made": "by bad"}, payload=b"0.5")
    one = beside(region, engine.compile(region).ready, mutated=(2,))
    one.guard._reproduce = writer(region, tmp_path / "cache", artefact=lambda: entry)
    one.guard(arguments())
    (made,) = (tmp_path / "cache" / FOLDER).iterdir()
    assert str(made) in one.reasons[0].detail
    return made


def repro(capsys: pytest.CaptureFixture[str], *words: Any) -> tuple[int, str, str]:
    code = main(["repro", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out, err


class TestAgain:
    def test_a_wrong_answer_is_seen_again(
        self, folder: Path, engine: BadEngine, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code, out, err = repro(capsys, folder)
        assert (code, err) == (1, "")
        rows = {line.split("  ")[0]: line for line in out.splitlines()}
        assert rows["result 0"].endswith("NO")
        assert rows["argument 2"].endswith("yes")
        assert "1 (" in rows["result 0"]  # the error the engine makes
        assert engine.loads == []

    def test_a_mended_engine_agrees(self, folder: Path, engine: BadEngine, capsys: pytest.CaptureFixture[str]) -> None:
        engine.error, engine.versions = 0.0, "2"
        code, out, _ = repro(capsys, folder)
        assert code == 0
        assert "version: was 1, is 2" in out

    def test_the_stored_artefact_runs_only_when_asked_for(
        self, folder: Path, engine: BadEngine, capsys: pytest.CaptureFixture[str]
    ) -> None:
        engine.error = 0.0
        code, out, _ = repro(capsys, folder, "--use-payload")
        assert (code, engine.loads) == (1, [b"0.5"])
        assert "0.5 (" in out

    def test_an_engine_that_fails(self, folder: Path, engine: BadEngine, capsys: pytest.CaptureFixture[str]) -> None:
        engine.fails = True
        code, out, _ = repro(capsys, folder)
        assert code == 1
        assert "bad: no" in out

    def test_the_readme_tells_the_command(self, folder: Path) -> None:
        assert f"djinn repro {folder}" in (folder / "README.txt").read_text()

    def test_only_the_user_can_read_it(self, folder: Path) -> None:
        if os.name != "posix":
            pytest.skip("no modes here")
        for path in (folder.parent, folder, *folder.rglob("*")):
            assert not stat.S_IMODE(path.lstat().st_mode) & 0o077, path

    def test_with_a_real_engine(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        region = region_of(lambda x: torch.relu(x) * 2, torch.randn(4, 3))
        made = Reproducer(region=region, engine="eager", fingerprint={}, settings=Settings(), root=tmp_path)(
            [torch.randn(4, 3)], [], [], "nothing"
        )
        assert made is not None
        assert repro(capsys, made)[0] == 0


class TestArguments:
    def test_every_type_comes_back_bit_for_bit(self, tmp_path: Path) -> None:
        types = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
        types += [torch.complex64, torch.float8_e4m3fn]
        args = [torch.randn(5, 4).mul(3).to(dtype) for dtype in types]
        args[1][0] = torch.tensor([float("nan"), float("inf"), -0.0, 1e-42])
        region = region_of(lambda *given: [one.clone() for one in given], *args)
        made = writer(region, tmp_path)(args, [], [], "why")
        assert made is not None
        for mine, other in zip(read(made).arguments(), args, strict=True):
            assert mine.dtype is other.dtype
            assert torch.equal(mine.view(torch.uint8), other.view(torch.uint8))

    def test_strides_expansion_and_shared_memory(self, tmp_path: Path) -> None:
        base = torch.randn(40)
        args = [
            base.as_strided((3, 4), (1, 5), 7),
            base[2:20].view(3, 6),
            torch.randn(3, 1).expand(3, 4),
            torch.randn(()),
            torch.randn(0, 4),
        ]
        region = region_of(lambda *given: [one * 2 for one in given], *args)
        made = writer(region, tmp_path)(args, [], [], "why")
        assert made is not None
        got = read(made).arguments()
        for mine, other in zip(got, args, strict=True):
            assert torch.equal(mine, other)
            assert mine.stride() == other.stride()
        got[0][0, 0] = 77.0  # base[7] is element 5 of the other view
        assert got[1].view(-1)[5] == 77.0

    def test_numbers(self, tmp_path: Path) -> None:
        region = layer_region(symbolic=True)
        sizes = len(region.example_inputs) - 3
        args = [*([6] * sizes), *arguments(6)]
        made = writer(region, tmp_path)(args, [], [], "why")
        assert made is not None
        assert read(made).arguments()[:sizes] == [6] * sizes


class TestBounds:
    def test_large_weights_are_replaced_and_it_is_said(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], engine: BadEngine
    ) -> None:
        monkeypatch.setattr(reproducer, "MAX_DIRECTORY_BYTES", 20_000)
        region = region_of(lambda x, w: x @ w, torch.randn(4, 100), torch.randn(100, 100))
        args = [torch.randn(4, 100), torch.randn(100, 100) * 3 + 1]
        made = writer(region, tmp_path)(args, [], [], "why")
        assert made is not None
        assert "too large" in (made / "README.txt").read_text()
        x, w = read(made).arguments()
        assert torch.equal(x, args[0])
        assert abs(float(w.mean()) - 1) < 0.2
        assert abs(float(w.std()) - 3) < 0.2
        assert repro(capsys, made)[0] == 1

    def test_what_does_not_fit_at_all_is_not_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reproducer, "MAX_DIRECTORY_BYTES", 100)
        region = region_of(lambda i: i + 1, torch.arange(100))
        assert writer(region, tmp_path)([torch.arange(100)], [], [], "why") is None

    def test_the_oldest_directories_go_and_nobody_elses_files(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        region = layer_region()
        home = tmp_path / FOLDER
        one = writer(region, tmp_path)
        stamps = iter(range(10))
        monkeypatch.setattr(reproducer.time, "strftime", lambda *_: f"20261121-00000{next(stamps)}")
        first = one(arguments(), [], [], "why")
        (home / "mine").mkdir()
        made = [one(arguments(), [], [], "why") for _ in range(9)]
        assert first is not None
        assert not first.exists()
        left = sorted(path.name for path in home.iterdir())
        assert left == sorted(["mine", *(path.name for path in made[-8:] if path is not None)])

    def test_bytes_together(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        one = writer(layer_region(), tmp_path)
        first = one(arguments(), [], [], "why")
        assert first is not None
        size = sum(path.lstat().st_size for path in first.rglob("*"))
        monkeypatch.setattr(reproducer, "MAX_BYTES", int(2.5 * size))
        for _ in range(3):
            one(arguments(), [], [], "why")
        assert len(list((tmp_path / FOLDER).iterdir())) == 2

    def test_without_a_cache_nothing_is_written(self) -> None:
        from dataclasses import replace

        assert replace(writer(layer_region(), Path("x")), root=None)(arguments(), [], [], "why") is None

    def test_a_folder_that_cannot_be_used_costs_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        assert writer(layer_region(), tmp_path / "file")(arguments(), [], [], "why") is None


def change(folder: Path, *path: Any, to: Any) -> None:
    """Change one value of region.json."""
    data = json.loads((folder / "region.json").read_text())
    inner = data
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = to
    (folder / "region.json").write_text(json.dumps(data))


#: In the place of the 4 x 8 argument of a region whose sizes are symbols.
LARGE = {
    "kind": "tensor", "dtype": "float32", "device": "cpu", "shape": [2**20, 2**20], "offset": 0, "storage": 0,
    "drawn": {"seed": 0, "mean": 0.0, "std": 1.0, "low": -1.0, "high": 1.0},
}  # fmt: skip


class TestBadDirectories:
    def check(self, capsys: pytest.CaptureFixture[str], *words: Any) -> str:
        code, out, err = repro(capsys, *words)
        assert code == 2
        assert err.startswith("djinn: ")
        assert err.count("\n") == 1
        assert "Traceback" not in out + err
        return err

    def test_none(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert str(tmp_path / "no") in self.check(capsys, tmp_path / "no")
        assert "region.json" in self.check(capsys, tmp_path)

    @pytest.mark.parametrize(
        ("path", "to"),
        [
            (("version",), 2),
            (("engine",), "../x"),
            (("engine",), "unheard-of"),
            (("more",), 1),
            (("inputs", 0, "shape"), [4, 9]),
            (("inputs", 0, "shape"), [-4, 8]),
            (("inputs", 0, "strides"), [-8, 1]),
            (("inputs", 0, "strides"), [2**50, 1]),
            (("inputs", 0), {**LARGE, "strides": [1, 1]}),  # many elements in little memory
            (("inputs", 0, "dtype"), "float64"),
            (("inputs", 0, "dtype"), "load"),
            (("inputs", 0, "offset"), 2**40),
            (("inputs", 0, "device"), "cuda:7"),
            (("inputs", 0, "device"), "meta"),
            (("inputs", 0, "device"), "../x"),
            (("inputs", 0), {"kind": "number", "type": "int", "text": "__import__('os')"}),
            (("inputs",), []),
            (("mutated",), [77]),
            (("mutated",), [-1]),
            (("hints",), [[3, None]]),
            (("settings", "mode"), "sideways"),
            (("threads",), 0),
            (("form",), {}),
            (("form", "ops"), [["aten.save.default", ["list", "x"], ["dict"], []]]),
            (("form", "ops", 0, 0), "aten.from_file.default"),
            (("form", "ops", 0, 0), "prim.Print.default"),
            (("form", "ops", 0, 0), "profiler._record_function_enter.default"),
            (("form", "ops", 0, 0), "aten.no_such_op.default"),
            (("form", "ops", 0, 1), ["list", ["%", 99]]),
            (("form", "ops", 0), 7),
        ],
    )
    def test_a_changed_value(
        self, folder: Path, path: Sequence[Any], to: Any, capsys: pytest.CaptureFixture[str]
    ) -> None:
        change(folder, *path, to=to)
        self.check(capsys, folder)

    @pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000])
    def test_no_json(self, folder: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "region.json").write_bytes(content)
        self.check(capsys, folder)

    def test_arrays(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = folder / "inputs" / "0.npy"
        whole = path.read_bytes()
        claims_much = whole.replace(b"(4, 8)", b"(4, 8)"[:1] + b"4, 9)", 1)
        for content in (b"", whole[:-1], whole + b"x", whole[:40], claims_much, b"PK" + whole):
            path.write_bytes(content)
            assert "0.npy" in self.check(capsys, folder)
        np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
        self.check(capsys, folder)
        path.unlink()
        self.check(capsys, folder)
        path.symlink_to(folder / "inputs" / "1.npy")
        assert "link" in self.check(capsys, folder)

    def test_no_payload(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "payload.bin").unlink()
        assert "payload.bin" in self.check(capsys, folder, "--use-payload")
        change(folder, "payload", to=False)
        assert "without --use-payload" in self.check(capsys, folder, "--use-payload")

    def test_an_engine_that_is_not_here(
        self, folder: Path, engine: BadEngine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        nowhere = Capability(can_build=False, can_run=False, why_not="pip install bad")
        monkeypatch.setattr(engine, "capability", lambda: nowhere)
        assert "pip install bad" in self.check(capsys, folder)

    def test_text_in_it_does_not_reach_the_terminal(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        change(folder, "label", to="x\x1b[2J")
        _, out, _ = repro(capsys, folder)
        assert "\x1b" not in out

    def test_a_copy_elsewhere_is_as_good(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.copytree(folder, tmp_path / "a copy")
        assert repro(capsys, tmp_path / "a copy")[0] == 1

    def test_reading_raises_what_is_shown(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError):
            read(tmp_path)
