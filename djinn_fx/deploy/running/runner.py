"""Carries a plan out: processes that host its models, and requests sent to them by the simulator's rule."""

from __future__ import annotations

import selectors
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from djinn_fx.deploy.planning import Planned
from djinn_fx.deploy.reading.workload import Workload
from djinn_fx.deploy.running.answers import answer_of
from djinn_fx.deploy.running.crew import Crew, Options
from djinn_fx.deploy.running.elastic import LOOK_S, Added, Elastic
from djinn_fx.deploy.running.routing import Router, Touched
from djinn_fx.deploy.running.seat import Seat
from djinn_fx.errors import DeviceLostError, EngineError
from djinn_fx.remote.wire.frame import Frame
from djinn_fx.solvers.deployment.bounds import bounds_of
from djinn_fx.solvers.deployment.measures import measure
from djinn_fx.solvers.deployment.problem import Cluster, Plan, Replica
from djinn_fx.solvers.deployment.validator import check

#: Seconds that a wait for something to happen takes at most; it is looked at deadlines again then.
_LOOK_S = 5.0


@dataclass(frozen=True, eq=False)
class Ran:
    """What came of it.

    Attributes:
        planned: the plan, with what really happened in place of a simulation.
        failures: for each request that did not end, why.
        load_s: seconds until all models were loaded and warm.
        cores: of the processor that were there for them.
        lost: how processes ended that were to go on.
        added: copies that were loaded while requests ran; the plan has them too, behind its own.
        checked: nodes that were compared with eager.
        different: those whose results differ, as "request/node".
        results: for each request its nodes' results, where they were kept.
    """

    planned: Planned
    failures: Mapping[str, str]
    load_s: float
    cores: int
    lost: tuple[str, ...]
    added: tuple[Added, ...]
    checked: int
    different: tuple[str, ...]
    results: Mapping[str, Mapping[str, Any]]


def execute(workload: Workload, cluster: Cluster, plan: Plan, options: Options, *, offline: bool) -> Ran:
    """Run all requests. No process is left, whatever happens.

    Args:
        workload: with an entry for each model that the plan has a copy of.
        cluster: the plan's devices.
        plan: where copies are.
        options: how.
        offline: all requests at once, rather than each at its time.

    Raises:
        SolverError: the plan breaks a rule.
        ModelFailedError: a model cannot be loaded.
    """
    problem = workload.problem(cluster, offline=offline)
    router = Router(problem, check(problem, plan))
    with ExitStack() as stack:
        crew = Crew(workload, router, options, stack)
        begun = time.monotonic()
        crew.start()
        run = _Execution(crew, _elastic(crew))
        crew.warm_up()
        load_s = time.monotonic() - begun
        run.serve()
        checked, different = crew.compare() if options.check else (0, ())
    outcome, plan = router.outcome(), router.plan
    names = workload.requests
    return Ran(
        Planned(workload, problem, plan, outcome, measure(problem, plan, outcome), bounds_of(problem)),
        {names[request]: why for request, why in sorted(router.failed.items())},
        load_s,
        len(crew.cores),
        (*crew.lost.values(), *run.refused),
        tuple(run.added),
        checked,
        different,
        crew.kept(),
    )


def _elastic(crew: Crew) -> Elastic | None:
    """Who asks for further copies, if anybody does: a load is taken to last as long as that of the model's copies."""
    options, router = crew.options, crew.router
    if options.queue is None:
        return None
    infos, loads = list(crew.workload.config.models.values()), dict[int, float]()
    for one, seat in zip(router.plan.replicas, crew.seats, strict=True):
        loads[one.model] = max(infos[one.model].load_s, loads.get(one.model, 0.0), seat.ready_s)
    return Elastic(replace(router.problem, exclusive=options.exclusive), router, options.queue, loads)


@dataclass
class _Growing:
    """A further copy that is being loaded, and runs a node a few times before it takes any."""

    replica: Replica
    seat: Seat
    asked: float
    waiting: int
    copies: int
    until: float
    left: int


@dataclass
class _Execution:
    crew: Crew
    elastic: Elastic | None
    deadline: dict[int, float] = field(default_factory=dict)
    growing: _Growing | None = None
    added: list[Added] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    @property
    def router(self) -> Router:
        """Who runs what."""
        return self.crew.router

    # -- while it runs

    def serve(self) -> None:
        """From the first arrival to the last end."""
        router, arrival = self.router, self.router.problem.traffic.arrival.tolist()
        touched: Touched = {}
        origin = time.monotonic()
        with selectors.DefaultSelector() as selector:
            for seat in dict.fromkeys(self.crew.seats):
                if seat not in self.crew.lost:
                    selector.register(seat.channel, selectors.EVENT_READ, seat)
            for seat, why in self.crew.lost.items():
                touched.update(self._gone(seat, why, 0.0))
            coming = 0
            while True:
                now = time.monotonic() - origin
                # With nobody left there is nothing to wait for: what is still to come fails at once.
                while coming < len(arrival) and (
                    arrival[coming] <= now or len(self.crew.lost) == len(set(self.crew.seats))
                ):
                    router.arrive(coming, arrival[coming], touched)
                    coming += 1
                while touched:
                    now = time.monotonic() - origin
                    sent, touched = router.settle(touched, now), {}
                    for node, replica in sent:
                        self._send(node, replica, now, selector, touched)
                if coming == len(arrival) and not router.running:
                    break
                self._grow(now, selector)
                later = [arrival[coming]] if coming < len(arrival) else []
                found = selector.select(max(0.0, min([*later, *self.deadline.values(), now + self._look_s()]) - now))
                for key, _ in found:
                    self._hear(key.data, time.monotonic() - origin, selector, touched)
                self._late(time.monotonic() - origin, selector, touched)
        router.give_up("nothing that could still happen would let it run")

    def _look_s(self) -> float:
        return _LOOK_S if self.elastic is None else LOOK_S

    def _send(self, node: int, replica: int, now: float, selector: selectors.BaseSelector, touched: Touched) -> None:
        seat = self.crew.seats[replica]
        try:
            self.crew.ask(seat, node)
            self.deadline[node] = now + self.crew.options.node_s
        except DeviceLostError as error:
            self._drop(seat, str(error), now, selector, touched)
        except EngineError as error:
            self.router.broke(node, str(error), touched)

    def _hear(self, seat: Seat, now: float, selector: selectors.BaseSelector, touched: Touched) -> None:
        """What a process says: the node that it ran has ended, or failed; or it is there no more."""
        running = [n for n, r in self.router.running.items() if self.crew.seats[r] is seat]
        try:
            frame = seat.hear()
            if self.growing is not None and seat is self.growing.seat:
                self._further(self.growing, frame, now, touched)
                return
            if not running:
                raise DeviceLostError(f"the process of {seat.name} said something unasked")
        except DeviceLostError as error:
            self._drop(seat, str(error), now, selector, touched)
            return
        node = running[0]
        self.deadline.pop(node, None)
        if frame.kind == "done":
            self.crew.results[node] = answer_of(frame)
            self.router.ended(node, now, touched)
            if self.elastic is not None:
                self.elastic.ended(node)
        else:
            self.router.broke(node, f"{self.crew.name(node)}: {frame.fields['why']}", touched)
        self._forget(self.router.request[node])

    def _late(self, now: float, selector: selectors.BaseSelector, touched: Touched) -> None:
        """Processes whose node, or load, takes too long are ended."""
        for node in [node for node, until in self.deadline.items() if until < now]:
            seat = self.crew.seats[self.router.running[node]]
            late = f"{self.crew.name(node)} took more than {self.crew.options.node_s:g}s"
            why = f"{late}; the process of {seat.name} was ended"
            self._drop(seat, why, now, selector, touched)
        if self.growing is not None and self.growing.until < now:
            seat = self.growing.seat
            self._drop(seat, f"the process of {seat.name} was not ready in time and was ended", now, selector, touched)

    def _drop(self, seat: Seat, why: str, now: float, selector: selectors.BaseSelector, touched: Touched) -> None:
        selector.unregister(seat.channel)
        seat.end()
        if self.growing is not None and seat is self.growing.seat:
            assert self.elastic is not None
            self.elastic.refuse(self.growing.replica.model)
            self.refused.append(f"a further copy of {', '.join(seat.models)} did not come: {why}")
            self.growing = None
            return
        self.crew.lost[seat] = why
        touched.update(self._gone(seat, why, now))

    def _gone(self, seat: Seat, why: str, now: float) -> Touched:
        gone = {number for number, there in enumerate(self.crew.seats) if there is seat}
        for node, replica in self.router.running.items():
            if replica in gone:
                self.deadline.pop(node, None)
        return self.router.lose(gone, why, now)

    # -- further copies

    def _grow(self, now: float, selector: selectors.BaseSelector) -> None:
        """Begin to load a further copy where one is wanted, in a process of its own: what is there goes on."""
        wanted = self.elastic.wanted(now) if self.elastic is not None and self.growing is None else None
        if wanted is None:
            return
        replica, waiting, copies = wanted
        devices = range(replica.first, replica.first + self.router.widths[replica.model])
        seat = self.crew.seat(devices, [self.crew.workload.model_names[replica.model]])
        selector.register(seat.channel, selectors.EVENT_READ, seat)
        until = now + self.crew.options.load_s
        self.growing = _Growing(replica, seat, now, waiting, copies, until, self.crew.options.warm)

    def _further(self, growing: _Growing, frame: Frame, now: float, touched: Touched) -> None:
        """A further copy is loaded, or warmer: it runs a node that waits, for nobody, or takes nodes from now on."""
        if frame.kind == "failed":
            raise DeviceLostError(str(frame.fields["why"]))
        model = growing.replica.model
        node = next((n for n in self.router.waiting() if self.router.model_of[n] == model), None)
        if growing.left and node is not None and self.router.request[node] not in self.router.failed:
            growing.left, growing.until = growing.left - 1, now + self.crew.options.node_s
            try:
                self.crew.ask(growing.seat, node)
                return
            except DeviceLostError:
                raise
            except EngineError:
                pass  # its inputs cannot be sent: told where the node's turn comes
        self.growing = None
        self.crew.seats.append(growing.seat)
        touched.update(self.router.add(growing.replica, now))
        self.added.append(Added(growing.replica, now, growing.asked, growing.waiting, growing.copies))

    def _forget(self, request: int) -> None:
        """Results of a request that has ended are let go."""
        router = self.router
        nodes = range(router.first[request], router.first[request + 1])
        if self.crew.options.keep or self.crew.options.check or any(n in router.running for n in nodes):
            return
        if request in router.failed or all(n in self.crew.results for n in nodes):
            for node in nodes:
                self.crew.results.pop(node, None)


__all__ = ["Options", "Ran", "execute"]
