"""What a sequence is made of, by how it enters the graph: text, vision or audio."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.fx import Node

from djinn_fx.passes.meaning.dataflow import Fact, Flow, Root, RootKind, base_name, dtype_of, shape_of
from djinn_fx.passes.meaning.masks import is_square
from djinn_fx.srg.record import Modality, Residency, Size

#: Of a signal: the samples of some microphones, or bands of a spectrum. Tokens have more.
_FEW_CHANNELS = 256
_PLAIN = ("aten.view", "aten._to_copy", "aten.clone", "aten.alias", "aten.native_dropout", "aten.expand", "aten.mul")


def entering(flow: Flow, node: Node, residency: Residency, is_mutated: bool) -> Fact:
    """The fact of a placeholder: floating data is a root; weights, masks and ids are not."""
    shape, dtype = shape_of(node), dtype_of(node)
    is_floating = dtype is not None and dtype.is_floating_point
    is_data = residency in (Residency.INPUT, Residency.STATE)
    square = is_square(shape) and dtype not in (torch.int64, torch.int32)
    if is_floating and len(shape) >= 2 and (is_data or is_mutated):
        bit = flow.new_root(Root(RootKind.INPUT, node, tokens=shape[-2] if len(shape) == 3 else None))
        flow.cached |= bit if is_mutated else 0
        return Fact(stream=bit, raw=node, opaque=square)
    if is_data and not is_floating:
        return Fact(raw=node, source=node, opaque=square)
    is_mask = square and residency is Residency.BUFFER and all(size == 1 for size in shape[:-2])
    return Fact(raw=node, causal=is_mask)


def embedding(node: Node, indices: tuple[Size, ...]) -> Root:
    """The root of an embedding looked up by integers of shape [batch, tokens]; [batch] are categories, not tokens."""
    tokens = indices[-1] if indices else None
    modality = Modality.TEXT if len(indices) > 1 else None
    return Root(
        RootKind.EMBEDDING, node, tokens=tokens, modality=modality, projected=True, has_stem=modality is not None
    )


def see(flow: Flow, stream: int, read: Any, dims: int) -> None:
    """A convolution over inputs: over time on few channels it is sound, over space vision, or a spectrogram.

    Args:
        flow: of the graph.
        stream: what is read.
        read: the convolution's operand, [batch, channels, size, …].
        dims: how many sizes it slides over.
    """
    shape = shape_of(read)
    channels = shape[1] if len(shape) == dims + 2 else shape[0] if shape else 1
    for root in _undecided(flow, stream):
        if _is_projected_vector(flow, root):
            continue
        root.projected = True
        if dims == 1 and isinstance(channels, int) and channels > _FEW_CHANNELS:
            continue  # over tokens, of which nothing says what they are
        is_sound = dims == 1 or (dims == 2 and _is_spectrogram(shape_of(root.node), channels))
        root.modality, root.has_stem = (Modality.AUDIO if is_sound else Modality.VISION), True


def _is_projected_vector(flow: Flow, root: Root) -> bool:
    """Whether this is a vector that weights made something of: noise or a code, which convolutions draw from."""
    return len(shape_of(root.node)) <= 2 and bool(flow.multiplied >> flow.roots.index(root) & 1)


def hear(flow: Flow, stream: int) -> None:
    """A spectrum of, or frames cut from, a signal [batch, samples]."""
    for root in _undecided(flow, stream):
        if len(shape_of(root.node)) <= 2:
            root.modality, root.has_stem = Modality.AUDIO, True


def project(flow: Flow, stream: int) -> None:
    """A matmul over inputs: flattened patches, feature frames [batch, frames, features], or ready embeddings."""
    for root in flow.roots_of(stream):
        root.projected = True
        if root.modality is None and root.kind is RootKind.INPUT:
            root.modality = _projected_modality(root.node)


def looks_back(node: Node, dims: int) -> bool:
    """Whether a depthwise convolution over tokens is padded by its whole reach, so that it can be cut to look back."""
    weight = shape_of(node.args[1])
    if dims != 1 or not weight or not isinstance(weight[-1], int) or weight[1] != 1 or weight[0] == 1:
        return False
    name = base_name(node)
    place = 4 if name in ("aten.convolution", "aten._convolution") else 3 + 1
    padding = node.args[place] if len(node.args) > place else 0
    width = padding[0] if isinstance(padding, (list, tuple)) else padding
    return weight[-1] > 1 and isinstance(width, int) and width == weight[-1] - 1


def runs_over_tokens(node: Node) -> bool:
    """Whether a running sum goes over the tokens of [batch, tokens, ...]."""
    dims = len(shape_of(node))
    along = node.args[1] if len(node.args) > 1 else None
    return dims > 2 and isinstance(along, int) and along % dims == 1


def _undecided(flow: Flow, stream: int) -> Iterator[Root]:
    return (root for root in flow.roots_of(stream) if root.kind is RootKind.INPUT and root.modality is None)


def _is_spectrogram(shape: tuple[Size, ...], channels: Size) -> bool:
    """[batch, frames, features] read as one channel, or one channel much longer than it is high.

    Read as many channels, [batch, tokens, features] are an image's patches that are put together again.
    """
    if len(shape) == 3:
        return channels == 1
    if len(shape) != 4 or shape[1] != 1:
        return False
    height, width = shape[-2], shape[-1]
    if not (isinstance(height, int) and isinstance(width, int)):
        return height != width
    return max(height, width) >= 2 * min(height, width)


def _projected_modality(node: Node) -> Modality | None:
    shape = shape_of(node)
    if len(shape) >= 4:
        return Modality.VISION
    if len(shape) < 3:
        return None
    if _is_added(node):
        return Modality.TEXT
    features = shape[-1]
    side = math.isqrt(features // 3) if isinstance(features, int) else 0
    return Modality.VISION if side > 1 and 3 * side * side == features else Modality.AUDIO


def _is_added(node: Node, depth: int = 4) -> bool:
    """Whether a value is a term of a sum before any projection, as a residual stream is."""
    for user in node.users:
        name = base_name(user) if user.op == "call_function" else user.op
        if name == "aten.add":
            return True
        if depth and name in _PLAIN and _is_added(user, depth - 1):
            return True
    return False
