"""What becomes of a plan: every node of every request, when it runs and where. Exact, event by event.

Nodes that can run wait in queues, one for each model (and, where requests stay in one server, for each server). A
server with idle devices takes the one that goes first. A gang whose devices are not all idle has them reserved: until
the last of them is, they only take what is first in a queue and ends before. So a device is idle only if nothing that
waits could begin on it, or if an earlier gang is about to.
Transfers between servers, where they take time, keep the device that waits for them.
"""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass
from functools import cached_property
from heapq import heapify, heappop, heappush

import numpy as np

from djinn_fx.solvers.deployment.problem import Floats, Ints, Plan, Problem


@dataclass(frozen=True, eq=False)
class Outcome:
    """What was simulated, a number for each node of each request.

    Attributes:
        start: seconds.
        end: seconds.
        ready: when the last of what it waited for had ended, or its request came.
        replica: which copy of the plan ran it; -1: none, as its model is nowhere.
    """

    start: Floats
    end: Floats
    ready: Floats
    replica: Ints

    @cached_property
    def makespan(self) -> float:
        """When the last node ends, in seconds."""
        return float(np.nanmax(self.end)) if np.isfinite(self.end).any() else 0.0


#: A copy, a bit for each of its devices in their server, and the first of them and the one after the last.
_Place = tuple[int, int, int, int]


class _Queue:
    """Nodes of one model that wait, those that one server may take.

    Attributes:
        heap: places in the order in which they go.
        width: devices of the gang.
        places: who takes from it, the bits of all copies there, and those of each.
    """

    __slots__ = ("heap", "kept", "places", "width")

    def __init__(self, width: int) -> None:
        self.heap: list[int] = []
        self.width = width
        self.places: list[tuple[int, int, list[int]]] = []
        #: Servers that keep devices for it, and when those will be idle: no more of them than nodes wait.
        self.kept: dict[int, float] = {}


def simulate(problem: Problem, plan: Plan) -> Outcome:
    """Run every request on the plan's copies.

    Args:
        problem: with the traffic.
        plan: valid for it; a node whose model is nowhere never runs, and neither does what waits for it.
    """
    return Run(problem, plan).run()


class Run:
    """Who runs what, when: fed with arrivals and ends, by :meth:`run` with those that are foretold.

    Args:
        problem: with the traffic.
        plan: valid for it.
    """

    def __init__(self, problem: Problem, plan: Plan) -> None:
        cluster, traffic = problem.cluster, problem.traffic
        self.problem, self.plan = problem, plan
        self.widths = [one.gang for one in problem.models]
        self.devices = [range(r.first, r.first + self.widths[r.model]) for r in plan.replicas]
        self.server_of = [cluster.server[r.first] for r in plan.replicas]
        self.slow = [max(cluster.slowness[d] for d in devices) for devices in self.devices]
        self.hosted: list[dict[int, list[int]]] = [{} for _ in cluster.servers]
        for number, replica in enumerate(plan.replicas):
            self.hosted[self.server_of[number]].setdefault(replica.model, []).append(number)
        self.free_at = [0.0] * cluster.size
        self.idle = [len(one) for one in cluster.servers]
        #: A bit for each device of a server that is idle; of each copy those of its devices.
        self.open = [(1 << len(one)) - 1 for one in cluster.servers]
        self.bits = [self._bits(number) for number in range(len(self.devices))]
        self.mode = [0] * len(cluster.servers)
        # Lists are indexed several times as fast as arrays.
        self.model_of: list[int] = problem.model_of.tolist()
        self.times: list[float] = traffic.times.tolist()
        self.request: list[int] = traffic.request.tolist()
        self.first: list[int] = traffic.first.tolist()
        self.workflow: list[int] = traffic.workflow.tolist()
        count = len(self.times)
        self.start = [np.nan] * count
        self.end = [np.nan] * count
        self.ready = [np.nan] * count
        self.ran = [-1] * count
        self.home = [-1] * traffic.size
        self.events: list[tuple[float, int, int]] = []
        self.moves = bool(cluster.bandwidth or cluster.latency)
        self.full_at = [0.0] * len(cluster.servers)
        self.left = [0] * count
        self.after = [one.after for one in problem.workflows]
        self.counts = [[len(early) for early in one.before] for one in problem.workflows]
        self.roots = [[n for n, early in enumerate(one.before) if not early] for one in problem.workflows]
        self._order()
        self.queues()

    def _bits(self, replica: int) -> int:
        devices = self.devices[replica]
        return ((1 << len(devices)) - 1) << (
            devices.start - self.problem.cluster.servers[self.server_of[replica]].start
        )

    def _order(self) -> None:
        """The place of each node in the order in which they go, and the node at each place."""
        if not self.plan.discipline.by_path:
            self.place: list[int] | range = range(len(self.times))
            self.at: list[int] | range = self.place
            return
        order = np.argsort(-tails(self.problem), kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        self.place, self.at = place.tolist(), order.tolist()

    def queues(self) -> None:
        """For each kind of workflow and model a queue; for each server those that it takes from."""
        everywhere = tuple(range(len(self.hosted)))
        kinds: dict[tuple[int, ...], dict[int, _Queue]] = {}
        self.drawn: list[list[tuple[_Queue, list[_Place], int]]] = [[] for _ in self.hosted]
        self.unbound: list[dict[int, _Queue]] = []
        self.locals: list[tuple[int, ...]] = []
        for one in self.problem.workflows:
            wanted = set(one.models)
            local = (
                tuple(s for s in everywhere if wanted <= self.hosted[s].keys()) if self.plan.discipline.local else ()
            )
            self.locals.append(local)
            kind = kinds.setdefault(local or everywhere, {})
            self.unbound.append(kind)
            for model in wanted:
                if model not in kind:
                    kind[model] = self._queue(model, local or everywhere)
        bound = {m for one, local in zip(self.problem.workflows, self.locals, strict=True) if local for m in one.models}
        self.bound = [{m: self._queue(m, (s,)) for m in bound & here.keys()} for s, here in enumerate(self.hosted)]

    def _queue(self, model: int, servers: tuple[int, ...]) -> _Queue:
        """A queue and who takes from it: of several that are idle, the copy on the fastest devices."""
        made, slow = _Queue(self.widths[model]), self.slow.__getitem__
        rows = [(server, sorted(self.hosted[server].get(model, ()), key=slow)) for server in servers]
        for server, replicas in sorted((row for row in rows if row[1]), key=lambda row: slow(row[1][0])):
            here = [(one, self.bits[one], self.devices[one].start, self.devices[one].stop) for one in replicas]
            some = functools.reduce(operator.or_, [self.bits[one] for one in replicas])
            made.places.append((server, some, [self.bits[one] for one in replicas]))
            # A gang that cannot begin has devices kept for it; who needs one device is only looked at if one is idle.
            self.drawn[server].append((made, here, -1 if made.width > 1 else some))
        return made

    @property
    def busy(self) -> list[bool]:
        """Of each device, whether it runs something."""
        servers = self.problem.cluster.servers
        return [not self.open[n] >> place & 1 for n, one in enumerate(servers) for place in range(len(one))]

    def run(self) -> Outcome:
        """From the first arrival to the last end."""
        events, arrival = self.events, self.problem.traffic.arrival.tolist()
        coming, number = 0, len(arrival)
        infinite = float("inf")
        while events or coming < number:
            now = arrival[coming] if coming < number else infinite
            if events and events[0][0] <= now:
                now = events[0][0]
            touched: dict[int, None] = {}
            while events and events[0][0] == now:
                _, node, replica = heappop(events)
                self.finish(node, replica, now, touched)
            while coming < number and arrival[coming] == now:
                self.arrive(coming, now, touched)
                coming += 1
            for server in touched:
                if self.idle[server]:
                    self.dispatch(server, now)
        return self.outcome()

    def outcome(self) -> Outcome:
        """What has run so far."""
        start, end, ready = (np.array(one, np.float64) for one in (self.start, self.end, self.ready))
        return Outcome(start, end, ready, np.array(self.ran, np.int64))

    def arrive(self, request: int, now: float, touched: dict[int, None]) -> None:
        """A request comes; servers at which something may begin are added to those touched."""
        base, kind = self.first[request], self.workflow[request]
        if self.locals[kind]:
            self._bind(request, kind, now)
        counts = self.counts[kind]
        self.left[base : base + len(counts)] = counts
        for root in self.roots[kind]:
            self.wait(base + root, request, now, touched)

    def finish(self, node: int, replica: int, now: float, touched: dict[int, None]) -> None:
        """A node has ended: its devices are idle, and what waited for it alone can run."""
        self.free(replica, touched)
        request, left = self.request[node], self.left
        base = self.first[request]
        for later in self.after[self.workflow[request]][node - base]:
            left[base + later] -= 1
            if not left[base + later]:
                self.wait(base + later, request, now, touched)

    def free(self, replica: int, touched: dict[int, None]) -> None:
        """A copy's devices are idle."""
        server = self.server_of[replica]
        self.idle[server] += len(self.devices[replica])
        self.open[server] |= self.bits[replica]
        touched[server] = None

    def _bind(self, request: int, kind: int, now: float) -> None:
        """Choose the server for all of a request's nodes: where its work would be through first."""
        base, cluster = self.first[request], self.problem.cluster
        models = self.problem.workflows[kind].models
        work = sum(self.times[base + node] * self.widths[model] for node, model in enumerate(models))
        until, home = min((max(self.full_at[s], now) + work / len(cluster.servers[s]), s) for s in self.locals[kind])
        self.full_at[home], self.home[request] = until, home

    def wait(self, node: int, request: int, now: float, touched: dict[int, None]) -> None:
        """A node can run: it enters its queue, and servers that take from it are looked at."""
        self.ready[node] = now
        home = self.home[request]
        kind = self.unbound[self.workflow[request]] if home < 0 else self.bound[home]
        queue = kind[self.model_of[node]]
        heappush(queue.heap, self.place[node])
        idle, single = self.open, queue.width == 1
        for server, some, copies in queue.places:
            here = idle[server]
            if some & here and (single or _some(copies, here)):
                touched[server] = None

    def _begin(self, node: int, replica: int, now: float) -> None:
        request, server, devices = self.request[node], self.server_of[replica], self.devices[replica]
        end = now + self.times[node] * self.slow[replica]
        if self.moves:
            end += self._moved(node, request, server)
        self.start[node], self.end[node], self.ran[node] = now, end, replica
        for device in devices:
            self.free_at[device] = end
        self.idle[server] -= len(devices)
        self.open[server] ^= self.bits[replica]
        self.begun(end, node, replica)

    def begun(self, end: float, node: int, replica: int) -> None:
        """A node has begun, and is foretold to end then."""
        heappush(self.events, (end, node, replica))

    def _moved(self, node: int, request: int, server: int) -> float:
        """Seconds until what it takes from other servers is here: one after the other."""
        cluster, base = self.problem.cluster, self.first[request]
        workflow = self.problem.workflows[self.workflow[request]]
        found = 0.0
        for place, early in enumerate(workflow.before[node - base]):
            if self.server_of[self.ran[base + early]] != server:
                nbytes = workflow.nbytes[node - base][place] if workflow.nbytes else 0
                found += cluster.latency + (nbytes / cluster.bandwidth if cluster.bandwidth else 0.0)
        return found

    def dispatch(self, server: int, now: float) -> None:
        """Begin what goes first on idle devices, until nothing more can."""
        waiting = [pair for pair in self.drawn[server] if pair[0].heap]
        at = self.at
        if len(waiting) == 1:
            queue, replicas, _ = waiting[0]
            heap = queue.heap
            for replica, bits, _, _ in replicas:
                if bits & self.open[server] == bits:
                    self._begin(at[heappop(heap)], replica, now)
                    if not heap:
                        return
            return
        if not waiting:
            return
        hold, mode = self.plan.discipline.hold, self.mode[server]
        if hold:
            head = min([(pair[0].heap[0] - (hold if pair[0].width == mode else 0), pair[0].width) for pair in waiting])
            mode = self.mode[server] = head[1]
        here = self.open[server]
        rows = [
            (queue.heap[0] - (hold if queue.width == mode else 0), n)
            for n, (queue, _, asks) in enumerate(waiting)
            if asks & here
        ]
        heapify(rows)
        blocked: dict[int, float] = {}
        while rows and self.idle[server]:
            key, number = heappop(rows)
            queue, replicas, _ = waiting[number]
            heap, width = queue.heap, queue.width
            node = at[heap[0]]
            found = self._idle(replicas, self.open[server], node, now, blocked)
            if found >= 0:
                place = heappop(heap)
                queue.kept.pop(server, None)
                self._begin(node, found, now)
                if heap:
                    heappush(rows, (key + heap[0] - place, number))
            elif width > 1:
                self._reserve(queue, server, replicas, blocked)

    def _idle(self, replicas: list[_Place], idle: int, node: int, now: float, blocked: dict[int, float]) -> int:
        """A copy whose devices are idle, and not reserved for before the node would end; -1: none."""
        for replica, bits, first, last in replicas:
            if bits & idle != bits:
                continue
            if blocked:
                end = now + self.times[node] * self.slow[replica]
                if last - first == 1:
                    if blocked.get(first, end) < end:
                        continue
                elif any(blocked.get(device, end) < end for device in range(first, last)):
                    continue
            return replica
        return -1

    def _reserve(self, queue: _Queue, server: int, replicas: list[_Place], blocked: dict[int, float]) -> None:
        """Keep the devices of the copy that will be idle first, unless other servers do so for all that wait."""
        free_at, kept = self.free_at, queue.kept
        until, here = min([(max(free_at[first:last]), first) for _, _, first, last in replicas])
        while len(kept) > len(queue.heap):
            del kept[max(kept, key=kept.__getitem__)]
        if server not in kept and len(kept) == len(queue.heap):
            last = max(kept, key=kept.__getitem__)
            if kept[last] <= until:
                return
            del kept[last]
        kept[server] = until
        for device in range(here, here + queue.width):
            blocked[device] = min(until, blocked.get(device, until))


def _some(copies: list[int], idle: int) -> bool:
    for one in copies:  # noqa: SIM110 - several times as fast as a generator
        if one & idle == one:
            return True
    return False


def tails(problem: Problem) -> Floats:
    """Seconds from each node's start to its request's end, if nothing has to wait."""
    times = problem.traffic.times
    found: Floats = times.copy()
    for number, one in enumerate(problem.workflows):
        base = problem.traffic.first[:-1][problem.traffic.workflow == number]
        for node in reversed(range(len(one.models))):
            longest = np.zeros(len(base))
            for later in one.after[node]:
                longest = np.maximum(longest, found[base + later])
            found[base + node] = times[base + node] + longest
    return found


def heads(problem: Problem) -> Floats:
    """When each node could begin at the earliest: arrival, and the longest way before it, in seconds."""
    times = problem.traffic.times
    found: Floats = np.repeat(problem.traffic.arrival, np.diff(problem.traffic.first))
    for number, one in enumerate(problem.workflows):
        base = problem.traffic.first[:-1][problem.traffic.workflow == number]
        for node, early in enumerate(one.before):
            for before in early:
                found[base + node] = np.maximum(found[base + node], found[base + before] + times[base + before])
    return found
