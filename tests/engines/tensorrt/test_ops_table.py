"""docs/tensorrt_ops.md is what tools/tensorrt_table.py writes, as far as a sample of its rows tells."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.testing._internal.common_methods_invocations import op_db

from tests.engines.tensorrt.converting import needs_tensorrt

pytestmark = needs_tensorrt

#: Taken whole, taken in part, refused for a type, an argument, a random number, or for want of a converter.
SAMPLE = (
    "add",
    "remainder",
    "bitwise_and",
    "nn.functional.gelu",
    "bernoulli",
    "log1p",
    "gather",
    "special.ndtr",
)


@pytest.fixture(scope="module")
def table() -> ModuleType:
    """The tool, which is no package."""
    path = Path(__file__).parents[3] / "tools" / "tensorrt_table.py"
    spec = importlib.util.spec_from_file_location("tensorrt_table", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_committed_table_is_the_tools(table: ModuleType) -> None:
    committed = table.rows_of(table.PAGE.read_text("utf-8"))
    for op in op_db:
        if table.full_name(op) in SAMPLE:
            assert table.row(op) == committed[table.full_name(op)]


def test_the_committed_table_has_every_op_and_nothing_wrong(table: ModuleType) -> None:
    text = table.PAGE.read_text("utf-8")
    pinned = re.search(r"^TORCH \?= torch==(\S+)$", (table.PAGE.parents[1] / "Makefile").read_text("utf-8"), re.M)
    assert pinned is not None
    if torch.__version__.partition("+")[0] == pinned[1]:  # others have other ops
        assert list(table.rows_of(text)) == list(dict.fromkeys(map(table.full_name, op_db)))
    assert "WRONG" not in text
    assert table.page([line for line in text.splitlines() if line.startswith("| `")]) == text


def test_a_wrong_number_would_be_seen(table: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from djinn_fx.engines.onnx import registry

    monkeypatch.setitem(registry.load(), "aten.exp.default", registry.load()["aten.sin.default"])
    assert "WRONG" in table.row(next(op for op in op_db if op.name == "exp"))
