"""torch's database of ops through our ONNX converter and both runtimes: nothing is wrong, and the page says what is."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

from tests.exam import onnx_ops

#: Taken whole, taken in part, refused for a type, an argument, a random number, or for want of a converter.
SAMPLE = ("var_mean", "topk", "scatter_reduce.amax", "nn.functional.gelu", "bernoulli", "log1p", "gather", "cholesky")
#: Ops of which at least one type is taken, of about 700.
BAR = 400


@pytest.fixture(scope="module")
def table() -> ModuleType:
    """The tool, which is no package."""
    path = Path(__file__).parents[2] / "tools" / "onnx_table.py"
    spec = importlib.util.spec_from_file_location("onnx_table", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.exam
def test_the_committed_page_is_the_tools(table: ModuleType) -> None:
    committed = table.rows_of(table.PAGE.read_text("utf-8"))
    for op, found in table.examine(SAMPLE, onnx_ops.FLAVOURS, True).items():
        assert table.row(op, found) == committed[op]


@pytest.mark.exam
def test_the_committed_page_has_every_op_and_nothing_wrong(table: ModuleType) -> None:
    text = table.PAGE.read_text("utf-8")
    assert list(table.rows_of(text)) == onnx_ops.names()
    assert "WRONG" not in text


@pytest.mark.exam
def test_nothing_is_wrong() -> None:
    """Every op; some twenty minutes."""
    wrong: list[str] = []
    taken: Counter[str] = Counter()
    seen: set[tuple[str, str]] = set()
    for answer in onnx_ops.ask(onnx_ops.names()):
        wrong += [f"{answer.op} {answer.flavour} {answer.dtype}: {text}" for text in answer.verdict.wrong]
        if answer.verdict.converted and (answer.op, answer.flavour) not in seen:
            seen.add((answer.op, answer.flavour))
            taken[answer.flavour] += 1
    assert not wrong, "\n".join(wrong)
    assert all(taken[flavour] >= BAR for flavour in onnx_ops.FLAVOURS), taken


@pytest.mark.exam
def test_a_wrong_number_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from djinn_fx.engines.onnx import registry

    table = registry.load()
    right: Any = table["aten.tan.default"]
    monkeypatch.setitem(table, "aten.tan.default", lambda b, node, x: b.op("Neg", [right(b, node, x)]))
    found = list(onnx_ops.judge("tan", ["onnxruntime"]))
    assert any(one.verdict.wrong for one in found)


@pytest.mark.exam
def test_a_child_that_ends_is_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_ops, "PATIENCE", 0.001)
    (found,) = onnx_ops.ask(["tan"], ["onnxruntime"])
    assert found.verdict.wrong
