"""The JSON form of a plan: plain data that says everything the plan says."""

from __future__ import annotations

import dataclasses
import json

from djinn_fx.passes.base import PassContext, run_passes
from djinn_fx.passes.colocate import Colocate
from djinn_fx.passes.estimate_cost import EstimateCost
from djinn_fx.passes.lifetimes import Lifetimes
from djinn_fx.passes.order import Order
from djinn_fx.passes.place import Place
from djinn_fx.passes.plan_transfers import PlanTransfers
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.srg import Phase, Plan
from djinn_fx.srg.plan import Transfer
from djinn_fx.srg.serialise import plan_to_json
from tests import graphs


def plan() -> Plan:
    srg = graphs.lowered(graphs.BUILDERS["decoder_step_with_kv_cache"]())
    passes = [EstimateCost(), Lifetimes(), graphs.CutByHand(), Colocate(), Place(), Order(), PlanTransfers()]
    run_passes(srg, passes, PassContext())
    transfer = Transfer(value="mm", source="cpu", target="cuda:0", before_region=1, nbytes=4)
    reason = Reason(kind=ReasonKind.SPLIT, detail="by hand", runner_up="whole", runner_up_cost="1 s")
    return Plan(regions=srg.regions, order=srg.order, transfers=(transfer,), reasons=(reason,), phase=Phase.DECODE)


def test_text_brings_back_the_same_data() -> None:
    data = plan_to_json(plan())
    assert json.loads(json.dumps(data)) == data


def test_every_field_is_written() -> None:
    made = plan()
    data = plan_to_json(made)
    assert data.pop("schema") == "djinn_fx.plan/4"
    assert list(data) == [field.name for field in dataclasses.fields(Plan)]
    assert data["order"] == list(made.order)
    assert len(data["regions"]) == len(made.regions) > 1
    for row, region in zip(data["regions"], made.regions, strict=True):
        assert list(row) == [field.name for field in dataclasses.fields(region)]
        assert (row["label"], row["nodes"]) == (region.label, list(region.nodes))
        assert row["cost"] == dataclasses.asdict(region.cost)


def test_enums_are_their_words() -> None:
    data = plan_to_json(plan())
    assert data["phase"] == "decode"
    assert data["transfers"] == [{"value": "mm", "source": "cpu", "target": "cuda:0", "before_region": 1, "nbytes": 4}]
    (reason,) = data["reasons"]
    assert (reason["kind"], reason["runner_up_cost"]) == ("split", "1 s")
