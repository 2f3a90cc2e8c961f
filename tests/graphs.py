"""Small ATen graphs with fake values, as AOTAutograd would hand them over: made by make_fx, nothing is computed.

Arguments named ``w...`` or ``b...`` are parameters, ``cache...`` state, everything else inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from djinn_fx.passes.base import PassContext, PassResult
from djinn_fx.srg import SRG, GraphKind, Region, Residency, lower
from djinn_fx.srg.record import Cost

#: Sizes of the hand-built graphs; all different, so that symbolic shapes stay apart.
BATCH, WIDTH, HIDDEN = 2, 8, 24
HEADS, LENGTH, HEAD_SIZE, CACHE_LENGTH = 4, 6, 16, 12


def trace(function: Callable[..., Any], *args: Any, symbolic: bool = False) -> GraphModule:
    """The ATen graph of a function at these arguments."""
    with torch.no_grad():
        return make_fx(function, tracing_mode="symbolic" if symbolic else "fake")(*args)


def residency_of(gm: GraphModule) -> dict[str, Residency]:
    """What each placeholder is, by its name."""
    kinds = {"w": Residency.PARAMETER, "b": Residency.PARAMETER, "c": Residency.STATE}
    names = [node.name for node in gm.graph.find_nodes(op="placeholder")]
    return {name: kinds[name[0]] for name in names if name[0] in kinds}


def lowered(gm: GraphModule, kind: GraphKind = GraphKind.INFERENCE) -> SRG:
    """The SRG of a hand-built graph, before any pass."""
    return lower(gm, kind, residency_of(gm))


def two_layer_mlp() -> GraphModule:
    """linear, gelu, linear with a bias each: 2 parameters a layer."""
    return trace(_mlp, *_mlp_arguments())


def symbolic_mlp() -> GraphModule:
    """The same with symbolic sizes."""
    return trace(_mlp, *_mlp_arguments(), symbolic=True)


def _mlp(x: Tensor, w0: Tensor, b0: Tensor, w1: Tensor, b1: Tensor) -> Tensor:
    return F.linear(F.gelu(F.linear(x, w0, b0)), w1, b1)


def _mlp_arguments() -> tuple[Tensor, ...]:
    return (
        torch.empty(BATCH, WIDTH),
        torch.empty(HIDDEN, WIDTH),
        torch.empty(HIDDEN),
        torch.empty(WIDTH, HIDDEN),
        torch.empty(WIDTH),
    )


def attention_block() -> GraphModule:
    """Layer norm, one projection to query, key and value, attention, projection, residual."""

    def block(x: Tensor, w_norm: Tensor, b_norm: Tensor, w_qkv: Tensor, w_out: Tensor) -> Tensor:
        h = F.layer_norm(x, (HEADS * HEAD_SIZE,), w_norm, b_norm)
        q, k, v = (_split_heads(part) for part in F.linear(h, w_qkv).chunk(3, dim=-1))
        return x + F.linear(_merge_heads(F.scaled_dot_product_attention(q, k, v, is_causal=True)), w_out)

    width = HEADS * HEAD_SIZE
    return trace(
        block,
        torch.empty(BATCH, LENGTH, width),
        torch.empty(width),
        torch.empty(width),
        torch.empty(3 * width, width),
        torch.empty(width, width),
    )


def _split_heads(x: Tensor) -> Tensor:
    return x.view(BATCH, -1, HEADS, HEAD_SIZE).transpose(1, 2)


def _merge_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).reshape(BATCH, -1, HEADS * HEAD_SIZE)


def decoder_step_with_kv_cache() -> GraphModule:
    """One new token: its key and value are written into a cache in place, then it attends to the whole cache."""

    def step(x: Tensor, position: Tensor, w_qkv: Tensor, cache_k: Tensor, cache_v: Tensor) -> Tensor:
        q, k, v = (_split_heads(part) for part in F.linear(x, w_qkv).chunk(3, dim=-1))
        cache_k.index_copy_(2, position, k)
        cache_v.index_copy_(2, position, v)
        return _merge_heads(F.scaled_dot_product_attention(q, cache_k, cache_v))

    width = HEADS * HEAD_SIZE
    cache = (BATCH, HEADS, CACHE_LENGTH, HEAD_SIZE)
    return trace(
        step,
        torch.empty(BATCH, 1, width),
        torch.zeros(1, dtype=torch.int64),
        torch.empty(3 * width, width),
        torch.empty(cache),
        torch.empty(cache),
    )


def encoder_decoder() -> GraphModule:
    """An encoder over one sequence, and a decoder over another that attends to it."""

    def model(source: Tensor, target: Tensor, w_encode: Tensor, w_query: Tensor, w_key: Tensor) -> Tensor:
        memory = torch.relu(F.linear(source, w_encode))
        query = _split_heads(F.linear(target, w_query))
        key = _split_heads(F.linear(memory, w_key))
        return _merge_heads(F.scaled_dot_product_attention(query, key, key))

    width = HEADS * HEAD_SIZE
    weight = torch.empty(width, width)
    return trace(
        model,
        torch.empty(BATCH, LENGTH, width),
        torch.empty(BATCH, LENGTH + 3, width),
        weight,
        weight.clone(),
        weight.clone(),
    )


def repeated_layers(count: int) -> GraphModule:
    """A loop over layers with weights of their own: the same structure ``count`` times, and no module stack."""

    def model(x: Tensor, *w: Tensor) -> Tensor:
        for up, down in zip(w[::2], w[1::2], strict=True):
            x = x + torch.tanh(x @ up) @ down
        return x

    def flat(x: Tensor, w: list[Tensor]) -> Tensor:
        return model(x, *w)

    weights = [torch.empty(shape) for _ in range(count) for shape in ((WIDTH, HIDDEN), (HIDDEN, WIDTH))]
    return trace(flat, torch.empty(BATCH, WIDTH), weights)


def shared_storage() -> GraphModule:
    """A view that outlives its base's last direct use."""

    def model(x: Tensor) -> Tensor:
        base = x * 2
        view = base.view(-1)
        other = x + 1
        last = other * 3
        return view.sum() + last.sum()

    return trace(model, torch.empty(BATCH, WIDTH))


def writer_and_readers() -> GraphModule:
    """State that is read, then written, then read: three ops whose order only the memory they share gives."""

    def model(x: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        old = cache + x
        cache.copy_(x)
        new = cache * 2
        return old, new

    return trace(model, torch.empty(BATCH, WIDTH), torch.empty(BATCH, WIDTH))


def late_writes() -> GraphModule:
    """Two weights' new values are made before either weight is written, as a functional graph has it."""

    def model(x: Tensor, w0: Tensor, w1: Tensor) -> Tensor:
        new = [w - x for w in (w0, w1)]
        for w, value in zip((w0, w1), new, strict=True):
            w.copy_(value)
        return x.sum()

    return trace(model, *(torch.empty(BATCH, WIDTH) for _ in range(3)))


BUILDERS: dict[str, Callable[[], GraphModule]] = {
    "two_layer_mlp": two_layer_mlp,
    "symbolic_mlp": symbolic_mlp,
    "attention_block": attention_block,
    "decoder_step_with_kv_cache": decoder_step_with_kv_cache,
    "encoder_decoder": encoder_decoder,
    "repeated_layers": lambda: repeated_layers(3),
    "shared_storage": shared_storage,
    "writer_and_readers": writer_and_readers,
    "late_writes": late_writes,
}


def cut(srg: SRG, *sizes: int) -> SRG:
    """Cut the ops into consecutive regions of these sizes (the last takes the rest) and mark their records."""
    names = [node.name for node in srg.ops]
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    groups = [names[start:end] for start, end in zip([0, *ends], [*ends, len(names)], strict=True)]
    srg.regions = tuple(region_of(srg, index, group) for index, group in enumerate(groups) if group)
    for region in srg.regions:
        for name in region.nodes:
            srg.update(srg.node(name), region=region.index)
    return srg


def region_of(srg: SRG, index: int, names: list[str]) -> Region:
    """A region with these ops: what it reads from outside and what others read of it."""
    nodes = [srg.node(name) for name in names]
    inputs = dict.fromkeys(s.name for node in nodes for s in node.all_input_nodes if s.name not in names)
    outputs = [node.name for node in nodes if any(user.name not in names for user in node.users)]
    return Region(
        index=index,
        label=f"part {index}",
        nodes=tuple(names),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        structural_hash="",
        cost=sum((cost for node in nodes if (cost := srg.record(node).cost)), Cost(provenance="datasheet")),
    )


@dataclass(frozen=True, kw_only=True)
class CutByHand:
    """Stands in for find-regions: two regions of a fixed size, whatever the graph."""

    name: ClassVar[str] = "find-regions"
    after: ClassVar[tuple[str, ...]] = ()
    requires: ClassVar[tuple[str, ...]] = ()
    ensures: ClassVar[tuple[str, ...]] = ("regions-partition",)

    first: int = 4

    def run(self, srg: SRG, context: PassContext) -> PassResult:
        """Cut after the first few ops."""
        cut(srg, self.first)
        return PassResult(modified=True)


def on_device(srg: SRG, device: str, *names: str) -> None:
    """Record the results of some nodes as lying on another device: no such device is needed."""
    for name in names:
        outputs = srg.record(srg.node(name)).outputs
        srg.update(srg.node(name), outputs=tuple(replace(meta, device=device) for meta in outputs))
