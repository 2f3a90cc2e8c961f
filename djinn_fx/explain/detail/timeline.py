"""When each region of a graph runs and on which device, and when values move, by the plan's estimates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from djinn_fx.passes.order import dependencies
from djinn_fx.srg.graph import SRG
from djinn_fx.srg.plan import Plan, Transfer


@dataclass(frozen=True, kw_only=True)
class Span:
    """One region's run on its device. Seconds from the start of the call."""

    region: int
    device: str
    start_s: float
    duration_s: float


@dataclass(frozen=True, kw_only=True)
class Move:
    """One value's way to another device. ``duration_s`` is None where no speed of the link is known."""

    value: str
    source: str
    target: str
    nbytes: int
    before_region: int
    start_s: float
    duration_s: float | None


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """One call by estimate: devices beside each other, each region once its device is free and its inputs are there.

    A link carries one value at a time. ``end_s``: when the last region is through.
    """

    spans: tuple[Span, ...] = ()
    moves: tuple[Move, ...] = ()
    end_s: float = 0.0


def timeline(srg: SRG, plan: Plan) -> Timeline:
    """The plan's regions in their order, by their estimated times; a value moves as soon as it is made."""
    return _Clock(srg, plan).run()


class _Clock:
    """Devices and links with the times from which they are free."""

    def __init__(self, srg: SRG, plan: Plan) -> None:
        self._plan = plan
        self._before = dependencies(srg)
        passages = plan.placement.passages if plan.placement is not None else ()
        self._known = {(one.value, one.target): one.time_s for one in passages}
        self._free: dict[str, float] = {}
        self._ends: dict[int, float] = {}
        self._arrived: dict[tuple[str, str], float] = {}
        self._moves: list[Move] = []
        self._early: dict[int, list[Transfer]] = {}
        self._late: dict[int, list[Transfer]] = {}
        times = Counter((one.value, one.target) for one in plan.transfers)
        for one in plan.transfers:
            if times[one.value, one.target] > 1:  # it is written between: each reader asks for it as it then is
                self._late.setdefault(one.before_region, []).append(one)
            else:
                maker = srg.record(srg.node(one.value)).region
                self._early.setdefault(-1 if maker is None else maker, []).append(one)

    def run(self) -> Timeline:
        """See :func:`timeline`."""
        self._send(self._early.get(-1, ()), 0.0)
        spans = []
        for index in self._plan.order:
            region = self._plan.regions[index]
            ready = max((self._ends[one] for one in self._before[index]), default=0.0)
            self._send(self._late.get(index, ()), ready)
            inputs = [self._arrived.get((name, region.device), 0.0) for name in region.inputs]
            start = max([ready, self._free.get(region.device, 0.0), *inputs])
            self._ends[index] = self._free[region.device] = start + region.cost.time_s
            spans.append(Span(region=index, device=region.device, start_s=start, duration_s=region.cost.time_s))
            self._send(self._early.get(index, ()), self._ends[index])
        return Timeline(spans=tuple(spans), moves=tuple(self._moves), end_s=max(self._ends.values(), default=0.0))

    def _send(self, transfers: Iterable[Transfer], ready_s: float) -> None:
        for one in transfers:
            link, duration = f"{one.source} → {one.target}", self._known.get((one.value, one.target))
            start = max(ready_s, self._free.get(link, 0.0))
            self._arrived[one.value, one.target] = self._free[link] = start + (duration or 0.0)
            move = Move(
                value=one.value,
                source=one.source,
                target=one.target,
                nbytes=one.nbytes,
                before_region=one.before_region,
                start_s=start,
                duration_s=duration,
            )
            self._moves.append(move)
