"""Whether an installed runtime is one that can be called: asked of a small model, once a version."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from djinn_fx.engines.onnx.serving import trial as onnx_trial
from djinn_fx.engines.onnx.serving.engine import OnnxEngine
from djinn_fx.engines.onnx.serving.trial import TRIED, problem
from djinn_fx.engines.onnxruntime.engine import OnnxRuntimeEngine
from djinn_fx.engines.openvino.engine import OpenVinoEngine
from djinn_fx.errors import EngineError
from djinn_fx.reasons import ReasonKind
from tests.engines.onnx.engine_cases import Traced

pytest.importorskip("onnx")
VERSIONS = {"onnxruntime": "1.99.0", "onnx": "1.23.2"}


class Opened:
    """Counts how often a model is opened, and answers or raises as it is told."""

    def __init__(self, answer: Callable[[list[Any]], list[Any]] | Exception) -> None:
        self.answer, self.times = answer, 0
        self.memory_bytes = 0

    def __call__(self, *_: Any) -> Any:
        self.times += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self

    def run(self, args: list[Any]) -> list[Any]:
        assert not isinstance(self.answer, Exception)
        return self.answer(args)


def right(args: list[Any]) -> list[Any]:
    return [args[0] @ args[1].detach(), ~args[2]]


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_trial, "_ANSWERS", {})
    monkeypatch.setattr(onnx_trial, "_NOTES", set())


def test_an_interface_that_moved_is_told_with_both_versions() -> None:
    moved = TypeError("from_dlpack(): incompatible arguments. These are supported:\n    1. (data: object)\n\nInvoked")
    why = problem("onnxruntime", VERSIONS, Opened(moved), None)
    assert why is not None
    for part in ("onnxruntime 1.99.0", *TRIED["onnxruntime"], "1. (data: object)", "pip install"):
        assert part in why
    assert "Invoked" not in why


@pytest.mark.parametrize("answer", [lambda args: [args[0], ~args[2]], EngineError("no"), AttributeError("gone")])
def test_what_does_not_answer_rightly_does_not_run(answer: Any) -> None:
    assert problem("onnxruntime", VERSIONS, Opened(answer), None) is not None


def test_it_is_asked_once_a_version() -> None:
    opened = Opened(right)
    assert [problem("onnxruntime", VERSIONS, opened, None) for _ in range(3)] == [None] * 3
    assert opened.times == 1
    problem("onnxruntime", {**VERSIONS, "onnx": "1.23.1"}, opened, None)
    assert opened.times == 2


def test_that_it_runs_is_noted_for_the_next_process_and_that_not_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, opened = Opened(EngineError("no")), Opened(right)
    assert problem("onnxruntime", VERSIONS, broken, tmp_path) is not None
    for _ in range(2):
        monkeypatch.setattr(onnx_trial, "_ANSWERS", {})
        assert problem("onnxruntime", VERSIONS, opened, tmp_path) is None
    assert opened.times == 1
    monkeypatch.setattr(onnx_trial, "_ANSWERS", {})
    monkeypatch.setenv("DJINN_CONFIG_DIR", str(tmp_path / "somebody else"))
    assert problem("onnxruntime", VERSIONS, opened, tmp_path) is None
    assert opened.times == 2, "a note that somebody else made says nothing"


def test_it_is_noted_once_there_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process asks before its cache is there; the second is not to ask a library that it does not need."""
    opened, folder = Opened(right), tmp_path / "cache"
    assert problem("onnxruntime", VERSIONS, opened, folder) is None
    folder.mkdir()
    for _ in range(2):
        assert problem("onnxruntime", VERSIONS, opened, folder) is None
    (note,) = folder.iterdir()
    monkeypatch.setattr(onnx_trial, "_ANSWERS", {})
    assert problem("onnxruntime", VERSIONS, opened, folder) is None
    assert opened.times == 1
    note.unlink()
    assert problem("onnxruntime", VERSIONS, opened, folder) is None
    assert not list(folder.iterdir()), "it is not looked for in every call"


@pytest.mark.parametrize("make", [OnnxRuntimeEngine, OpenVinoEngine])
def test_what_is_installed_runs_also_while_something_is_traced(make: Callable[[], OnnxEngine]) -> None:
    pytest.importorskip(make().name)
    with FakeTensorMode(), torch.inference_mode():
        assert make().capability().why_not is None


def test_an_engine_that_does_not_run_refuses_with_that(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")

    class Moved(OnnxRuntimeEngine):
        def session(self, *args: Any) -> Any:
            raise AttributeError("module has no attribute InferenceSession")

    engine = Moved()
    capability = engine.capability()
    assert not capability.can_build
    assert not capability.can_run
    refusal = engine.supports(Traced(torch.tanh, torch.randn(3)).graph)
    assert refusal is not None
    assert refusal.kind is ReasonKind.ENGINE_REFUSED


def test_the_bounds_of_the_extras_are_what_was_tried(repo: Path) -> None:
    setup = (repo / "setup.py").read_text("utf-8")
    oldest = (repo / "oldest.txt").read_text("utf-8")
    for name, (first, last) in TRIED.items():
        major, _, minor = last.rpartition(".")
        bounds = re.search(rf'"{name}>=([\d.]+),<([\d.]+)[";]', setup)
        assert bounds is not None, name
        assert bounds.groups() == (first, f"{major}.{int(minor) + 1}")
        assert re.search(rf"^{name}=={re.escape(first)}\.0\b", oldest, re.M), name


def test_what_is_pinned_is_within_the_bounds(repo: Path) -> None:
    pins = dict(re.findall(r"^([\w-]+)==([\d.]+)", (repo / "constraints.txt").read_text("utf-8"), re.M))
    for name, (_, last) in TRIED.items():
        assert pins[name].startswith(f"{last}."), name
    assert "torch" not in pins
