"""Runs an ``INetworkDefinition`` in torch, layer by layer: what the network means, on a machine without a GPU.

It reads TensorRT's own objects, so it sees what will be built, and follows TensorRT's documentation of each layer and,
where that is silent, the kernels' source (a plan of TensorRT for RTX has it in it): a quotient of floats is rounded
down after it was rounded, a NaN is lost in a maximum. Half precision is computed in float32 and rounded once a layer;
assembled networks have the casts that make TensorRT do so. What it leaves open (an index out of range) raises here.

For tests of the converter, and for anyone who would rather see numbers before trusting a plan to a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from djinn_fx.engines.tensorrt import evaluate_nn as nn

#: TensorRT's element types, by the last part of their names, as torch's.
TYPES = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "BOOL": torch.bool,
}

Inputs = list[Tensor | None]


def name_of(member: Any) -> str:
    """The name of a member of one of TensorRT's enumerations."""
    return str(member).rpartition(".")[2]


def evaluate(trt: Any, network: Any, inputs: Sequence[Tensor] | Mapping[str, Tensor]) -> list[Tensor]:
    """The network's outputs, in order.

    Args:
        trt: the flavour's module.
        network: an ``INetworkDefinition``, of :func:`~djinn_fx.engines.tensorrt.assemble.assemble` or a parser.
        inputs: on the CPU, in the network's order or by name, of its types and shapes.

    Raises:
        ValueError: an input is not of the network's type and shape, or a layer gives something else than TensorRT says.
        NotImplementedError: a layer of a kind without a meaning here.
        IndexError: an index out of range, for which TensorRT promises nothing.
    """
    values: dict[str, Tensor] = {}
    for index in range(network.num_inputs):
        wanted = network.get_input(index)
        value = inputs[wanted.name] if isinstance(inputs, Mapping) else inputs[index]
        _agree(wanted, value, f"input {wanted.name}")
        values[wanted.name] = value
    waiting = [network.get_layer(index) for index in range(network.num_layers)]
    while waiting:  # a layer may be listed before one that it reads
        ready = [layer for layer in waiting if all(name in values for name in _reads(layer))]
        if not ready:
            raise ValueError(f"layer {waiting[0].name} reads what no layer makes")
        for layer in ready:
            _run(trt, layer, values)
        done = set(map(id, ready))
        waiting = [layer for layer in waiting if id(layer) not in done]
    return [values[network.get_output(index).name] for index in range(network.num_outputs)]


def _reads(layer: Any) -> list[str]:
    given = [layer.get_input(place) for place in range(layer.num_inputs)]
    return [one.name for one in given if one is not None]


def _run(trt: Any, layer: Any, values: dict[str, Tensor]) -> None:
    kind = name_of(trt.ILayer.type.fget(layer))  # some kinds have another property of that name
    if kind not in LAYERS:
        raise NotImplementedError(f"layer {layer.name} of kind {kind} has no meaning here")
    cast_to, function = LAYERS[kind]
    layer.__class__ = getattr(trt, cast_to)  # what get_layer gives knows nothing of its kind's properties
    given = [layer.get_input(place) for place in range(layer.num_inputs)]
    with torch.no_grad():
        made = function(layer, [None if one is None else values[one.name] for one in given])
    for place, value in enumerate(made if isinstance(made, tuple) else (made,)):
        told = layer.get_output(place)
        _agree(told, value, f"layer {layer.name}")
        values[told.name] = value


def _agree(told: Any, value: Tensor, what: str) -> None:
    shape = tuple(told.shape)
    if value.dtype != TYPES.get(name_of(told.dtype)):
        raise ValueError(f"{what} is {value.dtype}, TensorRT says {name_of(told.dtype)}")
    if len(shape) != value.ndim or any(size not in (-1, own) for size, own in zip(shape, value.shape, strict=True)):
        raise ValueError(f"{what} is of shape {tuple(value.shape)}, TensorRT says {shape}")


def need(given: Inputs, place: int) -> Tensor:
    """An input that must be there."""
    value = given[place]
    if value is None:
        raise ValueError(f"input {place} is missing")
    return value


def optional(given: Inputs, place: int) -> Tensor | None:
    """An input that may be absent."""
    return given[place] if place < len(given) else None


def output_type(layer: Any, place: int = 0) -> torch.dtype:
    """The type TensorRT says an output has."""
    return TYPES[name_of(layer.get_output(place).dtype)]


def axes_of(mask: int, rank: int) -> list[int]:
    """TensorRT's bit mask as axes."""
    return [axis for axis in range(rank) if mask >> axis & 1]


def _constant(layer: Any, given: Inputs) -> Tensor:
    return torch.from_numpy(layer.weights.copy()).reshape(tuple(layer.shape)).to(output_type(layer))


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _floor_divide(a: Tensor, b: Tensor) -> Tensor:
    """Of floats, the quotient rounded down: not the largest whole number of b in a, which torch's is."""
    if a.is_floating_point():
        return torch.floor(a.float() / b.float()).to(a.dtype)
    return torch.div(a, b, rounding_mode="floor")


_ELEMENTWISE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "SUM": torch.add,
    "PROD": torch.mul,
    "MAX": torch.fmax,  # TensorRT's kernels drop a NaN, the one of the first or of the second value
    "MIN": torch.fmin,
    "SUB": torch.sub,
    "DIV": _divide,
    "POW": torch.pow,
    "FLOOR_DIV": _floor_divide,
    "AND": torch.logical_and,
    "OR": torch.logical_or,
    "XOR": torch.logical_xor,
    "EQUAL": torch.eq,
    "GREATER": torch.gt,
    "LESS": torch.lt,
}

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    **{
        name.upper(): getattr(torch, name)
        for name in "exp log sqrt abs neg sin cos tan sinh cosh asin acos atan asinh acosh atanh".split()
    },
    "RECIP": torch.reciprocal,
    "CEIL": torch.ceil,
    "FLOOR": torch.floor,
    "ERF": torch.erf,
    "NOT": torch.logical_not,
    "SIGN": torch.sign,
    "ROUND": torch.round,
    "ISINF": torch.isinf,
    "ISNAN": torch.isnan,
}

#: The formulas of TensorRT's ActivationType.
_ACTIVATIONS: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "RELU": lambda x, a, b: x.clamp(min=0),
    "SIGMOID": lambda x, a, b: torch.sigmoid(x),
    "TANH": lambda x, a, b: torch.tanh(x),
    "LEAKY_RELU": lambda x, a, b: torch.where(x >= 0, x, a * x),
    "ELU": lambda x, a, b: torch.where(x >= 0, x, a * torch.expm1(x)),
    "SELU": lambda x, a, b: torch.where(x > 0, b * x, b * (a * torch.exp(x) - a)),
    "SOFTSIGN": lambda x, a, b: x / (1 + x.abs()),
    "SOFTPLUS": lambda x, a, b: a * torch.logaddexp(b * x, torch.zeros_like(x)),
    "CLIP": lambda x, a, b: torch.fmin(torch.fmax(x, torch.tensor(a)), torch.tensor(b)),  # NaN is lost
    "HARD_SIGMOID": lambda x, a, b: (a * x + b).clamp(0, 1),
    "SCALED_TANH": lambda x, a, b: a * torch.tanh(b * x),
    "THRESHOLDED_RELU": lambda x, a, b: torch.where(x > a, x, torch.zeros_like(x)),
    "GELU_ERF": lambda x, a, b: 0.5 * x * (1 + torch.erf(0.5**0.5 * x)),
    "GELU_TANH": lambda x, a, b: 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (0.044715 * x**3 + x))),
}


def _activation(layer: Any, given: Inputs) -> Tensor:
    x = need(given, 0)
    return _ACTIVATIONS[name_of(layer.type)](x.float(), layer.alpha, layer.beta).to(x.dtype)


def _elementwise(layer: Any, given: Inputs) -> Tensor:
    return _ELEMENTWISE[name_of(layer.op)](need(given, 0), need(given, 1))


def _unary(layer: Any, given: Inputs) -> Tensor:
    return _UNARY[name_of(layer.op)](need(given, 0))


def _cast(layer: Any, given: Inputs) -> Tensor:
    return need(given, 0).to(output_type(layer))


def _matmul(layer: Any, given: Inputs) -> Tensor:
    sides = []
    for place, op in ((0, name_of(layer.op0)), (1, name_of(layer.op1))):
        value = need(given, place).float()
        if op == "VECTOR":
            raise NotImplementedError("a matrix multiplication of vectors")
        sides.append(value.transpose(-1, -2) if op == "TRANSPOSE" else value)
    return torch.matmul(*sides).to(output_type(layer))


def _shuffle(layer: Any, given: Inputs) -> Tensor:
    x = need(given, 0)
    x = x.permute(tuple(layer.first_transpose)[: x.ndim])
    vector = optional(given, 1)
    if vector is not None:
        sizes = vector.tolist()
    else:
        sizes = list(x.shape) if layer.reshape_dims is None or len(layer.reshape_dims) < 0 else list(layer.reshape_dims)
    if layer.zero_is_placeholder:
        sizes = [x.shape[place] if size == 0 else size for place, size in enumerate(sizes)]
    x = x.reshape(sizes)
    return x.permute(tuple(layer.second_transpose)[: x.ndim])


def _numbers(vector: Tensor | None, static: Callable[[], Any]) -> list[int]:
    return vector.tolist() if vector is not None else list(static())


def _slice(layer: Any, given: Inputs) -> Tensor:
    x = need(given, 0)
    start = _numbers(optional(given, 1), lambda: layer.start)
    size = _numbers(optional(given, 2), lambda: layer.shape)
    stride = _numbers(optional(given, 3), lambda: layer.stride)
    axes = _numbers(optional(given, 5), lambda: layer.axes if layer.axes is not None else range(x.ndim))
    axes = axes or list(range(x.ndim))
    mode = name_of(layer.mode)
    fill = optional(given, 4)
    for axis, first, count, step in zip(axes, start, size, stride, strict=True):
        length = x.shape[axis]
        at = first + step * torch.arange(count)
        outside = (at < 0) | (at >= length)
        if mode == "STRICT_BOUNDS" and outside.any():
            raise IndexError(f"slice {layer.name}: axis {axis} has no elements {at[outside].tolist()}")
        if mode == "WRAP":
            at = at.remainder(length)
        elif mode == "REFLECT":  # around the middle of the outermost element, again and again
            period = max(1, 2 * (length - 1))
            at = at.remainder(period)
            at = torch.where(at >= length, period - at, at)
        elif count:
            at = at.clamp(0, max(0, length - 1))
        if mode == "FILL" and not length:
            x = x.new_zeros((*x.shape[:axis], count, *x.shape[axis + 1 :]))
        else:
            x = x.index_select(axis, at)
        if mode == "FILL":
            shape = [1] * x.ndim
            shape[axis] = count
            value = x.new_zeros(()) if fill is None else fill.reshape(()).to(x.dtype)
            x = torch.where(outside.reshape(shape), value, x)
    return x


def _reduce(layer: Any, given: Inputs) -> Tensor:
    x = need(given, 0)
    axes = axes_of(layer.axes, x.ndim)
    op = name_of(layer.op)
    y = x.float() if x.is_floating_point() else x
    if op == "PROD":
        for axis in axes:
            y = torch.prod(y, axis, keepdim=True)
        y = y if layer.keep_dims else y.squeeze(axes)
    elif op == "AVG":
        total = torch.sum(y, axes, keepdim=layer.keep_dims)
        count = x.numel() // max(1, total.numel())
        y = total / count if x.is_floating_point() else torch.div(total, count, rounding_mode="trunc")
    else:
        function: Any = {"SUM": torch.sum, "MAX": torch.amax, "MIN": torch.amin}[op]
        y = function(y, axes, keepdim=layer.keep_dims)
    return y.to(x.dtype)


def _softmax(layer: Any, given: Inputs) -> Tensor:
    x = need(given, 0)
    return torch.softmax(x.float(), axes_of(layer.axes, x.ndim)[0]).to(x.dtype)


def _topk(layer: Any, given: Inputs) -> tuple[Tensor, Tensor]:
    x = need(given, 0)
    count = optional(given, 1)
    k = layer.k if count is None else int(count)
    values, indices = torch.topk(x, k, axes_of(layer.axes, x.ndim)[0], largest=name_of(layer.op) == "MAX", sorted=True)
    return values, indices.to(output_type(layer, 1))


def _select(layer: Any, given: Inputs) -> Tensor:
    return torch.where(need(given, 0), need(given, 1), need(given, 2))


def _squeeze(layer: Any, given: Inputs) -> Tensor:
    x, axes = need(given, 0), optional(given, 1)
    if axes is None:
        return x.squeeze()
    if any(x.shape[axis] != 1 for axis in axes.tolist()):
        raise ValueError(f"squeeze {layer.name}: shape {tuple(x.shape)}, axes {axes.tolist()}")
    return x.squeeze(tuple(axes.tolist()))


def _unsqueeze(layer: Any, given: Inputs) -> Tensor:
    x, axes = need(given, 0), need(given, 1)
    rank = x.ndim + axes.numel()
    for axis in sorted(axis % rank for axis in axes.tolist()):
        x = x.unsqueeze(axis)
    return x


def _concatenation(layer: Any, given: Inputs) -> Tensor:
    return torch.cat([need(given, place) for place in range(len(given))], layer.axis)


#: Kind of layer → TensorRT's class of it, and what it does.
LAYERS: dict[str, tuple[str, Callable[[Any, Inputs], Tensor | tuple[Tensor, ...]]]] = {
    "CONSTANT": ("IConstantLayer", _constant),
    "ELEMENTWISE": ("IElementWiseLayer", _elementwise),
    "UNARY": ("IUnaryLayer", _unary),
    "ACTIVATION": ("IActivationLayer", _activation),
    "CAST": ("ICastLayer", _cast),
    "IDENTITY": ("IIdentityLayer", _cast),
    "MATRIX_MULTIPLY": ("IMatrixMultiplyLayer", _matmul),
    "SHUFFLE": ("IShuffleLayer", _shuffle),
    "SQUEEZE": ("ISqueezeLayer", _squeeze),
    "UNSQUEEZE": ("IUnsqueezeLayer", _unsqueeze),
    "SLICE": ("ISliceLayer", _slice),
    "CONCATENATION": ("IConcatenationLayer", _concatenation),
    "SHAPE": ("IShapeLayer", lambda layer, given: torch.tensor(need(given, 0).shape, dtype=torch.int64)),
    "REDUCE": ("IReduceLayer", _reduce),
    "SOFTMAX": ("ISoftMaxLayer", _softmax),
    "TOPK": ("ITopKLayer", _topk),
    "SELECT": ("ISelectLayer", _select),
    **nn.LAYERS,
}
