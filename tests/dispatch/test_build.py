"""From plan to callables with an engine that counts: each distinct region is compiled once, and kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

from djinn_fx.dispatch import build, checks, tier
from djinn_fx.dispatch.build import Builder, Built
from djinn_fx.dispatch.checks import load_artefact
from djinn_fx.dispatch.memory import MEMORY
from djinn_fx.engines import registry
from djinn_fx.engines.base import Artefact, Capability, RegionCallable, RegionGraph
from djinn_fx.errors import EngineError
from djinn_fx.passes import find_regions
from djinn_fx.passes.base import PassContext, run_passes
from djinn_fx.passes.estimate_cost import EstimateCost
from djinn_fx.passes.find_regions import FindRegions
from djinn_fx.reasons import Reason, ReasonKind
from djinn_fx.runtime.executor import executable
from djinn_fx.runtime.program import program_of
from djinn_fx.settings.table import Settings
from djinn_fx.srg import SRG
from djinn_fx.store.store import Store
from tests import capture, graphs
from tests.running import order_regions, plan_in_order


class Counting:
    """Runs a region's own ops, but keeps and loads artefacts like an engine that compiles."""

    name = "inductor"  # the name the settings ask for

    def __init__(self) -> None:
        self.compiled: list[str] = []
        self.loaded = 0
        self.version = "1"
        self.fails: Callable[[RegionGraph], bool] = lambda region: False
        self.refuses: Callable[[RegionGraph], bool] = lambda region: False
        self.on_compile: Callable[[RegionGraph], None] = lambda region: None
        self.storable = True
        self.cannot_load = False
        self._kept: dict[bytes, GraphModule] = {}

    def capability(self) -> Capability:
        return Capability(can_build=True, can_run=True)

    def supports(self, region: RegionGraph) -> Reason | None:
        return Reason(kind=ReasonKind.ENGINE_REFUSED, detail="not this one") if self.refuses(region) else None

    def compile(self, region: RegionGraph, *, alone: bool = False) -> Artefact:
        self.compiled.append(region.label)
        self.on_compile(region)
        if self.fails(region):
            raise EngineError(f"cannot compile {region.label}")
        payload = f"payload {len(self._kept)}".encode()
        self._kept[payload] = region.gm
        return Artefact(header={"engine": self.name}, payload=payload if self.storable else None, ready=_run(region.gm))

    def load(self, artefact: Artefact) -> RegionCallable:
        self.loaded += 1
        if self.cannot_load or artefact.payload not in self._kept:
            raise EngineError("made by another torch")
        return _run(self._kept[artefact.payload])

    def fingerprint(self) -> Mapping[str, str]:
        return {"engine": self.name, "version": self.version}


def _run(gm: GraphModule) -> RegionCallable:
    return lambda args: gm(*args)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counting]:
    counting = Counting()
    for module in (build, checks, tier):
        monkeypatch.setattr(
            module, "engine", lambda name, given: counting if name == "inductor" else registry.engine(name, given)
        )
    monkeypatch.setattr(find_regions, "FIXED_S", 0.0)
    MEMORY.clear()
    yield counting
    MEMORY.clear()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(cache_dir=str(tmp_path / "cache"), progress=False)


LAYERS = 4
WIDTH = 8


def layers(count: int = LAYERS, width: int = WIDTH) -> SRG:
    """A loop of equal layers between two ops that stand alone, cut."""

    def model(x: Tensor, *w: Tensor) -> Tensor:
        x = x.cos()
        for weight in w:
            x = x + torch.tanh(x @ weight)
        return x.sin()

    gm = graphs.trace(model, torch.empty(3, width), *[torch.empty(width, width)] * count)
    return cut(graphs.lowered(gm))


def cut(srg: SRG) -> SRG:
    passes = [EstimateCost(), FindRegions(min_ops=3, max_boundary_share=1e9)]
    run_passes(srg, passes, PassContext(expected_calls=1), check=True)
    order_regions(srg)
    return srg


def built(srg: SRG, settings: Settings) -> Built:
    return Builder(settings).build(srg, plan_in_order(srg))


def outcomes(made: Built) -> set[str]:
    """How the distinct regions came about."""
    return {one.outcome for one in made.builds} - {"shared"}


def check_results(srg: SRG, made: Built) -> None:
    arguments = [torch.randn(node.meta["val"].shape) for node in srg.inputs]
    program, constants = program_of(srg, plan_in_order(srg))
    found = executable(program, made.callables, constants)(list(arguments))
    expected = srg.gm(*arguments)
    torch.testing.assert_close(list(found), [expected], rtol=0, atol=0)


# Once


def test_each_distinct_region_is_compiled_once(engine: Counting, settings: Settings) -> None:
    srg = layers()
    plan = plan_in_order(srg)
    assert len(plan.regions) >= LAYERS > plan.distinct_regions
    made = built(srg, settings)
    assert len(engine.compiled) == plan.distinct_regions
    assert [one.region for one in made.builds] == list(range(len(plan.regions)))
    assert sum(one.outcome == "built" for one in made.builds) == plan.distinct_regions
    check_results(srg, made)


def test_a_second_graph_takes_the_same_regions_from_memory(engine: Counting, settings: Settings) -> None:
    built(layers(), settings)
    before = len(engine.compiled)
    srg = layers(LAYERS + 2)
    made = built(srg, settings)
    assert len(engine.compiled) == before
    assert outcomes(made) == {"memory"}
    check_results(srg, made)


def test_another_process_takes_them_from_disk(engine: Counting, settings: Settings) -> None:
    first = built(layers(), settings)
    before = len(engine.compiled)
    MEMORY.clear()
    srg = layers()
    made = built(srg, settings)
    assert len(engine.compiled) == before
    assert outcomes(made) == {"store"}
    assert engine.loaded == before
    assert [one.key for one in made.builds] == [one.key for one in first.builds]
    check_results(srg, made)


def test_a_stored_artefact_is_found_by_its_key_alone(engine: Counting, settings: Settings) -> None:
    made = built(layers(), settings)
    MEMORY.clear()
    assert load_artefact(settings, made.builds[0].key) is not None
    assert load_artefact(settings, "0" * 64) is None


def test_other_shapes_are_other_regions(engine: Counting, settings: Settings) -> None:
    built(layers(), settings)
    before = len(engine.compiled)
    srg = layers(width=WIDTH + 1)
    built(srg, settings)
    assert len(engine.compiled) == before + plan_in_order(srg).distinct_regions


def test_another_version_of_the_engine_builds_anew_and_says_so(engine: Counting, settings: Settings) -> None:
    built(layers(), settings)
    before = len(engine.compiled)
    engine.version = "2"
    made = built(layers(), settings)
    assert len(engine.compiled) == 2 * before
    assert all(ReasonKind.CACHE_MISS in [r.kind for r in one.reasons] for one in made.builds if one.outcome == "built")


def test_two_threads_build_one_key_once(engine: Counting, settings: Settings) -> None:
    engine.storable = False  # so that the store cannot be what saves the second build
    engine.on_compile = lambda region: time.sleep(0.1)
    made: list[Built] = []
    graphs_of_both = [layers(), layers()]
    threads = [threading.Thread(target=lambda srg=srg: made.append(built(srg, settings))) for srg in graphs_of_both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 2
    assert len(engine.compiled) == plan_in_order(graphs_of_both[0]).distinct_regions
    for srg, one in zip(graphs_of_both, made, strict=True):
        check_results(srg, one)


# Caches that are off, or damaged


@pytest.mark.parametrize("how", ["setting", "torch"])
def test_a_cache_that_is_switched_off_is_not_touched(
    engine: Counting, settings: Settings, how: str, tmp_path: Path
) -> None:
    chosen = settings.model_copy(update={"cache_limit": "20GB" if how == "torch" else "0B"})
    with torch.compiler.config.patch(force_disable_caches=how == "torch"):
        made = built(layers(), chosen)
        before = len(engine.compiled)
        MEMORY.clear()
        built(layers(), chosen)
    assert len(engine.compiled) == 2 * before
    assert not (tmp_path / "cache").exists()
    assert {one.key for one in made.builds} == {""}


def test_a_corrupt_entry_is_rebuilt(engine: Counting, settings: Settings) -> None:
    made = built(layers(), settings)
    key = made.builds[0].key
    path = Store(Path(settings.cache_dir or ""), 10**9).entry_path(key)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    MEMORY.clear()
    engine.compiled.clear()
    srg = layers()
    again = built(srg, settings)
    assert len(engine.compiled) == 1
    assert again.builds[0].outcome == "built"
    check_results(srg, again)


def test_an_entry_that_the_engine_cannot_load_is_replaced(engine: Counting, settings: Settings) -> None:
    built(layers(), settings)
    distinct = len(engine.compiled)
    MEMORY.clear()
    engine.cannot_load = True
    engine.compiled.clear()
    made = built(layers(), settings)
    assert outcomes(made) == {"built"}
    assert len(engine.compiled) == distinct
    # The new one has the old one's place: a third process finds it at once.
    engine.cannot_load = False
    MEMORY.clear()
    assert outcomes(built(layers(), settings)) == {"store"}
    assert len(Store(Path(settings.cache_dir or ""), 10**9).entries()) == distinct


def test_an_artefact_that_cannot_be_stored_serves_this_process(engine: Counting, settings: Settings) -> None:
    engine.storable = False
    made = built(layers(), settings)
    assert {one.key for one in made.builds} == {""}
    again = built(layers(), settings)
    assert outcomes(again) == {"memory"}
    assert {one.key for one in again.builds} == {""}, "the key promises an entry on disk"


# Failures


def is_layer(region: RegionGraph) -> bool:
    return any("tanh" in node.name for node in region.gm.graph.nodes)


def test_a_region_that_fails_runs_eagerly_alone(engine: Counting, settings: Settings) -> None:
    engine.fails = is_layer
    srg = layers()
    made = built(srg, settings)
    failed = [one for one in made.builds if one.outcome == "fallback"]
    assert len(failed) == LAYERS
    assert {one.engine for one in failed} == {"eager"}
    assert all([reason.kind for reason in one.reasons] == [ReasonKind.FALLBACK] for one in failed)
    assert {one.outcome for one in made.builds if one not in failed} <= {"built", "shared"}
    assert sum("repeat" in label for label in engine.compiled) == 1
    check_results(srg, made)


def test_a_fault_that_nobody_foresaw_is_a_failure_that_is_tried_again(engine: Counting, settings: Settings) -> None:
    def faulty(region: RegionGraph) -> None:
        if is_layer(region):
            raise TypeError("an engine's own fault")

    engine.on_compile = faulty
    srg = layers()
    made = built(srg, settings)
    failed = [one for one in made.builds if one.outcome == "fallback"]
    assert len(failed) == LAYERS
    assert all([reason.kind for reason in one.reasons] == [ReasonKind.FALLBACK] for one in failed)
    check_results(srg, made)
    MEMORY.clear()
    engine.on_compile = lambda region: None
    assert all(one.outcome != "fallback" for one in built(layers(), settings).builds)


def test_a_failure_is_remembered_and_not_tried_again(engine: Counting, settings: Settings) -> None:
    engine.fails = is_layer
    built(layers(), settings)
    MEMORY.clear()
    engine.compiled.clear()
    srg = layers()
    made = built(srg, settings)
    assert engine.compiled == []
    assert sum(one.outcome == "fallback" for one in made.builds) == LAYERS
    assert ReasonKind.FALLBACK in {reason.kind for one in made.builds for reason in one.reasons}
    check_results(srg, made)


def test_the_strict_get_an_error(engine: Counting, settings: Settings) -> None:
    engine.fails = is_layer
    strict = settings.model_copy(update={"on_failure": "raise"})
    with pytest.raises(EngineError, match="cannot compile"):
        built(layers(), strict)


def test_the_strict_get_an_error_also_for_a_failure_on_record(engine: Counting, settings: Settings) -> None:
    engine.fails = is_layer
    built(layers(), settings)
    strict = settings.model_copy(update={"on_failure": "raise"})
    with pytest.raises(EngineError, match="cannot compile"):
        built(layers(), strict)


def test_a_region_that_is_refused_runs_eagerly_with_the_reason(engine: Counting, settings: Settings) -> None:
    engine.refuses = is_layer
    srg = layers()
    made = built(srg, settings)
    reasons = {r.kind for one in made.builds if one.outcome == "fallback" for r in one.reasons}
    assert reasons == {ReasonKind.ENGINE_REFUSED}
    check_results(srg, made)


def test_a_region_without_a_canonical_form_is_compiled_each_time(engine: Counting, settings: Settings) -> None:
    def strange() -> SRG:
        srg = layers()
        node = next(node for node in srg.ops if "tanh" in node.name)
        node.target = lambda x: torch.tanh(x)
        srg.gm.recompile()
        srg.forget_facts()
        return cut(srg)

    srg = strange()
    nameless = [region for region in srg.regions if not region.structural_hash]
    assert len(nameless) == 1
    check_results(srg, built(srg, settings))
    engine.compiled.clear()
    made = built(strange(), settings)
    assert len(engine.compiled) == 1
    assert {one.key for one in made.builds if one.outcome == "built"} == {""}


# Sizes


def dynamic(rows: int) -> SRG:
    def model(x: Tensor, w: Tensor) -> Tensor:
        return torch.tanh(x @ w).sum(0) * 2

    (srg,) = capture.capture(model, (torch.randn(rows, 7), torch.randn(7, 5)), dynamic=True)
    return cut(srg)


def at_most(limit: int) -> Callable[[RegionGraph], None]:
    """What an engine does that relies on a size."""

    def look(region: RegionGraph) -> None:
        tensor = next(value for value in region.example_inputs if isinstance(value, Tensor))
        bool(tensor.shape[0] <= limit)

    return look


def test_an_artefact_is_used_only_for_sizes_it_is_valid_for(engine: Counting, settings: Settings) -> None:
    engine.on_compile = at_most(64)
    (small,) = built(dynamic(20), settings).builds
    assert small.outcome == "built"
    assert "64" in (small.guards or "")
    (other,) = built(dynamic(33), settings).builds
    assert (other.outcome, other.key) == ("memory", small.key)
    (large,) = built(dynamic(100), settings).builds
    assert large.outcome == "built"
    assert large.key != small.key
    assert len(engine.compiled) == 2


def test_each_variant_is_found_on_disk(engine: Counting, settings: Settings) -> None:
    engine.on_compile = at_most(64)
    small, large = (built(dynamic(rows), settings).builds[0].key for rows in (20, 100))
    for rows, key in ((200, large), (30, small)):
        MEMORY.clear()
        (found,) = built(dynamic(rows), settings).builds
        assert (found.outcome, found.key) == ("store", key)
    assert len(engine.compiled) == 2


def test_using_an_artefact_guards_the_graph_that_uses_it(engine: Counting, settings: Settings) -> None:
    engine.on_compile = at_most(64)
    built(dynamic(20), settings)
    srg = dynamic(33)
    symbol = next(node.meta["val"] for node in srg.inputs if not isinstance(node.meta["val"], Tensor))
    before = list(symbol.node.shape_env.guards)
    built(srg, settings)
    added = [str(guard.expr) for guard in symbol.node.shape_env.guards if guard not in before]
    assert any("64" in text for text in added)


def test_a_size_that_compiling_made_a_number_is_guarded(engine: Counting, settings: Settings) -> None:
    def settle(region: RegionGraph) -> None:
        tensor = next(value for value in region.example_inputs if isinstance(value, Tensor))
        assert tensor.shape[0] == 20

    engine.on_compile = settle
    (first,) = built(dynamic(20), settings).builds
    assert "20" in (first.guards or "")
    engine.on_compile = lambda region: None
    (second,) = built(dynamic(21), settings).builds
    assert second.outcome == "built"
    (third,) = built(dynamic(20), settings).builds
    assert third.key in {first.key, second.key}


def test_sizes_that_only_tensors_tell_are_guarded_too(engine: Counting, settings: Settings) -> None:
    def traced(rows: int) -> SRG:
        function = lambda x: torch.tanh(x).sum(0) * 2  # noqa: E731
        return cut(graphs.lowered(graphs.trace(function, torch.empty(rows, 7), symbolic=True)))

    assert all(isinstance(node.meta["val"], Tensor) for node in traced(20).inputs)
    engine.on_compile = at_most(64)
    (small,) = built(traced(20), settings).builds
    assert "64" in (small.guards or "")
    (large,) = built(traced(100), settings).builds
    assert (large.outcome, large.key != small.key) == ("built", True)


def test_the_regions_of_one_graph_share_only_where_sizes_allow(engine: Counting, settings: Settings) -> None:
    def model(x: Tensor, y: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        for _ in range(3):
            x = torch.tanh(x @ w).sin() * 2
        for _ in range(3):
            y = torch.tanh(y @ w).sin() * 2
        return x, y

    arguments = (torch.randn(20, 6), torch.randn(100, 6), torch.randn(6, 6))
    torch._dynamo.mark_dynamic(arguments[0], 0)
    torch._dynamo.mark_dynamic(arguments[1], 0)
    (srg,) = capture.capture(model, arguments)
    cut(srg)
    assert plan_in_order(srg).distinct_regions < len(srg.regions)
    engine.on_compile = at_most(64)
    made = built(srg, settings)
    keys: dict[str, set[str]] = {}
    for one, region in zip(made.builds, srg.regions, strict=True):
        rows = next(srg.node(name).meta["val"].shape[0] for name in region.nodes if "tanh" in name)
        keys.setdefault(str(rows), set()).add(one.key)
    small, large = keys.values()
    assert not small & large
