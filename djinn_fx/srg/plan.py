"""What the passes decide: regions, their order, transfers and memory. Plain data, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from djinn_fx.reasons import Reason
from djinn_fx.settings.engines import EAGER
from djinn_fx.srg.memory import MemoryPlan
from djinn_fx.srg.record import Cost, Phase


@dataclass(frozen=True, kw_only=True)
class EngineTime:
    """What an engine is expected to take for one run of a region: seconds, with the ends of the 80 % interval."""

    engine: str
    time_s: float
    low_s: float
    high_s: float
    provenance: str

    @property
    def tells(self) -> bool:
        """Whether the estimate tells engines apart: a datasheet knows nothing of engines."""
        return self.provenance not in ("datasheet", "unpriced")


def together(engine: str, parts: Sequence[EngineTime]) -> EngineTime:
    """Regions that run one after the other."""
    sources = {one.provenance for one in parts}
    return EngineTime(
        engine=engine,
        time_s=sum(one.time_s for one in parts),
        low_s=sum(one.low_s for one in parts),
        high_s=sum(one.high_s for one in parts),
        provenance=sources.pop() if len(sources) == 1 else "mixed",
    )


@dataclass(frozen=True, kw_only=True)
class Region:
    """A convex set of nodes compiled as one unit.

    Attributes:
        index: position in the plan's tuple of regions.
        label: for the reader, e.g. ``"model.layers.3"`` or ``"repeat 3 of 12"``.
        nodes: names of the graph nodes, in an order in which they can run.
        inputs: names of the values it reads from outside, in order of first use.
        outputs: names of the values others read, in order.
        structural_hash: SHA-256 of the canonical form; equal for regions that one artefact can serve. Empty if
            the region holds something that has no canonical form (then it is compiled on its own, uncached).
        phase: of the region's work.
        device: where it runs.
        cost: what one run does and takes on the engine that will serve it; where no engine is known, the sum over its
            nodes.
        times: by engine, the one that will serve it first; empty where no engine is known.
    """

    index: int
    label: str
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    structural_hash: str
    phase: Phase | None = None
    device: str = "cpu"
    cost: Cost = field(default_factory=Cost)
    times: tuple[EngineTime, ...] = ()

    def time_on(self, engine: str) -> EngineTime | None:
        """What an engine is expected to take; None if nobody asked."""
        return next((one for one in self.times if one.engine == engine), None)

    def saved_share(self, engine: str) -> float | None:
        """Part of an eager run that an engine is expected to save; None where estimates do not tell engines apart."""
        eager, other = self.time_on(EAGER), self.time_on(engine)
        if eager is None or other is None or not (eager.tells and other.tells) or not eager.time_s > 0:
            return None
        return 1 - other.time_s / eager.time_s

    @property
    def eager_s(self) -> float:
        """Seconds that its own ops are expected to take."""
        eager = self.time_on(EAGER)
        return eager.time_s if eager is not None else self.cost.time_s


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """One value moved between devices before a region runs. Sizes in bytes."""

    value: str
    source: str
    target: str
    before_region: int
    nbytes: int


@dataclass(frozen=True, kw_only=True)
class Share:
    """One device's part.

    Attributes:
        device: its name.
        row: what it is: a row of the catalogue, or some of this machine's processors.
        parts: the modules of what runs there, layers by number, in order; labels of regions where none is known.
        time_s: seconds of one call that it computes.
        memory_bytes: weights and state that it reads, and the most that passes while it runs.
        limit_bytes: what that may be; None: no limit.
    """

    device: str
    row: str
    parts: tuple[str, ...]
    time_s: float
    memory_bytes: int
    limit_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A value that passes between two devices in each call.

    Attributes:
        value: its name.
        source: the device that makes it.
        target: one that reads it.
        nbytes: its size.
        time_s: seconds with the links to itself.
        route: what it passes through, both ends too.
    """

    value: str
    source: str
    target: str
    nbytes: int
    time_s: float
    route: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Which device has what.

    Attributes:
        topology: the devices' name as a whole.
        objective: ``"latency"`` or ``"throughput"``.
        elsewhere: whether these devices are not here, so that nothing runs on them.
        devices: how many there are to choose from.
        shares: of those that have something to do, in the order in which they first do.
        passages: what passes between them.
        figure_s: seconds of one call, or for throughput of the slowest device or link.
        bound_s: no placement of these parts is below it, by the same times.
        runner_up: devices of the next best; empty if there was none.
        runner_up_s: its figure.
    """

    topology: str
    objective: str
    elsewhere: bool
    devices: int
    shares: tuple[Share, ...]
    passages: tuple[Passage, ...]
    figure_s: float
    bound_s: float
    runner_up: tuple[str, ...] = ()
    runner_up_s: float | None = None

    @property
    def gap(self) -> float:
        """By how much the figure is above the bound, as a share of the bound."""
        return max(0.0, self.figure_s / self.bound_s - 1) if self.bound_s > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The decision for one graph.

    Attributes:
        regions: all regions; ``order`` says when each runs.
        order: region indices in execution order.
        transfers: empty on a single device.
        peak_bytes: predicted peak of the memory in use, inputs and weights included; of the fullest device.
        memory: who lives when, as the graph's own ops run one by one; None without plan-memory.
        placement: which device has what; None where there is one to choose from. With the setting ``topology`` it is
            what would be there, and the regions are those that run here, unless nothing is built.
        phase: of the whole graph; None if its parts differ.
        cost: sum over the graph.
        times: what engines are expected to take for the whole graph, the fastest first; empty where none is known.
        reasons: decisions about the graph as a whole; those of single nodes are on their records.
    """

    regions: tuple[Region, ...]
    order: tuple[int, ...]
    transfers: tuple[Transfer, ...] = ()
    peak_bytes: int = 0
    memory: MemoryPlan | None = None
    placement: Placement | None = None
    phase: Phase | None = None
    cost: Cost = field(default_factory=Cost)
    times: tuple[EngineTime, ...] = ()
    reasons: tuple[Reason, ...] = ()

    @property
    def distinct_regions(self) -> int:
        """How many compiled artefacts serve all regions."""
        return distinct(self.regions)


def distinct(regions: Sequence[Region]) -> int:
    """How many compiled artefacts serve these regions; one without a hash is compiled alone."""
    hashes = [region.structural_hash for region in regions]
    return len({h for h in hashes if h}) + hashes.count("")
