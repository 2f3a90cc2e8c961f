"""Models that say what they are, but not how long they take or how much memory: what our cost models say of them.

The first request of each workflow is run here, node after node, eager, so that every model is asked what it would be
asked; what is captured of each call is priced for the device of the setting ``device`` (else for this machine), and its
peak of memory foretold. Torch is imported for that, which planning does without otherwise.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from djinn_fx.deploy.reading.workload import ModelInfo, NodeInfo, Price, Workload
from djinn_fx.errors import DjinnError, SettingsError, useful_line
from djinn_fx.solvers.deployment.problem import Floats

if TYPE_CHECKING:
    from djinn_fx.compiling.captured import CapturedGraph
    from djinn_fx.deploy.serving.entry import Entry


def priced(workload: Workload) -> Workload:
    """The workload with a time for every node, and memory for every model that requests ask for.

    Args:
        workload: its nodes without a time are no number, each of a model with an entry.

    Raises:
        SettingsError: a model cannot be called as its first request would, or the cost models do not know all of it.
    """
    config, traffic = workload.config, workload.traffic
    lacking = np.isnan(traffic.times)
    asked = {workload.workflow_names[n] for n in sorted(set(traffic.workflow.tolist()))}
    used = {node.model for name in asked for node in config.workflows[name]}
    wanted = {name for name in used if not config.models[name].weighed}
    times = traffic.times.copy()
    for number, name in enumerate(workload.workflow_names):
        base = traffic.first[:-1][traffic.workflow == number]
        wanted |= {node.model for place, node in enumerate(config.workflows[name]) if lacking[base + place].any()}
    if not wanted:
        return workload
    pricer = _Pricer(workload, wanted)
    for number, name in enumerate(workload.workflow_names):
        nodes = config.workflows[name]
        if name not in asked or not any(node.model in wanted for node in nodes):
            continue
        found = pricer.workflow(name, nodes)
        base = traffic.first[:-1][traffic.workflow == number]
        for place, node in enumerate(nodes):
            missing = base[lacking[base + place]] + place
            times[missing] = found[node.name].time_s if len(missing) else 0.0
    models = {name: pricer.filled(info, _mean(workload, times, name)) for name, info in config.models.items()}
    return replace(workload, config=replace(config, models=models), traffic=replace(traffic, times=times))


def _mean(workload: Workload, times: Floats, model: str) -> float | None:
    """Seconds that a node of a model takes in the mean over all requests."""
    seconds, count, traffic = 0.0, 0, workload.traffic
    for number, name in enumerate(workload.workflow_names):
        base = traffic.first[:-1][traffic.workflow == number]
        for place, node in enumerate(workload.config.workflows[name]):
            if node.model == model:
                seconds, count = seconds + float(times[base + place].sum()), count + len(base)
    return seconds / count if count else None


@dataclass
class _Pricer:
    workload: Workload
    wanted: set[str]

    def __post_init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.prices: dict[str, list[Price]] = {}

    def workflow(self, name: str, nodes: tuple[NodeInfo, ...]) -> dict[str, Price]:
        """Prices of the nodes whose models are wanted, by the workflow's first request."""
        results: dict[str, Any] = {}
        found: dict[str, Price] = {}
        data = self.workload.samples.get(name, {})
        for node in nodes:
            info = self.workload.config.models[node.model]
            before = {one: results[one] for one in node.before}
            try:
                results[node.name], price = self._called(info, data, before)
            except DjinnError as error:
                raise SettingsError(f"{info.place}: model {info.name!r} cannot be priced: {error}") from error
            except Exception as error:
                where = f"node {node.name!r} of the first request for {name!r}"
                raise SettingsError(
                    f"{info.place}: model {info.name!r} cannot be priced by {where}: {useful_line(error)}; "
                    "give the request `data`, or the model memory_gb and "
                    "inference_time_mean"
                ) from error
            if price is not None:
                found[node.name] = price
                self.prices.setdefault(info.name, []).append(price)
        return found

    def _called(self, info: ModelInfo, data: Mapping[str, Any], results: Mapping[str, Any]) -> tuple[Any, Price | None]:
        import torch

        from djinn_fx.backend import capture
        from djinn_fx.deploy.serving.entry import load_entry
        from djinn_fx.settings.table import Settings

        if not info.entry:
            raise SettingsError("it has no `entry`, and what it returns is wanted by others")
        if info.name not in self.entries:
            torch.manual_seed(0)
            self.entries[info.name] = load_entry(info.entry)
        entry = self.entries[info.name]
        if info.name not in self.wanted:
            return entry.answer(data, results), None
        args = entry.prepare(data, results)
        with torch.no_grad(), _operator_by_operator():
            got = capture(entry.module, args, settings=Settings.load())
        if got.error is not None:
            raise got.error
        weights = sum(one.nbytes for one in (*entry.module.parameters(), *entry.module.buffers()))
        return got.output, _price(got.graphs, weights)

    def filled(self, info: ModelInfo, mean: float | None) -> ModelInfo:
        """A model with what was found of it."""
        found = self.prices.get(info.name)
        if found is None:
            return info
        price = replace(
            max(found, key=lambda one: one.time_s),
            low_s=min(one.low_s for one in found),
            memory=max(one.memory for one in found),
        )
        memory = info.memory if info.weighed else price.memory
        expected = info.expected_s if info.expected_s is not None else mean
        return replace(info, memory=memory, weighed=True, expected_s=expected, price=price)


def _price(graphs: tuple[CapturedGraph, ...], weights: int) -> Price:
    """Of a call: its graphs one after the other, on the engine that is expected to be fastest.

    Memory is the largest peak; of several graphs the sum, as it is not known what they share, and the weights at least.
    """
    if not graphs:
        raise SettingsError("nothing of it was captured")
    unknown = sorted({str(srg.target) for graph in graphs for srg in _unpriced(graph)})
    if unknown:
        raise SettingsError(
            f"the cost models do not know {', '.join(unknown[:3])}{' and others' if len(unknown) > 3 else ''}: give it "
            "inference_time_mean and memory_gb"
        )
    best = [
        min(graph.plan.times, key=lambda one: one.time_s) if graph.plan.times else graph.plan.cost for graph in graphs
    ]
    sources = {one.provenance for one in best}
    return Price(
        time_s=sum(one.time_s for one in best),
        low_s=sum(one.low_s for one in best),
        high_s=sum(one.high_s for one in best),
        provenance=sources.pop() if len(sources) == 1 else "mixed",
        device=graphs[0].pricing.device.name,
        memory=max(weights, sum(graph.plan.peak_bytes for graph in graphs)),
    )


def _unpriced(graph: CapturedGraph) -> Iterator[Any]:
    for node in graph.srg.ops:
        cost = graph.srg.record(node).cost
        if cost is None or cost.provenance == "unpriced" or not math.isfinite(cost.time_s):
            yield node


@contextlib.contextmanager
def _operator_by_operator() -> Iterator[None]:
    """Transformer layers as operators that have prices, not as the one that torch calls in their place."""
    import torch

    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


__all__ = ["priced"]
