"""Every rule by name, broken once; figures worked out by hand."""

from __future__ import annotations

import math

import pytest

from djinn_fx.errors import SolverError
from djinn_fx.solvers.placement.cost import latency_of, loads_of
from djinn_fx.solvers.placement.problem import Aim, Device, Goal, Operator, Problem, Solution
from djinn_fx.solvers.placement.validator import Rule, check, validate
from djinn_fx.solvers.rules import Broken

#: A line of four on two devices and a host; the first and the last are together, the second is fixed.
PROBLEM = Problem(
    (
        Operator((1.0, 5.0), 2.0, 4.0, group=0),
        Operator((2.0, 9.0), 3.0, 2.0, fixed=0),
        Operator((3.0, math.inf), 4.0, 6.0),
        Operator((4.0, 8.0), 1.0, 0.0, group=0),
    ),
    ((0, 1), (1, 2), (2, 3)),
    (Device(0, 9.0, 2.0), Device(0, 9.0, 2.0, 0.5), Device(1, host=True)),
)
FREE = Goal(contiguous=False)


def broken(devices: tuple[int, ...], goal: Goal, figure: float, bound: float = 0.0) -> list[Broken]:
    return validate(PROBLEM, goal, Solution(devices, figure, bound, "a test"))


def test_loads_are_compute_and_transfers() -> None:
    # Device 0: 1 + 2 + 4, sends the second's 2 bytes (1 s), fetches the third's 6 (3 s). Device 1: 3, and 0.5 s more
    # for each of the same two transfers.
    assert loads_of(PROBLEM, (0, 0, 1, 0)).tolist() == [11.0, 8.0, 0.0]
    assert broken((0, 0, 1, 0), FREE, 11.0) == []


def test_latency_is_one_call_a_device_after_the_other() -> None:
    # The host runs the first (5 s); device 0 fetches 4 bytes, runs 2 + 3, sends 6: 10 s; the host runs the last: 8 s.
    assert latency_of(PROBLEM, (2, 0, 0, 2)) == 5.0 + (2.0 + 2.0 + 3.0 + 3.0) + 8.0
    assert broken((2, 0, 0, 2), Goal(Aim.LATENCY), 23.0, 23.0) == []


@pytest.mark.parametrize(
    ("devices", "goal", "figure", "rule", "operators"),
    [
        ((0, 0, 1), FREE, 11.0, Rule.COUNT, ()),
        ((0, 0, 3, 0), FREE, 11.0, Rule.RANGE, (2,)),
        ((0, 0, 2, 0), FREE, 11.0, Rule.SUPPORT, (2,)),
        ((0, 1, 1, 0), FREE, 11.0, Rule.FIXED, (1,)),
        ((0, 0, 1, 1), FREE, 11.0, Rule.COLOCATION, (0, 3)),
        ((0, 0, 0, 0), FREE, 10.0, Rule.MEMORY, (0, 1, 2, 3)),
        ((0, 0, 1, 0), Goal(), 11.0, Rule.CONTIGUITY, ()),
        ((0, 0, 1, 0), Goal(Aim.LATENCY), 11.0, Rule.CONTIGUITY, ()),
        ((0, 0, 1, 0), FREE, 10.0, Rule.FIGURE, ()),
        ((0, 0, 1, 0), Goal(Aim.DEVICES, False, 10.0), 2.0, Rule.DEADLINE, ()),
        ((0, 0, 1, 0), Goal(Aim.DEVICES, False, 11.0), 1.0, Rule.FIGURE, ()),
    ],
)
def test_the_broken_rule_is_named(
    devices: tuple[int, ...], goal: Goal, figure: float, rule: Rule, operators: tuple[int, ...]
) -> None:
    assert [(one.rule, one.places) for one in broken(devices, goal, figure)] == [(rule, operators)]


def test_a_figure_below_its_bound_is_named() -> None:
    assert [one.rule for one in broken((0, 0, 1, 0), FREE, 11.0, 12.0)] == [Rule.BOUND]


def test_backward_operators_may_go_back() -> None:
    """Forward 0 -> 1, backward 1 -> 0: a pipeline of two stages, though values go to and fro."""
    times = (Operator((1.0,), group=0), Operator((1.0,), group=1))
    back = tuple(Operator((1.0,), group=group, backward=True) for group in (1, 0))
    problem = Problem((*times, *back), ((0, 1), (1, 2), (2, 3)), (Device(0), Device(0)))
    assert validate(problem, Goal(), Solution((0, 1, 1, 0), 2.0, 2.0, "a test")) == []
    forward = Problem((*times, Operator((1.0,)), Operator((1.0,))), problem.edges, problem.devices)
    assert [one.rule for one in validate(forward, Goal(), Solution((0, 1, 1, 0), 2.0, 0.0, "a test"))] == [
        Rule.CONTIGUITY
    ]


def test_check_raises_with_the_rule_and_the_operators() -> None:
    fine = Solution((0, 0, 1, 0), 11.0, 10.0, "a test")
    assert check(PROBLEM, FREE, fine) is fine
    with pytest.raises(SolverError, match=r"a test .*operators 0, 3: .*one device"):
        check(PROBLEM, FREE, Solution((0, 0, 1, 1), 11.0, 0.0, "a test"))


@pytest.mark.parametrize(
    ("operators", "edges", "devices", "said"),
    [
        ((Operator((1.0,)),), ((0, 1),), (Device(0),), "from operator 0 to 1"),
        ((Operator((1.0,)), Operator((1.0,))), ((0, 1), (1, 0)), (Device(0),), "circle"),
        ((Operator((1.0,)),), (), (Device(1),), "1 kinds"),
        ((Operator((-1.0,)),), (), (Device(0),), "below 0"),
        ((Operator((math.nan,)),), (), (Device(0),), "no number"),
        ((Operator((1.0,), fixed=1),), (), (Device(0),), "device 1 of 1"),
        ((Operator((1.0,)),), (), (Device(0, bytes_per_s=0.0),), "device 0"),
    ],
)
def test_what_is_no_problem_is_said(
    operators: tuple[Operator, ...], edges: tuple[tuple[int, int], ...], devices: tuple[Device, ...], said: str
) -> None:
    with pytest.raises(SolverError, match=said):
        Problem(operators, edges, devices)
