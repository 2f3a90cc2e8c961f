"""The JSON form: a round trip changes nothing, and what is not ours is refused."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor

from djinn_fx.errors import DjinnError
from djinn_fx.passes.base import PassContext, run_passes
from djinn_fx.passes.colocate import Colocate
from djinn_fx.passes.estimate_cost import EstimateCost
from djinn_fx.passes.lifetimes import Lifetimes
from djinn_fx.passes.order import Order
from djinn_fx.passes.place import Place
from djinn_fx.passes.plan_transfers import PlanTransfers
from djinn_fx.srg import SRG, Modality, Phase, Plan
from djinn_fx.srg.plan import Transfer
from djinn_fx.srg.serialise import SRG_SCHEMA, from_json, plan_from_json, plan_to_json, to_json, to_plain
from tests import graphs


def planned(name: str = "decoder_step_with_kv_cache") -> SRG:
    srg = graphs.lowered(graphs.BUILDERS[name]())
    passes = [EstimateCost(), Lifetimes(), graphs.CutByHand(), Colocate(), Place(), Order(), PlanTransfers()]
    run_passes(srg, passes, PassContext())
    srg.update(next(srg.ops), phase=Phase.ENCODE, modality=Modality.AUDIO)
    return srg


def plan() -> Plan:
    srg = planned()
    transfer = Transfer(value="mm", source="cpu", target="cuda:0", before_region=1, nbytes=4)
    return Plan(regions=srg.regions, order=srg.order, transfers=(transfer,), reasons=srg.reasons, phase=Phase.DECODE)


@pytest.mark.parametrize("name", graphs.BUILDERS)
def test_round_trip_through_text(name: str) -> None:
    data = to_json(planned(name))
    back = from_json(json.loads(json.dumps(data)))
    assert to_json(back) == data
    assert back == to_plain(planned(name))


def test_facts_survive() -> None:
    srg = planned()
    back = from_json(to_json(srg))
    assert (back.kind, back.made_by, back.peak_bytes) == (srg.kind, srg.made_by, srg.peak_bytes)
    assert (back.regions, back.order, back.reasons) == (srg.regions, srg.order, srg.reasons)
    assert [node.record for node in back.nodes] == [srg.record(node) for node in srg.nodes]


def test_arguments_are_references_and_json_values() -> None:
    def model(x: Tensor) -> Tensor:
        return torch.ops.aten.full_like.default(x[0:2], float("inf"), dtype=torch.float64)

    nodes = {node.name: node for node in from_json(to_json(graphs.lowered(graphs.trace(model, torch.empty(4))))).nodes}
    assert nodes["slice_1"].args == ({"ref": "x_1"}, 0, 0, 2)
    assert nodes["full_like"].args == ({"ref": "slice_1"}, {"float": "inf"})
    assert nodes["full_like"].kwargs["dtype"] == {"dtype": "float64"}
    assert nodes["output"].args == ({"ref": "full_like"},)


def test_a_plan_makes_the_round_trip() -> None:
    data = plan_to_json(plan())
    assert plan_from_json(json.loads(json.dumps(data))) == plan()


@pytest.mark.parametrize("schema", ["djinn_fx.srg/1", "djinn_fx.plan/2", None, 1])
def test_another_schema_is_refused(schema: object) -> None:
    with pytest.raises(DjinnError, match=f"this version of djinn-fx reads '{SRG_SCHEMA}' only"):
        from_json({**to_json(planned()), "schema": schema})


def test_something_that_is_no_object_is_refused() -> None:
    with pytest.raises(DjinnError, match="cannot read schema None"):
        from_json([])  # type: ignore[arg-type]


def _drop_field(data: dict[str, Any]) -> None:
    del data["nodes"][0]["record"]["op"]


def _add_field(data: dict[str, Any]) -> None:
    data["regions"][0]["colour"] = "red"


def _wrong_type(data: dict[str, Any]) -> None:
    data["peak_bytes"] = "12"


def _bool_for_int(data: dict[str, Any]) -> None:
    data["order"] = [True]


def _unknown_enum(data: dict[str, Any]) -> None:
    data["kind"] = "sideways"


def _short_tuple(data: dict[str, Any]) -> None:
    data["nodes"][0]["record"]["lifetime"] = [0]


@pytest.mark.parametrize(
    ("damage", "where"),
    [
        (_drop_field, r"nodes\[0\].record: missing 'op'"),
        (_add_field, r"regions\[0\]: unknown 'colour'"),
        (_wrong_type, "peak_bytes: expected int, found str"),
        (_bool_for_int, r"order\[0\]: expected int, found bool"),
        (_unknown_enum, "kind: 'sideways' is no GraphKind"),
        (_short_tuple, "lifetime: 1 items where 2 belong"),
    ],
)
def test_damage_is_refused_with_its_place(damage: Any, where: str) -> None:
    data = copy.deepcopy(to_json(planned()))
    damage(data)
    with pytest.raises(DjinnError, match=where):
        from_json(data)
