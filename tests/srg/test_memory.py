"""The memory plan of a graph: what is in memory when, and the peak."""

from __future__ import annotations

import torch

import djinn_fx.backend
from djinn_fx.srg.memory import Holds, MemoryPlan, MemoryRow, MemoryStep


def row(name: str, nbytes: int, start: int, end: int, device: str = "cpu") -> MemoryRow:
    return MemoryRow(name=name, holds=Holds.ACTIVATION, nbytes=nbytes, start=start, end=end, device=device)


def test_rows_add_up_by_step_and_device() -> None:
    steps = tuple(MemoryStep(name=name, op=name, source=None) for name in "abc")
    rows = (row("x", 10, 0, 3), row("y", 5, 1, 2), row("z", 7, 1, 3, "cuda:0"))
    plan = MemoryPlan(phase="inference", rows=rows, steps=steps)
    assert plan.profile("cpu") == [10, 15, 10]
    assert plan.profile("cuda:0") == [0, 7, 7]
    cpu, gpu = plan.peaks()
    assert (cpu.nbytes, cpu.at and cpu.at.name, [one.name for one in cpu.biggest]) == (15, "b", ["x", "y"])
    assert (gpu.nbytes, gpu.step) == (7, 1)


def test_a_graph_without_ops_holds_what_it_is_given() -> None:
    plan = MemoryPlan(phase="inference", rows=(row("x", 10, 0, 1),), steps=())
    (peak,) = plan.peaks()
    assert (peak.nbytes, peak.at, len(peak.biggest)) == (10, None, 1)


def test_a_graph_that_gives_back_what_it_was_given_compiles() -> None:
    x = torch.randn(3, 3)
    run = torch.compile(torch.atleast_2d, backend=djinn_fx.backend.djinn)
    assert torch.equal(run(x), x)
