"""Devices that are lost before the plan, between two calls, and within one: answers stay right, Reasons say so."""

from __future__ import annotations

import copy
import os
import threading
from typing import Any

import pytest
import torch
from torch import nn

from djinn_fx.backend import compilations, status
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.settings.devices import LocalDevice
from tests.compiling.devices.layered import Model
from tests.compiling.devices.test_placer import HALVES, afresh, compiled, newest
from tests.runtime.devices.two import CORES, DEVICES, needs_two

__all__ = ["afresh"]
pytestmark = needs_two

#: Processors that no machine has.
NOWHERE = (4094, 4095)


def taken_away(name: str) -> None:
    """What the operating system does with a thread whose processors are taken away: it runs on the others."""
    (device,) = (one for one in DEVICES if one.name == name)
    threads = [one for one in threading.enumerate() if one.name == f"djinn {name}" and one.native_id]
    assert threads
    for one in threads:
        assert one.native_id is not None
        os.sched_setaffinity(one.native_id, set(CORES) - set(device.cores))


def used() -> set[str]:
    return {region.device for region in newest().plan.regions}


def lost(reasons: tuple[Reason, ...]) -> list[str]:
    return [reason.detail for reason in reasons if reason.kind is ReasonKind.DEVICE_LOST]


@pytest.mark.parametrize("engine", ["eager", "onnxruntime", "inductor"])
def test_one_that_is_lost_between_two_calls_is_planned_without(engine: str) -> None:
    model, x = Model(), torch.randn(8, 64)
    run = compiled(model, engine=engine, cache_limit=0)
    with torch.no_grad():
        wanted = model(x)
        for _ in range(3):
            torch.testing.assert_close(run(x), wanted)
        assert used() == {"cpu:0", "cpu:1"}
        planned = len(compilations())
        taken_away("cpu:1")
        for _ in range(4):
            torch.testing.assert_close(run(x), wanted)
    assert len(compilations()) == planned + 1, "planned anew once"
    assert used() == {"cpu:0"}
    assert [one.name for one in newest().pass_timings] == ["place", "order", "plan-transfers", "plan-memory"]
    (told,) = lost(newest().plan.reasons)
    assert told.startswith("cpu:1 is lost")
    assert "'layers.2-3'" in told, "its pins are void"
    assert lost(status(run).lost) == [told]
    placed = [reason for reason in newest().plan.reasons if reason.kind is ReasonKind.PLACED]
    assert len(placed) == 1, "what the first plan said of its devices is told no more"


def test_where_all_are_lost_the_graph_runs_in_the_thread_that_calls() -> None:
    model, x = Model(), torch.randn(8, 64)
    run = compiled(model, engine="eager")
    with torch.no_grad():
        wanted = [run(x) for _ in range(3)][-1]
        planned = len(compilations())
        for one in DEVICES:
            taken_away(one.name)
        assert all(torch.allclose(run(x), wanted) for _ in range(4))
    assert len(compilations()) == planned
    assert [told.split()[0] for told in lost(status(run).lost)] == ["cpu:0", "cpu:1"]


@pytest.mark.parametrize(("gone", "left"), [((1,), {"cpu:0"}), ((0, 1), {"cpu"})])
def test_one_whose_processors_are_not_there_any_more_is_not_planned_with(gone: tuple[int, ...], left: set[str]) -> None:
    devices = tuple(
        LocalDevice(name=one.name, cores=(NOWHERE[place],)) if place in gone else one
        for place, one in enumerate(DEVICES)
    )
    model, x = Model(), torch.randn(8, 64)
    run = torch.compile(model, backend="djinn", options={"devices": devices, "pin": HALVES, "engine": "eager"})
    with torch.no_grad():
        for _ in range(3):
            torch.testing.assert_close(run(x), model(x))
    assert used() == left
    assert [told.split()[0] for told in lost(newest().plan.reasons)] == [DEVICES[place].name for place in gone]


def test_a_training_step_goes_on_when_a_device_is_lost_between_forward_and_backward() -> None:
    model = Model()
    other, x = copy.deepcopy(model), torch.randn(8, 64)
    run = compiled(model, engine="eager")

    def step(call: Any, one: nn.Module, *, breaks: bool) -> None:
        one.zero_grad()
        loss = call(x).pow(2).mean()
        if breaks:
            taken_away("cpu:0")
        loss.backward()

    for turn in range(5):
        step(run, model, breaks=turn == 2)
        step(other, other, breaks=False)
        for mine, wanted in zip(model.parameters(), other.parameters(), strict=True):
            assert mine.grad is not None
            torch.testing.assert_close(mine.grad, wanted.grad)
    forward_and_backward = {tuple(one.plan.phase or ()): one for one in compilations()[-2:]}
    assert len(forward_and_backward) == 2
    assert all({r.device for r in one.plan.regions} == {"cpu:1"} for one in forward_and_backward.values())
