"""colocate: which values and regions belong on one device."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from djinn_fx.passes.base import PassContext, PassResult
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.record import Residency

#: What stays in memory between calls, and so has a place.
RESIDENT = (Residency.STATE, Residency.PARAMETER, Residency.BUFFER)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Resident values and the regions that touch them: moving one without the others costs a transfer a call.

    Attributes:
        values: names of inputs, in graph order.
        regions: indices, ascending.
    """

    values: tuple[str, ...]
    regions: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Colocate:
    """Say what stays together: state with the regions that read or write it, weights with their users.

    On one device everything is together already, so nothing is changed; the Reason says so.
    """

    name: ClassVar[str] = "colocate"
    after: ClassVar[tuple[str, ...]] = ("find-regions",)
    requires: ClassVar[tuple[str, ...]] = ("regions-partition",)
    ensures: ClassVar[tuple[str, ...]] = ()

    def run(self, srg: SRG, context: PassContext) -> PassResult:
        """Count what is resident and which regions it ties together."""
        count = Counter(srg.record(node).residency for node in srg.inputs)
        groups = colocation_groups(srg)
        tied = sum(1 for group in groups if len(group.regions) > 1)
        values = ", ".join(f"{count[kind]} {kind.value}" for kind in RESIDENT if count[kind]) or "no"
        detail = f"{values} values stay with the regions that use them ({tied} of {len(groups)} groups tie regions)"
        return PassResult(modified=False, reasons=(Reason(kind=ReasonKind.COLOCATED, detail=detail),))


def colocation_groups(srg: SRG) -> tuple[Group, ...]:
    """Regions tied by state they share, each group with its state and the weights only it uses.

    A weight that several groups use ties nothing: a copy of it can lie on each device. State cannot: it is written.
    """
    users = {node.name: _regions_of(srg, node.name) for node in srg.inputs if srg.record(node).residency in RESIDENT}
    state = [name for name in users if srg.record(srg.node(name)).residency is Residency.STATE]
    leader = {region.index: region.index for region in srg.regions}

    def find(region: int) -> int:
        while leader[region] != region:
            region = leader[region]
        return region

    for name in state:
        for other in users[name][1:]:
            first, second = sorted((find(users[name][0]), find(other)))
            leader[second] = first
    values: dict[int, list[str]] = {}
    regions: dict[int, list[int]] = {}
    for index in leader:
        regions.setdefault(find(index), []).append(index)
    for name, touched in users.items():
        leaders = {find(region) for region in touched}
        if len(leaders) == 1:
            values.setdefault(leaders.pop(), []).append(name)
    return tuple(Group(values=tuple(values.get(first, ())), regions=tuple(regions[first])) for first in sorted(regions))


def _regions_of(srg: SRG, name: str) -> list[int]:
    """Regions that use a value directly, ascending."""
    found = {srg.record(user).region for user in srg.node(name).users}
    return sorted(region for region in found if region is not None)
