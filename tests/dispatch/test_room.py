"""An artefact that says what it takes runs only where that is left of a budget."""

from __future__ import annotations

from dataclasses import replace

import pytest

from djinn_fx.dispatch.memory import Loaded
from djinn_fx.dispatch.region import RegionWork, bytes_beside, why_no_room
from djinn_fx.engines.keys import Guards
from djinn_fx.passes.base import PassContext
from djinn_fx.passes.plan_memory import PlanMemory
from djinn_fx.reasons import ReasonKind
from djinn_fx.settings.table import Settings
from djinn_fx.srg import SRG
from djinn_fx.srg.memory import Holds
from tests import graphs
from tests.running import cut_by_labels, plan_in_order


@pytest.fixture
def srg() -> SRG:
    """Two regions; a value of the first is read by the second."""
    made = graphs.lowered(graphs.two_layer_mlp())
    cut_by_labels(made, [0, 0, 0, 1, 1])
    PlanMemory(threads=1).run(made, PassContext())
    return made


def test_what_is_there_while_a_region_runs(srg: SRG) -> None:
    assert srg.memory is not None
    held = sum(row.nbytes for row in srg.memory.rows if row.given)
    crossing = next(row for row in srg.memory.rows if row.name == srg.regions[0].outputs[0])
    assert crossing.holds is Holds.ACTIVATION
    assert bytes_beside(srg.memory, srg.regions[0]) == held
    assert bytes_beside(srg.memory, srg.regions[1]) == held + crossing.nbytes


def test_only_what_fits_runs(srg: SRG) -> None:
    work = RegionWork.of(srg, plan_in_order(srg), srg.regions[1])
    assert work.beside is not None
    loaded = Loaded(key="", run=lambda args: args, guards=Guards(expression=None), engine="inductor", live_bytes=100)

    def within(budget: int) -> Settings:
        return Settings.load(None, {"memory_budget": {"cpu": f"{budget}B"}}, environ={})

    assert why_no_room(work, loaded, within(work.beside + 100)) is None
    refused = why_no_room(work, loaded, within(work.beside + 99))
    assert refused is not None
    assert refused.kind is ReasonKind.BUDGET
    assert why_no_room(work, replace(loaded, live_bytes=None), within(1)) is None
    assert why_no_room(work, loaded, Settings.load(None, {}, environ={})) is None
