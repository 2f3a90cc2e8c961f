"""Whether an order keeps the rules, looked at slowly and apart from whoever found it."""

from __future__ import annotations

from enum import Enum

from djinn_fx.solvers.ordering.problem import Problem, Solution
from djinn_fx.solvers.rules import Broken, refuse


class Rule(Enum):
    """What a solution must hold to."""

    COUNT = "every node runs once"
    DEPENDENCY = "a node runs after all that it waits for"
    PEAK = "the peak is that of the order"
    BOUND = "the peak is not below the bound"


def validate(problem: Problem, solution: Solution) -> list[Broken]:
    """Every rule that the solution breaks, and by which nodes; empty for a valid one."""
    if sorted(solution.order) != list(range(len(problem.before))):
        odd = {node for node in solution.order if solution.order.count(node) > 1 or node >= len(problem.before)}
        missing = set(range(len(problem.before))) - set(solution.order)
        detail = f"{len(solution.order)} places for {len(problem.before)} nodes"
        return [Broken(Rule.COUNT, tuple(sorted(odd | missing)), detail)]
    broken, ran = [], set[int]()
    for node in solution.order:
        late = [one for one in problem.before[node] if one not in ran]
        broken += [Broken(Rule.DEPENDENCY, (one, node), f"{node} runs before {one}") for one in late]
        ran.add(node)
    peak = max((_during(problem, solution.order, step) for step in range(len(solution.order))), default=problem.held)
    if solution.peak != peak:
        broken.append(Broken(Rule.PEAK, (), f"{solution.peak} said, {peak} needed"))
    if solution.peak < solution.bound:
        broken.append(Broken(Rule.BOUND, (), f"peak {solution.peak}, bound {solution.bound}"))
    return broken


def check(problem: Problem, solution: Solution) -> Solution:
    """The same solution.

    Raises:
        SolverError: it breaks a rule.
    """
    refuse(validate(problem, solution), f"an order found by {solution.found_by}", "nodes")
    return solution


def _during(problem: Problem, order: tuple[int, ...], step: int) -> int:
    """Bytes that are there while the node at a place runs, counted from nothing."""
    earlier, now, later = set(order[:step]), order[step], set(order[step + 1 :])
    found = problem.held + problem.workspace[now]
    for storage in problem.storages:
        begun = storage.given or now in storage.touched or bool(earlier & set(storage.touched))
        needed = storage.kept or now in storage.touched or bool(later & set(storage.touched))
        found += storage.nbytes if begun and needed else 0
    return found
