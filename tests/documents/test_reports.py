"""The reports on the examples are what explain says today, numbers aside."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

REPO = Path(__file__).parents[2]


def _tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_reports", REPO / "tools" / "example_reports.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOOL = _tool()
#: In make test; make exam looks at all.
SOME = ("two_devices",)


def test_every_example_has_a_report_and_a_place_in_the_index() -> None:
    examples = {path.stem for path in (REPO / "examples").glob("*.py")} - {"demo"}
    index = (TOOL.PAGES / "index.md").read_text("utf-8")
    listed = index.split("```{toctree}")[1].split("```")[0].split()[2:]
    pages = {path.stem for path in TOOL.PAGES.glob("*.md")} - {"index"}
    assert examples == pages == set(listed) == set(TOOL.EXAMPLES)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SOME else pytest.mark.exam) for name in TOOL.EXAMPLES]
)
def test_a_report_is_current_in_structure(name: str) -> None:
    pytest.importorskip("transformers", reason="Transformers, whose models the examples are, is not installed")
    kept = (TOOL.PAGES / f"{name}.md").read_text("utf-8")
    assert TOOL.structure(TOOL.page(name)) == TOOL.structure(kept)


def test_structure_leaves_words_and_takes_numbers() -> None:
    text = "  speed  2.1 ms a call\n  passes      11 in 62.5 ms; slowest: a 3 ms,\n              b 2 ms\n  why  [x]"
    assert TOOL.structure(text) == "speed # a call why [x]"
    assert not re.search(r"\d", TOOL.structure((TOOL.PAGES / "vision.md").read_text("utf-8")))
