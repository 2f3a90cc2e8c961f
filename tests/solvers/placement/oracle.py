"""Random small problems, and the best figure by trying every placement."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import product

from djinn_fx.solvers.placement.problem import Aim, Device, Goal, Operator, Problem, Solution
from djinn_fx.solvers.placement.validator import Rule, validate


def some_problem(seed: int, most: int = 7, devices: int = 3) -> Problem:
    """Operators with edges at random; devices alike or not, with or without a host, memory ample or scarce."""
    chance = random.Random(seed)
    count = chance.randint(1, most)
    edges = {
        (first, second)
        for second in range(count)
        for first in range(second)
        if chance.random() < chance.choice((0.2, 0.5))
    }
    training = chance.random() < 0.3
    operators = tuple(_operator(chance, place, count, training) for place in range(count))
    total = sum(one.memory_bytes for one in operators)
    room = chance.choice((math.inf, total, max(total * 0.6, max(one.memory_bytes for one in operators))))
    rate, latency = chance.choice((1.0, 4.0)), chance.choice((0.0, 0.0, 0.25))
    made = [Device(0, room, rate, latency) for _ in range(chance.randint(1, devices))]
    if chance.random() < 0.3:
        made[-1] = Device(0, room, rate / 2, latency)
    if chance.random() < 0.6:
        made.append(Device(1, host=True))
    problem = Problem(operators, tuple(sorted(edges)), tuple(made))
    if chance.random() < 0.2 and count > 1:
        pinned = replace(operators[0], fixed=chance.randrange(len(made)))
        problem = replace(problem, operators=(pinned, *operators[1:]))
    return problem


def _operator(chance: random.Random, place: int, count: int, training: bool) -> Operator:
    backward = training and place >= count / 2
    time = chance.choice((0.0, 1.0, 2.0, float(chance.randint(1, 9))))
    slow = time * chance.choice((3.0, 5.0))
    times = (math.inf, slow) if chance.random() < 0.05 else (time, slow)
    # A backward operator is with its forward one, the last with the first; now and then others are together.
    group = count - 1 - place if backward else place if training else chance.choice((None, None, None, 0))
    return Operator(times, float(chance.randint(0, 5)), float(chance.choice((0, 1, 2, 4))), group, None, backward)


def best_figure(problem: Problem, goal: Goal) -> float:
    """The least figure of all placements that keep the rules; infinite where none does. By the validator alone."""
    names = [
        ("group", one.group) if one.group is not None else ("alone", at) for at, one in enumerate(problem.operators)
    ]
    units = sorted(set(names), key=names.index)
    least = math.inf
    for choice in product(range(len(problem.devices)), repeat=len(units)):
        devices = tuple(choice[units.index(name)] for name in names)
        least = min(least, figure(problem, goal, devices))
    return least


def figure(problem: Problem, goal: Goal, devices: tuple[int, ...]) -> float:
    """What a placement comes to, or infinite where it breaks a rule: what the validator says when 0 is claimed."""
    broken = validate(problem, goal, Solution(devices, 0.0, 0.0, "a test"))
    if not broken:
        return 0.0
    if [one.rule for one in broken] != [Rule.FIGURE]:
        return math.inf
    return float(broken[0].detail.split("said, ")[1].removesuffix(" found"))


#: Every goal that is asked for; those with a deadline are made of a figure first.
GOALS = {
    "load, contiguous": Goal(Aim.LOAD, contiguous=True),
    "load": Goal(Aim.LOAD, contiguous=False),
    "latency": Goal(Aim.LATENCY),
}
