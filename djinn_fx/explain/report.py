"""The report: what was captured and decided, as frozen plain data with a JSON form.

What was measured, and what is dated, is in the blocks ``run`` and ``cache``; everything else is the same on every run
with the same input, store and profile.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from djinn_fx.engines.base import Rounding
from djinn_fx.explain.detail.flow import Edge
from djinn_fx.explain.detail.measured import RegionTime
from djinn_fx.explain.detail.memory import MemoryCurve
from djinn_fx.explain.detail.spent import Spent
from djinn_fx.explain.detail.timeline import Timeline
from djinn_fx.explain.detail.values import ValueInfo
from djinn_fx.srg.memory import MemoryPeak
from djinn_fx.srg.plan import EngineTime, Placement, Transfer
from djinn_fx.srg.record import Cost

SCHEMA = "djinn.explain/3"
#: Digits of a hash or a key that are shown; `djinn cache why` takes them.
SHORT_HASH = 12
#: The rung on which tensors have values; see :class:`Scenario`.
WITH_VALUES = 3


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """The model that was found.

    Attributes:
        file: as the user wrote it, or the option in its place; empty where it was given in Python.
        attr: the model in it; empty behind an option.
        rule: the convention that found it.
        name: of its class or function; of several, all of them.
        mode: ``inference`` or ``training``.
        words: of the command line that made the report what it is, besides file and attr.
    """

    file: str
    attr: str
    rule: str
    name: str
    mode: str
    parameter_count: int
    parameter_bytes: int
    words: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RegionInfo:
    """One region.

    ``repeats``: how many regions of the graph share its artefact, itself included. ``pays_after_calls``: after how many
    calls of the graph building it has paid for itself, by estimate; None if it never does, or nothing is built.
    ``times``: what engines are expected to take, the one that will serve it first.
    """

    index: int
    label: str
    ops: int
    inputs: int
    outputs: int
    structural_hash: str
    repeats: int
    phase: str | None
    device: str
    cost: Cost
    times: tuple[EngineTime, ...] = ()
    pays_after_calls: int | None = None


@dataclass(frozen=True, kw_only=True)
class PassInfo:
    """One pass that ran, and whether it changed anything."""

    name: str
    modified: bool


@dataclass(frozen=True, kw_only=True)
class ReasonGroup:
    """Equal reasons, and the nodes or regions they are about."""

    kind: str
    detail: str
    count: int
    nodes: tuple[str, ...]
    runner_up: str | None = None
    runner_up_cost: str | None = None


@dataclass(frozen=True, kw_only=True)
class PricingInfo:
    """Where estimated times come from.

    Attributes:
        model: name of the cost model.
        device: row that is priced for.
        source: where the row's figures are from.
        profile: when the calibration was made that the model stands on, ISO 8601; None if it stands on none.
        noise: of that calibration: how far times of one work differ, as shares, by name.
        problem: why a profile that there is, is not used.
    """

    model: str
    device: str
    source: str
    profile: str | None = None
    noise: dict[str, float] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What the first call and later ones are expected to cost and gain; by tables, the same in every run.

    Attributes:
        engine: the one that is built first.
        plan_s: seconds to capture and plan.
        build_s: seconds to build for the engine.
        saving_s: seconds that a later call saves; None where nothing tells.
    """

    engine: str
    plan_s: float
    build_s: float
    saving_s: float | None


@dataclass(frozen=True, kw_only=True)
class GraphInfo:
    """One captured graph.

    Sizes in bytes. ``memory``: the peak of each device as the graph's own ops run, what runs then and the biggest
    values; ``curves``: all that is in memory over the call. ``timeline``: when which region runs where, by estimate;
    ``edges``: what flows between regions; ``spent``: where the time goes, None if nothing is priced. ``values``: what
    the values are that are named here; ``tokens``: how many a call of prefill or decode computes. ``placement``:
    which device has what, where there is a choice. ``phases``: how many ops belong to which, an encoder's with what it
    reads ("encode/vision"). ``times``: what engines are expected to take for the whole graph,
    the fastest first. ``provenances``: how many ops' times come from where. ``unpriced`` maps ops without a cost to
    their number, ``unpriced_share`` is their share of all ops.
    """

    kind: str
    phase: str | None
    ops: int
    distinct_regions: int
    regions: tuple[RegionInfo, ...]
    phases: dict[str, int]
    residency_bytes: dict[str, int]
    peak_bytes: int
    memory: tuple[MemoryPeak, ...]
    cost: Cost
    pricing: PricingInfo | None
    times: tuple[EngineTime, ...]
    provenances: dict[str, int]
    unpriced: dict[str, int]
    unpriced_share: float
    transfers: tuple[Transfer, ...]
    passes: tuple[PassInfo, ...]
    reasons: tuple[ReasonGroup, ...]
    placement: Placement | None = None
    timeline: Timeline = field(default_factory=Timeline)
    curves: tuple[MemoryCurve, ...] = ()
    edges: tuple[Edge, ...] = ()
    spent: Spent | None = None
    values: dict[str, ValueInfo] = field(default_factory=dict)
    tokens: int | None = None
    forecast: Forecast | None = None


@dataclass(frozen=True, kw_only=True)
class Check:
    """The built model against eager.

    ``equal`` is None where they cannot be compared; ``note`` says why. ``rounding``: by engine that may round, how far
    its answer was from float64's. ``live_bytes``: the most bytes of tensors that a further call had in memory, None
    where none was counted; ``foretold_bytes``: the peak of the graphs' own ops. ``call_s``, ``eager_s``: seconds of a
    settled call of the built model and of eager; None where they were not timed.
    """

    equal: bool | None
    max_difference: float
    rtol: float
    atol: float
    note: str = ""
    rounding: dict[str, Rounding] = field(default_factory=dict)
    live_bytes: int | None = None
    foretold_bytes: int = 0
    call_s: float | None = None
    eager_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One call of the model: what it is given, and what was captured of it.

    Attributes:
        name: of the call; empty where there is one only.
        model: the class or function that is called.
        rule: the convention that gave the inputs.
        inputs: a text each, such as ``"tokens: int64[2, 16]"``.
        rung: how the model was made: 1, its constructor ran and its weights were dropped as they were registered; 2, it
            ran under fake tensors; 3, with values. On 1 and 2 only the tensors' sizes and types are known.
        partial: the line beyond which nothing is known, since it depends on values; None if all is.
        graphs: in the order they were compiled.
        graph_breaks: why Dynamo split the model, with the user's file:line.
        expected_calls: the setting of that name.
        failed: of one among several that failed, how; None: it did not.
    """

    name: str
    model: str
    rule: str
    inputs: tuple[str, ...]
    rung: int
    partial: str | None
    graphs: tuple[GraphInfo, ...]
    graph_breaks: tuple[str, ...]
    failed: str | None = None
    expected_calls: int = 1000

    @property
    def values(self) -> bool:
        """Whether tensors had values."""
        return self.rung == WITH_VALUES


@dataclass(frozen=True, kw_only=True)
class PassTime:
    """Seconds that a pass took."""

    name: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class BuildInfo:
    """How a region's code was obtained: from memory, from the store, built now, or eager as a fallback."""

    region: int
    engine: str
    outcome: str
    key: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class GraphRun:
    """What was measured of one graph.

    Its passes, in order; its builds, and what was decided while building; what runs of its regions took, where known.
    """

    passes: tuple[PassTime, ...] = ()
    builds: tuple[BuildInfo, ...] = ()
    reasons: tuple[ReasonGroup, ...] = ()
    times: tuple[RegionTime, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EntrantInfo:
    """One engine in a trial: its state, seconds of an answer, bytes of its copies of weights, why it is out of it."""

    engine: str
    state: str
    median_s: float | None
    memory_bytes: int
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class ContestInfo:
    """A trial between engines on real calls: over what, who serves now, and all who take part."""

    label: str
    engine: str
    decided: bool
    entrants: tuple[EntrantInfo, ...]


@dataclass(frozen=True, kw_only=True)
class ScenarioRun:
    """What was measured of a scenario: one :class:`GraphRun` for each of its graphs, in order.

    ``check`` is None where it was not run; ``capture_s`` is seconds until all was planned, and built if that was asked;
    ``first_s`` those of the first call where it was built, with all that it waits for.
    """

    name: str
    capture_s: float
    graphs: tuple[GraphRun, ...]
    check: Check | None = None
    first_s: float | None = None
    contests: tuple[ContestInfo, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """Everything that was measured or is dated.

    Attributes:
        when: ISO 8601, UTC.
        machine: what its measurements hold for.
        find_s: seconds until the model was found.
        scenarios: in the order of the report's.
    """

    when: str
    machine: dict[str, str | int]
    find_s: float
    scenarios: tuple[ScenarioRun, ...]


@dataclass(frozen=True, kw_only=True)
class CacheLookup:
    """One region in the disk cache. ``scenario``, ``graph`` and ``region`` count from 0.

    Attributes:
        engine: whose artefact it is; empty where none is known.
        outcome: ``stored`` where nothing was built and an entry for the region's structure is there; else as a build's:
            ``memory``, ``store``, ``built``, ``fallback``, ``waiting``.
        key: what ``djinn cache why`` takes; empty if nothing is kept.
        why: what is known about a miss.
    """

    scenario: int
    graph: int
    region: int
    engine: str
    outcome: str
    key: str
    why: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CacheInfo:
    """The disk cache: how many artefacts were found in it or in memory, how many were not, and each of them."""

    hits: int = 0
    misses: int = 0
    lookups: tuple[CacheLookup, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything explain has to say about one model. Only ``run`` and ``cache`` differ from run to run."""

    schema: str
    model: ModelInfo
    versions: dict[str, str]
    scenarios: tuple[Scenario, ...]
    run: RunInfo
    cache: CacheInfo

    @property
    def graphs(self) -> tuple[GraphInfo, ...]:
        """Those of all scenarios."""
        return tuple(graph for scenario in self.scenarios for graph in scenario.graphs)

    @property
    def checks(self) -> tuple[Check, ...]:
        """Those of the scenarios that were run."""
        return tuple(one.check for one in self.run.scenarios if one.check is not None)

    def to_json(self) -> str:
        """The report as JSON text."""
        return json.dumps(asdict(self), indent=2)


def reasons_of(scenario: Scenario, run: ScenarioRun) -> list[ReasonGroup]:
    """All that was decided, and then all that came of building it."""
    planned = [reason for graph in scenario.graphs for reason in graph.reasons]
    return planned + [reason for graph in run.graphs for reason in graph.reasons]
