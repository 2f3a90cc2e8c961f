"""One golden file a pass: the text of a tiny graph of two layers after it and those before it have run."""

from __future__ import annotations

import pytest

from djinn_fx.passes.annotate_phase import AnnotatePhase
from djinn_fx.passes.base import Pass, PassContext, run_passes
from djinn_fx.passes.colocate import Colocate
from djinn_fx.passes.estimate_cost import EstimateCost
from djinn_fx.passes.find_regions import FindRegions
from djinn_fx.passes.find_state import FindState
from djinn_fx.passes.lifetimes import Lifetimes
from djinn_fx.passes.memory.order_ops import OrderOps
from djinn_fx.passes.order import Order
from djinn_fx.passes.place import Place
from djinn_fx.passes.plan_memory import PlanMemory
from djinn_fx.passes.plan_transfers import PlanTransfers
from djinn_fx.srg import lower
from djinn_fx.srg.printer import to_text
from tests import graphs
from tests.golden.golden import check_golden

#: Priced for a catalogue row: the text must be the same on every machine. Regions are cut by hand, because two layers
#: are too few for find-regions to cut.
PIPELINE: tuple[Pass, ...] = (
    EstimateCost(device="a100-80gb"),
    Lifetimes(),
    graphs.CutByHand(),
    Colocate(),
    Place(),
    Order(),
    PlanTransfers(),
    PlanMemory(threads=2),
)

#: What reads the meaning of a graph: shown on one decoding step, whose inputs nobody has named.
MEANING: tuple[Pass, ...] = (AnnotatePhase(), FindState())


def test_lower() -> None:
    check_golden("lower", to_text(graphs.lowered(graphs.repeated_layers(2))))


@pytest.mark.parametrize("name", [one.name for one in PIPELINE if not isinstance(one, graphs.CutByHand)])
def test_pass(name: str) -> None:
    until = [one.name for one in PIPELINE].index(name) + 1
    srg = graphs.lowered(graphs.repeated_layers(2))
    run_passes(srg, PIPELINE[:until], PassContext(), check=True)
    check_golden(name, to_text(srg))


@pytest.mark.parametrize("index", range(len(MEANING)), ids=[one.name for one in MEANING])
def test_meaning(index: int) -> None:
    srg = lower(graphs.decoder_step_with_kv_cache())
    run_passes(srg, MEANING[: index + 1], PassContext(), check=True)
    check_golden(MEANING[index].name, to_text(srg))


def test_order_ops() -> None:
    srg = graphs.lowered(graphs.late_writes())
    run_passes(srg, [OrderOps()], PassContext(), check=True)
    check_golden("order-ops", to_text(srg))


def test_find_regions() -> None:
    srg = graphs.lowered(graphs.repeated_layers(2))
    run_passes(srg, [EstimateCost(device="a100-80gb"), FindRegions()], PassContext(), check=True)
    check_golden("find-regions", to_text(srg))
