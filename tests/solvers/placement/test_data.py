"""Public problems, where their files are at hand (``DJINN_BENCH_DATA``)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.placement.inputs import Named, read_folder
from bench.placement.solvers import KNOWN, PLACES
from djinn_fx.solvers.placement.anytime import place
from djinn_fx.solvers.placement.cost import loads_of
from djinn_fx.solvers.placement.problem import Goal
from djinn_fx.solvers.placement.validator import check

USUAL = Path(__file__).resolve().parents[4] / "shared" / "data"
FOLDER = Path(os.environ.get("DJINN_BENCH_DATA", USUAL)) / "placement"
FILES, _ = read_folder(FOLDER) if FOLDER.is_dir() else ([], [])
#: What an expert's split comes to, from the data's README.
EXPERTS = {
    "bert24_inference": 20.084,
    "bert24_training": 49.405,
    "gnmt_training": 137.154,
    "inceptionv3_training": 213.654,
}


@pytest.mark.skipif(not FILES, reason="no public problems here: set DJINN_BENCH_DATA")
def test_the_files_are_there_and_experts_are_priced_as_they_say() -> None:
    named = {one.name.rpartition("/")[2]: one for one in FILES if "throughput" in one.name}
    assert named.keys() >= KNOWN.keys()
    for name, figure in EXPERTS.items():
        assert named[name].expert is not None
        assert float(loads_of(named[name].problem, named[name].expert or ()).max()) == pytest.approx(figure, abs=PLACES)


@pytest.mark.parametrize("named", FILES, ids=lambda named: named.name)
def test_a_public_problem_is_cut_as_well_as_anybody_cut_it(named: Named) -> None:
    known = KNOWN.get(named.name.rpartition("/")[2])
    if known is None or named.latency or "LayerGraphs" not in named.name:
        pytest.skip("nothing is known of it")
    found = check(named.problem, Goal(), place(named.problem, Goal(), seconds=3.0))
    assert found.figure <= known[0] + PLACES
