"""``djinn build``: what it prints and keeps, and its exit codes. Plans are built for real and run nowhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from djinn_fx.cli.main import main
from djinn_fx.engines.tensorrt.run.calling import Calling
from djinn_fx.store.store import Store

pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")

MODEL = """
import torch
from torch import nn

class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down, self.norm = nn.Linear(16, 32), nn.Linear(32, 16), nn.LayerNorm(16)
    def forward(self, x):
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))

def get_model():
    return nn.Sequential(*(Layer() for _ in range(3)))

def get_inputs():
    return (torch.randn(4, 16),)
"""
REFUSED = """
import torch

def model(x):
    return torch.rand_like(x) + x

def get_inputs():
    return (torch.randn(4),)
"""


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return str(path)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("DJINN_CACHE_DIR", str(tmp_path / "cache"))
    return Store(tmp_path / "cache")


def build(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, str | int]]:
    """The exit code, and the only region's outcome."""
    code = main(["build", *words, "--json", "-"])
    (region,) = json.loads(capsys.readouterr().out)["regions"]
    return code, region


def test_builds_once_and_then_finds_it(model: str, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    code, region = build(capsys, model, "--target", "sm89")
    assert (code, region["state"]) == (0, "built")
    (entry,) = store.entries()
    assert entry.key == region["key"]
    assert entry.header["engine"] == "tensorrt"
    assert entry.header["target"] == "sm89"
    assert entry.header["guards"] is None
    assert int(region["nbytes"]) < entry.nbytes
    calling = Calling.from_json(entry.header["calling"])
    assert len(calling.inputs) == 1 + 3 * 6  # the input and, of three layers, two weights and two biases and a norm's
    assert [one.name for one in calling.inputs] == [name for name, _, _ in entry.header["inputs"]]

    code, again = build(capsys, model, "--target", "sm89")
    assert (code, again["state"], again["key"]) == (0, "there", region["key"])


def test_target_type_and_sizes_are_told_apart(model: str, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = [
        ["--target", "sm89"],
        ["--target", "sm120"],
        ["--target", "sm89", "--dtype", "float16"],
        ["--target", "sm89", "--dynamic"],
    ]
    keys = {build(capsys, model, *words)[1]["key"] for words in wanted}
    assert len(keys) == len(wanted)
    assert {entry.key for entry in store.entries()} == keys


def test_the_cache_carries_it(model: str, store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, region = build(capsys, model, "--target", "sm89")
    bundle = str(tmp_path / "bundle.tar")
    assert main(["cache", "export", bundle]) == 0
    assert main(["cache", "import", bundle, "--dir", str(tmp_path / "other")]) == 0
    found = Store(tmp_path / "other").get(str(region["key"]))
    mine = store.get(str(region["key"]))
    assert found is not None
    assert mine is not None
    assert found.payload == mine.payload


def test_what_is_refused_is_said(tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "random.py"
    path.write_text(REFUSED)
    code, region = build(capsys, str(path), "--target", "sm89")
    assert (code, region["state"]) == (1, "refused")
    assert "rand" in str(region["why"])
    assert store.entries() == []


@pytest.mark.parametrize(
    "words",
    [
        ["--target", "sm90"],
        ["--target", "hopper"],
        ["--target", "sm89", "--flavour", "tensorrt"],
        ["--target", "sm89", "--json", "/nowhere/at/all.json"],
        ["--nonsense"],
    ],
)
def test_mistakes(model: str, store: Store, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", model, *words]) == 2
    assert capsys.readouterr().err


def test_no_model_and_no_cache(store: Store, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert main(["build", "nowhere.py", "--target", "sm89"]) == 3
    monkeypatch.setenv("DJINN_CACHE_LIMIT", "0")
    assert main(["build", model, "--target", "sm89"]) == 2


def test_text_says_that_nothing_was_run(model: str, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", model, "--target", "sm89"]) == 0
    out = capsys.readouterr().out
    assert "target sm89" in out
    assert "1 built" in out
    assert "Not run" in out


def test_the_files_own_switches_count(tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rounds.py"
    path.write_text(MODEL + "\ntorch.set_float32_matmul_precision('high')\n")
    try:
        _, region = build(capsys, str(path), "--target", "sm89")
    finally:
        torch.set_float32_matmul_precision("highest")
    entry = store.get(str(region["key"]))
    assert entry is not None
    assert entry.header["fields"]["engine"]["tf32"] == "True"
