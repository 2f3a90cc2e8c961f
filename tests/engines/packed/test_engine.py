"""The packed engine: the same results as eager whichever way products are done, and weights followed as they change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from djinn_fx.engines import registry
from djinn_fx.engines.base import Artefact, RegionGraph
from djinn_fx.engines.packed import ops as packed_ops
from djinn_fx.engines.packed.engine import PackedEngine
from djinn_fx.engines.packed.graph import products, rewritten
from djinn_fx.engines.packed.speed import ProductSpeed
from djinn_fx.reasons import ReasonKind
from djinn_fx.settings.engines import traits_of
from djinn_fx.settings.table import Settings
from tests import families
from tests.concrete import concrete, copied
from tests.engines.packed.packing import WAYS, differences, engine_of, region_of

pytestmark = pytest.mark.skipif(packed_ops.missing() is not None, reason="this torch cannot pack weights")


class Block(nn.Module):
    """A feed-forward block: two products, a gelu, a residual."""

    def __init__(self, width: int = 8, inner: int = 12, approximate: str = "none") -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.act = nn.GELU(approximate)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.act(self.up(x)))


def bound(engine: PackedEngine, region: RegionGraph) -> Any:
    """A region compiled and ready."""
    assert engine.supports(region) is None
    return engine.compile(region).ready


def weights_of(region: RegionGraph, args: Sequence[Any]) -> list[Tensor]:
    return [args[place] for place in region.weights]


def afters(region: RegionGraph) -> list[str]:
    """What is fused to each product."""
    return [str((*node.args, "none")[3]) for node in products(rewritten(region.gm, region.weights).graph)]


# -- results ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def captured() -> dict[str, RegionGraph]:
    """Regions of whole models."""
    found = {}
    for name in ("gpt2/prefill", "llama/decode-fixed"):
        call, args, kwargs = families.case_named(name).make()
        found[name] = region_of(call, *args, **kwargs)
    return found


@pytest.mark.parametrize("way", WAYS)
def test_whole_models_give_what_eager_gives(captured: dict[str, RegionGraph], way: str) -> None:
    for name, region in captured.items():
        args = concrete(region.example_inputs)
        run = bound(engine_of(way), region)
        with torch.no_grad():
            mine, theirs = copied(args), copied(args)
            want = region.gm(*theirs)
            for _ in range(2):  # the second call finds everything as the first left it
                given = copied(args)
                got = run(list(given))
                assert differences(got, want) == [], name
                assert differences(given, theirs) == [], f"{name}: arguments"
            assert differences(run(list(mine)), want) == [], name


def test_models_have_their_products_found(captured: dict[str, RegionGraph]) -> None:
    """Two layers: q, k, v together or apart, out, and the feed-forward ones; the head of a language model."""
    counts = {name: len(afters(region)) for name, region in captured.items()}
    assert counts == {
        "gpt2/prefill": 2 * (2 + 2) + 1,
        "llama/decode-fixed": 2 * (4 + 3) + 1,
    }


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rows", [(7, 8), (3, 5, 8), (1, 8), (8,)])
def test_rows_of_any_number_of_dimensions(way: str, rows: tuple[int, ...]) -> None:
    region = region_of(Block(), torch.randn(rows))
    args = concrete(region.example_inputs)
    with torch.no_grad():
        assert differences(bound(engine_of(way), region)(list(args)), region.gm(*args)) == []


@pytest.mark.parametrize("way", WAYS)
def test_other_sizes_than_those_it_was_packed_for(way: str) -> None:
    region = region_of(Block(), torch.randn(3, 5, 8), dynamic=True)
    run = bound(engine_of(way), region)
    symbols = [str(one.node.expr) for one in region.example_inputs if isinstance(one, torch.SymInt)]
    for sizes in ((3, 5), (4, 6), (2, 9), (3, 5)):
        args = concrete(region.example_inputs, sizes=dict(zip(symbols, sizes, strict=False)))
        with torch.no_grad():
            assert differences(run(list(args)), region.gm(*args)) == []
    assert run.sets == (0 if way == "aten" else 1)


@pytest.mark.parametrize("way", ["aten", "onednn"])
def test_half_precision(way: str) -> None:
    if not packed_ops.has_onednn(torch.bfloat16):
        pytest.skip("oneDNN has no bfloat16 here")
    region = region_of(Block().bfloat16(), torch.randn(5, 8).bfloat16())
    args = concrete(region.example_inputs)
    with torch.no_grad():
        assert differences(bound(engine_of(way), region)(list(args)), region.gm(*args), tolerance=2**-6) == []


def test_no_rows() -> None:
    region = region_of(Block(), torch.randn(0, 8))
    args = concrete(region.example_inputs)
    with torch.no_grad():
        assert bound(engine_of("onednn"), region)(list(args))[0].shape == (0, 8)


# -- what is fused ------------------------------------------------------------------------------------------------


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(8, 12, bias=False), nn.Linear(8, 12, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.silu(self.gate(x)) * self.up(x)


class Written(nn.Module):
    """GPT-2's gelu, as its formula."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(8, 12)

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x)
        return 0.5 * y * (1.0 + torch.tanh((2.0 / torch.pi) ** 0.5 * (y + 0.044715 * torch.pow(y, 3.0))))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Block(), ["gelu", "add"]),
        (Block(approximate="tanh"), ["gelu_tanh", "add"]),
        (Gated(), ["silu", "mul"]),
        (Written(), ["gelu_tanh"]),
        (nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Dropout(0.5).eval(), nn.Linear(12, 8)), ["relu", "none"]),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_what_follows_a_product_is_fused(model: nn.Module, expected: list[str], way: str) -> None:
    region = region_of(model, torch.randn(3, 8))
    assert afters(region) == expected
    args = concrete(region.example_inputs)
    with torch.no_grad():
        assert differences(bound(engine_of(way), region)(list(args)), region.gm(*args)) == []


def test_a_result_that_is_also_returned_is_not_fused_away() -> None:
    linear = nn.Linear(8, 8)

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        y = linear(x)
        return y, torch.relu(y)

    region = region_of(both, torch.randn(3, 8))
    assert afters(region) == ["none"]
    args = concrete(region.example_inputs)
    with torch.no_grad():
        assert differences(bound(engine_of("mkl"), region)(list(args)), region.gm(*args)) == []


# -- memory -------------------------------------------------------------------------------------------------------

Several = Callable[[Tensor, nn.Linear], Any]


@pytest.mark.parametrize(
    "function",
    [
        lambda x, w: (w(x), w(x).clone()),
        lambda x, w: (lambda y: (y, y.clone()))(w(x)),
        lambda x, w: (lambda y: (y, y.view(-1)))(w(x)),
        lambda x, w: (lambda y: (y, y + 1.0, y.t() * 2.0))(w(x)),
        lambda x, w: (lambda y: (y.tanh() + y, y.exp().neg()))(w(x)),
        lambda x, w: (lambda y: (y[:, :4] * y[:, 4:], y[:, :4] + 1))(w(x)),
        lambda x, w: (w(x) * torch.arange(8.0), torch.arange(8.0)),
        lambda x, w: (lambda y: (y.sum(0).expand(3, 8) + y, y.sum(0).expand(3, 8)))(w(x)),
        lambda x, w: (w(x), x, x.view(-1)),
    ],
)
def test_nothing_is_written_over_too_early_and_results_share_what_eagers_share(function: Several) -> None:
    weight = nn.Linear(8, 8)
    region = region_of(lambda x: function(x, weight), torch.randn(3, 8))
    args = concrete(region.example_inputs)
    run = bound(engine_of("mkl"), region)
    with torch.no_grad():
        for _ in range(2):
            given = copied(args)
            got, want = run(list(given)), region.gm(*args)
            assert differences(got, want) == []
            assert differences(given, args) == []
            assert _sharing([*got, *given]) == _sharing([*want, *args])
            for one in got:  # what is returned is the caller's
                if not any(one.untyped_storage()._cdata == arg.untyped_storage()._cdata for arg in given):
                    one.copy_(torch.full_like(one, 7.0)) if 0 not in one.stride() else None


def _sharing(values: Sequence[Tensor]) -> list[int]:
    """For each tensor, the first that has the same memory."""
    places = [value.untyped_storage()._cdata for value in values]
    return [places.index(place) for place in places]


class Cached(nn.Module):
    """Writes rows into a cache and reads all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor, cache: Tensor, rows: Tensor) -> Tensor:
        cache.index_copy_(0, rows, self.linear(x))
        return x @ cache.t()


def test_a_cache_is_written_in_place() -> None:
    region = region_of(Cached(), torch.randn(2, 8), torch.randn(6, 8), torch.tensor([1, 4]))
    graph = rewritten(region.gm, region.weights).graph
    assert graph.find_nodes(op="call_function", target=torch.ops.aten.index_copy_.default)
    assert not graph.find_nodes(op="call_function", target=torch.ops.aten.copy_.default)
    run = bound(engine_of("mkl"), region)
    args = concrete(region.example_inputs)
    with torch.no_grad():
        for _ in range(2):
            mine, theirs = copied(args), copied(args)
            for given in (mine, theirs):
                next(one for one in given if not one.is_floating_point()).copy_(torch.tensor([3, 0]))
            want = region.gm(*theirs)
            assert differences(run(list(mine)), want) == []
            assert differences(mine, theirs) == []
    assert [region.gm.graph.find_nodes(op="placeholder")[place].target for place in run.mutated] == [
        node.args[0].target
        for node in region.gm.graph.find_nodes(op="call_function", target=torch.ops.aten.copy_.default)
    ]


@pytest.mark.parametrize(
    "function",
    [
        lambda x, cache, w: (cache.index_copy_(0, torch.arange(2), w(x)), cache + 1)[1],
        lambda x, cache, w: (lambda old: (cache.index_copy_(0, torch.arange(2), w(x)), old + cache)[1])(cache.clone()),
        lambda x, cache, w: (cache.index_copy_(0, torch.arange(2), w(cache[:2])), cache * 2)[1],
        lambda x, cache, w: cache.index_copy(0, torch.arange(2), w(x)),
        lambda x, cache, w: cache.index_copy_(0, torch.arange(2), w(x)),
        lambda x, cache, w: (lambda new: (cache.copy_(new), new)[1])(cache.index_copy(0, torch.arange(2), w(x))),
        lambda x, cache, w: cache.index_put_((torch.arange(2),), w(x), accumulate=True).sum(),
        lambda x, cache, w: (lambda old: (cache.index_copy_(0, torch.arange(2), w(x)), old.sum(0))[1])(cache[:2] * 1),
    ],
)
def test_caches_end_as_in_eager(function: Callable[[Tensor, Tensor, nn.Linear], Any]) -> None:
    linear = nn.Linear(8, 8)
    region = region_of(lambda x, cache: function(x, cache, linear), torch.randn(2, 8), torch.randn(6, 8))
    run = bound(engine_of("mkl"), region)
    args = concrete(region.example_inputs)
    with torch.no_grad():
        mine, theirs = copied(args), copied(args)
        got, want = run(list(mine)), region.gm(*theirs)
        assert differences(got, want) == []
        assert differences(mine, theirs) == []
        assert _sharing([*got, *mine]) == _sharing([*want, *theirs])


def test_constants_are_made_once() -> None:
    linear = nn.Linear(8, 8)
    region = region_of(lambda x: linear(x) * (torch.arange(8.0) + 1.0), torch.randn(3, 8))
    plan = bound(engine_of("aten"), region)
    args = concrete(region.example_inputs)
    plan(list(args))
    assert plan.memory_bytes == 0  # what reads its weights as they are has no copies that a weight could make stale
    assert plan.sets == 0


# -- weights that change ------------------------------------------------------------------------------------------

CHANGES: dict[str, Callable[[nn.Parameter], Any]] = {
    "in place": lambda weight: weight.add_(1.0),
    "through data": lambda weight: weight.data.__iadd__(1.0),
    "another memory": lambda weight: setattr(weight, "data", torch.randn_like(weight)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("change", CHANGES)
def test_weights_are_followed(way: str, change: str) -> None:
    block = Block()
    region = region_of(block, torch.randn(3, 8))
    args = concrete(region.example_inputs)
    for place in region.weights:
        args[place] = nn.Parameter(args[place])
    run = bound(engine_of(way), region)
    with torch.no_grad():
        assert differences(run(list(args)), region.gm(*args)) == []
        for place in region.weights:
            CHANGES[change](args[place])
        stale = run.attempt(list(args))
        assert stale is None or way == "aten"
        assert differences(run(list(args)), region.gm(*args)) == []
        again = run.attempt(list(args))
        assert again is not None
        assert differences(again, region.gm(*args)) == []


def test_layers_that_are_alike_share_one_artefact() -> None:
    region = region_of(Block(), torch.randn(3, 8))
    run = bound(engine_of("onednn"), region)
    calls = [concrete(region.example_inputs, seed=seed) for seed in range(3)]
    with torch.no_grad():
        for _ in range(2):
            for args in calls:
                assert differences(run(list(args)), region.gm(*args)) == []
    assert run.sets == 3
    sizes = [one.numel() * 4 for one in weights_of(region, calls[0]) if one.dim() == 2]
    assert run.memory_bytes == 3 * sum(sizes)


def test_weights_that_change_all_the_time_are_read_as_they_are() -> None:
    region = region_of(Block(), torch.randn(3, 8))
    args = concrete(region.example_inputs)
    run = bound(engine_of("onednn"), region)
    with torch.no_grad():
        for _ in range(8):
            assert differences(run(list(args)), region.gm(*args)) == []
            weights_of(region, args)[0].mul_(1.5)
    assert run.reason is not None
    assert run.reason.kind is ReasonKind.FALLBACK
    assert run.memory_bytes == 0


# -- the engine ---------------------------------------------------------------------------------------------------


def test_a_stored_region_is_loaded() -> None:
    region = region_of(Block(), torch.randn(3, 5, 8), dynamic=True)
    engine = engine_of("mkl")
    made = engine.compile(region)
    assert made.payload is not None
    run = engine.load(Artefact(header=made.header, payload=made.payload))
    args = concrete(region.example_inputs)
    with torch.no_grad():
        assert differences(run(list(args)), region.gm(*args)) == []


def test_what_is_refused() -> None:
    block, engine = region_of(Block(), torch.randn(3, 8)), engine_of("mkl")
    cases = {
        "no product": region_of(lambda x: x.sin() + 1, torch.randn(3)),
        "no weights": replace(block, weights=()),
        "training": replace(block, kind="forward"),
    }
    for name, region in cases.items():
        reason = engine.supports(region)
        assert reason is not None, name
        assert reason.kind is ReasonKind.ENGINE_REFUSED, name
    assert engine_of("mkl", weights="input").supports(block) is not None


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Linear(8, 0), (3, 8)),
        (nn.Linear(0, 8), (3, 0)),
        (nn.Conv3d(3, 4, 3), (1, 3, 8, 8, 8)),
        (nn.Conv1d(3, 4, 3), (1, 3, 8)),
        (nn.ConvTranspose2d(3, 4, 3), (1, 3, 8, 8)),
        (nn.Linear(8, 8).double(), (3, 8)),
    ],
)
def test_what_has_nothing_to_pack_is_refused(module: nn.Module, shape: tuple[int, ...]) -> None:
    region = region_of(module, torch.randn(shape, dtype=next(module.parameters()).dtype))
    reason = engine_of("mkl").supports(region)
    assert reason is not None
    assert reason.kind is ReasonKind.ENGINE_REFUSED


def test_a_linear_of_width_0_beside_others_is_left_as_it_is() -> None:
    module = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 0), nn.ReLU(), nn.Linear(0, 4))
    region = region_of(module, torch.randn(3, 8))
    engine = PackedEngine(speed=ProductSpeed(None))
    made = engine.compile(region)
    assert made.ready is not None
    args = concrete(region.example_inputs)
    with torch.no_grad():
        assert differences(made.ready(list(args)), region.gm(*args)) == []


def test_the_engine_is_made_from_settings(tmp_path: Path) -> None:
    engine = registry.engine("packed", Settings(cache_dir=str(tmp_path)))
    assert isinstance(engine, PackedEngine)
    assert engine.capability().can_run
    assert engine.fingerprint()["engine"] == "packed"
    assert traits_of(engine.name).binds_weights


def test_kernels_that_moved_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def moved(*_: Any) -> Any:
        raise TypeError("_linear_pointwise() is missing value for argument")

    monkeypatch.setattr(packed_ops, "run_onednn_op", lambda: moved)
    why = packed_ops.missing.__wrapped__()
    assert why is not None
    assert torch.__version__ in why
    assert "_linear_pointwise" in why
