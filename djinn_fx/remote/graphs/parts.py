"""A region as what a worker is sent: its canonical form, what each input is, and what is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Node

from djinn_fx.dispatch.region import region_graph, region_values
from djinn_fx.engines.keys import device_names, symbolic_inputs
from djinn_fx.remote.workers.requests import Written
from djinn_fx.srg.effects import storages_of, written_nodes
from djinn_fx.srg.form.hashing import NoCanonicalForm, canonical_form
from djinn_fx.srg.form.rebuild import CannotRebuild, SizeHint, size_hints
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.plan import Region
from djinn_fx.srg.record import Residency

#: What is sent once and then named by its digest.
_WEIGHTS = (Residency.PARAMETER, Residency.BUFFER, Residency.CONSTANT)
#: Ops that write some rows of a tensor along one dimension: place of the dimension, and of what says which rows.
_ROWS = {"index_copy": (1, 2), "index_add": (1, 2), "index_fill": (1, 2)}


@dataclass(frozen=True, kw_only=True)
class Part:
    """A region on a worker.

    Attributes:
        region: its index in the plan.
        worker: that it is on.
        label: for messages.
        form: canonical.
        hints: of its symbols.
        devices: that its form numbers.
        kinds: what each input is (:class:`Residency`, by value).
        weights: inputs that are sent once.
        state: inputs that it writes: the worker keeps them.
        written: what of each of these it writes.
        same: outputs that are such an input, after it was written.
        symints: its size symbols, in order; facts that the worker relies on are held against them.
    """

    region: int
    worker: str
    label: str
    form: Mapping[str, Any]
    hints: tuple[SizeHint, ...]
    devices: Mapping[str, str]
    kinds: tuple[str, ...]
    weights: tuple[int, ...]
    state: tuple[int, ...]
    written: Mapping[int, Written]
    same: Mapping[int, int] = field(default_factory=dict)
    symints: Sequence[torch.SymInt] = ()


def part_of(srg: SRG, region: Region) -> Part:
    """A region for its worker.

    Raises:
        CannotRebuild: it holds something that means nothing elsewhere, or writes what must not be written there.
    """
    inputs, nodes = [srg.node(name) for name in region.inputs], [srg.node(name) for name in region.nodes]
    place = {node: number for number, node in enumerate(inputs)}
    writes = _writes(srg, nodes, place)
    outputs = [srg.node(name) for name in region.outputs]
    written: dict[int, Written] = {}
    for number, node in writes.items():
        written[number] = _rows(node, place, set(nodes), outputs)
    try:
        form = canonical_form(nodes, inputs, outputs)
    except NoCanonicalForm as error:
        raise CannotRebuild(str(error)) from error
    values = region_values(srg, region)
    kinds = tuple(srg.record(node).residency for node in inputs)
    graph = region_graph(srg, region)
    return Part(
        region=region.index,
        worker=region.device,
        label=region.label,
        form=form,
        hints=tuple(size_hints(form, values)),
        devices=device_names(graph),
        kinds=tuple(kind.value for kind in kinds),
        weights=tuple(
            number
            for number, kind in enumerate(kinds)
            if kind in _WEIGHTS and number not in writes and isinstance(values[number], torch.Tensor)
        ),
        state=tuple(sorted(writes)),
        written=written,
        same={outputs.index(node): number for number, node in writes.items() if node in outputs},
        symints=symbolic_inputs(values),
    )


def _writes(srg: SRG, nodes: Sequence[Node], place: Mapping[Node, int]) -> dict[int, Node]:
    """The op that writes each input that is written: the copying of what it is to be, at the end.

    Raises:
        CannotRebuild: something else writes, or writes what several inputs share.
    """
    storages = srg.fact(storages_of)
    found: dict[int, Node] = {}
    for node in nodes:
        for target in written_nodes(node):
            if node.target is not torch.ops.aten.copy_.default or target not in place or place[target] in found:
                raise CannotRebuild(f"{node.name} writes into {target.name}, which is not known how to send back")
            mine = set(storages[target])
            if any(one is not target and not mine.isdisjoint(storages[one]) for one in srg.inputs):
                raise CannotRebuild(f"{node.name} writes into {target.name}, whose memory other inputs share")
            found[place[target]] = node
    return found


def _rows(node: Node, place: Mapping[Node, int], inside: set[Node], outputs: list[Node]) -> Written:
    """Which rows a copying into an input changes. What says so becomes an output, if it is none."""
    target, value = node.args[:2]
    name = getattr(getattr(value, "target", None), "_opname", "")
    if not isinstance(value, Node) or name not in _ROWS or value not in inside or value.args[0] is not target:
        return Written()
    dim, index = (value.args[at] for at in _ROWS[name])
    if type(dim) is not int or not isinstance(index, Node):
        return Written()
    dim = dim % max(1, len(target.meta["val"].shape)) if isinstance(target, Node) else dim
    if index in place:
        return Written(dim=dim, index=("i", place[index]))
    if index not in inside:
        return Written()
    if index not in outputs:
        outputs.append(index)
    return Written(dim=dim, index=("o", outputs.index(index)))


__all__ = ["CannotRebuild", "Part", "part_of"]
