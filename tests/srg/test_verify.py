"""Each invariant holds on a graph the passes made, and is named when it is broken on purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from djinn_fx.errors import VerifyError
from djinn_fx.passes.base import PassContext, run_passes
from djinn_fx.passes.colocate import Colocate
from djinn_fx.passes.estimate_cost import EstimateCost
from djinn_fx.passes.lifetimes import Lifetimes
from djinn_fx.passes.order import Order
from djinn_fx.passes.place import Place
from djinn_fx.passes.plan_memory import PlanMemory
from djinn_fx.srg import SRG, Phase
from djinn_fx.srg.graph import META_KEY
from djinn_fx.srg.verify import INVARIANTS, STRUCTURAL, verify
from tests import graphs


def complete() -> SRG:
    """A graph in three regions for which everything holds: read state, write it, read it again."""
    srg = graphs.lowered(graphs.writer_and_readers())
    run_passes(srg, [EstimateCost(), Lifetimes()], PassContext())
    graphs.cut(srg, 1, 1)
    for node in srg.ops:
        srg.update(node, phase=Phase.DECODE, device="cpu")
    srg.order = (0, 1, 2)
    run_passes(srg, [PlanMemory()], PassContext())
    return srg


def _unrecorded(srg: SRG) -> None:
    del srg.node("add").meta[META_KEY]


def _writes_a_stranger(srg: SRG) -> None:
    srg.update(srg.node("add"), mutates=("mul",))


def _without(field: str) -> Callable[[SRG], None]:
    return lambda srg: srg.update(srg.node("add"), **{field: None})


def _freed_early(srg: SRG) -> None:
    srg.update(srg.node("cache_1"), lifetime=(0, 1))


def _empty_lifetime(srg: SRG) -> None:
    srg.update(srg.node("add"), lifetime=(2, 2))


def _in_no_region(srg: SRG) -> None:
    srg.regions = (replace(srg.regions[0], nodes=()), *srg.regions[1:])


def _in_two_regions(srg: SRG) -> None:
    first, second, third = srg.regions
    srg.regions = (first, replace(second, nodes=(*second.nodes, *first.nodes)), third)


def _says_another_region(srg: SRG) -> None:
    srg.update(srg.node("add"), region=2)


def _reads_before_made(srg: SRG) -> None:
    srg.order = (0, 2, 1)


def _writes_before_read(srg: SRG) -> None:
    srg.order = (1, 0, 2)


def _op_before_what_it_reads(srg: SRG) -> None:
    first, *_, last = srg.ops
    first.prepend(last)


def _runs_twice(srg: SRG) -> None:
    srg.order = (0, 0, 1)


def _without_memory(srg: SRG) -> None:
    srg.memory = None


def _a_step_less(srg: SRG) -> None:
    assert srg.memory is not None
    srg.memory = replace(srg.memory, steps=srg.memory.steps[:-1])


def _a_row_of_no_steps(srg: SRG) -> None:
    assert srg.memory is not None
    first, *others = srg.memory.rows
    srg.memory = replace(srg.memory, rows=(replace(first, end=first.start), *others))


BROKEN: list[tuple[str, Callable[[SRG], None]]] = [
    ("recorded", _unrecorded),
    ("mutations-named", _writes_a_stranger),
    ("phases-known", _without("phase")),
    ("lifetimes-valid", _without("lifetime")),
    ("lifetimes-valid", _empty_lifetime),
    ("lifetimes-valid", _freed_early),
    ("memory-valid", _without_memory),
    ("memory-valid", _a_step_less),
    ("memory-valid", _a_row_of_no_steps),
    ("regions-partition", _in_no_region),
    ("regions-partition", _in_two_regions),
    ("regions-partition", _says_another_region),
    ("ops-ordered", _op_before_what_it_reads),
    ("order-valid", _reads_before_made),
    ("order-valid", _writes_before_read),
    ("order-valid", _runs_twice),
    ("placed", _without("device")),
    ("costed", _without("cost")),
]


def test_everything_holds_on_a_complete_graph() -> None:
    verify(complete(), INVARIANTS)


@pytest.mark.parametrize(("name", "damage"), BROKEN)
def test_a_broken_invariant_is_named(name: str, damage: Callable[[SRG], None]) -> None:
    srg = complete()
    damage(srg)
    with pytest.raises(VerifyError, match=f"'{name}' does not hold after"):
        verify(srg, [name])


def test_every_invariant_is_broken_above() -> None:
    assert {name for name, _ in BROKEN} == set(INVARIANTS)


def test_structural_invariants_are_checked_unasked() -> None:
    srg = complete()
    _writes_a_stranger(srg)
    assert "mutations-named" in STRUCTURAL
    with pytest.raises(VerifyError, match="mutations-named"):
        verify(srg)


def test_an_unknown_invariant_is_our_own_mistake() -> None:
    with pytest.raises(KeyError):
        verify(complete(), ["no-such"])


def test_order_found_by_the_pass_is_valid() -> None:
    srg = complete()
    srg.order = ()
    run_passes(srg, [graphs.CutByHand(first=2), Colocate(), Place(), Order()], PassContext(), check=True)
