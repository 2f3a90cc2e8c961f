"""What the passes decide: regions, their order, transfers and memory. Plain data, no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from djinn_fx.reasons import Reason
from djinn_fx.srg.record import Cost, Phase


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
        cost: sum over its nodes.
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


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """One value moved between devices before a region runs. Sizes in bytes."""

    value: str
    source: str
    target: str
    before_region: int
    nbytes: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The decision for one graph.

    Attributes:
        regions: all regions; ``order`` says when each runs.
        order: region indices in execution order.
        transfers: empty on a single device.
        peak_bytes: predicted peak of live values between regions, inputs and weights included.
        phase: of the whole graph; None if its parts differ.
        cost: sum over the graph.
        reasons: decisions about the graph as a whole; those of single nodes are on their records.
    """

    regions: tuple[Region, ...]
    order: tuple[int, ...]
    transfers: tuple[Transfer, ...] = ()
    peak_bytes: int = 0
    phase: Phase | None = None
    cost: Cost = field(default_factory=Cost)
    reasons: tuple[Reason, ...] = ()

    @property
    def distinct_regions(self) -> int:
        """How many compiled artefacts serve all regions."""
        hashes = [region.structural_hash for region in self.regions]
        return len({h for h in hashes if h}) + hashes.count("")
