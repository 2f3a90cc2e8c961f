"""Values between regions in one allocation: equal results, nothing of the caller's in there, memory counted."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from djinn_fx.calibrate.live_memory import Truth, measured
from djinn_fx.dispatch.region import region_graph
from djinn_fx.engines.base import Engine, RegionCallable
from djinn_fx.engines.eager import EagerEngine
from djinn_fx.engines.inductor.engine import InductorEngine
from djinn_fx.engines.inductor.into import numbers_of
from djinn_fx.engines.into import out_form
from djinn_fx.engines.registry import engine
from djinn_fx.reasons import ReasonKind
from djinn_fx.runtime.arena.arena import Arena
from djinn_fx.runtime.executor import executable
from djinn_fx.runtime.program import Program, program_from_json, program_of, program_to_json, with_arena
from djinn_fx.settings.table import Settings
from djinn_fx.solvers.packing.anytime import pack
from djinn_fx.solvers.packing.validator import check
from djinn_fx.srg import SRG, GraphKind, lower
from djinn_fx.srg.extract import input_value
from tests import graphs
from tests.capture import capture
from tests.programs import DETERMINISTIC, PROGRAMS, arguments_of, behaviour, build
from tests.programs import Program as RandomProgram
from tests.running import cut_by_labels, plan_in_order

aten = torch.ops.aten
WIDTH, ROWS = 64, 20


class Cut:
    """A graph cut into regions, with an arena and without."""

    def __init__(self, srg: SRG, labels: Sequence[int | None], engine: Engine | None = None) -> None:
        cut_by_labels(srg, labels)
        self.srg, plan = srg, plan_in_order(srg)
        made = engine or EagerEngine()
        self.callables: list[RegionCallable] = []
        for region in plan.regions:
            artefact = made.compile(region_graph(srg, region))
            self.callables.append(artefact.ready or made.load(artefact))
        self.program, self.constants = program_of(srg, plan)
        self.planned, self.reasons = with_arena(self.program, srg, plan)

    @property
    def arena(self) -> Arena:
        assert self.planned.arena is not None
        return Arena(self.planned.arena, len(self.planned.steps), self.reasons)

    @property
    def plain(self) -> RegionCallable:
        return executable(self.program, self.callables, self.constants)

    def within(self, arena: Arena, callables: Sequence[RegionCallable] | None = None) -> RegionCallable:
        return executable(self.planned, callables or self.callables, self.constants, arena=arena)


def chain(engine: Engine | None = None, layers: int = 3) -> tuple[Cut, list[Tensor]]:
    """Linear, GELU, linear, tanh, a few times, cut after every four ops; its arguments."""
    torch.manual_seed(0)
    made = [(torch.nn.Linear(WIDTH, 2 * WIDTH), torch.nn.GELU(), torch.nn.Linear(2 * WIDTH, WIDTH), torch.nn.Tanh())
             for _ in range(layers)]  # fmt: skip
    model = torch.nn.Sequential(*(one for layer in made for one in layer))
    x = torch.randn(ROWS, WIDTH)
    (srg,) = capture(model, (x,))
    weights = iter([one.detach() for one in model.parameters()])
    sizes = [tuple(input_value(srg, node).shape) for node in srg.inputs]
    args = [x if size == tuple(x.shape) else next(weights) for size in sizes]
    return Cut(srg, [place // 4 for place, _ in enumerate(srg.ops)], engine), args


def taken(truth: Truth) -> int:
    return sum(event.nbytes for event in truth.events if event.nbytes > 0)


# -- results -----------------------------------------------------------------------------------------------------------


@DETERMINISTIC
@given(PROGRAMS, st.lists(st.integers(0, 4), min_size=1, max_size=9))
def test_random_programs_give_what_they_give_without(drawn: RandomProgram, labels: list[int]) -> None:
    srg = lower(build(drawn))
    cut = Cut(srg, [labels[place % len(labels)] for place, _ in enumerate(srg.ops)])
    if cut.planned.arena is None:
        return
    run = cut.within(cut.arena)
    wanted = behaviour(lambda *args: cut.plain(list(args)), arguments_of(drawn.transposed))
    assert behaviour(lambda *args: run(list(args)), arguments_of(drawn.transposed)) == wanted
    if wanted == "refused":
        return
    first = run(arguments_of(drawn.transposed))
    kept = [one.clone() for one in first]
    assert behaviour(lambda *args: run(list(args)), arguments_of(drawn.transposed)) == wanted
    for mine, before in zip(first, kept, strict=True):
        if "rand_like" not in str(srg.gm.graph):
            torch.testing.assert_close(mine, before, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_runtimes_of_onnx_write_results_where_they_are_told(name: str) -> None:
    found = engine(name, Settings.load(None, {"weights": "input"}, environ={}))
    if not found.capability().can_run:
        pytest.skip(f"{name} is not installed")
    cut, args = chain(found)
    arena = cut.arena
    run = cut.within(arena)
    with torch.no_grad():
        wanted = [one.clone() for one in cut.plain(list(args))]
        for _ in range(3):
            (made,) = run(list(args))
            torch.testing.assert_close(made, wanted[0], rtol=0, atol=0)
            kept = made.clone()
            run([torch.randn_like(one) if one.shape == made.shape else one for one in args])
            assert torch.equal(made, kept)
    assert arena.status().outside == ()
    assert arena.status().values >= 4


@pytest.mark.parametrize("engine", [EagerEngine(), InductorEngine()], ids=lambda one: one.name)
def test_memory_is_taken_once_and_no_more_for_what_is_in_it(engine: Engine) -> None:
    cut, args = chain(engine)
    arena = cut.arena
    run = cut.within(arena)
    with torch.no_grad():
        wanted = cut.plain(list(args))
        first = measured(run, args)
        without, second, third = (measured(one, args) for one in (cut.plain, run, run))
        torch.testing.assert_close(run(list(args)), wanted, rtol=0, atol=0)
    now = arena.status()
    assert now.outside == ()
    assert now.values >= 4
    assert now.nbytes == now.bound < now.together
    assert max(event.nbytes for event in first.events) >= now.nbytes
    assert taken(second) == taken(third) == taken(without) - now.together


def test_results_that_are_kept_are_never_written_again() -> None:
    cut, args = chain()
    run = cut.within(cut.arena)
    with torch.no_grad():
        (kept,) = run(list(args))
        before = kept.clone()
        for _ in range(3):
            run([torch.randn_like(one) if one.shape == kept.shape else one for one in args])
    assert torch.equal(kept, before)


def test_the_plan_is_a_valid_packing_and_can_be_stored() -> None:
    cut, _ = chain()
    assert cut.planned.arena is not None
    problem = cut.planned.arena.problem(())
    assert check(problem, pack(problem, steps=1000)).optimal
    assert program_from_json(json.loads(json.dumps(program_to_json(cut.planned)))) == cut.planned


def test_sizes_that_differ_from_call_to_call() -> None:
    def function(x: Tensor, w: Tensor) -> Tensor:
        return ((x @ w).sin() @ w).cos() @ w

    (srg,) = capture(function, (torch.randn(7, 12), torch.randn(12, 12)), dynamic=True)
    cut = Cut(srg, list(range(len(list(srg.ops)))))
    arena = cut.arena
    run = cut.within(arena)
    rows = [
        tuple(input_value(srg, node).shape) if isinstance(input_value(srg, node), Tensor) else () for node in srg.inputs
    ]
    for count in (5, 40, 3, 40):
        x, w = torch.randn(count, 12), torch.randn(12, 12)
        tensors = iter([x, w]) if str(rows[-2][0]) != str(rows[-1][0]) else iter([w, x])
        args = [next(tensors) if shape else (count if place == 0 else 12) for place, shape in enumerate(rows)]
        with torch.no_grad():
            torch.testing.assert_close(run(list(args)), cut.plain(list(args)), rtol=0, atol=0)
    assert arena.status().outside == ()
    assert arena.status().bound == 2 * 64 * -(-40 * 12 * 4 // 64)


# -- what must not be in it --------------------------------------------------------------------------------------------


def test_what_is_returned_or_given_and_views_of_it_are_not_planned() -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        a = x.t()
        b = a + 1
        c = b.t()
        d = c * 2
        return d.sin(), c

    srg = graphs.lowered(graphs.trace(function, torch.empty(4, 4)))
    cut = Cut(srg, list(range(len(list(srg.ops)))))
    assert cut.planned.arena is not None
    names = {slot: name for name, slot in zip(_slot_names(cut.program, srg), range(cut.program.slots), strict=True)}
    planned = {names[slot] for piece in cut.planned.arena.pieces for slot in piece.slots}
    assert planned == {"mul"}  # not b, which the returned view shows


def _slot_names(program: Program, srg: SRG) -> list[str]:
    names = [node.name for node in srg.inputs]
    for step in program.steps:
        names += [name for name in srg.regions[step.region].outputs if name not in names]
    return names


def test_an_argument_given_back_where_a_new_value_was_traced_is_copied() -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        a = x + 1
        b = a.sin()
        c = y * 2  # lies where a lay
        return (b - c).cos()

    srg = graphs.lowered(graphs.trace(function, torch.empty(8, 8), torch.empty(8, 8)))
    cut = Cut(srg, [0, 1, 2, 3, 4])
    arena, callables = cut.arena, [cut.callables[0], lambda given: [given[0]], *cut.callables[2:]]
    run = cut.within(arena, callables)
    x, y = torch.randn(8, 8), torch.randn(8, 8)
    for _ in range(2):
        (made,) = run([x, y])
        torch.testing.assert_close(made, (x + 1 - y * 2).cos(), rtol=0, atol=0)
    assert arena.status().nbytes < arena.status().together
    assert {one.kind for one in arena.status().outside} == {ReasonKind.OUTSIDE_ARENA}


def test_a_result_that_lies_in_it_unplanned_is_copied() -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        return (x + y).sin() * y

    srg = graphs.lowered(graphs.trace(function, torch.empty(8, 8), torch.empty(8, 8)))
    cut = Cut(srg, [0, 1, 2])
    callables = [*cut.callables[:2], lambda given: [given[0]]]  # gives back what lies in the arena
    run = cut.within(cut.arena, callables)
    x, y = torch.randn(8, 8), torch.randn(8, 8)
    (kept,) = run([x, y])
    run([y, y])
    assert torch.equal(kept, (x + y).sin())


@torch.library.custom_op("djinn_tests::keeps", mutates_args=())
def keeps(x: Tensor) -> Tensor:
    """Somebody's operator: nobody knows what it does with its argument."""
    return x * 2


@keeps.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def test_what_an_operator_of_somebody_else_reads_is_not_in_it() -> None:
    (srg,) = capture(lambda x: keeps(x + 1).sin() * 2, (torch.randn(4, 4),))
    cut = Cut(srg, list(range(len(list(srg.ops)))))
    assert cut.planned.arena is not None
    assert len(cut.planned.arena.pieces) == 1  # of sine; what is read and made by the operator is told
    assert [one.node for one in cut.reasons] == [srg.regions[0].outputs[0], srg.regions[1].outputs[0]]


def test_training_graphs_have_none_and_neither_have_graphs_in_one_piece() -> None:
    gm = graphs.repeated_layers(2)
    srg = lower(gm, GraphKind.FORWARD, {})
    cut = Cut(srg, list(range(len(list(srg.ops)))))
    mlp = graphs.lowered(graphs.two_layer_mlp())
    whole = Cut(mlp, [0] * len(list(mlp.ops)))
    for one in (cut, whole):
        assert one.planned.arena is None
        assert {reason.kind for reason in one.reasons} == {ReasonKind.OUTSIDE_ARENA}


# -- faults ------------------------------------------------------------------------------------------------------------


def test_two_calls_at_once_each_have_memory_of_their_own() -> None:
    cut, args = chain()
    arena, inside, go_on = cut.arena, threading.Event(), threading.Event()
    slow = [*cut.callables]

    def waits(given: list[Any]) -> Sequence[Any]:
        made = cut.callables[-1](given)
        if threading.current_thread() is not threading.main_thread():
            inside.set()
            assert go_on.wait(timeout=60)
        return made

    slow[-1] = waits
    run, found = cut.within(arena, slow), []
    with torch.no_grad():
        wanted = cut.plain(list(args))

        def other() -> None:
            with torch.no_grad():
                found.append(run(list(args)))

        thread = threading.Thread(target=other)
        thread.start()
        assert inside.wait(timeout=60)
        mine = run(list(args))
        go_on.set()
        thread.join()
    assert arena.status().alone == 1
    for one in (mine, *found):
        torch.testing.assert_close(one, wanted, rtol=0, atol=0)


def test_a_call_within_a_call_and_one_after_an_error() -> None:
    cut, args = chain()
    arena, calls = cut.arena, list[Any]()
    run: Callable[[list[Any]], Sequence[Any]]
    faulty = [*cut.callables]

    def again(given: list[Any]) -> Sequence[Any]:
        calls.append(None)
        if len(calls) == 1:
            calls.append(run(list(args)))
        if len(calls) > 3:
            raise RuntimeError("on purpose")
        return cut.callables[2](given)

    faulty[2] = again
    run = cut.within(arena, faulty)
    with torch.no_grad():
        wanted = cut.plain(list(args))
        outer = run(list(args))
        with pytest.raises(RuntimeError, match="on purpose"):
            run(list(args))
        calls.clear()
        calls.append("no further call within")
        torch.testing.assert_close(run(list(args)), wanted, rtol=0, atol=0)
    torch.testing.assert_close(outer, wanted, rtol=0, atol=0)
    assert arena.status().alone == 1


# -- engines -----------------------------------------------------------------------------------------------------------


def test_only_kernels_that_write_where_they_are_told_count() -> None:
    for op in (aten.mm.default, aten.add.Tensor, aten.gelu.default, aten.cat.default, aten.sum.dim_IntList):
        found = out_form(op)
        assert found is not None
        assert torch.Tag.generated not in found[0].tags
    for op in (aten.native_layer_norm.default, aten.view.default, aten.mul_.Tensor, aten.clone.default):
        assert out_form(op) is None


CODE = """
class Runner:
    def call(self, args):
        arg0_1, = args
        args.clear()
        buf0 = empty_strided_cpu((3, 16), (16, 1), torch.float32)
        buf9 = torch.ops.aten.sort.default(arg0_1)
        buf1 = buf0; del buf0  # reuse
        buf2 = empty_strided_cpu((3, 8), (8, 1), torch.float32)
        buf3 = reinterpret_tensor(buf2, (24, ), (1, ), 0); del buf2
        return (buf9, reinterpret_tensor(buf1, (16, 3), (1, 16), 0), arg0_1, buf3)
"""


def test_allocations_that_become_results_are_read_off_generated_code() -> None:
    assert numbers_of(CODE) == {1: 0, 3: 1}
    for text in ("x = 1", CODE.replace("        buf9", "        if arg0_1:\n            pass\n        buf9")):
        with pytest.raises(ValueError):
            numbers_of(text)
