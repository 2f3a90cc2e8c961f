"""The memory plan of a graph whose ops run one by one: from records and schedule to rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.fx import Node

from djinn_fx.costmodels.memory.workspace import Workspaces, workspaces
from djinn_fx.costmodels.work.sizes import worked_out
from djinn_fx.costmodels.work.work_of import sizes_of
from djinn_fx.srg.effects import storages_of
from djinn_fx.srg.graph import SRG, attribute, fake_value, size_hint, tensors_of
from djinn_fx.srg.memory import Holds, MemoryPlan, MemoryRow, MemoryStep
from djinn_fx.srg.record import GraphKind, Residency, TensorMeta

_HELD = {
    Residency.PARAMETER: Holds.WEIGHT,
    Residency.BUFFER: Holds.WEIGHT,
    Residency.CONSTANT: Holds.WEIGHT,
    Residency.STATE: Holds.STATE,
    Residency.INPUT: Holds.INPUT,
}


def memory_plan(srg: SRG, values: Mapping[str, int] | None = None, *, threads: int = 0) -> MemoryPlan:
    """Who lives when, at the example's sizes or at given ones; nothing is traced again.

    Args:
        srg: the graph, with its regions and their order if these were found.
        values: a value for each size symbol.
        threads: of torch's kernels, some of which take memory for each; 0: as many as torch uses here.

    Raises:
        ValueError: a symbol without a value; names it.
    """
    schedule = tuple(schedule_of(srg))
    steps = tuple(
        MemoryStep(name=node.name, op=(record := srg.record(node)).op, source=record.source) for node in schedule
    )
    threads = threads or torch.get_num_threads()
    own = srg.fact(workspaces, threads) if values is None else Workspaces(sizes_of(srg, values), threads)
    rows = (*_storages(srg, schedule, values), *_workspace_rows(srg, schedule, own))
    return MemoryPlan(phase=(srg.phase or srg.kind).value, rows=rows, steps=steps)


def schedule_of(srg: SRG) -> Iterator[Node]:
    """The ops in the order in which they run; before regions are found, in graph order."""
    if not srg.regions:
        yield from srg.ops
        return
    order = srg.order or range(len(srg.regions))
    yield from dict.fromkeys(srg.node(name) for index in order for name in srg.regions[index].nodes)


def _storages(srg: SRG, schedule: tuple[Node, ...], values: Mapping[str, int] | None) -> Iterator[MemoryRow]:
    """A row for each storage, in the order in which they come to be."""
    position = {node: place for place, node in enumerate(schedule)}
    total = max(1, len(schedule))
    storages = srg.fact(storages_of)
    sizes = srg.fact(example_sizes) if values is None else storage_sizes(srg, storages, values)
    returned = returned_values(srg)
    spans: dict[int, tuple[int, int]] = {}
    owners: dict[int, Node] = {}
    holds: dict[int, Holds] = {}
    for node in (*srg.inputs, *srg.gm.graph.find_nodes(op="get_attr"), *schedule):
        start = position.get(node, 0)
        uses = [position.get(user, total - 1) for user in node.users]
        end = total if node in returned or is_held(srg, node) else max([start, *uses]) + 1
        for storage in storages[node]:
            first, last = spans.get(storage, (start, end))
            spans[storage] = (min(first, start), max(last, end))
            owners.setdefault(storage, node)
            if storage not in holds or (node in returned and holds[storage] is Holds.ACTIVATION):
                holds[storage] = _holds(srg, node, returned)
    devices = {storage: meta.device for node in owners.values() for storage, meta in _with_metas(srg, storages, node)}
    for storage, (start, end) in spans.items():
        yield MemoryRow(
            name=owners[storage].name,
            holds=holds[storage],
            nbytes=sizes[storage],
            start=start,
            end=end,
            device=devices[storage],
            given=owners[storage].op in ("placeholder", "get_attr"),
        )


def _with_metas(srg: SRG, storages: dict[Node, tuple[int, ...]], node: Node) -> Iterable[tuple[int, Any]]:
    return zip(storages[node], srg.record(node).outputs, strict=True)


def is_held(srg: SRG, node: Node) -> bool:
    """Whether someone outside the graph holds a value that comes in."""
    if node.op == "get_attr":
        return True
    if node.op != "placeholder":
        return False
    return srg.kind is not GraphKind.BACKWARD or srg.record(node).residency is not Residency.ACTIVATION


def returned_values(srg: SRG) -> dict[Node, Holds]:
    """What the graph returns, and whether its caller or only its backward graph gets it."""
    values = srg.output.args[0]
    listed = list(values) if isinstance(values, (tuple, list)) else [values]
    told = srg.output.meta.get("desc") or ()
    found: dict[Node, Holds] = {}
    for value, desc in zip(listed, [*told, *([None] * (len(listed) - len(told)))], strict=False):
        saved = type(desc).__name__.startswith("SavedForBackwards")
        if isinstance(value, Node):
            found[value] = Holds.SAVED if saved and found.get(value) is not Holds.OUTPUT else Holds.OUTPUT
    return found


def _holds(srg: SRG, node: Node, returned: dict[Node, Holds]) -> Holds:
    if node.op in ("placeholder", "get_attr"):
        tangent = node.name.startswith("tangents")
        return _HELD.get(srg.record(node).residency, Holds.INPUT if tangent else Holds.SAVED)
    return returned.get(node, Holds.ACTIVATION)


def storage_sizes(srg: SRG, storages: dict[Node, tuple[int, ...]], values: Mapping[str, int] | None) -> dict[int, int]:
    """Bytes of each storage: of the value that made it, not of a view."""
    found: dict[int, int] = {}
    for node, mine in storages.items():
        record = srg.record(node)
        if not mine or (record.is_view and all(storage in found for storage in mine)):
            continue
        value = fake_value(node)
        if value is None and node.op == "get_attr":
            value = attribute(srg.gm, node.target)
        for storage, tensor, meta in zip(mine, tensors_of(value), record.outputs, strict=True):
            if not (record.is_view and storage in found):
                found[storage] = max(found.get(storage, 0), _bytes_of(tensor, meta, values))
    return found


def example_sizes(srg: SRG) -> dict[int, int]:
    """Bytes of each storage at the example's sizes; a fact of the graph."""
    return storage_sizes(srg, srg.fact(storages_of), None)


def _bytes_of(tensor: torch.Tensor, meta: TensorMeta, values: Mapping[str, int] | None) -> int:
    """Bytes of the storage behind a tensor."""
    nbytes: int | torch.SymInt = tensor.untyped_storage().nbytes() if tensor.layout is torch.strided else meta.nbytes
    if values is None or not isinstance(nbytes, torch.SymInt):
        return size_hint(nbytes)
    return int(worked_out(str(nbytes.node.expr), values))


def _workspace_rows(srg: SRG, schedule: tuple[Node, ...], own: Workspaces) -> Iterator[MemoryRow]:
    """A row for each op that takes memory beside its results."""
    for place, node in enumerate(schedule):
        nbytes = own.of(node)
        if nbytes:
            yield MemoryRow(
                name=node.name,
                holds=Holds.WORKSPACE,
                nbytes=nbytes,
                start=place,
                end=place + 1,
                device=srg.record(node).outputs[0].device,
            )
