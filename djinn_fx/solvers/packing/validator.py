"""Whether a solution keeps the rules, looked at slowly and apart from whoever found it."""

from __future__ import annotations

from enum import Enum

from djinn_fx.solvers.packing.problem import Problem, Solution
from djinn_fx.solvers.rules import Broken, refuse


class Rule(Enum):
    """What a solution must hold to."""

    COUNT = "one offset for each buffer"
    RANGE = "no offset is below 0"
    ALIGNMENT = "each offset is a multiple of its buffer's alignment"
    OVERLAP = "buffers that live at the same time lie apart"
    HEIGHT = "the height is where the uppermost buffer ends"
    BOUND = "the height is not below the bound"


def validate(problem: Problem, solution: Solution) -> list[Broken]:
    """Every rule that the solution breaks, and by which buffers; empty for a valid one."""
    if len(solution.offsets) != len(problem.buffers):
        detail = f"{len(solution.offsets)} offsets for {len(problem.buffers)} buffers"
        return [Broken(Rule.COUNT, (), detail)]
    return [*_alone(problem, solution), *_together(problem, solution), *_whole(problem, solution)]


def check(problem: Problem, solution: Solution) -> Solution:
    """The same solution.

    Raises:
        SolverError: it breaks a rule.
    """
    refuse(validate(problem, solution), f"a packing found by {solution.found_by}", "buffers")
    return solution


def _alone(problem: Problem, solution: Solution) -> list[Broken]:
    """What a buffer breaks by itself."""
    broken = []
    for place, (one, offset) in enumerate(zip(problem.buffers, solution.offsets, strict=True)):
        if offset < 0:
            broken.append(Broken(Rule.RANGE, (place,), f"offset {offset}"))
        if offset % one.alignment:
            broken.append(Broken(Rule.ALIGNMENT, (place,), f"offset {offset} with alignment {one.alignment}"))
    return broken


def _together(problem: Problem, solution: Solution) -> list[Broken]:
    """Pairs that share bytes while both live. Buffers are met as they begin; ended ones are forgotten."""
    broken, living = [], list[int]()
    for place in sorted(range(len(problem.buffers)), key=lambda place: problem.buffers[place].lower):
        one, offset = problem.buffers[place], solution.offsets[place]
        if not one.size:
            continue
        living = [other for other in living if problem.buffers[other].upper > one.lower]
        for other in living:
            begin, size = solution.offsets[other], problem.buffers[other].size
            if begin < offset + one.size and offset < begin + size:
                detail = f"bytes {offset} to {offset + one.size} and {begin} to {begin + size}"
                broken.append(Broken(Rule.OVERLAP, (min(place, other), max(place, other)), detail))
        living.append(place)
    return broken


def _whole(problem: Problem, solution: Solution) -> list[Broken]:
    """What is said of the solution as a whole."""
    broken = []
    ends = [offset + one.size for one, offset in zip(problem.buffers, solution.offsets, strict=True) if one.size]
    if solution.height != max(ends, default=0):
        broken.append(Broken(Rule.HEIGHT, (), f"{solution.height} said, {max(ends, default=0)} needed"))
    if solution.height < solution.bound:
        broken.append(Broken(Rule.BOUND, (), f"height {solution.height}, bound {solution.bound}"))
    return broken
