"""A graph of several sizes within a budget: looked at before it runs, seldom, and copies go before it is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from djinn_fx.costmodels.memory.plan import memory_plan
from djinn_fx.errors import SettingsError
from djinn_fx.runtime.budget import Limit, WithinBudget
from djinn_fx.srg import SRG
from djinn_fx.srg.extract import input_value
from tests.capture import capture

WIDTH = 12


@pytest.fixture(scope="module")
def srg() -> SRG:
    (found,) = capture(lambda x: torch.softmax(x @ x.t(), -1).sum(), (torch.randn(7, WIDTH),), dynamic=True)
    return found


def peak_at(srg: SRG, rows: int) -> int:
    """Bytes at so many rows."""
    shape = next(v.shape for node in srg.inputs if isinstance(v := input_value(srg, node), torch.Tensor))
    return memory_plan(srg, {str(shape[0]): rows, str(shape[1]): WIDTH}).peak("cpu").nbytes


class Runs:
    """The graph with a limit; counts."""

    def __init__(self, srg: SRG, limit: Limit) -> None:
        self.calls, self.evicted, self._srg = 0, 0, srg
        self.held = WithinBudget(self._run, srg, {"cpu": limit}, self._evict)

    def _run(self, args: list[Any]) -> list[Any]:
        self.calls += 1
        return []

    def _evict(self) -> None:
        self.evicted += 1

    def __call__(self, rows: int) -> None:
        sizes = {7: rows, WIDTH: WIDTH}
        values = [input_value(self._srg, node) for node in self._srg.inputs]
        self.held(
            [torch.empty(rows, WIDTH) if isinstance(one, torch.Tensor) else sizes[int(one.node.hint)] for one in values]
        )


def test_a_size_that_does_not_fit_is_refused_before_it_runs_with_the_smallest_budget(srg: SRG) -> None:
    beside = 1000
    runs = Runs(srg, Limit(budget=peak_at(srg, 50) + beside, beside=beside, copies=0))
    assert runs.held.needed
    for rows in (7, 50, 20):
        runs(rows)
    with pytest.raises(SettingsError, match=f"the smallest budget is {peak_at(srg, 51) + beside} bytes"):
        runs(51)
    runs(50)
    assert runs.calls == 4


def test_sizes_that_grow_are_looked_at_seldom(srg: SRG, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []

    def plan(*args: Any) -> Any:
        looked.append(1)
        return memory_plan(*args)

    monkeypatch.setattr("djinn_fx.runtime.budget.memory_plan", plan)
    runs = Runs(srg, Limit(budget=peak_at(srg, 1000), beside=0, copies=0))
    for rows in range(20, 200):
        runs(rows)
    assert runs.calls == 180
    assert len(looked) < 40


def test_copies_go_before_a_size_is_refused(srg: SRG) -> None:
    copies = 5000
    runs = Runs(srg, Limit(budget=peak_at(srg, 50), beside=copies, copies=copies))
    runs(50)
    assert (runs.evicted, runs.calls) == (1, 1)
    with pytest.raises(SettingsError, match=f"the smallest budget is {peak_at(srg, 60)} bytes"):
        runs(60)
    assert runs.evicted == 1
