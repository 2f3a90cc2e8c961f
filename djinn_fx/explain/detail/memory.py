"""What is in memory over a call, by what it is for, in few enough points to be drawn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from torch.fx import Node

from djinn_fx.srg.graph import SRG
from djinn_fx.srg.memory import Holds, MemoryPlan, MemoryRow
from djinn_fx.srg.plan import Plan

#: Points of a curve at most.
MOST_POINTS = 240


@dataclass(frozen=True, kw_only=True)
class MemoryCurve:
    """Bytes in memory on one device.

    Attributes:
        device: whose memory.
        steps: positions in the schedule, ascending; of a long schedule the fullest of each stretch, so that the peak
            is among them.
        at: the op that runs at each.
        holds: by what the bytes are for, those at each position; what is never there is left out.
        peak: index into ``steps`` at which most is there.
        total_steps: how many positions the schedule has.
    """

    device: str
    steps: tuple[int, ...]
    at: tuple[str, ...]
    holds: dict[str, tuple[int, ...]]
    peak: int
    total_steps: int

    def total(self, point: int) -> int:
        """All bytes at one point."""
        return sum(values[point] for values in self.holds.values())


def curves(plan: MemoryPlan) -> tuple[MemoryCurve, ...]:
    """A curve for each device."""
    return tuple(_curve(plan, device) for device in plan.devices)


def _curve(plan: MemoryPlan, device: str) -> MemoryCurve:
    whole = {holds: values for holds in Holds if any(values := _profile(plan, device, holds))}
    total = plan.profile(device)
    kept = _fullest(total)
    peak = max(range(len(kept)), key=lambda point: total[kept[point]])
    return MemoryCurve(
        device=device,
        steps=tuple(kept),
        at=tuple(plan.steps[step].name if plan.steps else "" for step in kept),
        holds={holds.value: tuple(values[step] for step in kept) for holds, values in whole.items()},
        peak=peak,
        total_steps=len(total),
    )


def _profile(plan: MemoryPlan, device: str, holds: Holds) -> list[int]:
    change = [0] * (max(1, len(plan.steps)) + 1)
    for row in plan.rows:
        if row.device == device and row.holds is holds:
            change[row.start] += row.nbytes
            change[row.end] -= row.nbytes
    return list(accumulate(change))[:-1]


def _fullest(total: list[int]) -> list[int]:
    """The fullest position of each stretch of equal length."""
    count = min(MOST_POINTS, len(total))
    ends = [len(total) * place // count for place in range(count + 1)]
    return [max(range(start, end), key=total.__getitem__) for start, end in pairwise(ends)]


def memory_of(srg: SRG, plan: Plan) -> MemoryPlan | None:
    """What is in memory where the plan has it.

    Tensors of a graph for devices that are not here say that they are on this machine: then each row is on the device
    that makes it, and what comes in on all that read it.
    """
    if plan.memory is None or plan.placement is None or not plan.placement.elsewhere:
        return plan.memory
    return replace(plan.memory, rows=tuple(one for row in plan.memory.rows for one in _homes(srg, row)))


def _homes(srg: SRG, row: MemoryRow) -> Iterator[MemoryRow]:
    node = srg.node(row.name)
    if not row.given:
        yield replace(row, device=srg.record(node).device or row.device)
        return
    for device in sorted(_readers(srg, node)) or [row.device]:
        yield replace(row, device=device)


def _readers(srg: SRG, node: Node) -> set[str]:
    """The devices on which a value, or a view of it, is read."""
    found: set[str] = set()
    readers = list(node.users)
    for reader in readers:
        record = srg.record(reader)
        if record.device is not None:
            found.add(record.device)
        if record.is_view:
            readers.extend(user for user in reader.users if user not in readers)
    return found
