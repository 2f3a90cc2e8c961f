"""The library's bound and placement, where it is installed: equal to trying every placement."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import pytest

from bench.placement.synthetic import transformer
from djinn_fx.solvers.placement.anytime import improvements
from djinn_fx.solvers.placement.cost import loads_of
from djinn_fx.solvers.placement.groups import grouped
from djinn_fx.solvers.placement.problem import Aim, Goal
from djinn_fx.solvers.placement.search import mixed_integer
from djinn_fx.solvers.placement.validator import check
from tests.solvers.placement.oracle import best_figure, some_problem

FREE = Goal(Aim.LOAD, contiguous=False)


def test_equal_to_trying_every_placement() -> None:
    pytest.importorskip("highspy")
    for seed in range(40):
        problem = some_problem(seed)
        groups, best = grouped(problem, contiguous=False), best_figure(problem, FREE)
        if not 0 < best < math.inf:
            continue
        rooms = [device.memory_bytes for device in problem.devices]
        found, bound = mixed_integer.best_known(groups, rooms, best * 1.5, 10.0)
        assert found is not None
        devices = groups.of_operators(found, len(problem.operators))
        assert loads_of(problem, devices).max() == pytest.approx(best, rel=1e-5), seed
        assert best * (1 - 1e-4) <= bound <= best * (1 + 1e-9), seed


def test_with_more_time_the_bound_rises() -> None:
    pytest.importorskip("highspy")
    problem = transformer(1, 2, 2)
    problem = replace(problem, devices=problem.devices[:2])
    found = [check(problem, FREE, one) for one in improvements(problem, FREE, seconds=8.0)]
    assert found[-1].bound > found[0].bound


def test_without_the_library_there_is_an_answer_with_its_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixed_integer.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "highspy", None)
    problem = transformer(1, 2, 2)
    *_, found = improvements(problem, FREE, seconds=5.0)
    assert found.gap > 0
    assert check(problem, FREE, found).found_by != "mixed-integer program"
