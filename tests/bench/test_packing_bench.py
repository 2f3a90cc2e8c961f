"""The packing bench reads what it is given, and a disguise leaves a problem as hard as it was."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from bench.memory.arena import _packed, rows_of
from bench.memory.packing import disguised, random_problem, read_file, read_files, seconds_to
from djinn_fx.solvers.packing.sections import sections_of
from djinn_fx.srg.memory import Holds, MemoryPlan, MemoryRow, MemoryStep

TEXT = "id,lower,upper,size\nb1,0,3,4\nb2,3,9,4\nb3,0,9,4\n"


def test_files_are_problems_and_names_end_in_capacities(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "A.12.csv").write_text(TEXT)
    (tmp_path / "B.csv").write_text(TEXT)
    (tmp_path / "other.csv").write_text("name,value\nx,1\n")
    assert [(one.name, one.capacity, len(one.problem.buffers)) for one in read_files(tmp_path)] == [
        ("B", None, 3),
        ("A", 12, 3),
    ]
    assert read_file(tmp_path / "other.csv") is None


def test_a_disguise_keeps_the_load_and_changes_the_rows() -> None:
    problem = random_problem(300, "short", seed=4)
    other = disguised(problem, seed=1)
    assert sections_of(other).bound == sections_of(problem).bound
    area = [sum(one.size * (one.upper - one.lower) for one in each.buffers) for each in (problem, other)]
    assert area[0] == area[1]
    assert len(other.buffers) > len(problem.buffers)
    assert other == disguised(problem, seed=1)


def test_time_to_a_height_out_of_reach_is_none(tmp_path: Path) -> None:
    path = tmp_path / "A.12.csv"
    path.write_text(TEXT)
    named = read_file(path)
    assert named is not None
    first, (reached, never) = seconds_to(named.problem, (8, 7), 1.0, seed=0)
    assert reached is not None
    assert 0 < first <= reached
    assert never is None


def test_an_arena_holds_what_a_graph_makes_and_is_written_as_a_problem(tmp_path: Path) -> None:
    made = [("x", Holds.INPUT, 0, 3, True), ("a", Holds.ACTIVATION, 0, 2, False), ("b", Holds.OUTPUT, 2, 3, False)]
    rows = [
        MemoryRow(name=name, holds=holds, nbytes=100, start=start, end=end, device="cpu", given=given)
        for name, holds, start, end, given in made
    ]
    steps = tuple(MemoryStep(name=name, op="op") for name in "abc")
    found = rows_of(MemoryPlan(phase="inference", rows=tuple(rows), steps=steps))
    assert found == [(0, 2, 100, 64), (2, 3, 100, 64)]
    packed = _packed({"graph": "g/x", "of": "ops", "rows": found}, Namespace(problems=tmp_path))
    assert (packed["height"], packed["bound"], packed["apart"]) == (100, 100, 200)
    (written,) = read_files(tmp_path)
    assert [(one.lower, one.upper, one.size) for one in written.problem.buffers] == [(0, 2, 100), (2, 3, 100)]
