"""Several transfers at once: those that use the same medium share its time. Imports no torch.

A fluid model: at each moment every transfer that streams has a rate; rates are max-min fair (all grow alike until a
medium is full; who crosses it stops growing, the others go on), as TCP flows and DMA engines roughly share. A medium is
full when the shares of its time that its transfers need add up to one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from djinn_fx.hardware.topology.routes import Route
from djinn_fx.hardware.topology.topology import Topology, serialisations


@dataclass(kw_only=True)
class _Flow:
    """A transfer under way.

    Attributes:
        waits: seconds that nobody else's traffic changes (latencies, serialising), before each stretch and at the end.
        stretches: for each segment of the route, seconds per byte on each medium it crosses.
        left: bytes of the present stretch still to move, or seconds still to wait.
        step: position in the sequence wait, stretch, wait, stretch, …, wait.
    """

    nbytes: int
    waits: list[float]
    stretches: list[Mapping[str, float]]
    step: int = 0
    left: float = 0.0
    done_s: float = field(default=0.0)

    def __post_init__(self) -> None:
        self.left = self.waits[0]

    @property
    def streams(self) -> bool:
        return self.step % 2 == 1

    @property
    def media(self) -> Mapping[str, float]:
        return self.stretches[self.step // 2]

    def advance(self) -> bool:
        """Go to the next step; False when all are done."""
        self.step += 1
        if self.step == 2 * len(self.stretches) + 1:
            return False
        self.left = float(self.nbytes) if self.streams else self.waits[self.step // 2]
        return True


def transfer_times(topology: Topology, transfers: Sequence[tuple[str, str, int]]) -> tuple[float, ...]:
    """Seconds until each of several transfers has arrived, all of them starting now.

    Each goes the way that would be fastest if it were alone.

    Args:
        transfers: source, target and bytes of each.

    Raises:
        SettingsError: no such node, or no way between two.
    """
    flows = []
    for source, target, nbytes in transfers:
        flows.append(_flow(topology, topology.transfer(source, target, nbytes).route, nbytes))
    now, active = 0.0, list(flows)
    while active:
        rates = _fair_rates([flow for flow in active if flow.streams])
        speeds = [rates[id(flow)] if flow.streams else 1.0 for flow in active]
        step_s = min(flow.left / speed for flow, speed in zip(active, speeds, strict=True))
        now += step_s
        still = []
        for flow, speed in zip(active, speeds, strict=True):
            ends = flow.left / speed <= step_s
            flow.left -= speed * step_s
            flow.done_s = now
            if not ends or flow.advance():
                still.append(flow)
        active = still
    return tuple(flow.done_s for flow in flows)


def _flow(topology: Topology, route: Route, nbytes: int) -> _Flow:
    waits = [sum(link.latency_s for link in segment) for segment in route.segments] + [0.0]
    ends = [cost.time_s(nbytes) for cost in serialisations(topology, route)]
    if ends:
        waits[0] += ends[0]
        waits[-1] += ends[1]
    stretches: list[Mapping[str, float]] = []
    for segment in route.segments:
        need: dict[str, float] = {}
        for link in segment:
            per_byte = link.stream_s(nbytes) / nbytes if nbytes else 0.0
            # Two links of one medium on one way are a bus: each byte is on it once.
            need[link.medium] = max(need.get(link.medium, 0.0), per_byte)
        stretches.append(need)
    return _Flow(nbytes=nbytes, waits=waits, stretches=stretches)


def _fair_rates(flows: Sequence[_Flow]) -> dict[int, float]:
    """Max-min fair rates in bytes per second, by ``id`` of the flow."""
    rates: dict[int, float] = {}
    growing = {id(flow): flow for flow in flows}
    free: dict[str, float] = {medium: 1.0 for flow in flows for medium in flow.media}
    while growing:
        need = dict.fromkeys(free, 0.0)
        for flow in growing.values():
            for medium, per_byte in flow.media.items():
                need[medium] += per_byte
        limits = {medium: free[medium] / total for medium, total in need.items() if total > 0}
        if not limits:  # Only transfers of nothing are left.
            return {**rates, **dict.fromkeys(growing, float("inf"))}
        full = min(limits, key=lambda medium: limits[medium])
        level = limits[full]
        for key in [key for key, flow in growing.items() if flow.media.get(full, 0.0) > 0]:
            flow = growing.pop(key)
            rates[key] = level
            for medium, per_byte in flow.media.items():
                free[medium] = max(0.0, free[medium] - level * per_byte)
    return rates
