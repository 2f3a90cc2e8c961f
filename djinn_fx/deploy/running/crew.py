"""The processes that host a plan's copies, and what they are asked before, while and after requests are served."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch

from djinn_fx.deploy.reading.workload import NodeInfo, Workload
from djinn_fx.deploy.running.answers import Answer, answer_of
from djinn_fx.deploy.running.routing import Router
from djinn_fx.deploy.running.seat import Seat
from djinn_fx.errors import DeviceLostError, EngineError, ModelFailedError


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
        queue: load a further copy where as many nodes wait for each copy of a model, and memory is left; None: never.
        exclusive: such a copy is only put on devices that host nothing.
    """

    compiled: bool = True
    keep: bool = False
    check: bool = False
    warm: int = 2
    load_s: float = 600.0
    node_s: float = 600.0
    queue: int | None = None
    exclusive: bool = False


@dataclass
class Crew:
    """Processes by copy.

    Attributes:
        workload: with an entry for each model that is loaded.
        router: who knows which copy is on which devices.
        options: how to run.
        stack: ends every process that is started here.
        seats: the process of each copy of the plan.
        lost: how processes ended that were to go on.
        results: of nodes whose requests go on, or that are kept.
        cores: of the processor that are there; none where the system does not say.
        rank: of each device that has a process, the place of its core among them.
    """

    workload: Workload
    router: Router
    options: Options
    stack: ExitStack
    seats: list[Seat] = field(default_factory=list)
    lost: dict[Seat, str] = field(default_factory=dict)
    results: dict[int, Answer] = field(default_factory=dict)
    cores: tuple[int, ...] = ()
    rank: dict[int, int] = field(default_factory=dict)

    # -- before the clock starts

    def start(self) -> None:
        """A process for each device, and for each gang; all load at the same time."""
        names, replicas = self.workload.model_names, self.router.plan.replicas
        hosted: dict[range, list[str]] = {}
        for devices, replica in zip(self.router.devices, replicas, strict=True):
            hosted.setdefault(devices, []).append(names[replica.model])
        self.cores = _cores()
        self.rank = {device: n for n, device in enumerate(sorted({d for devices in hosted for d in devices}))}
        seats = {devices: self.seat(devices, models) for devices, models in hosted.items()}
        until = time.monotonic() + self.options.load_s
        for seat in seats.values():
            seat.channel.settimeout(max(0.01, until - time.monotonic()))
            try:
                frame = seat.hear()
            except DeviceLostError as error:
                raise ModelFailedError(f"{', '.join(seat.models)} cannot be loaded: {error}") from error
            if frame.kind != "ready":
                raise ModelFailedError(f"{seat.name}: {frame.fields['why']}")
            seat.ready_s = time.monotonic() - seat.begun
            seat.channel.settimeout(self.options.node_s)
        self.seats = [seats[devices] for devices in self.router.devices]

    def seat(self, devices: range, models: Sequence[str]) -> Seat:
        """A process that loads models; it is ended with the run."""
        rank = [self.rank.setdefault(device, len(self.rank)) for device in devices]
        cores = sorted({self.cores[one % len(self.cores)] for one in rank}) if self.cores else []
        entries = {name: self.workload.config.models[name].entry for name in models}
        seat = Seat(devices, entries, cores, compiled=self.options.compiled, timeout_s=self.options.node_s)
        self.stack.callback(seat.end)
        return seat

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
        there = [seat for one, seat in zip(self.router.plan.replicas, self.seats, strict=True) if one.model == model]
        for _ in range(self.options.warm):
            asked = []
            for seat in there:
                if seat not in self.lost:
                    try:
                        self.ask(seat, node)
                        asked.append(seat)
                    except DeviceLostError as error:
                        self._lost_early(seat, error)
                    except (EngineError, KeyError):
                        good = False
            for seat in asked:
                try:
                    frame = seat.hear()
                except DeviceLostError as error:
                    self._lost_early(seat, error)
                    continue
                if frame.kind == "done":
                    self.results[node] = answer_of(frame)
                else:
                    good = False
        return good and node in self.results

    def _lost_early(self, seat: Seat, error: DeviceLostError) -> None:
        seat.end()
        self.lost[seat] = str(error)

    # -- nodes and their results

    def ask(self, seat: Seat, node: int, kind: str = "run") -> None:
        """Send a node; raises as :meth:`Seat.ask`, and KeyError where a result before it is missing."""
        request, router = self.router.request[node], self.router
        base, workflow = router.first[request], router.workflow[request]
        names = [one.name for one in self.nodes(request)]
        tensors: list[torch.Tensor] = []
        results = []
        for early in router.problem.workflows[workflow].before[node - base]:
            one = self.results[base + early]
            results.append([names[early], one.after(len(tensors))])
            tensors += one.tensors
        fields = {
            "model": self.workload.model_names[router.model_of[node]],
            "data": self.workload.data[request] if self.workload.data else {},
            "results": results,
        }
        seat.ask(kind, fields, tensors)

    def nodes(self, request: int) -> Sequence[NodeInfo]:
        """Those of a request's workflow."""
        return self.workload.config.workflows[self.workload.workflow_names[self.router.workflow[request]]]

    def name(self, node: int) -> str:
        """A node in words."""
        request = self.router.request[node]
        return f"node {self.nodes(request)[node - self.router.first[request]].name!r}"

    # -- afterwards

    def compare(self) -> tuple[int, tuple[str, ...]]:
        """Every node again, eager, by the copy that ran it; how many, and those that differ."""
        count, different = 0, []
        for node, result in self.results.items():
            seat = self.seats[self.router.ran[node]]
            if seat in self.lost:
                continue
            count += 1
            try:
                self.ask(seat, node, "check")
                frame = seat.hear()
            except DeviceLostError as error:
                self.lost[seat] = str(error)
                frame = None
            if frame is None or frame.kind != "done" or not result.like(answer_of(frame)):
                request = self.router.request[node]
                different.append(
                    f"{self.workload.requests[request]}/{self.nodes(request)[node - self.router.first[request]].name}"
                )
        return count, tuple(different)

    def kept(self) -> dict[str, dict[str, Any]]:
        """All results by request and node."""
        found: dict[str, dict[str, Any]] = {}
        for node, one in self.results.items():
            request = self.router.request[node]
            name = self.nodes(request)[node - self.router.first[request]].name
            found.setdefault(self.workload.requests[request], {})[name] = one.value
        return found


def _cores() -> tuple[int, ...]:
    """Cores that this process may use; none where the system does not say."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


__all__ = ["Crew", "Options"]
