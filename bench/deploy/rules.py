"""Other rules for which model lives on which device: what a plan is held against.

* The published rule of GSwarm's static scheduler, in two readings: models by usage; a gang takes the first server with
  so many empty devices in a row, other models go round the devices; one copy each, or round after round until no
  device is empty. Memory is left aside, as it is there.
* AlpaServe's greedy: copy after copy, each the one whose simulation is best.
* Dynamic switching: whatever is asked for is loaded where least recently used models make room, as Ray Serve's
  multiplexing and ModelMesh do.
* Batches by model: all that waits is run model by model, each loaded once for a batch on all devices.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from djinn_fx.solvers.deployment.placing.greedy import first_room
from djinn_fx.solvers.deployment.placing.loads import split
from djinn_fx.solvers.deployment.placing.patterns import patterns_of
from djinn_fx.solvers.deployment.placing.room import Room
from djinn_fx.solvers.deployment.problem import Plan, Problem, Replica
from djinn_fx.solvers.deployment.simulate import simulate


def published(problem: Problem, *, rounds: bool = False) -> Plan:
    """The published rule; a model that finds no place has none, and its requests never end.

    Args:
        problem: what is deployed.
        rounds: go on until no device is empty; else one copy of each.
    """
    usage = patterns_of(problem).usage
    order = sorted(usage, key=lambda m: (-usage[m], m))
    cluster, found, turn = problem.cluster, list[Replica](), 0
    empty = [True] * cluster.size
    while True:
        before = len(found)
        for model in order:
            gang = problem.models[model].gang
            if gang > 1:
                first = _first_empty(problem, empty, gang)
            elif rounds:
                first = next((d for d in range(cluster.size) if empty[d]), None)
            else:
                first, turn = turn % cluster.size, turn + 1
            if first is not None:
                found.append(Replica(model, first))
                empty[first : first + gang] = [False] * gang
        if not rounds or len(found) == before:
            return Plan(tuple(sorted(set(found))), found_by="the published rule")


def _first_empty(problem: Problem, empty: Sequence[bool], gang: int) -> int | None:
    for server in problem.cluster.servers:
        for first in range(server.start, server.stop - gang + 1):
            if all(empty[first : first + gang]):
                return first
    return None


def alpaserve(problem: Problem, most: int = 60) -> Plan | None:
    """Simulation-guided greedy: of one further copy of each model, where is least work, the best by simulation."""
    room = first_room(problem)
    if room is None:
        return None
    best = simulate(problem, Plan(room.sorted)).makespan
    for _ in range(most):
        tried: list[tuple[float, Replica]] = []
        load = np.array(split(problem, room.sorted).device)
        for model in problem.used:
            firsts = room.firsts(model, aligned=True)
            if len(firsts):
                one = Replica(model, int(firsts[int(np.argmin(room.over(load, model, firsts)))]))
                tried.append((simulate(problem, Plan(Room(problem, (*room.replicas, one)).sorted)).makespan, one))
        if not tried or min(tried)[0] >= best:
            break
        best, one = min(tried)
        room.put(one)
    return Plan(room.sorted, found_by="simulation-guided greedy")


def switching(problem: Problem, load_s: Sequence[float]) -> tuple[float, float, int]:
    """Makespan, P99 and switches where models are loaded as they are asked for, least recently used ones out first.

    A node takes idle devices in a row: those that have its model first, then those that were used least recently.
    """
    traffic, cluster, models = problem.traffic, problem.cluster, problem.models
    holds: list[OrderedDict[int, int]] = [OrderedDict() for _ in cluster.server]
    busy, used = [False] * cluster.size, [0.0] * cluster.size
    request, model_of = traffic.request.tolist(), problem.model_of.tolist()
    left = [len(e) for w in traffic.workflow.tolist() for e in problem.workflows[w].before]
    end = np.zeros(len(traffic.times))
    ready: list[int] = []
    events: list[tuple[float, int, int, int]] = []
    for n, at in enumerate(traffic.arrival.tolist()):
        heapq.heappush(events, (at, 0, n, 0))
    switches = 0
    while events:
        now, kind, node, first = heapq.heappop(events)
        if kind == 0:
            base = int(traffic.first[node])
            ready += [base + n for n, e in enumerate(problem.workflows[int(traffic.workflow[node])].before) if not e]
        else:
            busy[first : first + models[model_of[node]].gang] = [False] * models[model_of[node]].gang
            base = int(traffic.first[request[node]])
            for later in problem.workflows[int(traffic.workflow[request[node]])].after[node - base]:
                left[base + later] -= 1
                if not left[base + later]:
                    ready.append(base + later)
        if events and events[0][0] == now:
            continue
        ready.sort()
        waiting, full = [], set[int]()
        for one in ready:
            model = model_of[one]
            place = None if models[model].gang in full else _place(problem, holds, busy, used, model)
            if place is None:
                full.add(models[model].gang)
                waiting.append(one)
                continue
            missing = _load(problem, holds, place, model, now)
            switches += missing
            here = slice(place, place + models[model].gang)
            busy[here] = [True] * models[model].gang
            used[here] = [now] * models[model].gang
            end[one] = now + float(traffic.times[one]) + (load_s[model] if missing else 0.0)
            heapq.heappush(events, (float(end[one]), 1, one, place))
        ready = waiting
    took = np.maximum.reduceat(end, traffic.first[:-1]) - traffic.arrival
    return float(end.max()), float(np.percentile(took, 99)), switches


def _place(
    problem: Problem, holds: list[OrderedDict[int, int]], busy: list[bool], used: list[float], model: int
) -> int | None:
    gang, best = problem.models[model].gang, None
    places, even = problem.places(model)
    for first in places[even].tolist():
        here = range(first, first + gang)
        if not any(busy[d] for d in here):
            key = (not all(model in holds[d] for d in here), max(used[d] for d in here), first)
            best = key if best is None else min(best, key)
    return None if best is None else best[2]


def _load(problem: Problem, holds: list[OrderedDict[int, int]], first: int, model: int, now: float) -> int:
    """Load what is missing, and say whether anything was."""
    share, missing = problem.models[model].share, 0
    for device in range(first, first + problem.models[model].gang):
        there = holds[device]
        if model not in there:
            missing = 1
            while sum(there.values()) + share > problem.cluster.memory[device]:
                there.popitem(last=False)
            there[model] = share
        there.move_to_end(model)
    return missing


def batches(problem: Problem, load_s: Sequence[float]) -> float:
    """Makespan where all requests are there, and run level by level and model by model on all devices."""
    traffic = problem.traffic
    levels = [_levels(one.before) for one in problem.workflows]
    level = np.concatenate([levels[w] for w in traffic.workflow.tolist()])
    now = 0.0
    for depth in range(int(level.max()) + 1):
        for model in problem.used:
            times = np.sort(traffic.times[(level == depth) & (problem.model_of == model)])[::-1]
            even = problem.places(model)[1]
            ends = [0.0] * max(1, int(even.sum()))
            for one in times.tolist():
                heapq.heapreplace(ends, ends[0] + one)
            now += (load_s[model] + max(ends)) if len(times) else 0.0
    return now


def _levels(before: Sequence[Sequence[int]]) -> list[int]:
    found: list[int] = []
    for early in before:
        found.append(1 + max((found[one] for one in early), default=-1))
    return found
