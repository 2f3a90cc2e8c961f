"""The workers of this process: started once for each place, shared by all compiled models, ended with the process.

The small interface that others use::

    pool = pool_of("local:2", Wanted(build="djinn_fx.compiling.workers.running:build"))
    pool.workers                     # WorkerClient by name: "worker:0", "worker:1"
    pool.workers["worker:0"].health()        # WorkerStatus: alive, pid, bytes by kind, resident weights and state
    pool.lost()                      # names of those that are lost
    pool.close()                     # processes and files gone; also at the interpreter's end
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from djinn_fx.errors import EngineError, SettingsError
from djinn_fx.remote.workers.actor import WorkerActor
from djinn_fx.remote.workers.client import HEALTH, NAMESPACE, WorkerClient, WorkerStatus, next_incarnation
from djinn_fx.remote.workers.cluster import JOIN_S, RESOURCE, Cluster, imported
from djinn_fx.remote.workers.there import look, name_on_ray
from djinn_fx.settings.devices import DeclaredLink
from djinn_fx.settings.workers import read_workers, worker_name
from djinn_fx.threads import at_end, new_lock

#: Seconds that workers may take to start: a cluster may have to start their machines.
START_S = 120.0
#: Processes that may have workers on a Ray that none of them started: each has its own, where there is room for one.
CLIENTS = 16


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What workers are to be like. What is None is as it comes, or as it is there already.

    Attributes:
        build: "module:function" that compiles graphs there, see :data:`djinn_fx.remote.workers.serving.Build`.
        memory_bytes: what weights and state of all models may take on each; as it comes: its machine's, shared out.
        threads: of each; as it comes: the processors of its machine, shared out.
        link: a declared one that stands before each worker, both ways; for benches. As it comes: none.
    """

    build: str
    memory_bytes: int | None = None
    threads: int | None = None
    link: DeclaredLink | None = None

    def besides(self, there: Wanted) -> str:
        """In what workers that are there are others, in words; empty: they do."""
        found = {one.name: (getattr(self, one.name), getattr(there, one.name)) for one in fields(self)}
        return ", ".join(
            f"{name}={wanted} for {is_!r}" for name, (wanted, is_) in found.items() if wanted not in (None, is_)
        )


class Pool:
    """Workers on one Ray instance.

    Args:
        at: as the setting ``workers`` has it.
        wanted: what they are to be like.
        timeout_s: how long a worker may be silent.

    Raises:
        EngineError: Ray or a worker does not start.
        SettingsError: this Ray is none to have workers on.

    Attributes:
        workers: by name, those that are lost too.
        threads: of each.
        wanted: what they were to be like.
    """

    def __init__(self, at: str, wanted: Wanted, *, timeout_s: float = 60.0) -> None:
        self.workers: dict[str, WorkerClient] = {}
        self.wanted = wanted
        self._timeout_s = timeout_s
        self._group: Any = None
        self.at = at
        self.cluster = Cluster(read_workers(at))
        try:
            self.threads = wanted.threads or _threads_each()
            self._sharing = max(_sharing(), default=1)
            ours = self.cluster.ours
            self._takes = {RESOURCE: 1.0 if ours else 1 / CLIENTS, "CPU": float(self.threads) if ours else 0.0}
            self._start([worker_name(number) for number in range(self.cluster.workers)])
        except BaseException:
            self.close()
            raise
        at_end(self.close)

    def _start(self, names: Iterable[str]) -> None:
        ray = imported()
        names = list(names)
        # On a Ray of our own nobody else is; on another one the system shares the processors out among clients.
        bundle = self._takes if self.cluster.ours else {RESOURCE: self._takes[RESOURCE]}
        self._group = imported("ray.util.placement_group").placement_group(
            [dict(bundle) for _ in names], strategy="SPREAD"
        )
        most_s = START_S if self.cluster.ours else JOIN_S
        if not self._group.wait(most_s):
            raise EngineError(
                f"workers: this Ray has no room for {len(names)} workers within {most_s:.0f} s; there is room for "
                f"those of {CLIENTS} processes at once"
            )
        first = []
        for place, name in enumerate(names):
            worker = self._started(name, place)
            self.workers[name] = worker
            first.append(worker.sign_of_life())
        _, late = ray.wait(first, num_returns=len(first), timeout=START_S)
        if late:
            raise EngineError(f"workers: {len(late)} of {len(names)} do not start within {START_S:.0f} s")
        for worker in self.workers.values():
            found = worker.health(START_S)
            if not found.alive:
                raise EngineError(f"workers: {worker.name} does not start: {found.why}")

    def _started(self, name: str, place: int) -> WorkerClient:
        ray = imported()
        strategy = imported("ray.util.scheduling_strategies").PlacementGroupSchedulingStrategy
        incarnation = next_incarnation()
        link = self.wanted.link
        given = {
            "build": self.wanted.build,
            "name": name,
            "incarnation": incarnation,
            "threads": self.threads,
            "memory_bytes": self.wanted.memory_bytes,
            "sharing": self._sharing,
            "others": not self.cluster.ours,
            "link": {"bandwidth_bytes_s": link.bandwidth_bytes_s, "latency_s": link.latency_s} if link else None,
        }
        ray.method(num_returns=2)(WorkerActor.relay)  # said once: each call that says it takes longer
        ray.method(concurrency_group=HEALTH)(WorkerActor.health)
        made = ray.remote(concurrency_groups={HEALTH: 1})(WorkerActor).options(
            name=name_on_ray(name, incarnation),
            namespace=NAMESPACE,
            num_cpus=self._takes["CPU"],
            resources={RESOURCE: self._takes[RESOURCE]},
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=strategy(self._group, placement_group_bundle_index=place),
        )
        return WorkerClient(name, made.remote(json.dumps(given)), incarnation, self._timeout_s, link=link)

    def restart(self, name: str) -> WorkerClient:
        """A new worker in the place of one that is lost: it has nothing of what that one held.

        Raises:
            EngineError: it does not start, or Ray itself is gone.
        """
        self.workers[name].lose("another takes its place")
        if not self.cluster.alive:  # asking it would take a minute, after which Ray ends this process
            raise EngineError(f"workers: {name} cannot be started again: the Ray that it ran on is gone")
        worker = self._started(name, list(self.workers).index(name))
        found = worker.health(START_S)
        if not found.alive:
            raise EngineError(f"workers: {name} does not start again: {found.why}")
        over = self.workers[name].over
        if over is not None:
            worker.packs(over)
        self.workers[name] = worker
        return worker

    def lost(self) -> frozenset[str]:
        """The names of those that are lost; all, where Ray itself is gone."""
        if not self.cluster.alive:
            for worker in self.workers.values():
                worker.lose("the Ray that it ran on is gone")
            self.cluster.close()  # Ray ends processes that wait for it for a minute
        return frozenset(name for name, one in self.workers.items() if one.lost)

    def status(self, *, ask: bool = True) -> Mapping[str, WorkerStatus]:
        """All workers now; asks each for a sign of life unless told not to."""
        return {name: one.health() if ask else one.status() for name, one in self.workers.items()}

    def look(self) -> tuple[WorkerStatus, ...]:
        """All workers now, as :func:`djinn_fx.remote.workers.there.look`; lost ones as they were last."""
        self.lost()
        return look(tuple(self.workers.values()))

    def close(self) -> None:
        """End the workers; a Ray of our own too, with its files. Any number of times."""
        for worker in self.workers.values():
            if self.cluster.alive:
                worker.lose("it was closed")
        if self._group is not None and self.cluster.alive:
            with contextlib.suppress(Exception):  # Ray removes it when this process leaves
                imported("ray.util.placement_group").remove_placement_group(self._group)
        self._group = None
        self.cluster.close()


_POOLS: dict[tuple[int, str], Pool] = {}
_LOCK = new_lock()


def pool_of(at: str, wanted: Wanted, *, timeout_s: float = 60.0) -> Pool:
    """The pool of a place, started if it is not there; arguments and errors as for :class:`Pool`.

    Raises:
        SettingsError: this process has workers elsewhere, as Ray has one connection in a process, or workers that are
            not like that.
    """
    with _LOCK:
        there = next((one for (pid, _), one in _POOLS.items() if pid == os.getpid() and one.cluster.alive), None)
        if there is None:
            close_all()
            there = _POOLS[os.getpid(), at] = Pool(at, wanted, timeout_s=timeout_s)
        other = f"at {there.at!r} for {at!r}" if there.at != at else wanted.besides(there.wanted)
        if other:
            raise SettingsError(
                f"workers: this process has workers {other}, and cannot have others beside them; "
                "djinn_fx.remote.workers.pool.close_all() ends them"
            )
        for worker in there.workers.values():
            worker.timeout_s = timeout_s
        return there


def close_all() -> None:
    """End all pools of this process."""
    while _POOLS:
        key, pool = _POOLS.popitem()
        if key[0] == os.getpid():
            pool.close()


def _threads_each() -> int:
    """Processors for each worker, so that those of one machine get all of it."""
    found = [int(node["CPU"] // node[RESOURCE]) for node in _nodes()]
    return max(1, min(found, default=1))


def _sharing() -> list[int]:
    """How many workers each machine has room for."""
    return [int(node[RESOURCE]) for node in _nodes()]


def _nodes() -> list[dict[str, float]]:
    """The resources of each machine that workers may be on."""
    found = [node.get("Resources", {}) for node in imported().nodes() if node.get("Alive")]
    return [{"CPU": 1.0, **one} for one in found if one.get(RESOURCE)]
