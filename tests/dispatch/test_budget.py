"""A memory budget: which engines have room, what is the smallest that will do, and graphs that share one."""

from __future__ import annotations

from typing import Any

import pytest

from djinn_fx.dispatch.budget import Fitting, GraphNeed, Others, need_of
from djinn_fx.errors import SettingsError
from djinn_fx.reasons import ReasonKind
from djinn_fx.settings.table import Settings
from djinn_fx.srg.memory import Holds, MemoryPlan, MemoryRow, MemoryStep

WEIGHTS, LIVE, ANSWER = 1000, 300, 40
THREE = ("openvino", "onnxruntime", "packed")


def plan(live: int = LIVE, phase: str = "prefill") -> MemoryPlan:
    """A weight, one large activation, a result."""
    made: list[tuple[str, Holds, int, int, int, bool]] = [
        ("w", Holds.WEIGHT, WEIGHTS, 0, 2, True),
        ("a", Holds.ACTIVATION, live, 0, 2, False),
        ("y", Holds.OUTPUT, ANSWER, 1, 2, False),
    ]
    rows = [
        MemoryRow(name=name, holds=holds, nbytes=nbytes, start=start, end=end, device="cpu", given=given)
        for name, holds, nbytes, start, end, given in made
    ]
    steps = (
        MemoryStep(name="a", op="aten.mm.default"),
        MemoryStep(name="y", op="aten.add.Tensor", source="model.py:7"),
    )
    return MemoryPlan(phase=phase, rows=tuple(rows), steps=steps)


OWN = WEIGHTS + LIVE + ANSWER


def settings(**given: Any) -> Settings:
    return Settings.load(None, {"verify": "off", **given}, environ={})


def need(live: int = LIVE, asked: Settings | None = None) -> GraphNeed:
    return need_of(plan(live), "cpu", frozenset({"w"}), asked or settings(), inference=True)


def fitting(budget: int, others: Others | None = None, names: tuple[str, ...] = THREE, **given: Any) -> Fitting:
    asked = settings(**given)
    return Fitting(need(asked=asked), others or Others(weights=WEIGHTS), budget, asked, names)


def test_what_a_graph_needs() -> None:
    found = need()
    assert (found.peak.nbytes, found.weights, found.comparing) == (OWN, WEIGHTS, 0)
    compared = need(asked=settings(verify="first"))
    assert compared.comparing == 2 * OWN + 2 * ANSWER
    assert need_of(plan(), "cpu", frozenset(), settings(verify="first"), inference=False).comparing == 0


def test_a_budget_too_small_names_what_binds_and_the_smallest_which_does() -> None:
    with pytest.raises(SettingsError, match=r"w \(weight, 1.0 kB\)") as told:
        fitting(OWN - 1)
    assert "model.py:7" in str(told.value)
    smallest = int(str(told.value).split("the smallest budget is ")[1].split(" bytes")[0])
    assert smallest == OWN
    assert fitting(smallest).settings.engine == "inductor"


@pytest.mark.parametrize(
    ("copies", "engine"),
    [
        (0, "inductor"),
        (1, ("openvino", "inductor", "eager")),
        (2, "auto"),
    ],
)
def test_engines_take_part_as_far_as_their_copies_fit(copies: int, engine: Any) -> None:
    for budget in (OWN + copies * WEIGHTS, OWN + (copies + 1) * WEIGHTS - 1):
        found = fitting(budget)
        assert found.settings.engine == engine
        assert found.planned.foretold == OWN + copies * WEIGHTS <= budget
        assert {one.kind for one in found.reasons} <= {ReasonKind.BUDGET}
        gone = [one.detail.split(":")[0] for one in found.reasons]
        assert gone == list(THREE[copies:] if copies < 2 else ())


def test_engines_that_are_named_each_keep_a_copy() -> None:
    named = ("packed", "openvino")
    for copies, engine in ((0, "inductor"), (1, "packed"), (2, named)):
        found = fitting(OWN + copies * WEIGHTS, names=named, engine=named)
        assert found.settings.engine == engine
        assert found.planned.copies == copies * WEIGHTS


def test_who_names_own_ops_gets_these_where_the_copy_has_no_room() -> None:
    assert fitting(OWN, names=("packed",), engine=("packed", "eager")).settings.engine == "eager"


def test_where_comparing_has_no_room_own_ops_answer() -> None:
    compared = need(asked=settings(verify="first")).comparing
    assert fitting(OWN + compared - 1, verify="first").settings.engine == "eager"
    assert fitting(OWN + compared, verify="first").settings.engine == "inductor"
    (reason,) = fitting(OWN, verify="first").reasons
    assert reason.kind is ReasonKind.BUDGET


def test_graphs_of_a_model_count_weights_once_and_the_largest_peak() -> None:
    decode = fitting(OWN + 2 * WEIGHTS).planned
    others = Others(weights=WEIGHTS, planned=(decode,))
    large = Fitting(need(live=LIVE + 500), others, OWN + 500 + 2 * WEIGHTS, settings(), THREE)
    assert large.planned.together == OWN + 500
    assert large.settings.engine == "auto"
    assert not large.evicts
    small = Fitting(need(live=1), Others(weights=WEIGHTS, planned=(large.planned,)), 10**6, settings(), THREE)
    assert small.planned.together == OWN + 500  # that of the other graph


def test_weights_that_only_other_graphs_read_are_there_too() -> None:
    found = fitting(10**6, Others(weights=WEIGHTS + 77))
    assert found.planned.together == OWN + 77
    with pytest.raises(SettingsError, match=f"smallest budget is {OWN + 77} bytes"):
        fitting(OWN + 76, Others(weights=WEIGHTS + 77))


def test_copies_of_other_graphs_go_where_this_one_does_not_fit_beside_them() -> None:
    first = fitting(OWN + 2 * WEIGHTS).planned
    assert first.copies == 2 * WEIGHTS
    others = Others(weights=WEIGHTS, planned=(first,))
    found = Fitting(need(live=LIVE + 2 * WEIGHTS), others, OWN + 2 * WEIGHTS, settings(), THREE)
    assert found.evicts
    assert found.planned.copies == 0
    assert found.settings.engine == "inductor"


def test_how_it_is_written() -> None:
    for text in ({"cpu": "2GB", "cuda": "8GB"}, "cpu=2GB,cuda:0=8GB", [["cuda:0", "8GB"], ["cpu", "2GB"]]):
        assert settings(memory_budget=text).memory_bytes == {"cpu": 2 * 10**9, "cuda:0": 8 * 10**9}
    read = Settings.load(None, {}, environ={"DJINN_MEMORY_BUDGET": "cpu=512MiB"})
    assert read.memory_bytes == {"cpu": 512 * 2**20}
    assert settings().memory_bytes == {}
    for wrong in ({"cpu": 5}, {"disk": "2GB"}, {"cpu": "2"}, "2GB", {}, {"cuda": "1GB", "cuda:0": "1GB"}, 7):
        with pytest.raises(SettingsError, match="memory_budget must be"):
            settings(memory_budget=wrong)
