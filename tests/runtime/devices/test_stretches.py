"""Stretches: whatever order they run in, what is read is there, and what nobody reads any more is not."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from djinn_fx.passes.order import dependencies
from djinn_fx.runtime.devices.stretches import Stretch, Wire, stretches_of
from djinn_fx.runtime.program import Program, program_of
from djinn_fx.srg import lower
from tests import graphs
from tests.programs import PROGRAMS, build
from tests.programs import Program as RandomProgram
from tests.running import cut_by_labels, plan_in_order


def run_in_some_order(program: Program, stretches: tuple[Stretch, ...], slots: int, chance: random.Random) -> set[int]:
    """Run stretches as soon as they may, in any order; the slots that are filled in the end."""
    left = [one.waits for one in stretches]
    ready = [place for place, count in enumerate(left) if not count]
    filled, done = set(range(program.arguments)), 0
    while ready:
        one = stretches[ready.pop(chance.randrange(len(ready)))]
        for move in one.moves:
            assert move.source in filled
            filled.add(move.target)
            filled -= {move.source} if move.frees else set()
        for step in one.steps:
            assert set(step.inputs) <= filled
            assert set(step.frees) <= set(step.inputs)
            filled -= set(step.frees)
            filled |= set(step.outputs)
        assert max(filled, default=0) < slots
        done += 1
        for other in one.then:
            left[other] -= 1
            if not left[other]:
                ready.append(other)
    assert done == len(stretches), "some wait for ever"
    return filled


@given(PROGRAMS, st.lists(st.integers(0, 2), min_size=1, max_size=7), st.integers(0, 10**6))
def test_random_programs_on_random_devices(drawn: RandomProgram, devices: list[int], seed: int) -> None:
    srg = lower(build(drawn))
    cut_by_labels(srg, [number for number, _ in enumerate(srg.ops)])
    program, constants = program_of(srg, plan_in_order(srg))
    names = [f"cpu:{devices[index % len(devices)]}" for index in range(len(srg.regions))]
    chance = random.Random(seed)
    makers = {slot: names[step.region] for step in program.steps for slot in step.outputs}
    wires = [
        Wire(slot=slot, source="cpu:9", target=names[step.region], nbytes=1)
        for step in program.steps
        for slot in step.inputs
        if slot not in constants and makers.get(slot) != names[step.region] and chance.random() < 0.4
    ]
    wires = list({(wire.slot, wire.target): wire for wire in wires}.values())
    stretches, slots = stretches_of(program, names, dependencies(srg), wires)
    assert sorted(step.region for one in stretches for step in one.steps) == list(range(len(srg.regions)))
    filled = run_in_some_order(program, stretches, slots, chance)
    assert {result for result in program.results if isinstance(result, int)} <= filled | set(constants)


@pytest.mark.parametrize("over_links", [False, True])
def test_a_chain_empties_each_slot_as_one_device_would(over_links: bool) -> None:
    srg = graphs.lowered(graphs.trace(lambda x: x.sin().cos().tanh().exp(), torch.empty(3)))
    cut_by_labels(srg, [0, 1, 2, 3])
    program, _ = program_of(srg, plan_in_order(srg))
    names = [f"cpu:{place % 2}" for place in range(4)]
    slots_made = [step.outputs[0] for step in program.steps[:-1]]
    wires = [Wire(slot=s, source=names[n], target=names[n + 1], nbytes=1) for n, s in enumerate(slots_made)]
    stretches, slots = stretches_of(program, names, dependencies(srg), wires if over_links else ())
    assert len(stretches) == (7 if over_links else 4)
    assert run_in_some_order(program, stretches, slots, random.Random(0)) == set(program.results)
