"""find-regions: repeats are found with and without a module stack, proved by the hash, and cut only where it pays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from djinn_fx.passes import find_regions
from djinn_fx.passes.base import PassContext, PipelineResult, run_passes
from djinn_fx.passes.estimate_cost import EstimateCost
from djinn_fx.passes.find_regions import FindRegions
from djinn_fx.passes.pipeline import plan_of
from djinn_fx.reasons import ReasonKind
from djinn_fx.srg import SRG, GraphKind
from djinn_fx.srg.printer import to_text
from djinn_fx.srg.verify import verify
from tests import capture, graphs, handmade
from tests.golden.golden import check_golden
from tests.running import order_regions, run_by_regions

#: Cuts whatever a boundary costs: the graphs here are too small for any cut to pay.
ALWAYS = {"max_boundary_share": 1e9}
LAYERS = 5


@pytest.fixture(autouse=True)
def _regions_cost_little_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else three layers would not be worth a cut, and tests of more would take longer."""
    monkeypatch.setattr(find_regions, "FIXED_S", 0.01)


def found(srg: SRG, *, expected_calls: int = 1, **options: Any) -> PipelineResult:
    """Run find-regions, and check what it promises."""
    context = PassContext(expected_calls=expected_calls)
    result = run_passes(srg, [EstimateCost(), FindRegions(**options)], context, check=True)
    order_regions(srg)
    verify(srg, ["regions-partition", "order-valid"])
    return result


def kinds(result: PipelineResult) -> list[ReasonKind]:
    return [reason.kind for reason in result.reasons if reason.kind is not ReasonKind.UNPRICED]


def repeats(srg: SRG) -> int:
    """How often the most frequent region occurs."""
    return max(Counter(region.structural_hash for region in srg.regions).values())


def assert_same_results(srg: SRG) -> None:
    """Region by region the graph computes, and writes into its inputs, what it does as a whole."""
    whole, parts = real_arguments(srg), real_arguments(srg)
    torch.manual_seed(5)
    srg.gm.recompile()
    expected = srg.gm(*whole)
    expected = expected if isinstance(expected, (tuple, list)) else (expected,)
    torch.manual_seed(5)
    results = run_by_regions(srg, parts)
    torch.testing.assert_close(results, list(expected), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(parts, whole, rtol=0, atol=0, equal_nan=True)


def real_arguments(srg: SRG) -> list[Any]:
    """Real values for a graph's inputs, laid out as the graph expects; the same every time."""
    source = torch.Generator().manual_seed(0)
    made: list[Any] = []
    for node in srg.inputs:
        value = node.meta["val"]
        if not isinstance(value, Tensor):
            made.append(int(value))
            continue
        shape, strides = [int(size) for size in value.shape], [int(size) for size in value.stride()]
        real = torch.empty_strided(shape, strides, dtype=value.dtype)
        made.append(real.normal_(generator=source) if value.is_floating_point() else real.fill_(1))
    return made


class Block(nn.Module):
    """A hand-written transformer block."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        mixed = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, -1) @ v
        x = x + self.out(mixed)
        return x + self.down(torch.relu(self.up(self.after(x))))


class Stack(nn.Module):
    """A table, blocks of these hidden widths, and a head."""

    def __init__(self, *hidden: int, width: int = 16) -> None:
        super().__init__()
        self.table = nn.Embedding(32, width)
        self.blocks = nn.ModuleList(Block(width, size) for size in hidden)
        self.head = nn.Linear(width, 32)

    def forward(self, x: Tensor) -> Tensor:
        h = self.table(x)
        for block in self.blocks:
            h = block(h)
        return self.head(h)


def stack_graphs(*hidden: int, training: bool = False, dynamic: bool | None = None) -> list[SRG]:
    torch.manual_seed(0)
    tokens = torch.arange(14).view(2, 7)
    return capture.capture(Stack(*hidden), (tokens,), training=training, dynamic=dynamic)


def loop(count: int) -> SRG:
    """Layers in a loop, four ops each, and no module stack."""

    def model(x: Tensor, *w: Tensor) -> Tensor:
        for up, down in zip(w[::2], w[1::2], strict=True):
            x = x + torch.tanh(x @ up) @ down
        return x

    weights = [torch.empty(shape) for _ in range(count) for shape in ((8, 24), (24, 8))]
    return graphs.lowered(graphs.trace(model, torch.empty(2, 8), *weights))


# What is found


def test_a_loop_without_a_module_stack_is_cut_at_its_repeats() -> None:
    srg = loop(12)
    result = found(srg, min_ops=4, **ALWAYS)
    assert kinds(result) == [ReasonKind.SPLIT]
    assert repeats(srg) == len(srg.regions) == 12
    assert_same_results(srg)


FUNCTIONAL = [
    handmade.functional_prefill,
    handmade.functional_encode,
    handmade.functional_decode,
    handmade.functional_decode_written,
]


@pytest.mark.parametrize("make", FUNCTIONAL)
def test_functional_models_are_cut_into_their_layers(make: Callable[[], tuple[Any, ...]]) -> None:
    function, args, kwargs = make()
    (srg,) = capture.capture(function, args, kwargs)
    found(srg, **ALWAYS)
    assert repeats(srg) == handmade.LAYERS
    assert plan_of(srg).distinct_regions <= 3
    assert_same_results(srg)


def test_two_stacks_behind_each_other_are_both_found() -> None:
    function, args, kwargs = handmade.functional_pair()
    (srg,) = capture.capture(function, args, kwargs)
    found(srg, **ALWAYS)
    counts = Counter(region.structural_hash for region in srg.regions)
    assert sorted(counts.values())[-2:] == [handmade.LAYERS] * 2
    assert_same_results(srg)


def test_a_write_is_in_the_region_that_computes_what_is_written() -> None:
    # AOTAutograd puts all writes to inputs at the end; apart from its maker, each would copy a whole cache.
    function, args, kwargs = handmade.functional_decode_written()
    (srg,) = capture.capture(function, args, kwargs)
    found(srg, **ALWAYS)
    writes = [node for node in srg.ops if srg.record(node).mutates]
    assert len(writes) == 2 * handmade.LAYERS
    for node in writes:
        (maker,) = (source for source in node.all_input_nodes if source.name not in srg.record(node).mutates)
        assert srg.record(maker).region == srg.record(node).region


def test_a_model_of_modules_is_cut_into_them() -> None:
    (srg,) = stack_graphs(*[24] * LAYERS)
    found(srg, **ALWAYS)
    assert repeats(srg) == LAYERS
    assert any(region.label.endswith("blocks.2") for region in srg.regions)
    assert_same_results(srg)


def test_blocks_of_different_widths_share_nothing_wrongly() -> None:
    (srg,) = stack_graphs(24, 40, 24, 40, 24)
    found(srg, **ALWAYS)
    by_hash: dict[str, set[int]] = {}
    for region in srg.regions:
        widths = {int(srg.node(name).meta["val"].shape[-1]) for name in region.nodes if "relu" in name}
        by_hash.setdefault(region.structural_hash, set()).update(widths)
    assert all(len(widths) <= 1 for widths in by_hash.values())
    assert_same_results(srg)


def test_blocks_that_are_all_different_stay_whole() -> None:
    (srg,) = stack_graphs(24, 28, 32, 36)
    result = found(srg, **ALWAYS)
    if len(srg.regions) == 1:
        assert kinds(result) == [ReasonKind.WHOLE]
    else:
        # Their attention halves are alike; nothing else is.
        assert all("relu" not in name for name in _repeated_nodes(srg))
    assert_same_results(srg)


def _repeated_nodes(srg: SRG) -> list[str]:
    counts = Counter(region.structural_hash for region in srg.regions)
    return [name for region in srg.regions if counts[region.structural_hash] > 1 for name in region.nodes]


def test_forward_and_backward_are_both_cut() -> None:
    forward, backward = stack_graphs(*[24] * LAYERS, training=True)
    assert (forward.kind, backward.kind) == (GraphKind.FORWARD, GraphKind.BACKWARD)
    for srg in (forward, backward):
        found(srg, **ALWAYS)
        assert repeats(srg) == LAYERS, srg.kind
        assert_same_results(srg)


def test_dropout_keeps_its_random_numbers() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(6))

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = torch.nn.functional.dropout(torch.relu(block(x)), 0.5)
            return x

    forward, _ = capture.capture(Dropping(), (torch.randn(4, 8),), training=True)
    found(forward, min_ops=3, **ALWAYS)
    assert len(forward.regions) > 1
    assert_same_results(forward)


def test_symbolic_sizes_do_not_hide_repeats() -> None:
    (static,) = stack_graphs(*[24] * LAYERS)
    (dynamic,) = stack_graphs(*[24] * LAYERS, dynamic=True)
    for srg in (static, dynamic):
        found(srg, **ALWAYS)
    assert repeats(dynamic) == repeats(static)
    assert_same_results(dynamic)


# What stays whole


def stays_whole(result: PipelineResult) -> bool:
    """And says so once."""
    return [reason.kind for reason in result.reasons].count(ReasonKind.WHOLE) == 1


def test_a_tiny_graph_stays_whole() -> None:
    srg = loop(3)
    assert stays_whole(found(srg, **ALWAYS))
    assert len(srg.regions) == 1
    assert_same_results(srg)


def test_a_single_layer_stays_whole() -> None:
    (srg,) = stack_graphs(24)
    assert stays_whole(found(srg, **ALWAYS))
    assert len(srg.regions) == 1


def test_a_graph_with_sizes_that_only_the_data_tell_stays_whole() -> None:
    model = Stack(*[24] * LAYERS)

    def function(x: Tensor) -> Tensor:
        return model(torch.nonzero(x).view(1, -1))

    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        (srg,) = capture.capture(function, (torch.tensor([0, 3, 0, 1]),))
    assert stays_whole(found(srg, **ALWAYS))
    assert len(srg.regions) == 1
    tokens = torch.tensor([0, 3, 0, 1])
    values = [tokens if srg.record(n).outputs[0].dtype == "int64" else real for n, real in _paired(srg)]
    torch.testing.assert_close(run_by_regions(srg, values), list(srg.gm(*values)), rtol=0, atol=0)


def _paired(srg: SRG) -> list[tuple[Any, Any]]:
    return list(zip(srg.inputs, real_arguments(srg), strict=True))


def test_a_cut_that_costs_more_than_its_share_is_not_made() -> None:
    (srg,) = stack_graphs(*[24] * LAYERS)
    assert stays_whole(found(srg, max_boundary_share=1e-9))
    assert len(srg.regions) == 1


def test_a_cut_that_many_calls_would_pay_for_is_not_made() -> None:
    (srg,) = stack_graphs(*[24] * LAYERS)
    assert stays_whole(found(srg, expected_calls=10**9, **ALWAYS))
    assert len(srg.regions) == 1


def test_cutting_can_be_switched_off() -> None:
    (srg,) = stack_graphs(*[24] * LAYERS)
    assert stays_whole(found(srg, whole=True))
    assert len(srg.regions) == 1


def test_a_graph_without_ops_has_no_regions() -> None:
    srg = graphs.lowered(graphs.trace(lambda x: x, torch.empty(2)))
    assert stays_whole(found(srg))
    assert srg.regions == ()
    x = torch.randn(2)
    assert run_by_regions(srg, [x])[0] is x


def test_a_region_without_a_canonical_form_says_so_once() -> None:
    srg = loop(12)
    odd = next(node for node in srg.ops if "tanh" in node.name)
    odd.target = lambda x: torch.tanh(x)
    result = found(srg, min_ops=4, **ALWAYS)
    nameless = [region for region in srg.regions if not region.structural_hash]
    assert [odd.name in region.nodes for region in nameless] == [True]
    assert [reason.kind for reason in result.reasons].count(ReasonKind.UNCACHEABLE) == 1
    assert repeats(srg) >= 10
    assert_same_results(srg)


def test_the_decision_names_what_was_not_chosen() -> None:
    (srg,) = stack_graphs(*[24] * LAYERS)
    result = found(srg, **ALWAYS)
    (reason,) = [reason for reason in result.reasons if reason.kind is ReasonKind.SPLIT]
    assert reason.runner_up == "one region"
    assert reason.runner_up_cost


def test_golden_of_a_cut() -> None:
    srg = graphs.lowered(graphs.repeated_layers(4))
    passes = [EstimateCost(device="a100-80gb"), FindRegions(min_ops=4, **ALWAYS)]
    run_passes(srg, passes, PassContext(expected_calls=1), check=True)
    check_golden("find-regions-cut", to_text(srg))
