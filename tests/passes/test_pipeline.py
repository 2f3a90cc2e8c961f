"""The default pipeline: a pass is promised what those before it leave, is read by its name, and is shown to readers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from djinn_fx.passes.base import Pass
from djinn_fx.passes.pipeline import DEFAULT, parse_passes
from djinn_fx.srg.verify import INVARIANTS
from tests.pass_text import to_text

NAMES = [one.name for one in DEFAULT]


@pytest.mark.parametrize("one", DEFAULT, ids=NAMES)
def test_a_pass_comes_after_what_it_needs(one: Pass) -> None:
    before = DEFAULT[: NAMES.index(one.name)]
    assert set(one.after) <= {other.name for other in before}
    assert set(one.requires) <= {invariant for other in before for invariant in other.ensures}


@pytest.mark.parametrize("one", DEFAULT, ids=NAMES)
def test_what_a_pass_needs_and_promises_can_be_verified(one: Pass) -> None:
    assert {*one.requires, *one.ensures} <= set(INVARIANTS)


def test_the_pipeline_is_read_back_from_its_text() -> None:
    assert parse_passes([to_text(one) for one in DEFAULT]) == DEFAULT


def test_the_picture_of_the_architecture_shows_them_in_order(repo: Path) -> None:
    page = (repo / "docs" / "architecture.md").read_text("utf-8")
    assert ", ".join(NAMES) in re.sub(r"[\s│]+", " ", page)


def test_each_has_a_golden_file(repo: Path) -> None:
    shown = {file.stem for file in (repo / "tests" / "golden").glob("*.txt")}
    assert set(NAMES) <= shown
