"""One packing problem for OR-Tools' CP-SAT, on one thread, to compare our own search with. Needs `ortools`."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.memory.packing import read_file
from djinn_fx.solvers.packing.sections import sections_of


def main() -> int:
    """Look for a packing within a capacity, print how that ended."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("file", type=Path)
    made.add_argument("capacity", type=int, help="bytes")
    made.add_argument("--seconds", type=float, default=60.0)
    arguments = made.parse_args()
    from ortools.sat.python import cp_model  # not an extra of djinn

    named = read_file(arguments.file)
    assert named is not None, "no file with the columns id, lower, upper, size"
    cut = sections_of(named.problem)
    model, times, heights = cp_model.CpModel(), [], []
    for first, last, size in zip(cut.first, cut.last, cut.sizes, strict=True):
        offset = model.new_int_var(0, arguments.capacity // cut.unit - size, "")
        times.append(model.new_fixed_size_interval_var(first, last - first, ""))
        heights.append(model.new_fixed_size_interval_var(offset, size, ""))
    model.add_no_overlap_2d(times, heights)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.max_time_in_seconds = arguments.seconds
    start = time.perf_counter()
    status = solver.solve(model)
    print(f"{named.name}: {solver.status_name(status)} after {time.perf_counter() - start:.2f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
