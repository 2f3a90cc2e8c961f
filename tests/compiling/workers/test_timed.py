"""Seconds that workers tell of their parts are kept once there are enough, for the engine that was asked for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from djinn_fx.compiling.workers import timed
from djinn_fx.compiling.workers.timed import CALLS, WARM, Timed
from djinn_fx.settings.table import Settings


class Learner:
    """Keeps what it is told, with the threads that it is told in."""

    told: ClassVar[list[tuple[str, str, list[float], int]]] = []

    def __init__(self, *_: Any) -> None: ...

    @staticmethod
    def wanted(*_: Any) -> bool:
        return True

    def note_time(self, region: Any, engine: str, seconds: list[float]) -> None:
        self.told.append((region.label, engine, seconds, torch.get_num_threads()))


@pytest.mark.parametrize("same_machine", [True, False])
def test_times_are_kept_once_of_parts_on_the_engine_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, same_machine: bool
) -> None:
    monkeypatch.setattr(timed, "Learner", Learner)
    monkeypatch.setattr(timed, "sizes_differ", lambda _: False)
    monkeypatch.setattr(Learner, "told", [])
    regions = [SimpleNamespace(index=place, label=f"part {place}") for place in range(2)]
    builds = [SimpleNamespace(engine=engine) for engine in ("eager", "inductor")]
    captured: Any = SimpleNamespace(plan=SimpleNamespace(regions=regions), builds=builds, pricing=None, srg=None)
    threads = torch.get_num_threads() + 1
    one = Timed(captured, Settings(engine="eager"), threads, same_machine=same_machine)
    for call in range(2 * (WARM + CALLS)):
        one.note({0: float(call), 1: 1.0})
    kept = [("part 0", "eager", [float(WARM + n) for n in range(CALLS)], threads)]
    assert Learner.told == (kept if same_machine else [])
