"""A network as plain data: what the converter writes, what is sent to the child that builds it, what a key is made of.

The layers are TensorRT's own, one :class:`Layer` for one ``INetworkDefinition.add_…``; nothing here imports torch or
TensorRT. A description says nothing of names, devices or weights' values (weights are inputs), so every identical
layer of a model, traced on whichever machine, has the same one.

Values are numbered: first the inputs, then each layer's outputs in order. The kinds of layers, with their inputs in
order (``?``: may be absent) and attributes:

    constant          {dtype, shape, blob}              blob: index into the description's blobs, row-major bytes
    elementwise       a, b                  {op}        TensorRT's names in lower case: sum prod max min sub div pow
                                                        floor_div and or xor equal greater less; ranks must be equal
    unary             a                     {op}        exp log sqrt recip abs neg sin cos tan … not sign round isinf
    activation        a                     {op, alpha, beta}      relu sigmoid tanh leaky_relu elu … gelu_erf gelu_tanh
    cast              a                     {dtype}
    identity          a
    matmul            a, b                  {transpose_a, transpose_b}      equal ranks of at least 2, leading dims
                                                                            equal or 1
    shuffle           a, shape?             {first, reshape, second}        permutations and sizes, each may be None;
                                                        -1 in reshape is inferred; a 0 is a size of 0; ``shape`` is an
                                                        int64 vector used in the place of ``reshape``
    slice             a, start?, size?, stride?   {start, size, stride, mode}     per dimension; an input replaces the
                                                        attribute of its name, which is then None
    concatenation     a, …                  {axis}
    shape             a                                 the sizes, an int64 vector
    reduce            a                     {op, axes, keep}                sum prod max min avg
    softmax           a                     {axis}
    topk              a                     {op, k, axis}                   values, then int32 indices
    gather            a, indices            {mode, axis, batch}             mode: default element nd
    scatter           a, indices, updates   {mode, axis}                    mode: element nd
    select            condition, a, b
    convolution       a, kernel, bias?      {kernel, stride, pad_before, pad_after, dilation, groups, maps}
    deconvolution     a, kernel, bias?      the same
    pooling           a                     {op, window, stride, pad_before, pad_after, count_padding, ceil}
    resize            a, sizes?             {sizes, mode, coordinates, nearest, cubic}
    normalization     a, scale, bias        {axes, epsilon, groups}
    attention         q, k, v, mask?        {causal, decomposable}          q is scaled already; causal: none,
                                                                            upper_left or lower_right
    rotary            a, cos, sin, positions?  {interleaved, dim}
    kv_update         cache, update, positions
    cumulative        a, axis               {exclusive, reverse}            axis: an int32 scalar constant
    fill              shape?, alpha?, beta? {op, shape, alpha, beta, dtype} op: linspace
    einsum            a, …                  {equation}
    one_hot           indices, values, depth   {axis}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Raised with every change of the form or of a layer's meaning; part of every key.
NETWORK_SCHEMA = 1

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
        outputs: numbers of the values it gives back, in order; an input's number is allowed nowhere here.
        symbols: the ranges of the symbols in the inputs' shapes.
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
