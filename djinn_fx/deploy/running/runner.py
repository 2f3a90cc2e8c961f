"""Carries a plan out: processes that host its models, and requests sent to them by the simulator's rule."""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch

from djinn_fx.deploy.planning import Planned
from djinn_fx.deploy.reading.workload import Workload
from djinn_fx.deploy.running.routing import Router, Touched
from djinn_fx.deploy.running.seat import Seat
from djinn_fx.deploy.running.values import put_together, same
from djinn_fx.errors import DeviceLostError, EngineError, ModelFailedError
from djinn_fx.remote.wire.frame import Frame
from djinn_fx.solvers.deployment.bounds import bounds_of
from djinn_fx.solvers.deployment.measures import measure
from djinn_fx.solvers.deployment.problem import Cluster, Plan
from djinn_fx.solvers.deployment.validator import check

#: Seconds that a wait for something to happen takes at most; it is looked at deadlines again then.
_LOOK_S = 5.0


@dataclass(frozen=True)
class Options:
    """How to run.

    Attributes:
        compiled: by the backend "djinn"; else models run as they are.
        keep: all results, until the end.
        check: afterwards run every node again, eager, on the same inputs, and compare. Keeps all results.
        warm: times that every copy runs the first request of each workflow before the clock starts.
        load_s: seconds that processes have to load their models.
        node_s: seconds that a node may take; the process is ended then.
    """

    compiled: bool = True
    keep: bool = False
    check: bool = False
    warm: int = 2
    load_s: float = 600.0
    node_s: float = 600.0


@dataclass(frozen=True, eq=False)
class Ran:
    """What came of it.

    Attributes:
        planned: the plan, with what really happened in place of a simulation.
        failures: for each request that did not end, why.
        load_s: seconds until all models were loaded and warm.
        cores: of the processor that were there for them.
        lost: how processes ended that were to go on.
        checked: nodes that were compared with eager.
        different: those whose results differ, as "request/node".
        results: for each request its nodes' results, where they were kept.
    """

    planned: Planned
    failures: Mapping[str, str]
    load_s: float
    cores: int
    lost: tuple[str, ...]
    checked: int
    different: tuple[str, ...]
    results: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class _Result:
    """What a node returned, as it travels."""

    tree: Any
    tensors: Sequence[torch.Tensor]


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
        run = _Execution(workload, router, options)
        begun = time.monotonic()
        run.start(stack)
        run.warm_up()
        load_s = time.monotonic() - begun
        run.serve()
        checked, different = run.compare() if options.check else (0, ())
    outcome = router.outcome()
    names = workload.requests
    return Ran(
        Planned(workload, problem, plan, outcome, measure(problem, plan, outcome), bounds_of(problem)),
        {names[request]: why for request, why in sorted(router.failed.items())},
        load_s,
        len(run.cores),
        tuple(run.lost.values()),
        checked,
        different,
        run.kept(),
    )


@dataclass
class _Execution:
    workload: Workload
    router: Router
    options: Options
    seats: dict[range, Seat] = field(default_factory=dict)
    lost: dict[range, str] = field(default_factory=dict)
    results: dict[int, _Result] = field(default_factory=dict)
    deadline: dict[int, float] = field(default_factory=dict)
    cores: tuple[int, ...] = ()

    # -- before the clock starts

    def start(self, stack: ExitStack) -> None:
        """A process for each device, and for each gang; all load at the same time."""
        names, infos = self.workload.model_names, self.workload.config.models
        hosted: dict[range, dict[str, str]] = {}
        for number, replica in enumerate(self.router.plan.replicas):
            name = names[replica.model]
            hosted.setdefault(self.router.devices[number], {})[name] = infos[name].entry
        self.cores = _cores()
        rank = {device: n for n, device in enumerate(sorted({d for devices in hosted for d in devices}))}
        for devices, models in hosted.items():
            cores = sorted({self.cores[rank[d] % len(self.cores)] for d in devices}) if self.cores else []
            seat = Seat(devices, models, cores, compiled=self.options.compiled, timeout_s=self.options.node_s)
            stack.callback(seat.end)
            self.seats[devices] = seat
        until = time.monotonic() + self.options.load_s
        for seat in self.seats.values():
            seat.channel.settimeout(max(0.01, until - time.monotonic()))
            try:
                frame = seat.hear()
            except DeviceLostError as error:
                raise ModelFailedError(f"{', '.join(seat.models)} cannot be loaded: {error}") from error
            if frame.kind != "ready":
                raise ModelFailedError(f"{seat.name}: {frame.fields['why']}")
            seat.channel.settimeout(self.options.node_s)

    def warm_up(self) -> None:
        """Every copy runs the first request of each workflow: what is compiled or read late is there before."""
        seen: set[int] = set()
        for request, workflow in enumerate(self.router.workflow):
            if workflow not in seen and self.options.warm:
                seen.add(workflow)
                base = self.router.first[request]
                nodes = range(base, self.router.first[request + 1])
                if not all(self._warm(node) for node in nodes):
                    continue  # it fails or ends a process: that is told of the requests that meet it
        self.results.clear()

    def _warm(self, node: int) -> bool:
        model, good = self.router.model_of[node], True
        there = [self.router.devices[n] for n, one in enumerate(self.router.plan.replicas) if one.model == model]
        for _ in range(self.options.warm):
            asked = []
            for devices in there:
                if devices not in self.lost:
                    try:
                        self._ask(self.seats[devices], node)
                        asked.append(devices)
                    except DeviceLostError as error:
                        self._lost_early(devices, error)
                    except (EngineError, KeyError):
                        good = False
            for devices in asked:
                try:
                    frame = self.seats[devices].hear()
                except DeviceLostError as error:
                    self._lost_early(devices, error)
                    continue
                if frame.kind == "done":
                    self.results[node] = _result(frame)
                else:
                    good = False
        return good and node in self.results

    def _lost_early(self, devices: range, error: DeviceLostError) -> None:
        self.seats[devices].end()
        self.lost[devices] = str(error)

    # -- while it runs

    def serve(self) -> None:
        """From the first arrival to the last end."""
        router, arrival = self.router, self.router.problem.traffic.arrival.tolist()
        touched: Touched = {}
        origin = time.monotonic()
        with selectors.DefaultSelector() as selector:
            for devices, seat in self.seats.items():
                if devices not in self.lost:
                    selector.register(seat.channel, selectors.EVENT_READ, seat)
            for devices, why in self.lost.items():
                touched.update(self._gone(devices, why, 0.0))
            coming = 0
            while True:
                now = time.monotonic() - origin
                # With nobody left there is nothing to wait for: what is still to come fails at once.
                while coming < len(arrival) and (arrival[coming] <= now or not selector.get_map()):
                    router.arrive(coming, arrival[coming], touched)
                    coming += 1
                while touched:
                    now = time.monotonic() - origin
                    sent, touched = router.settle(touched, now), {}
                    for node, replica in sent:
                        self._send(node, replica, now, selector, touched)
                if coming == len(arrival) and not router.running:
                    break
                later = [arrival[coming]] if coming < len(arrival) else []
                soonest = min([*later, *self.deadline.values()], default=now + _LOOK_S)
                found = selector.select(max(0.0, min(soonest - now, _LOOK_S)))
                for key, _ in found:
                    self._hear(key.data, time.monotonic() - origin, selector, touched)
                self._late(time.monotonic() - origin, selector, touched)
        router.give_up("nothing that could still happen would let it run")

    def _send(self, node: int, replica: int, now: float, selector: selectors.BaseSelector, touched: Touched) -> None:
        seat = self.seats[self.router.devices[replica]]
        try:
            self._ask(seat, node)
            self.deadline[node] = now + self.options.node_s
        except DeviceLostError as error:
            self._drop(seat, str(error), now, selector, touched)
        except EngineError as error:
            self.router.broke(node, str(error), touched)

    def _hear(self, seat: Seat, now: float, selector: selectors.BaseSelector, touched: Touched) -> None:
        """What a process says: the node that it ran has ended, or failed; or it is there no more."""
        running = [n for n, r in self.router.running.items() if self.router.devices[r] == seat.devices]
        try:
            frame = seat.hear()
            if not running:
                raise DeviceLostError(f"the process of {seat.name} said something unasked")
        except DeviceLostError as error:
            self._drop(seat, str(error), now, selector, touched)
            return
        node = running[0]
        self.deadline.pop(node, None)
        if frame.kind == "done":
            self.results[node] = _result(frame)
            self.router.ended(node, now, touched)
        else:
            self.router.broke(node, f"{self._name(node)}: {frame.fields['why']}", touched)
        self._forget(self.router.request[node])

    def _late(self, now: float, selector: selectors.BaseSelector, touched: Touched) -> None:
        """Processes whose node takes too long are ended."""
        for node in [node for node, until in self.deadline.items() if until < now]:
            seat = self.seats[self.router.devices[self.router.running[node]]]
            why = f"{self._name(node)} took more than {self.options.node_s:g}s; the process of {seat.name} was ended"
            self._drop(seat, why, now, selector, touched)

    def _drop(self, seat: Seat, why: str, now: float, selector: selectors.BaseSelector, touched: Touched) -> None:
        selector.unregister(seat.channel)
        seat.end()
        self.lost[seat.devices] = why
        touched.update(self._gone(seat.devices, why, now))

    def _gone(self, devices: range, why: str, now: float) -> Touched:
        gone = {number for number, there in enumerate(self.router.devices) if there == devices}
        for node, replica in self.router.running.items():
            if replica in gone:
                self.deadline.pop(node, None)
        return self.router.lose(gone, why, now)

    # -- nodes and their results

    def _ask(self, seat: Seat, node: int, kind: str = "run") -> None:
        """Send a node; raises as :meth:`Seat.ask`, and KeyError where a result before it is missing."""
        request, router = self.router.request[node], self.router
        base, workflow = router.first[request], router.workflow[request]
        names = [one.name for one in self._nodes(request)]
        tensors: list[torch.Tensor] = []
        results = []
        for early in router.problem.workflows[workflow].before[node - base]:
            one = self.results[base + early]
            results.append([names[early], _moved(one.tree, len(tensors))])
            tensors += one.tensors
        fields = {
            "model": self.workload.model_names[router.model_of[node]],
            "data": self.workload.data[request] if self.workload.data else {},
            "results": results,
        }
        seat.ask(kind, fields, tensors)

    def _nodes(self, request: int) -> Sequence[Any]:
        return self.workload.config.workflows[self.workload.workflow_names[self.router.workflow[request]]]

    def _name(self, node: int) -> str:
        request = self.router.request[node]
        return f"node {self._nodes(request)[node - self.router.first[request]].name!r}"

    def _forget(self, request: int) -> None:
        """Results of a request that has ended are let go."""
        router = self.router
        nodes = range(router.first[request], router.first[request + 1])
        if self.options.keep or self.options.check or any(n in router.running for n in nodes):
            return
        if request in router.failed or all(n in self.results for n in nodes):
            for node in nodes:
                self.results.pop(node, None)

    # -- afterwards

    def compare(self) -> tuple[int, tuple[str, ...]]:
        """Every node again, eager, by the copy that ran it; how many, and those that differ."""
        count, different = 0, []
        for node, result in self.results.items():
            seat = self.seats[self.router.devices[self.router.ran[node]]]
            if seat.devices in self.lost:
                continue
            count += 1
            try:
                self._ask(seat, node, "check")
                frame = seat.hear()
            except DeviceLostError as error:
                self.lost[seat.devices] = str(error)
                frame = None
            if frame is None or frame.kind != "done" or not _equal(result, _result(frame)):
                request = self.router.request[node]
                different.append(
                    f"{self.workload.requests[request]}/{self._nodes(request)[node - self.router.first[request]].name}"
                )
        return count, tuple(different)

    def kept(self) -> dict[str, dict[str, Any]]:
        """All results by request and node."""
        found: dict[str, dict[str, Any]] = {}
        for node, one in self.results.items():
            request = self.router.request[node]
            name = self._nodes(request)[node - self.router.first[request]].name
            found.setdefault(self.workload.requests[request], {})[name] = put_together(one.tree, one.tensors)
        return found


def _cores() -> tuple[int, ...]:
    """Cores that this process may use; none where the system does not say."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def _result(frame: Frame) -> _Result:
    return _Result(frame.fields["tree"], list(frame.tensors.values()))


def _equal(left: _Result, right: _Result) -> bool:
    return same(put_together(left.tree, left.tensors), put_together(right.tree, right.tensors))


def _moved(tree: Any, by: int) -> Any:
    """A tree whose tensors come after others."""
    (kind, content), *_ = tree.items()
    if kind == "tensor":
        return {kind: content + by}
    if kind == "dict":
        return {kind: [[key, _moved(one, by)] for key, one in content]}
    return tree if kind == "value" else {kind: [_moved(one, by) for one in content]}


__all__ = ["Options", "Ran", "execute"]
