"""Requests of a configuration's workflows, as arrays."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from djinn_fx.deploy.reading.faults import Faults
from djinn_fx.deploy.reading.stream import Item, items
from djinn_fx.deploy.reading.workload import Config, Workload
from djinn_fx.errors import SettingsError, did_you_mean
from djinn_fx.solvers.deployment.problem import Traffic

#: Requests that are read at most: what is planned for and simulated is held in memory, about 200 bytes a node.
MOST = 2_000_000
#: Seconds of a node, and of a timestamp, at most: beyond are slips, and sums that are not exact.
LONGEST, LATEST = 1e9, 1e13


def read_requests(
    path: Path, config: Config, faults: Faults, *, most: int = MOST, first: int | None = None, data: bool = False
) -> Workload:
    """A file's requests, in the order of their arrival.

    Args:
        path: JSON or YAML, read as a stream.
        config: whose workflows they ask for.
        faults: what is wrong is added here; the faults of the configuration are among them already.
        most: requests beyond which the file is refused.
        first: read no more than so many; None: all.
        data: keep what each request gives to its models under ``data``.

    Raises:
        SettingsError: anything is wrong.
    """
    reader = _Reader(path, config, faults, data)
    for count, item in enumerate(items(path)):
        if count == first or faults.full:
            break
        if count == most:
            raise SettingsError(
                f"{path}:{item.line}: more than {most} requests; plan for the first of them by --first, or for a sample"
            )
        reader.take(item)
    if not reader.names and not faults.found:
        faults.add(str(path), "there are no requests: nothing to plan for")
    faults.tell()
    found = reader.workload()
    if np.isnan(found.traffic.times).any() or not all(one.weighed for one in config.models.values()):
        from djinn_fx.deploy.reading.priced import priced  # which may ask torch

        return priced(found)
    return found


class _Reader:
    def __init__(self, path: Path, config: Config, faults: Faults, data: bool) -> None:
        self.path, self.config, self.faults = path, config, faults
        self.data: list[Mapping[str, Any]] | None = [] if data else None
        self.numbers = {name: n for n, name in enumerate(config.workflows)}
        self.nodes = {name: [one.name for one in nodes] for name, nodes in config.workflows.items()}
        self.priced = {
            name: {one.name for one in nodes if one.model in config.models and config.models[one.model].entry}
            for name, nodes in config.workflows.items()
        }
        self.samples: dict[str, Mapping[str, Any]] = {}
        self.names: dict[str, int] = {}
        self.arrival, self.workflow, self.times, self.first = array("d"), array("q"), array("d"), array("q", [0])
        self.kind = ""

    def take(self, item: Item) -> None:
        """Add one request, or what is wrong with it."""
        if not isinstance(item.value, dict):
            self._fault(item, "", f"a request must be keys and values, not {str(item.value)[:40]!r}")
            return
        name = str(item.value.get("request_id", f"request {len(self.names)}"))
        if name in self.names:
            self._fault(item, "request_id", f"request {name!r} is there twice; first in line {self.names[name]}")
        self.names[name] = item.line
        arrival = self._arrival(item, name)
        workflow = item.value.get("workflow_id")
        if str(workflow) not in self.numbers:
            what = "names no workflow_id" if workflow is None else f"unknown workflow {workflow!r}"
            self._fault(item, "workflow_id", f"request {name!r}: {what}{did_you_mean(workflow, self.numbers)}")
            return
        times = self._times(item, name, str(workflow))
        if self.data is not None or str(workflow) not in self.samples:
            data = self._data(item, name)
            self.samples.setdefault(str(workflow), data)
            if self.data is not None:
                self.data.append(data)
        self.arrival.append(arrival)
        self.workflow.append(self.numbers[str(workflow)])
        self.times.extend(times)
        self.first.append(len(self.times))

    def _fault(self, item: Item, key: str, text: str) -> None:
        self.faults.add(f"{self.path}:{item.line_of(key) if key else item.line}", text)

    def _data(self, item: Item, name: str) -> Mapping[str, Any]:
        given = item.value.get("data", {})
        if isinstance(given, dict):
            return given
        self._fault(item, "data", f"request {name!r}: data must be keys and values, not {str(given)[:40]!r}")
        return {}

    def _arrival(self, item: Item, name: str) -> float:
        value = item.value.get("timestamp")
        if value is None:
            self._fault(item, "", f"request {name!r} has no timestamp: when does it come?")
            return 0.0
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LATEST:
            self._alike(item, name, "a number")
            return float(value)
        try:
            moment = datetime.fromisoformat(str(value).replace("Z", "+00:00"))
        except ValueError:
            self._fault(item, "timestamp", f"request {name!r}: {value!r} is no time such as 2026-03-02T09:00:01.5")
            return 0.0
        zoned = moment.tzinfo is not None
        self._alike(item, name, "a date with a time zone" if zoned else "a date without a time zone")
        return (moment if zoned else moment.replace(tzinfo=timezone.utc)).timestamp()

    def _alike(self, item: Item, name: str, kind: str) -> None:
        """Times of two kinds are not of one clock."""
        if self.kind not in ("", kind):
            self._fault(item, "timestamp", f"request {name!r}: its timestamp is {kind}, earlier ones are {self.kind}")
        self.kind = self.kind or kind

    def _times(self, item: Item, name: str, workflow: str) -> list[float]:
        """Seconds of each node, in the workflow's order; no number where its model is to be priced."""
        nodes, priced = self.nodes[workflow], self.priced[workflow]
        if not nodes:
            return []  # its fault has been told
        given = item.value.get("node_execution_times")
        if given is None and priced.issuperset(nodes):
            return [math.nan] * len(nodes)
        if not isinstance(given, dict):
            what = "has no node_execution_times" if given is None else "has node_execution_times without nodes' names"
            self._fault(item, "node_execution_times", f"request {name!r} {what}")
            return [0.0] * len(nodes)
        for key in given:
            if key not in nodes:
                hint = did_you_mean(key, nodes)
                self._fault(item, str(key), f"request {name!r}: {key!r} is no node of workflow {workflow!r}{hint}")
        found = []
        for node in nodes:
            value: Any = given.get(node)
            if node not in given and node in priced:
                found.append(math.nan)
                continue
            if node not in given:
                text = f"request {name!r}: node_execution_times lacks the node {node!r} of workflow {workflow!r}"
                self._fault(item, "node_execution_times", text)
            elif not _is_time(value):
                self._fault(
                    item,
                    node,
                    f"request {name!r}: node {node!r} takes {value!r}; seconds are wanted, {LONGEST:g} at most",
                )
            found.append(float(value) if _is_time(value) else 0.0)
        return found

    def workload(self) -> Workload:
        """All of them, sorted by arrival."""
        arrival = np.array(self.arrival, np.float64)
        first = np.array(self.first, np.int64)
        times = np.array(self.times, np.float64)
        workflow = np.array(self.workflow, np.int64)
        names, data = tuple(self.names), tuple(self.data or ())
        order = np.argsort(arrival, kind="stable")
        if (order != np.arange(len(order))).any():
            lengths = np.diff(first)[order]
            starts = np.concatenate([[0], np.cumsum(lengths)])
            places = np.repeat(first[:-1][order] - starts[:-1], lengths) + np.arange(len(times))
            times, first, workflow, arrival = times[places], starts.astype(np.int64), workflow[order], arrival[order]
            names = tuple(names[n] for n in order.tolist())
            data = tuple(data[n] for n in order.tolist()) if data else ()
        arrival = arrival - arrival[0]
        return Workload(self.config, names, Traffic(arrival, workflow, first, times), data, self.samples)


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= LONGEST


def made_requests(config: Config, rows: Iterable[tuple[float, str]], means: Mapping[str, float]) -> Workload:
    """Requests at given moments, each node taking what its model is expected to.

    Args:
        config: whose workflows they ask for.
        rows: seconds and a workflow's name, in order.
        means: seconds of each model.
    """
    listed = list(rows)
    number = {name: n for n, name in enumerate(config.workflows)}
    times = [[means[node.model] for node in nodes] for nodes in config.workflows.values()]
    lengths = [len(times[number[name]]) for _, name in listed]
    traffic = Traffic(
        np.array([at for at, _ in listed], np.float64),
        np.array([number[name] for _, name in listed], np.int64),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.array([seconds for _, name in listed for seconds in times[number[name]]], np.float64),
    )
    return Workload(config, tuple(f"request {n}" for n in range(len(listed))), traffic)
