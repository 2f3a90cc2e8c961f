"""The runner and the text form of a pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest

from djinn_fx.errors import LoweringError, PassError, SettingsError
from djinn_fx.passes.base import Pass, PassContext, PassResult, from_text, run_passes
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.srg import SRG
from tests import graphs
from tests.pass_text import to_text


@dataclass(frozen=True, kw_only=True)
class First:
    """Does nothing, gives a reason."""

    name: ClassVar[str] = "first"
    after: ClassVar[tuple[str, ...]] = ()
    requires: ClassVar[tuple[str, ...]] = ()
    ensures: ClassVar[tuple[str, ...]] = ()

    min_ops: int = 8
    share: float = 0.5
    whole: bool = False
    device: str = ""

    def run(self, srg: SRG, context: PassContext) -> PassResult:
        return PassResult(modified=False, reasons=(Reason(kind=ReasonKind.SPLIT, detail="first"),))


@dataclass(frozen=True, kw_only=True)
class Second(First):
    """Must follow the first; promises costs and sets none."""

    name: ClassVar[str] = "second"
    after: ClassVar[tuple[str, ...]] = ("first",)
    ensures: ClassVar[tuple[str, ...]] = ("costed",)


@dataclass(frozen=True, kw_only=True)
class Needy(First):
    """Requires what no pass before it ensures."""

    name: ClassVar[str] = "needy"
    requires: ClassVar[tuple[str, ...]] = ("lifetimes-valid",)


@dataclass(frozen=True, kw_only=True)
class Failing(First):
    """Raises one of our errors, or one of Python's."""

    name: ClassVar[str] = "failing"
    ours: bool = True

    def run(self, srg: SRG, context: PassContext) -> PassResult:
        node = next(srg.ops)
        if self.ours:
            raise LoweringError(f"node {node.name!r} is odd")
        raise ZeroDivisionError(node.name)


TABLE: dict[str, type[Pass]] = {"first": First, "second": Second}


@pytest.fixture
def srg() -> SRG:
    return graphs.lowered(graphs.two_layer_mlp())


def test_passes_satisfy_the_protocol() -> None:
    assert isinstance(First(), Pass)


def test_runner_keeps_reasons_and_timings_and_names_the_maker(srg: SRG) -> None:
    result = run_passes(srg, [First(), Second()], PassContext())
    assert [timing.name for timing in result.timings] == ["first", "second"]
    assert [reason.detail for reason in result.reasons] == ["first", "first"]
    assert srg.reasons == tuple(result.reasons)
    assert srg.made_by == "second"


def test_wrong_order_names_both_passes(srg: SRG) -> None:
    with pytest.raises(PassError, match="pass 'second' must run after first; ran so far: none"):
        run_passes(srg, [Second(), First()], PassContext())


def test_a_broken_promise_names_the_pass_and_the_invariant(srg: SRG) -> None:
    run_passes(srg, [First(), Second()], PassContext())
    with pytest.raises(PassError, match=r"pass 'second' failed: invariant 'costed' .*ran before it: first"):
        run_passes(srg, [First(), Second()], PassContext(), check=True)


def test_what_was_found_out_does_not_outlive_a_users_pass(srg: SRG) -> None:
    def last_op(graph: SRG) -> str:
        return list(graph.ops)[-1].name

    @dataclass(frozen=True, kw_only=True)
    class Shortens(First):
        name: ClassVar[str] = "shortens"

        def run(self, srg: SRG, context: PassContext) -> PassResult:
            assert srg.fact(last_op) == before
            dead = list(srg.ops)[-1]
            dead.replace_all_uses_with(dead.all_input_nodes[0])
            srg.gm.graph.erase_node(dead)
            return PassResult(modified=True)

    before = srg.fact(last_op)
    run_passes(srg, [Shortens()], PassContext())
    assert srg.fact(last_op) == list(srg.ops)[-1].name != before


def test_an_unmet_requirement_is_named(srg: SRG) -> None:
    with pytest.raises(PassError, match=r"pass 'needy' failed: invariant 'lifetimes-valid' does not hold"):
        run_passes(srg, [Needy()], PassContext(), check=True)


@pytest.mark.parametrize("ours", [True, False])
def test_an_error_names_pass_node_cause_and_predecessors(srg: SRG, ours: bool) -> None:
    node = next(srg.ops).name
    with pytest.raises(PassError, match=rf"pass 'failing' failed.*{node}.*ran before it: first") as caught:
        run_passes(srg, [First(), Failing(ours=ours)], PassContext())
    assert isinstance(caught.value.__cause__, LoweringError if ours else ZeroDivisionError)


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (First(), "first"),
        (First(min_ops=4), "first{min-ops=4}"),
        (First(min_ops=4, share=0.25, whole=True), "first{min-ops=4,share=0.25,whole=True}"),
        (Second(device="h100-sxm"), "second{device=h100-sxm}"),
    ],
)
def test_text_form_makes_the_round_trip(one: Pass, text: str) -> None:
    assert to_text(one) == text
    assert from_text(text, TABLE) == one


def test_spaces_do_not_matter() -> None:
    assert from_text(" first{ min-ops=4, whole=True } ", TABLE) == First(min_ops=4, whole=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("third", "unknown pass 'third'; known: first, second"),
        ("first{max-ops=4}", "has no option 'max-ops'; known: device, min-ops, share, whole"),
        ("first{min-ops=many}", "option 'min-ops': cannot read 'many'"),
        ("first{whole=yes}", "write True or False"),
        ("first{min-ops=4", "cannot read the pass"),
        ("", "cannot read the pass"),
    ],
)
def test_bad_text_is_one_clear_error(text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        from_text(text, TABLE)
