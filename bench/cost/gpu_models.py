"""The kernels that PyTorch's eager mode starts for the whole models in the GPU data, as rows of the laws' sizes.

Written from the models' code in Transformers (eager attention, no cache): each kernel is a law's name and its sizes. A
batched product of transposed heads first copies them; a mask is added or selected over all scores. Training adds each
kernel's backward kernels, and the addition of each weight's gradient to the one kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Kernel = tuple[str, tuple[float, ...]]


class Kernels:
    """A list of kernels that grows; ``fused``: pointwise kernels between products are one."""

    def __init__(self, *, train: bool, fused: bool) -> None:
        self.train = train
        self.fused = fused
        self.forward: list[Kernel] = []
        self.backward: list[Kernel] = []

    def all(self) -> list[Kernel]:
        """Forward and backward."""
        return self.forward + self.backward

    def point(self, elements: float, operands: int = 1, *, inside: bool = False, grads: int = 1) -> None:
        """An elementwise kernel; ``inside`` one that fuses into its neighbour; ``grads`` kernels of its backward."""
        if not (self.fused and inside):
            self.forward.append(_point(elements, operands))
        if self.train:
            self.backward += [_point(elements, 2 if operands == 2 else 1)] * grads

    def linear(self, rows: float, inner: float, outer: float, *, bias: bool = True) -> None:
        """rows x inner times a weight, outer x inner."""
        self.forward.append(("linear", (1, rows, inner, outer)))
        if self.train:
            self.backward += [("linear", (1, rows, outer, inner)), ("linear", (1, outer, rows, inner))]
            self.backward.append(_point(outer * inner, 2))
            if bias:
                self.backward.append(_point(rows * outer / 2, 1))

    def bmm(self, batch: float, rows: float, depth: float, columns: float) -> None:
        """Batched product."""
        self.forward.append(("bmm", (batch, rows, depth, columns)))
        if self.train:
            self.backward += [("bmm", (batch, rows, columns, depth)), ("bmm", (batch, depth, rows, columns))]

    def softmax(self, rows: float, length: float) -> None:
        """Over the last dimension."""
        self.forward.append(("softmax", (rows, length)))
        if self.train:
            self.backward.append(_point(rows * length, 2))

    def norm(self, rows: float, length: float) -> None:
        """Layer norm, its backward's two kernels reading twice each."""
        self.forward.append(("norm", (rows, length)))
        if self.train:
            self.backward += [("norm", (rows, length)), _point(rows * length, 2)]

    def dropout(self, elements: float) -> None:
        """Only when training: writes a mask too."""
        if self.train:
            self.forward.append(_point(elements * 1.125, 1))
            self.backward.append(_point(elements * 1.125, 1))

    def copy(self, elements: float) -> None:
        """A transposed tensor made contiguous."""
        self.point(elements)


def _point(elements: float, operands: int) -> Kernel:
    return "elementwise", (elements, float(operands), 0.0)


def kernels(config: Mapping[str, Any], mode: str, length: int, batch: int, *, fused: bool) -> Kernels | None:
    """The kernels of a model, or None for a family that is not known."""
    made = Kernels(train=mode == "train", fused=fused)
    family = config.get("model_type")
    write = {"bert": _bert, "gpt2": _gpt2, "opt": _opt, "switch_transformers": _switch}.get(str(family))
    if write is None:
        return None
    write(made, config, length, batch)
    return made


def _attention(
    made: Kernels,
    batch: int,
    heads: int,
    length: int,
    size: int,
    *,
    copies: int,
    masks: int,
    scale: bool,
    keys: int = 0,
) -> None:
    """Scores, their scale, ``masks`` kernels over them, softmax, and the weighted values, copied back."""
    keys = keys or length
    for _ in range(copies):
        made.copy(batch * heads * length * size)
    scores = batch * heads * length * keys
    made.bmm(batch * heads, length, size, keys)
    if scale:
        made.point(scores, inside=True)
    for _ in range(masks):
        made.point(scores, inside=True)
    made.softmax(batch * heads * length, keys)
    made.dropout(scores)
    made.bmm(batch * heads, length, keys, size)
    made.copy(batch * heads * length * size)


def _bert(made: Kernels, config: Mapping[str, Any], length: int, batch: int) -> None:
    width, heads, inner = config["hidden_size"], config["num_attention_heads"], config["intermediate_size"]
    rows = batch * length
    for _ in range(3):
        made.point(rows * width, 2, inside=True)
    made.norm(rows, width)
    made.dropout(rows * width)
    for _ in range(config["num_hidden_layers"]):
        for _ in range(3):
            made.linear(rows, width, width)
        _attention(made, batch, heads, length, width // heads, copies=3, masks=1, scale=True)
        for before, after in ((width, width), (inner, width)):
            if before == inner:
                made.linear(rows, width, inner)
                made.point(rows * inner)
            made.linear(rows, before, after)
            made.dropout(rows * width)
            made.point(rows * width, 2, inside=True)
            made.norm(rows, width)
    if made.train:
        made.linear(rows, width, width)
        made.point(rows * width)
        made.norm(rows, width)
        made.linear(rows, width, config["vocab_size"])
        _loss(made, rows, config["vocab_size"], config["vocab_size"] * width)


def _gpt2(made: Kernels, config: Mapping[str, Any], length: int, batch: int) -> None:
    width, heads = config["n_embd"], config["n_head"]
    rows = batch * length
    made.point(rows * width, 2, inside=True)
    made.dropout(rows * width)
    for _ in range(config["n_layer"]):
        made.norm(rows, width)
        made.linear(rows, width, 3 * width)
        _attention(made, batch, heads, length, width // heads, copies=3, masks=1, scale=True)
        made.linear(rows, width, width)
        made.dropout(rows * width)
        made.point(rows * width, 2, inside=True)
        made.norm(rows, width)
        made.linear(rows, width, 4 * width)
        _gelu_new(made, 4 * rows * width)
        made.linear(rows, 4 * width, width)
        made.dropout(rows * width)
        made.point(rows * width, 2, inside=True)
    made.norm(rows, width)
    made.linear(rows, width, config["vocab_size"], bias=False)
    if made.train:
        _loss(made, rows, config["vocab_size"], config["vocab_size"] * width)


def _gelu_new(made: Kernels, elements: float) -> None:
    """0.5 x (1 + tanh(c (x + 0.044715 x^3))): eight kernels in eager mode."""
    for operands in (1, 1, 2, 1, 1, 1, 1):
        made.point(elements, operands, inside=True)
    made.point(elements, 1 if made.fused else 2, grads=2)


def _opt(made: Kernels, config: Mapping[str, Any], length: int, batch: int) -> None:
    width, heads, inner = config["hidden_size"], config["num_attention_heads"], config["ffn_dim"]
    rows = batch * length
    made.point(rows * width, 2, inside=True)
    for _ in range(config["num_hidden_layers"]):
        made.norm(rows, width)
        for _ in range(3):
            made.linear(rows, width, width)
        made.point(rows * width, inside=True)
        _attention(made, batch, heads, length, width // heads, copies=3, masks=2, scale=False)
        made.linear(rows, width, width)
        made.dropout(rows * width)
        made.point(rows * width, 2, inside=True)
        made.norm(rows, width)
        made.linear(rows, width, inner)
        made.point(rows * inner)
        made.linear(rows, inner, width)
        made.dropout(rows * width)
        made.point(rows * width, 2, inside=True)
    made.norm(rows, width)
    made.linear(rows, width, config["vocab_size"], bias=False)
    if made.train:
        _loss(made, rows, config["vocab_size"], config["vocab_size"] * width)


def _switch(made: Kernels, config: Mapping[str, Any], length: int, batch: int) -> None:
    """Encoder and decoder; every second layer's feed-forward block is a set of experts with a fixed capacity each."""
    for stack, attentions in (("num_layers", 1), ("num_decoder_layers", 2)):
        for layer in range(config[stack]):
            for _ in range(attentions):
                _switch_attention(made, config, length, batch)
            _switch_feed_forward(made, config, length, batch, sparse=layer % 2 == 1)
    rows = batch * length
    made.linear(rows, config["d_model"], config["vocab_size"], bias=False)
    if made.train:
        _loss(made, rows, config["vocab_size"], config["vocab_size"] * config["d_model"])


def _root_mean_square(made: Kernels, elements: float) -> None:
    """pow, mean, rsqrt and two products, each a kernel."""
    made.point(elements, inside=True)
    made.point(elements / 2, inside=True)
    made.point(elements, inside=True)
    made.point(elements)


def _switch_attention(made: Kernels, config: Mapping[str, Any], length: int, batch: int) -> None:
    width, heads, size = config["d_model"], config["num_heads"], config["d_kv"]
    rows = batch * length
    _root_mean_square(made, rows * width)
    for _ in range(3):
        made.linear(rows, width, heads * size, bias=False)
    _attention(made, batch, heads, length, size, copies=3, masks=1, scale=False)
    made.linear(rows, heads * size, width, bias=False)
    made.dropout(rows * width)
    made.point(rows * width, 2, inside=True)


def _switch_feed_forward(made: Kernels, config: Mapping[str, Any], length: int, batch: int, *, sparse: bool) -> None:
    width, inner = config["d_model"], config["d_ff"]
    rows = batch * length
    _root_mean_square(made, rows * width)
    experts = config["num_experts"] if sparse else 1
    computed = batch * config["expert_capacity"] if sparse else rows
    for _ in range(experts):
        made.linear(computed, width, inner, bias=False)
        made.point(computed * inner)
        made.dropout(computed * inner)
        made.linear(computed, inner, width, bias=False)
        if sparse:
            for _ in range(2):
                made.copy(rows * width)
    made.dropout(rows * width)
    made.point(rows * width, 2, inside=True)


def _loss(made: Kernels, rows: float, vocabulary: float, embedding: float) -> None:
    """Cross entropy's backward through log-softmax, and the embedding's gradient: filled with zeros, then kept."""
    made.backward.append(_point(rows * vocabulary, 2))
    made.backward.append(_point(rows * vocabulary / 2, 1))
    made.backward += [_point(embedding / 2, 1), _point(embedding, 2)]
