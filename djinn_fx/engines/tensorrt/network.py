"""A network as plain data: what the converter writes, what is sent to the child that builds it, what a key is made of.

The layers are TensorRT's own, one :class:`Layer` for one ``INetworkDefinition.add_…``; nothing here imports torch or
TensorRT. A description says nothing of names, devices or weights' values (weights are inputs), so every identical
layer of a model, traced on whichever machine, has the same one.

Values are numbered: first the inputs, then each layer's outputs in order. The kinds of layers, with their inputs in
order (``?``: may be absent, then None, or left away at the end) and attributes (``=``: what it is when left away). An
axis counts from 0, never from behind. Ranks go up to 8. Where two inputs are combined their ranks are equal and their
sizes equal or 1, and their types are the same.

    constant          {dtype, shape, blob}              blob: index into the description's blobs, row-major bytes
    elementwise       a, b                  {op}        TensorRT's names in lower case: sum prod max min sub div
                                                        floor_div (numbers) pow (floats) and or xor (bool) equal greater
                                                        less (give bool). div of integers truncates; floor_div rounds
                                                        down, of floats after the division (torch's // may differ by
                                                        one); max and min may lose a NaN
    unary             a                     {op}        floats: exp log sqrt recip sin cos tan sinh cosh asin acos atan
                                                        asinh acosh atanh ceil floor erf round (half to even), isinf
                                                        isnan (give bool); numbers: abs neg sign; bool: not
    activation        a                     {op, alpha=0, beta=0}   floats: relu sigmoid tanh gelu_erf gelu_tanh
                                                        softsign leaky_relu elu (alpha), selu softplus clip hard_sigmoid
                                                        scaled_tanh (alpha, beta), thresholded_relu (alpha); formulas in
                                                        TensorRT's ActivationType. softplus: alpha * log(exp(beta*x)+1);
                                                        clip makes a number of a NaN. In float32, rounded once
    cast              a                     {dtype}     float to integer truncates; to bool: differs from 0
    identity          a
    matmul            a, b                  {transpose_a, transpose_b, wide=true}   floats; ranks of at least 2.
                                                        wide: half precision is accumulated in float32 (by the casts
                                                        TensorRT fuses); without, TensorRT may choose otherwise
    shuffle           a, shape?             {first=null, reshape=null, second=null, zero_keeps=false}
                                                        a permutation, then sizes, then a permutation, as lists. One
                                                        -1 in reshape is inferred; a 0 is a size of 0, or with
                                                        zero_keeps the size that a (after first) has at that place;
                                                        ``shape``, an integer vector, in the place of reshape
    squeeze           a                     {axes}      sizes of 1 (or symbols that are 1) are left away
    unsqueeze         a                     {axes}      axes of the result
    slice             a, start?, size?, stride?, value?   {start, size, stride, mode="strict"}   one number a dimension;
                                                        an input (integer vector) replaces the attribute of its name,
                                                        which is then None. Modes for places outside: strict (not
                                                        allowed) fill (needs ``value``, of a's type, one element) clamp
                                                        reflect wrap
    concatenation     a, ...                {axis}
    shape             a                                 the sizes, an int64 vector
    reduce            a                     {op, axes, keep}        sum prod max min avg; numbers
    softmax           a                     {axis}                  floats; in float32, rounded once
    topk              a                     {op, k, axis}           max (largest first) or min; values, then indices
                                                        (int32, or int64 if the description says so); k <= 3840;
                                                        rank 2 or more; the axis is one of the last four
    gather            a, indices            {mode, axis=0, batch=0} mode: default element nd; indices int32 or int64;
                                                        default: batch is 0 or 1; element: 0
    scatter           a, indices, updates   {mode, axis=0}          mode: element nd
    select            condition, a, b
    convolution       a, kernel, bias?      {kernel, stride, pad_before, pad_after, dilation, groups}
                                                        2 or 3 spatial dimensions, the sizes as lists of that length;
                                                        kernel as torch lays it out: (maps, channels/groups, ...);
                                                        half precision is accumulated in float32
    deconvolution     a, kernel, bias?      the same; kernel: (channels, maps/groups, ...), also torch's
    pooling           a                     {op, window, stride, pad_before, pad_after, count_padding=false, ceil=false}
                                                        max or average over the last 2 or 3 dimensions of 4 or 5;
                                                        padding is smaller than the window. ceil: a window that
                                                        starts in the padding counts too (torch leaves it out)
    resize            a, sizes?             {sizes, mode, coordinates, rounding="floor", cubic=-0.75,
                                                        exclude_outside=false}   sizes: of all dimensions, None if
                                                        given as an input. mode: nearest linear cubic; coordinates:
                                                        align_corners asymmetric half_pixel; rounding (nearest only):
                                                        half_up half_down floor ceil
    normalization     a, scale, bias        {axes, epsilon, groups=1}   (a - mean) / sqrt(variance + epsilon) * scale +
                                                        bias; scale and bias of a's type and rank, sizes a's or 1; in
                                                        float32, rounded once
    attention         q, k, v, mask?        {causal="none", decomposable=true}   (batch, heads, length, size); q is
                                                        scaled already; k, v: as many heads, or a divisor of them.
                                                        causal: none, upper_left or lower_right; not with a mask. mask:
                                                        bool (true: looked at) or q's type (added), of rank 4.
                                                        decomposable: where there is no kernel for it, it may be
                                                        taken apart, in float32
    rotary            a, cos, sin, positions?  {interleaved, dim=0}   a: (batch, heads, length, size); cos, sin, of a's
                                                        type: (batch, length, dim/2), or with positions (batch, length)
                                                        tables (entries, dim/2); dim 0: the whole size. The pairs are
                                                        neighbours if interleaved, else one of each half
    kv_update         cache, update, positions          cache (batch, heads, capacity, size), update (batch, heads,
                                                        length, size), positions (batch), int32: the first place
                                                        written. The cache must be an input of the network, the result
                                                        an output of it; a plan has both in the same memory
    cumulative        a                     {axis, exclusive=false, reverse=false}     sums
    fill              shape?, alpha?, beta? {op, shape, alpha, beta, dtype}     linspace: alpha + beta * index, of type
                                                        int32, int64 or float32; as attributes for rank 1, as inputs
                                                        (a scalar, a vector of the rank) for any
    einsum            a, ...                {equation}  explicit (with ->), lower case, no ellipsis, no label
                                                        twice in one input; floats; in float32 (slow for large
                                                        half-precision products: matmul is not), rounded once
    one_hot           indices, values       {depth, axis}   int32 indices, values: the two elements off, on; axis of the
                                                        result

:mod:`djinn_fx.engines.tensorrt.assemble` makes an ``INetworkDefinition`` of a description and compares every shape and
type that TensorRT infers with the description's; :mod:`djinn_fx.engines.tensorrt.evaluate` runs one in torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Raised with every change of the form or of a layer's meaning; part of every key.
NETWORK_SCHEMA = 1

#: TensorRT's limit on dimensions.
MAX_RANK = 8

#: Types a value may have, with their size in bytes; the names are torch's without its prefix.
DTYPE_BYTES = {
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "bool": 1,
}

#: A size: a number, or the name of a symbol (``k0``) that differs from call to call.
Dim = int | str


def input_name(index: int) -> str:
    """What TensorRT calls the network's input of this index (a plan's tensors are addressed by name)."""
    return f"input{index}"


def output_name(index: int) -> str:
    """What TensorRT calls the network's output of this index."""
    return f"output{index}"


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """What is known of a value.

    Attributes:
        dtype: a key of :data:`DTYPE_BYTES`.
        shape: sizes; symbols where they differ from call to call, ``"?"`` where nothing is known.
    """

    dtype: str
    shape: tuple[Dim, ...]

    @property
    def rank(self) -> int:
        """How many dimensions."""
        return len(self.shape)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer.

    Attributes:
        kind: see the table above.
        inputs: numbers of the values it reads; None for one that is left out before one that is given.
        outputs: what it gives, in order.
        attributes: JSON values.
        node: the graph node it came from, and the user's line: for messages only, not part of the digest.
    """

    kind: str
    inputs: tuple[int | None, ...]
    outputs: tuple[Tensor, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    node: str = ""


@dataclass(frozen=True, kw_only=True)
class Range:
    """The values a symbol may take: the builder's profile."""

    least: int
    usual: int
    most: int


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network description.

    Attributes:
        inputs: the tensors it takes, in order.
        layers: in an order in which they can run.
        outputs: numbers of the values it gives back, in order; none twice, none an input's.
        symbols: the ranges of the symbols in the inputs' shapes. An input's size is a number or a symbol; only values
            in between may have expressions of symbols (``"2*k0"``), which stand for "not known when built".
        blobs: the constants' bytes.
    """

    inputs: tuple[Tensor, ...]
    layers: tuple[Layer, ...]
    outputs: tuple[int, ...]
    symbols: Mapping[str, Range] = field(default_factory=dict)
    blobs: tuple[bytes, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The description without its blobs, as a JSON object."""
        return {
            "schema": NETWORK_SCHEMA,
            "inputs": [[one.dtype, list(one.shape)] for one in self.inputs],
            "layers": [
                {
                    "kind": layer.kind,
                    "inputs": list(layer.inputs),
                    "outputs": [[one.dtype, list(one.shape)] for one in layer.outputs],
                    "attributes": dict(layer.attributes),
                    "node": layer.node,
                }
                for layer in self.layers
            ],
            "outputs": list(self.outputs),
            "symbols": {name: [r.least, r.usual, r.most] for name, r in self.symbols.items()},
        }

    @staticmethod
    def from_json(data: Mapping[str, Any], blobs: Sequence[bytes]) -> Network:
        """Inverse of :meth:`to_json`.

        Raises:
            ValueError: another schema, or not such an object.
        """
        if data.get("schema") != NETWORK_SCHEMA:
            raise ValueError(f"network description of schema {data.get('schema')}, this version reads {NETWORK_SCHEMA}")
        try:
            return Network(
                inputs=tuple(_tensor(one) for one in data["inputs"]),
                layers=tuple(
                    Layer(
                        kind=str(layer["kind"]),
                        inputs=tuple(layer["inputs"]),
                        outputs=tuple(_tensor(one) for one in layer["outputs"]),
                        attributes=dict(layer["attributes"]),
                        node=str(layer["node"]),
                    )
                    for layer in data["layers"]
                ),
                outputs=tuple(data["outputs"]),
                symbols={
                    str(name): Range(least=least, usual=usual, most=most)
                    for name, (least, usual, most) in data["symbols"].items()
                },
                blobs=tuple(blobs),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a network description: {error!r}") from error

    def digest(self) -> str:
        """SHA-256 of everything that decides what is built: the description without nodes' names, and the blobs."""
        form = self.to_json()
        for layer in form["layers"]:
            del layer["node"]
        checksum = hashlib.sha256(json.dumps(form, sort_keys=True, separators=(",", ":")).encode())
        for blob in self.blobs:
            checksum.update(hashlib.sha256(blob).digest())
        return checksum.hexdigest()


def _tensor(data: Sequence[Any]) -> Tensor:
    dtype, shape = data
    if dtype not in DTYPE_BYTES:
        raise ValueError(f"unknown element type {dtype!r}")
    return Tensor(dtype=dtype, shape=tuple(shape))


class NetworkWriter:
    """Writes a description layer by layer. Values are named by their numbers.

    Constants are shared: asking twice for the same bytes gives the same value.
    """

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []
        self.layers: list[Layer] = []
        self.tensors: list[Tensor] = []
        #: The node that layers written now come from.
        self.node = ""
        self._blobs: dict[bytes, int] = {}
        self._constants: dict[tuple[str, tuple[int, ...], int], int] = {}

    def input(self, tensor: Tensor) -> int:
        """Add an input; all inputs come before the first layer."""
        assert not self.layers, "inputs come before layers"
        self.inputs.append(tensor)
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def add(
        self, kind: str, inputs: Sequence[int | None], outputs: Sequence[Tensor], **attributes: Any
    ) -> tuple[int, ...]:
        """Add a layer; the numbers of its outputs."""
        self.layers.append(
            Layer(kind=kind, inputs=tuple(inputs), outputs=tuple(outputs), attributes=attributes, node=self.node)
        )
        first = len(self.tensors)
        self.tensors.extend(outputs)
        return tuple(range(first, len(self.tensors)))

    def one(self, kind: str, inputs: Sequence[int | None], output: Tensor, **attributes: Any) -> int:
        """Add a layer with one output; its number."""
        return self.add(kind, inputs, (output,), **attributes)[0]

    def constant(self, dtype: str, shape: Sequence[int], data: bytes) -> int:
        """A constant of these bytes, row-major."""
        blob = self._blobs.setdefault(data, len(self._blobs))
        known = (dtype, tuple(shape), blob)
        if known not in self._constants:
            tensor = Tensor(dtype=dtype, shape=tuple(shape))
            self._constants[known] = self.one("constant", (), tensor, dtype=dtype, shape=list(shape), blob=blob)
        return self._constants[known]

    def network(self, outputs: Sequence[int], symbols: Mapping[str, Range]) -> Network:
        """The description."""
        return Network(
            inputs=tuple(self.inputs),
            layers=tuple(self.layers),
            outputs=tuple(outputs),
            symbols=dict(symbols),
            blobs=tuple(self._blobs),
        )
