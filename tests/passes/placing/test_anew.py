"""place and what follows it, run again on a planned graph for other devices: as if it had been planned for these."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from djinn_fx.passes.base import Pass, PassContext, run_passes
from djinn_fx.passes.pipeline import DEFAULT, at_place, plan_of
from djinn_fx.passes.placing.request import Placing
from djinn_fx.settings.devices import Pin
from djinn_fx.srg import SRG, Plan
from tests.passes.placing.test_spread import EAGER_CUT, layers, two

PASSES: tuple[Pass, ...] = tuple(EAGER_CUT if one.name == EAGER_CUT.name else one for one in DEFAULT)
EARLIER, AGAIN = at_place(PASSES)


def planned(srg: SRG, placing: Placing) -> tuple[Plan, list[Any]]:
    run_passes(srg, PASSES, PassContext(expected_calls=1, placing=placing), check=True)
    return plan_of(srg), [srg.record(node) for node in srg.nodes]


def three(**changes: Any) -> Placing:
    return two((None, None, None), objective="throughput", **changes)  # type: ignore[arg-type]


def test_the_passes_from_place_on() -> None:
    assert [one.name for one in AGAIN] == ["place", "order", "plan-transfers", "plan-memory"]
    assert (*EARLIER, *AGAIN) == PASSES


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("pins", [(), (Pin(module="", device="cpu:2"),)])
@pytest.mark.parametrize("gone", [0, 1, 2])
def test_without_a_device_the_plan_is_that_of_a_graph_that_never_had_it(
    gone: int, pins: tuple[Pin, ...], whole: bool
) -> None:
    before = three(whole=whole, pins=pins)
    rest = tuple(one for place, one in enumerate(before.devices) if place != gone)
    left = replace(before, devices=rest, pins=tuple(pin for pin in pins if pin.device in {one.name for one in rest}))
    srg = layers(6)
    first, _ = planned(srg, before)
    assert len({region.device for region in first.regions}) == (1 if pins else 3)
    run_passes(srg, AGAIN, PassContext(expected_calls=1, placing=left), check=True, before=EARLIER)
    found = plan_of(srg), [srg.record(node) for node in srg.nodes]
    assert found == planned(layers(6), left)


def test_a_device_that_comes_back_gives_the_first_plan() -> None:
    srg, both = layers(6), three()
    first = planned(srg, both)
    for placing in (replace(both, devices=both.devices[:1]), both):
        run_passes(srg, AGAIN, PassContext(expected_calls=1, placing=placing), check=True, before=EARLIER)
    assert (plan_of(srg), [srg.record(node) for node in srg.nodes]) == first
