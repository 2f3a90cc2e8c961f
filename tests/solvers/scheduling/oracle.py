"""Random small problems, and the earliest end by trying every order on every device."""

from __future__ import annotations

import math
import random
from itertools import product

from djinn_fx.solvers.scheduling.problem import Link, Problem, Task


def some_problem(seed: int, most: int = 5, devices: int = 2) -> Problem:
    """Tasks with edges at random; links of their own, both ways at once or not, or one bus."""
    chance = random.Random(seed)
    count, devices = chance.randint(1, most), chance.randint(1, devices)
    edges = tuple((one, other) for other in range(count) for one in range(other) if chance.random() < 0.4)
    tasks = tuple(
        Task(tuple(float(chance.randint(0, 9)) for _ in range(devices)), float(chance.choice((0, 1, 2, 8))))
        for _ in range(count)
    )
    ways = [(one, other) for one in range(devices) for other in range(devices) if one != other]
    rate, latency = chance.choice((1.0, 4.0)), chance.choice((0.0, 0.5))
    bus = chance.random() < 0.5 and ways
    links = (Link(tuple(ways), rate, latency),) if bus else tuple(Link((way,), rate, latency) for way in ways)
    return Problem(tasks, edges, devices, links)


def earliest_end(problem: Problem) -> float:
    """The least makespan. In one that cannot be pulled forward, tasks and transfers begin in some order, each as early
    as those before it allow; so trying every order of both is enough.
    """
    best = math.inf
    for devices in product(range(problem.devices), repeat=len(problem.tasks)):
        moves = sorted({(source, devices[user]) for source, user in problem.edges if devices[source] != devices[user]})
        if all((devices[source], to) in problem.link_of for source, to in moves):
            jobs = [("task", task) for task in range(len(problem.tasks))] + [("move", *move) for move in moves]
            best = min(best, _least(problem, devices, jobs, best))
    return best


def _least(problem: Problem, devices: tuple[int, ...], jobs: list[tuple[object, ...]], best: float) -> float:
    """Depth first over the orders in which jobs begin; given up where it is as late as the best."""
    done: dict[tuple[object, ...], float] = {}
    free: dict[object, float] = {}

    def needs(job: tuple[object, ...]) -> list[tuple[object, ...]]:
        if job[0] == "move":
            return [("task", job[1])]
        here = devices[job[1]]
        sources = {source for source, user in problem.edges if user == job[1]}
        return [("task", one) if devices[one] == here else ("move", one, here) for one in sorted(sources)]

    def deeper(latest: float) -> None:
        nonlocal best
        if latest >= best:
            return
        if len(done) == len(jobs):
            best = latest
            return
        for job in jobs:
            if job in done or any(one not in done for one in needs(job)):
                continue
            if job[0] == "task":
                place, length = ("device", devices[job[1]]), problem.tasks[job[1]].times_s[devices[job[1]]]
            else:
                way = (devices[job[1]], job[2])
                place, length = ("link", problem.link_of[way]), problem.transfer_s(job[1], *way)
            was = free.get(place, 0.0)
            end = max([was, *(done[one] for one in needs(job))]) + length
            done[job], free[place] = end, end
            deeper(max(latest, end))
            del done[job]
            free[place] = was

    deeper(0.0)
    return best
