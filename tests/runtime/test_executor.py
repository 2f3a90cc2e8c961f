"""The executor: values reach the regions that read them, and are let go when nobody will."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from djinn_fx.engines.base import RegionCallable
from djinn_fx.runtime.executor import executable
from djinn_fx.runtime.program import Program, Step, program_of
from djinn_fx.saved.torch_cache import program_from_json, program_to_json
from djinn_fx.srg import SRG, lower
from tests import capture, graphs
from tests.programs import DETERMINISTIC, PROGRAMS, arguments_of, behaviour, build
from tests.programs import Program as RandomProgram
from tests.running import cut_by_labels, plan_in_order, run_by_regions


def program(srg: SRG) -> Program:
    return program_of(srg, plan_in_order(srg))[0]


def traced(function: Callable[..., Any], *args: Any) -> SRG:
    return graphs.lowered(graphs.trace(function, *args))


def chain() -> SRG:
    """Three regions of one op each; the first result is also returned."""

    def function(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        a = x @ w
        b = a.sin()
        return b @ w, a

    srg = traced(function, torch.empty(3, 3), torch.empty(3, 3))
    cut_by_labels(srg, [0, 1, 2])
    return srg


# The program


def test_arguments_come_first_and_every_result_has_a_slot() -> None:
    made = program(chain())
    assert made.arguments == 2
    assert made.slots == 5
    assert [step.inputs for step in made.steps] == [(0, 1), (2,), (3, 1)]
    assert [step.outputs for step in made.steps] == [(2,), (3,), (4,)]
    assert made.results == (4, 2)


def test_a_slot_is_emptied_at_its_last_use_unless_it_is_returned() -> None:
    assert [step.frees for step in program(chain()).steps] == [(0,), (), (3, 1)]


def test_the_program_of_every_graph_is_consistent() -> None:
    for make in graphs.BUILDERS.values():
        srg = graphs.lowered(make())
        cut_by_labels(srg, list(range(len(list(srg.ops)))))
        check(program(srg))


def check(made: Program) -> None:
    """Read only what is filled and not emptied, and keep nothing to the end but what is returned."""
    filled = set(range(made.arguments))
    for step in made.steps:
        assert set(step.inputs) <= filled
        assert set(step.frees) <= set(step.inputs)
        filled -= set(step.frees)
        assert not filled & set(step.outputs)
        filled |= set(step.outputs)
    results = {slot for slot in made.results if isinstance(slot, int)}
    assert results <= filled
    never_read = set(range(made.arguments)) - {slot for step in made.steps for slot in step.inputs}
    assert filled == results | (never_read & filled)


@DETERMINISTIC
@given(PROGRAMS, st.lists(st.one_of(st.none(), st.integers(0, 4)), min_size=1, max_size=9))
def test_random_programs_are_consistent(drawn: RandomProgram, labels: list[int | None]) -> None:
    srg = lower(build(drawn))
    cut_by_labels(srg, [labels[place % len(labels)] for place, _ in enumerate(srg.ops)])
    check(program(srg))


def test_a_program_is_plain_data() -> None:
    made = program(chain())
    text = json.dumps(asdict(made))
    form = json.loads(text)
    steps = tuple(
        Step(region=s["region"], **{name: tuple(s[name]) for name in ("inputs", "outputs", "frees")})
        for s in form["steps"]
    )
    again = Program(arguments=form["arguments"], slots=form["slots"], steps=steps, results=tuple(form["results"]))
    assert again == replace(made, layouts=None)
    assert program_from_json(json.loads(json.dumps(program_to_json(made)))) == made


# Running


def test_arguments_are_taken_out_of_the_list() -> None:
    srg = chain()
    x, w = torch.randn(3, 3), torch.randn(3, 3)
    run = boxed(srg)
    args = [x, w]
    first, second = run(args)
    assert args == []
    torch.testing.assert_close((first, second), ((x @ w).sin() @ w, x @ w))


def boxed(srg: SRG) -> RegionCallable:
    """The cut graph as one callable."""
    return lambda args: run_by_regions(srg, _emptied(args))


def _emptied(args: list[Any]) -> list[Any]:
    given = list(args)
    args.clear()
    return given


def test_it_can_be_called_again() -> None:
    made, constants = program_of(chain(), plan_in_order(chain()))
    ops: list[RegionCallable] = [
        lambda args: (args[0] @ args[1],),
        lambda args: (args[0].sin(),),
        lambda args: (args[0] @ args[1],),
    ]
    run = executable(made, ops, constants)
    for _ in range(3):
        x, w = torch.randn(3, 3), torch.randn(3, 3)
        torch.testing.assert_close(tuple(run([x, w])), ((x @ w).sin() @ w, x @ w))


def test_a_value_is_freed_when_its_last_reader_is_done_with_it() -> None:
    made, constants = program_of(chain(), plan_in_order(chain()))
    alive: list[list[bool]] = []
    made_values: list[weakref.ref[Tensor]] = []

    def region(args: list[Any]) -> Sequence[Any]:
        result = args[0] + 1
        args.clear()  # as compiled code does
        gc.collect()
        alive.append([reference() is not None for reference in made_values])
        made_values.append(weakref.ref(result))
        return (result,)

    x = torch.zeros(3, 3)
    made_values.append(weakref.ref(x))
    args = [x, torch.zeros(3, 3)]
    del x
    executable(made, [region] * 3, constants)(args)
    # What is alive after each region: the argument, the returned first result, the second.
    assert alive == [[False], [False, True], [False, True, False]]


def test_a_whole_graph_passes_straight_through() -> None:
    srg = traced(lambda x, w: x @ w, torch.empty(2, 2), torch.empty(2, 2))
    cut_by_labels(srg, [0])
    made, constants = program_of(srg, plan_in_order(srg))

    def region(args: list[Any]) -> Sequence[Any]:
        return tuple(args)

    assert executable(replace(made, layouts=None), [region], constants) is region


def test_results_that_no_region_makes() -> None:
    def function(x: Tensor, y: Tensor) -> Any:
        z = y.sin()
        return z, x, None, z, 7, y

    srg = traced(function, torch.empty(2), torch.empty(2))
    cut_by_labels(srg, [0])
    x, y = torch.randn(2), torch.randn(2)
    z, same_x, none, again, seven, same_y = run_by_regions(srg, [x, y])
    assert same_x is x
    assert same_y is y
    assert again is z
    assert (none, seven) == (None, 7)


def test_constants_of_the_graph_are_kept_for_every_call() -> None:
    constant = torch.tensor([1.0, 2.0])

    def model(x: Tensor) -> tuple[Tensor, Tensor]:
        return (x + torch.tensor([1.0, 2.0])).sin(), torch.tensor([3.0, 4.0])

    (srg,) = capture.capture(model, (torch.ones(2),))
    cut_by_labels(srg, [number for number, _ in enumerate(srg.ops)])
    for _ in range(2):
        x = torch.randn(2)
        found = run_by_regions(srg, [x])
        torch.testing.assert_close(found, [(x + constant).sin(), torch.tensor([3.0, 4.0])])


def test_sizes_are_arguments_and_results_like_tensors() -> None:
    def model(x: Tensor) -> tuple[Tensor, int]:
        return x.view(-1) * 2, x.shape[0] * 3

    (srg,) = capture.capture(model, (torch.randn(4, 5),), dynamic=True)
    cut_by_labels(srg, [number for number, _ in enumerate(srg.ops)])
    sizes = {
        str(node.meta["val"]): place
        for place, node in enumerate(srg.inputs)
        if not isinstance(node.meta["val"], Tensor)
    }
    x = torch.randn(7, 2)
    shape = next(node.meta["val"].shape for node in srg.inputs if isinstance(node.meta["val"], Tensor))
    values: list[Any] = [x] * len(srg.inputs)
    for symbol, size in zip(map(str, shape), x.shape, strict=True):
        values[sizes[symbol]] = size
    found = run_by_regions(srg, values)
    torch.testing.assert_close(found[0], x.view(-1) * 2)
    assert set(found[1:]) <= {21, 7}


def test_regions_run_in_the_order_of_the_plan() -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.sin(), x.cos()

    srg = traced(function, torch.empty(2))
    cut_by_labels(srg, [0, 1])
    x = torch.randn(2)
    for order in ((0, 1), (1, 0)):
        torch.testing.assert_close(run_by_regions(srg, [x], order), [x.sin(), x.cos()])


def test_a_region_with_too_few_results_is_an_error_not_a_wrong_answer() -> None:
    made, constants = program_of(chain(), plan_in_order(chain()))
    run = executable(made, [lambda args: ()] * 3, constants)
    with pytest.raises(ValueError):
        run([torch.zeros(3, 3), torch.zeros(3, 3)])


@DETERMINISTIC
@given(PROGRAMS)
def test_one_region_an_op_computes_what_the_graph_does(drawn: RandomProgram) -> None:
    gm = build(drawn)
    srg = lower(gm)
    cut_by_labels(srg, [number for number, _ in enumerate(srg.ops)])
    found = behaviour(lambda *args: run_by_regions(srg, args), arguments_of(drawn.transposed))
    assert found == behaviour(gm, arguments_of(drawn.transposed))
