"""From a workload and devices to a plan, or a refusal that names what is missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from djinn_fx.deploy.reading.workload import Workload
from djinn_fx.errors import InfeasibleError, SettingsError
from djinn_fx.solvers.deployment.bounds import Bounds, bounds_of
from djinn_fx.solvers.deployment.measures import Measures, measure
from djinn_fx.solvers.deployment.placing.fewest import fewest
from djinn_fx.solvers.deployment.problem import Cluster, Plan, Problem
from djinn_fx.solvers.deployment.search import EFFORT, Aim, Found, search
from djinn_fx.solvers.deployment.simulate import Outcome, simulate
from djinn_fx.solvers.deployment.validator import check
from djinn_fx.units import format_bytes

#: Devices that a refusal looks at: so many times as many as are there, and at least so many.
TIMES_MORE, AT_LEAST = 8, 64
#: Servers up to which plans that leave the last ones alone are looked at too.
MOST_SERVERS = 32


@dataclass(frozen=True)
class Wish:
    """How to plan.

    Attributes:
        aim: what comes first.
        exclusive: one model a device.
        offline: all requests are there at the start.
        effort: node executions to simulate.
        seed: of the search.
        copies: of a model at most; None: as many as there is room for.
    """

    aim: Aim = Aim.MAKESPAN
    exclusive: bool = False
    offline: bool = True
    effort: int = EFFORT
    seed: int = 0
    copies: int | None = None


@dataclass(frozen=True, eq=False)
class Planned:
    """A plan, and what its simulation says.

    Attributes:
        workload: what was asked for.
        problem: the same by numbers.
        plan: where copies are.
        outcome: when each node runs.
        measures: what that comes to.
        bounds: below which no plan's makespan can be.
        found: all of the search; None where the plan was given.
    """

    workload: Workload
    problem: Problem
    plan: Plan
    outcome: Outcome
    measures: Measures
    bounds: Bounds
    found: Found | None = None


def make_plan(workload: Workload, cluster: Cluster, wish: Wish, *, start: Plan | None = None) -> Planned:
    """The best plan found.

    Args:
        workload: models, workflows, requests.
        cluster: the devices.
        wish: what is aimed at.
        start: a plan that the answer is to be no worse than.

    Raises:
        SettingsError: a gang is larger than every server, or a model may be on none of the devices.
        InfeasibleError: there is no room; the message names the smallest number of devices that suffices.
    """
    problem = workload.problem(cluster, exclusive=wish.exclusive, offline=wish.offline, copies=wish.copies)
    _gangs_fit(workload, problem)
    found = search(problem, wish.aim, effort=wish.effort, seed=wish.seed, start=start)
    if found is not None:
        found = _no_worse_than_fewer(problem, wish, found)
    if found is None or found.best.measures.completed < problem.traffic.size:
        raise InfeasibleError(_refusal(workload, problem))
    plan = check(problem, found.best.plan)
    return Planned(workload, problem, plan, simulate(problem, plan), found.best.measures, found.bounds, found)


def simulated(workload: Workload, cluster: Cluster, plan: Plan, wish: Wish) -> Planned:
    """What a given plan comes to.

    Raises:
        SolverError: it breaks a rule.
    """
    problem = workload.problem(cluster, exclusive=wish.exclusive, offline=wish.offline)
    outcome = simulate(problem, check(problem, plan))
    return Planned(workload, problem, plan, outcome, measure(problem, plan, outcome), bounds_of(problem))


def _gangs_fit(workload: Workload, problem: Problem) -> None:
    widest = max((len(one) for one in problem.cluster.servers), default=0)
    for number in problem.used:
        model, info = problem.models[number], workload.config.models[workload.model_names[number]]
        if model.gang > widest:
            raise SettingsError(
                f"{info.place}: model {info.name!r} takes {model.gang} devices of one server at once, and the largest "
                f"server has {widest}: --gpus and --gpus-per-server must both be at least {model.gang}"
            )
        if not problem.cluster.places(model):
            if problem.cluster.places(replace(model, allowed=None)):
                raise SettingsError(f"{info.place}: model {info.name!r} may be on none of the devices that there are")
            raise InfeasibleError(
                f"{info.place}: model {info.name!r} takes {format_bytes(model.share)} on each of its devices, and the "
                f"largest has {format_bytes(max(problem.cluster.memory))}: no number of such devices suffices"
            )


def _no_worse_than_fewer(problem: Problem, wish: Wish, found: Found) -> Found:
    """Look at plans that leave the last server alone, where one could be better: more devices are never worse."""
    cluster = problem.cluster
    while 1 < len(cluster.servers) <= MOST_SERVERS and wish.aim is Aim.MAKESPAN:
        last = cluster.servers[-1]
        cluster = _first_devices(cluster, last.start)
        smaller = replace(problem, cluster=cluster)
        if bounds_of(smaller).makespan >= found.best.measures.makespan or any(
            not cluster.places(problem.models[m]) for m in problem.used
        ):
            return found
        other = search(smaller, wish.aim, effort=wish.effort, seed=wish.seed)
        if other is not None and other.best.measures.makespan < found.best.measures.makespan:
            found = replace(found, best=other.best)
    return found


def _first_devices(cluster: Cluster, count: int) -> Cluster:
    return replace(
        cluster,
        server=cluster.server[:count],
        memory=cluster.memory[:count],
        slowness=cluster.slowness[:count],
    )


def _refusal(workload: Workload, problem: Problem) -> str:
    cluster = problem.cluster
    names = ", ".join(workload.model_names[m] for m in problem.used)
    wanted = sum(problem.models[m].share * problem.models[m].gang for m in problem.used)
    what = "with one model a device " if problem.exclusive else ""
    head = (
        f"{cluster.size} devices with {format_bytes(sum(cluster.memory))} do not suffice {what}for one copy each of "
        f"{names}, which take {format_bytes(wanted)}"
    )
    if any(problem.models[m].allowed is not None for m in problem.used):
        return f"{head}: some may be on certain devices only"
    more = fewest(problem, grown(cluster), max(AT_LEAST, TIMES_MORE * cluster.size))
    if more is None:
        return f"{head}; nor do {TIMES_MORE} times as many"
    proof = "the smallest number that suffices" if more.proven else "the smallest number found to suffice"
    return f"{head}: {more.devices} devices are {proof}"


def grown(cluster: Cluster) -> Callable[[int], Cluster]:
    """The same servers with so many devices, further ones like the last."""
    per_server, memory, slowness = max(map(len, cluster.servers)), cluster.memory[-1], cluster.slowness[-1]

    def of(devices: int) -> Cluster:
        if devices <= cluster.size:
            return _first_devices(cluster, devices)
        last = cluster.server[-1]
        room = per_server - len(cluster.servers[-1])
        more = devices - cluster.size
        added = [last if n < room else last + 1 + (n - room) // per_server for n in range(more)]
        return replace(
            cluster,
            server=(*cluster.server, *added),
            memory=(*cluster.memory, *[memory] * more),
            slowness=(*cluster.slowness, *[slowness] * more),
        )

    return of
