"""annotate-phase: model families, every form of attention, names that must not matter, and speed."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from djinn_fx.passes.annotate_phase import LIKELY, AnnotatePhase
from djinn_fx.passes.base import PassContext, run_passes
from djinn_fx.reasons import ReasonKind
from djinn_fx.srg import SRG, GraphKind, Modality, Phase, lower
from tests import families, graphs
from tests.capture import capture
from tests.phase_table import row_of
from tests.sweeps import some_of

CORE = [case for case in families.all_cases() if case.core]


def labelled(srg: SRG) -> SRG:
    """The same graph after annotate-phase, checked."""
    run_passes(srg, (AnnotatePhase(),), PassContext(), check=True)
    return srg


def labels(srg: SRG) -> list[tuple[Phase | None, Modality | None]]:
    """Phase and modality of every op."""
    return [(srg.record(node).phase, srg.record(node).modality) for node in srg.ops]


# -- families -----------------------------------------------------------------------------------------------------


def test_zoo_is_large_enough() -> None:
    named = {case.family for case in CORE}
    assert len(named) >= 36
    decoders = [f for f in families.DECODERS if f in named]
    for family in decoders:
        assert {"prefill", "decode"} <= {case.phase for case in CORE if case.family == family}
    assert set(families.TRAINABLE) <= {case.name for case in families.all_cases()}
    assert len(families.TRAINABLE) >= 10


@pytest.mark.parametrize("case", some_of(CORE, every=12), ids=lambda case: case.name)
def test_family(case: families.Case) -> None:
    row = row_of(case)
    print(row)
    assert row.is_right, str(row)


def test_every_label_has_a_reason() -> None:
    (srg,) = capture(*families.case_named("functional/pair").make())
    labelled(srg)
    for node in srg.ops:
        kinds = [reason.kind for reason in srg.record(node).reasons]
        assert kinds == [ReasonKind.PHASE]
    assert [reason.kind for reason in srg.reasons] == [ReasonKind.PHASE]


def test_what_is_no_proof_is_said_to_be_likely() -> None:
    convolution = graphs.trace(lambda x, w: F.conv2d(x, w).relu(), torch.randn(1, 3, 8, 8), torch.randn(4, 3, 3, 3))
    for gm, likely in ((graphs.decoder_step_with_kv_cache(), False), (convolution, True)):
        (reason,) = labelled(graphs.lowered(gm)).reasons
        assert reason.detail.startswith(LIKELY) is likely


@pytest.mark.parametrize("name", ["clip/encode", "functional/pair", "functional/decode-written"])
def test_names_do_not_matter(name: str) -> None:
    for srg in capture(*families.case_named(name).make()):
        before = labels(labelled(srg))
        residency = {}
        for index, node in enumerate(srg.nodes):
            old = srg.record(node).residency
            node.name = f"n{(index * 7919) % 100_003}"
            if node.op == "placeholder":
                node.target = node.name
                residency[node.name] = old
            node.meta = {"val": node.meta["val"]} if "val" in node.meta else {}
        assert labels(labelled(lower(srg.gm, srg.kind, residency))) == before


def test_training_graphs() -> None:
    case = families.case_named("functional/encode")
    graphs = capture(*case.make(), training=True)
    assert [srg.kind for srg in graphs] == [GraphKind.FORWARD, GraphKind.BACKWARD]
    for srg, phase in zip(graphs, (Phase.FORWARD, Phase.BACKWARD), strict=True):
        labelled(srg)
        assert srg.phase is phase
        assert set(labels(srg)) == {(phase, None)}


class _Stem(nn.Module):
    """A convolution over [batch, tokens, channels] in one of three readings, and a product."""

    def __init__(self, read: str, channels: int) -> None:
        super().__init__()
        kinds = {"time": nn.Conv1d(channels, 8, 3), "image": nn.Conv2d(channels, 8, 3), "bands": nn.Conv2d(1, 8, 3)}
        self.read, self.conv, self.head = read, kinds[read], nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, channels = x.shape
        if self.read == "image":  # patches of a square
            x = x.transpose(1, 2).reshape(batch, channels, int(tokens**0.5), -1)
        else:
            x = x.transpose(1, 2) if self.read == "time" else x[:, None]
        return self.head(self.conv(x).flatten(2).mean(-1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("read", "channels", "modality"),
    [
        ("time", 80, Modality.AUDIO),
        ("time", 1, Modality.AUDIO),
        ("time", 768, None),
        ("bands", 80, Modality.AUDIO),
        ("image", 48, Modality.VISION),
        ("image", 768, Modality.VISION),
    ],
)
def test_sound_is_a_convolution_over_time_on_few_channels(read: str, channels: int, modality: Modality | None) -> None:
    (srg,) = capture(_Stem(read, channels), (torch.randn(2, 64, channels),), {})
    labelled(srg)
    assert {one for _, one in labels(srg)} == {modality}
    assert srg.phase is (Phase.ENCODE if modality is not None else Phase.FORWARD)


@pytest.mark.parametrize("name", ["llama/decode-growing", "functional/encode"])
def test_symbolic_sizes_without_guards(name: str) -> None:
    case = families.case_named(name)
    module, args, kwargs = case.make()
    graphs = capture(module, args, kwargs, dynamic=True)
    assert any(meta.is_symbolic for srg in graphs for node in srg.nodes for meta in srg.record(node).outputs)
    for srg in graphs:
        shape_env = _shape_env(srg)
        guards = len(shape_env.guards) if shape_env else 0
        labelled(srg)
        assert srg.phase is not None
        assert srg.phase.value == case.phase
        assert (len(shape_env.guards) if shape_env else 0) == guards


def _shape_env(srg: SRG) -> Any:
    for node in srg.nodes:
        mode = getattr(node.meta.get("val"), "fake_mode", None)
        if mode is not None and mode.shape_env is not None:
            return mode.shape_env
    return None


# -- forms of attention -------------------------------------------------------------------------------------------

HEADS, DIM = 4, 8
ATEN = torch.ops.aten


class Builder:
    """A graph built by hand on the meta device: sizes only."""

    def __init__(self) -> None:
        self.graph = Graph()

    def place(self, name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Node:
        node = self.graph.placeholder(name)
        node.meta["val"] = torch.empty(shape, dtype=dtype, device="meta")
        return node

    def call(self, target: Any, shape: tuple[int, ...], *args: Any, several: bool = False, **kwargs: Any) -> Node:
        node = self.graph.call_function(target, args, kwargs)
        value = torch.empty(shape, device="meta")
        node.meta["val"] = (value, value) if several else value
        return node

    def embedded(self, tokens: int) -> Node:
        """Tokens looked up in a table: [batch, heads, tokens, head_dim]."""
        ids = self.place(f"ids{tokens}", 2, tokens, dtype=torch.int64)
        rows = self.call(
            ATEN.embedding.default, (2, tokens, HEADS * DIM), self.place(f"table{tokens}", 96, HEADS * DIM), ids
        )
        split = self.call(ATEN.view.default, (2, tokens, HEADS, DIM), rows, [2, tokens, HEADS, DIM])
        return self.call(ATEN.transpose.int, (2, HEADS, tokens, DIM), split, 1, 2)

    def done(self, *outputs: Node) -> SRG:
        self.graph.output(outputs)
        return labelled(lower(GraphModule({}, self.graph)))


FUSED: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "sdpa": (ATEN.scaled_dot_product_attention.default, (None, 0.0)),
    "flash_cpu": (ATEN._scaled_dot_product_flash_attention_for_cpu.default, (0.0,)),
    "flash": (ATEN._scaled_dot_product_flash_attention.default, (0.0,)),
    "efficient": (ATEN._scaled_dot_product_efficient_attention.default, (None, False, 0.0)),
    "cudnn": (ATEN._scaled_dot_product_cudnn_attention.default, (None, False, 0.0)),
    "overrideable": (ATEN._scaled_dot_product_fused_attention_overrideable.default, (None, 0.0)),
    "math": (ATEN._scaled_dot_product_attention_math.default, (None, 0.0)),
}


def fused(form: str, b: Builder, q: Node, k: Node, v: Node, causal: bool) -> Node:
    """One fused attention of that form and its first result."""
    target, before = FUSED[form]
    shape = tuple(q.meta["val"].shape)
    if form == "sdpa":
        return b.call(target, shape, q, k, v, *before, causal)
    out = b.call(target, shape, q, k, v, *before, causal, several=True)
    return b.call(operator.getitem, shape, out, 0)


@pytest.mark.parametrize("form", FUSED)
@pytest.mark.parametrize("causal", [False, True])
def test_fused_self_attention(form: str, causal: bool) -> None:
    b = Builder()
    x = b.embedded(7)
    srg = b.done(fused(form, b, x, x, x, causal))
    assert srg.phase is (Phase.PREFILL if causal else Phase.ENCODE)


@pytest.mark.parametrize("form", FUSED)
@pytest.mark.parametrize("tokens", [1, 5])
def test_fused_against_cached_keys(form: str, tokens: int) -> None:
    b = Builder()
    x = b.embedded(tokens)
    cache = b.place("c", 2, HEADS, 11, DIM)
    keys = b.call(ATEN.cat.default, (2, HEADS, 11 + tokens, DIM), [cache, x], 2)
    srg = b.done(fused(form, b, x, keys, keys, False), keys)
    assert srg.phase is (Phase.DECODE if tokens == 1 else Phase.PREFILL)


@pytest.mark.parametrize("form", FUSED)
def test_fused_cross_attention(form: str) -> None:
    b = Builder()
    x, y = b.embedded(7), b.embedded(9)
    x = fused(form, b, x, x, x, True)
    y = fused(form, b, y, y, y, False)
    cross = fused(form, b, x, y, y, False)
    srg = b.done(cross)
    assert srg.phase is Phase.PREFILL
    assert srg.record(cross).phase is Phase.CROSS
    assert srg.record(y).phase is Phase.ENCODE
    assert srg.record(y).modality is Modality.TEXT


def test_scores_batched_over_heads() -> None:
    """baddbmm over [batch*heads, tokens, dim] with a bias, softmax, bmm; the bias is a triangle of -inf."""

    def f(ids: Tensor, table: Tensor, w: Tensor) -> Tensor:
        h = table[ids]
        q, k, v = (h @ w[i] for i in range(3))
        bias = torch.full((6, 6), float("-inf")).triu(1).expand(2, 6, 6)
        return torch.bmm(torch.softmax(torch.baddbmm(bias, q, k.transpose(1, 2)), -1), v)

    (srg,) = capture(f, (families.ids(6), torch.randn(96, 16), torch.randn(3, 16, 16)))
    assert labelled(srg).phase is Phase.PREFILL


def test_window_that_looks_both_ways_is_no_causal_mask() -> None:
    def f(ids: Tensor, table: Tensor, w: Tensor) -> Tensor:
        h = table[ids]
        rows = torch.arange(9)
        mask = (rows[:, None] - rows[None, :]).abs() <= 2
        q, k, v = (h @ w[i] for i in range(3))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    (srg,) = capture(f, (families.ids(9), torch.randn(96, 16), torch.randn(3, 16, 16)))
    assert labelled(srg).phase is Phase.ENCODE


def test_window_that_looks_back_is_a_causal_mask() -> None:
    def f(ids: Tensor, table: Tensor, w: Tensor) -> Tensor:
        h = table[ids]
        rows = torch.arange(9)
        mask = (rows[None, :] <= rows[:, None]) & (rows[None, :] > rows[:, None] - 3)
        q, k, v = (h @ w[i] for i in range(3))
        return torch.softmax((q @ k.transpose(1, 2)).masked_fill(~mask, -1e9), -1) @ v

    (srg,) = capture(f, (families.ids(9), torch.randn(96, 16), torch.randn(3, 16, 16)))
    assert labelled(srg).phase is Phase.PREFILL


@pytest.mark.parametrize("causal", [False, True])
def test_flex_attention(causal: bool) -> None:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def below(b: Tensor, h: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return row >= column

    block = create_block_mask(below, None, None, 128, 128, device="cpu") if causal else None

    def f(ids: Tensor, table: Tensor) -> Any:
        h = table[ids].unflatten(-1, (2, 16)).transpose(1, 2)
        return flex_attention(h, h, h, block_mask=block)

    with torch.no_grad():
        (srg,) = capture(f, (families.ids(128), torch.randn(96, 32)))
    assert labelled(srg).phase is (Phase.PREFILL if causal else Phase.ENCODE)


def test_attention_inside_a_nested_region() -> None:
    @torch.compiler.nested_compile_region
    def block(h: Tensor, w: Tensor) -> Tensor:
        q, k, v = (h @ w[i] for i in range(3))
        return h + F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def f(ids: Tensor, table: Tensor, w: Tensor) -> Tensor:
        h = table[ids]
        for _ in range(3):
            h = block(h, w)
        return h

    (srg,) = capture(f, (families.ids(9), torch.randn(96, 16), torch.randn(3, 16, 16)))
    assert labelled(srg).phase is Phase.PREFILL


def test_torch_transformer() -> None:
    module = nn.Transformer(32, 4, 2, 2, 48, batch_first=True).eval()
    table = nn.Embedding(96, 32)

    def f(source: Tensor, target: Tensor) -> Any:
        mask = nn.Transformer.generate_square_subsequent_mask(6)
        return module(table(source), table(target), tgt_mask=mask, tgt_is_causal=True)

    (srg,) = capture(f, (families.ids(11), families.ids(6)))
    assert labelled(srg).phase is Phase.PREFILL
    assert {phase for phase, _ in labels(srg)} == {Phase.PREFILL, Phase.ENCODE, Phase.CROSS}


def test_one_sequence_as_source_and_target() -> None:
    """An encoder-decoder that is given the same ids twice, over one table: its parts are still told apart."""
    function, (_, ids, *weights), _ = families.case_named("functional/pair").make()
    (srg,) = capture(function, (ids, ids, *weights))
    assert labelled(srg).phase is Phase.PREFILL
    assert {phase for phase, _ in labels(srg)} == {Phase.PREFILL, Phase.ENCODE, Phase.CROSS}


@pytest.mark.parametrize(
    ("queries", "keys", "causal", "phase"),
    [
        (7, 7, True, Phase.PREFILL),
        (7, 7, False, Phase.ENCODE),
        (1, 9, False, Phase.DECODE),
    ],
)
def test_attention_alone(queries: int, keys: int, causal: bool, phase: Phase) -> None:
    """Ready queries and keys from outside, as in a graph cut out of a model."""

    def f(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    shapes = ((2, 4, queries, 8), (2, 4, keys, 8), (2, 4, keys, 8))
    (srg,) = capture(f, tuple(families.noise(*shape) for shape in shapes))
    assert labelled(srg).phase is phase


def test_layer_alone_under_a_mask_from_outside() -> None:
    """One layer compiled by itself: hidden states and a mask [batch, 1, queries, keys] come in."""

    def f(h: Tensor, mask: Tensor, w: Tensor) -> Tensor:
        q, k, v = ((h @ w[i]).unflatten(-1, (4, -1)).transpose(1, 2) for i in range(3))
        return h + F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)

    given = (families.noise(2, 7, 16), torch.ones(2, 1, 7, 7, dtype=torch.bool), torch.randn(3, 16, 16))
    (srg,) = capture(f, given)
    assert labelled(srg).phase is Phase.PREFILL


# -- speed --------------------------------------------------------------------------------------------------------


def _tower(layers: int) -> SRG:
    def f(ids: Tensor, table: Tensor, w: Tensor) -> Tensor:
        h = table[ids]
        for _ in range(layers):
            q, k, v = ((h @ w[i]).unflatten(-1, (4, 4)).transpose(1, 2) for i in range(3))
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            h = h + mixed.transpose(1, 2).flatten(2) @ w[3]
            h = h + torch.tanh(h @ w[4])
        return h

    given = (families.ids(9), torch.randn(96, 16), torch.randn(5, 16, 16))
    return lower(make_fx(f, tracing_mode="fake")(*given))


def _calls(work: Callable[[], object]) -> int:
    """Calls of functions, of Python's and of C's: on every machine as many."""
    count = 0

    def seen(frame: object, event: str, arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(seen)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def test_work_an_op_does_not_grow_with_the_graph() -> None:
    """About 10 us an op on a quiet machine; counted rather than timed, for a busy one."""
    each = []
    for layers in (8, 40):
        srg = _tower(layers)
        each.append(_calls(lambda srg=srg: AnnotatePhase().run(srg, PassContext())) / len(list(srg.ops)))
    print(f"{each} calls an op")
    assert each[1] < 100
    assert each[1] < 1.2 * each[0]
