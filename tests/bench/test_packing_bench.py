"""The packing bench reads what it is given, and a disguise leaves a problem as hard as it was."""

from __future__ import annotations

from pathlib import Path

from bench.memory.packing import disguised, random_problem, read_file, read_files, seconds_to
from djinn_fx.solvers.packing.sections import sections_of

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
