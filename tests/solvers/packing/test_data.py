"""Public problems, where their files are at hand (``DJINN_BENCH_DATA``)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.memory.packing import Named, read_files
from djinn_fx.solvers.packing.anytime import pack
from djinn_fx.solvers.packing.validator import check

USUAL = Path(__file__).resolve().parents[4] / "shared" / "data"
FILES = read_files(Path(os.environ.get("DJINN_BENCH_DATA", USUAL)) / "memory")


@pytest.mark.skipif(not FILES, reason="no public problems here: set DJINN_BENCH_DATA")
def test_the_files_are_there() -> None:
    assert {one.name for one in FILES} >= {"A", "C", "F", "H", "K", "G_1", "resnet50"}


@pytest.mark.parametrize("named", FILES, ids=lambda named: named.name)
def test_a_public_problem_is_packed_to_its_bound(named: Named) -> None:
    """Greedy orders are up to 36 % above it."""
    found = check(named.problem, pack(named.problem, steps=40_000, seed=0))
    assert found.height == found.bound
