"""The ops of a graph as a problem of ordering: what each waits for, and the memory that comes and goes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.fx import Node

from djinn_fx.costmodels.memory.plan import example_sizes, is_held, returned_values
from djinn_fx.costmodels.memory.workspace import workspaces
from djinn_fx.solvers.ordering.problem import Problem, Storage
from djinn_fx.srg.effects import storages_of
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.sequence import predecessors


def ordering_problems(srg: SRG, *, threads: int = 0) -> dict[str, Problem]:
    """For each device the graph's ops with the memory that they take there, and what each must wait for.

    The ops are numbered in graph order; the peaks are those of the memory plan of the uncut graph.

    Args:
        srg: the graph.
        threads: of torch's kernels, some of which take memory for each; 0: as many as torch uses here.
    """
    waits = waits_of(srg)
    return {device: replace(one, before=waits) for device, one in unordered(srg, threads=threads).items()}


def unordered(srg: SRG, *, threads: int = 0) -> dict[str, Problem]:
    """The same as if no op waited for another: enough to see that an order needs no more than its largest op does."""
    ops = tuple(srg.ops)
    storages, held = _storages(srg, {node: place for place, node in enumerate(ops)})
    workspace = srg.fact(workspaces, threads or torch.get_num_threads())
    own = [workspace.of(node) for node in ops]
    outputs = [srg.record(node).outputs for node in ops]
    devices = [metas[0].device if metas else "" for metas in outputs]
    found = {}
    for device in sorted({*storages, *held}):
        taken = tuple(size if where == device else 0 for size, where in zip(own, devices, strict=True))
        found[device] = Problem(((),) * len(ops), tuple(storages.get(device, ())), taken, held.get(device, 0))
    return found


def reads_of(srg: SRG) -> tuple[tuple[int, ...], ...]:
    """For each op, by number, those that it reads: some of those that must run before it, told with no search."""
    number = {node: place for place, node in enumerate(srg.ops)}
    return tuple(tuple(number[one] for one in node.all_input_nodes if one in number) for node in number)


def waits_of(srg: SRG) -> tuple[tuple[int, ...], ...]:
    """For each op, by number, those that must run before it."""
    before = predecessors(srg)
    number = {node: place for place, node in enumerate(before)}
    return tuple(tuple(sorted(number[one] for one in earlier)) for earlier in before.values())


def _storages(srg: SRG, number: dict[Node, int]) -> tuple[dict[str, list[Storage]], dict[str, int]]:
    """By device: what comes or goes, and the bytes of what is there throughout."""
    storages = srg.fact(storages_of)
    sizes, returned = srg.fact(example_sizes), returned_values(srg)
    touched: dict[int, dict[int, None]] = {}
    given: set[int] = set()
    kept: set[int] = set()
    devices: dict[int, str] = {}
    for node, mine in storages.items():
        if not mine:
            continue
        runs = number.get(node)
        touching = [number[user] for user in node.users if user in number]
        if runs is not None:
            touching.insert(0, runs)
        stays = node in returned or (runs is None and is_held(srg, node))
        for storage, meta in zip(mine, srg.record(node).outputs, strict=True):
            nodes = touched.get(storage)
            if nodes is None:
                touched[storage], devices[storage] = dict.fromkeys(touching), meta.device
            else:
                nodes.update(dict.fromkeys(touching))
            if runs is None:
                given.add(storage)
            if stays:
                kept.add(storage)
    found: dict[str, list[Storage]] = {}
    held: dict[str, int] = {}
    for storage, nodes in touched.items():
        device, nbytes = devices[storage], sizes[storage]
        if storage in given and storage in kept:
            held[device] = held.get(device, 0) + nbytes
        elif nbytes and nodes:
            one = Storage(nbytes, tuple(nodes), storage in given, storage in kept)
            found.setdefault(device, []).append(one)
    return found, held
