"""Layer, group, batch and root-mean-square normalization."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.fx import Node

from djinn_fx.engines.onnx.conditions.floats import LIVELY, calm, calm_where_cheap
from djinn_fx.engines.onnx.graph import GraphBuilder, Refused, Value
from djinn_fx.engines.onnx.kernels import wide
from djinn_fx.engines.onnx.registry import converts, fake
from djinn_fx.engines.onnx.values import RefusedWhole
from djinn_fx.srg.lower import target_name


def reads(node: Node, output: int) -> bool:
    """Whether anything reads this output of an op that gives several."""
    return any(
        user.args[1] == output and user.users for user in node.users if target_name(user.target) == "operator.getitem"
    )


def by_name(node: Node, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A converter's arguments by their names in the operator's schema: one converter serves several forms."""
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def other_results(node: Node) -> int:
    """How many results an op gives besides its first; 0 too where that is its only one."""
    found = fake(node)
    return 0 if isinstance(found, torch.Tensor) else len(found) - 1


def _known(sizes: Sequence[Any]) -> list[int]:
    if not all(isinstance(size, int) for size in sizes):
        raise Refused("the size that is normalized over differs from call to call")
    return list(sizes)


def _kept(value: Value, count: int) -> tuple[int | None, ...]:
    return (*value.shape[: value.rank - count], *([1] * count))


@converts("aten.native_layer_norm.default", "aten.layer_norm.default")
def layer_norm(
    b: GraphBuilder,
    node: Node,
    x: Value,
    shape: Sequence[int],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Any:
    inner = wide(b, x.dtype)
    value = b.cast(x, inner)
    native = "native" in str(node.target)
    # Torch's way to the variance has other ends, and of zeros another sign.
    calm_where_cheap(b, x, least=LIVELY)
    if (native and (reads(node, 1) or reads(node, 2))) or inner is torch.float64:
        return _layer_norm_parts(b, value, len(shape), weight, bias, eps, x.dtype, native)
    scale = b.cast(weight, inner) if weight is not None else b.expand(b.constant(1.0, inner), _known(shape))
    inputs = [value, scale, None if bias is None else b.cast(bias, inner)]
    result = b.cast(b.op("LayerNormalization", inputs, axis=-len(shape), epsilon=float(eps)), x.dtype)
    return (result, None, None) if native else result


def _centred(b: GraphBuilder, value: Value, count: int, eps: float) -> tuple[Value, Value, Value]:
    """Over the last dimensions: the mean, what is left without it, the standard deviation."""
    axes, kept = b.ints(list(range(value.rank - count, value.rank))), _kept(value, count)
    mean = b.op("ReduceMean", [value, axes], shape=kept, keepdims=1)
    centred = b.op("Sub", [value, mean])
    variance = b.op("ReduceMean", [b.op("Mul", [centred, centred]), axes], shape=kept, keepdims=1)
    return mean, centred, b.op("Sqrt", [b.op("Add", [variance, b.constant(eps, value.dtype)])])


def _layer_norm_parts(
    b: GraphBuilder,
    value: Value,
    count: int,
    weight: Value | None,
    bias: Value | None,
    eps: float,
    dtype: torch.dtype,
    native: bool,
) -> Any:
    mean, centred, root = _centred(b, value, count, eps)
    inverse = b.op("Reciprocal", [root])
    result = b.op("Mul", [centred, inverse])
    if weight is not None:
        result = b.op("Mul", [result, b.cast(weight, value.dtype)])
    if bias is not None:
        result = b.op("Add", [result, b.cast(bias, value.dtype)])
    result = b.cast(result, dtype)
    # torch gives mean and deviation in float32 for half types with float32 weights: the stamp tells if it differs.
    return (result, mean, inverse) if native else result


def rms_norm_of(b: GraphBuilder, value: Value, weight: Value | None, size: int, eps: float) -> Value:
    """``x * rsqrt(mean(x², -1) + eps) * weight`` over the last dimension, in the form that the runtime takes as one op.

    Args:
        b: the builder.
        value: float32 [..., size].
        weight: float32 [size].
        size: of the last dimension.
        eps: added to the mean.
    """
    if b.flavour == "onnxruntime":
        scale = weight if weight is not None else b.expand(b.constant(1.0, value.dtype), [size])
        return b.op("SimplifiedLayerNormalization", [value, scale], axis=-1, epsilon=float(eps), stash_type=1)
    if b.flavour == "tensorrt":
        square = b.op("Mul", [value, value])
    else:
        square = b.op("Pow", [value, b.constant(2.0, value.dtype)])
    mean = b.op("ReduceMean", [square, b.ints([-1])], shape=_kept(value, 1), keepdims=1)
    root = b.op("Sqrt", [b.op("Add", [mean, b.constant(eps, value.dtype)])])
    result = b.op("Mul", [value, b.op("Div", [b.constant(1.0, value.dtype), root], shape=root.shape)])
    return result if weight is None else b.op("Mul", [result, weight])


@converts("aten._fused_rms_norm.default", "aten.rms_norm.default")
def rms_norm(
    b: GraphBuilder, node: Node, x: Value, shape: Sequence[int], weight: Value | None = None, eps: float | None = None
) -> Any:
    fused = "_fused" in str(node.target)
    if len(shape) != 1 or (fused and reads(node, 1)) or x.dtype is torch.float64:
        raise Refused("the root mean square over several dimensions, or its inverse")
    (size,) = _known(shape)
    inner = wide(b, x.dtype)
    small = float(torch.finfo(x.dtype).eps) if eps is None else float(eps)
    scale = None if weight is None else b.cast(weight, inner)
    result = b.cast(rms_norm_of(b, b.cast(x, inner), scale, size, small), x.dtype)
    return (result, None) if fused else result


@converts("aten.native_group_norm.default")
def group_norm(
    b: GraphBuilder,
    node: Node,
    x: Value,
    weight: Value | None,
    bias: Value | None,
    batch: int | Value,
    channels: int | Value,
    rest: int | Value,
    groups: int,
    eps: float,
) -> Any:
    if reads(node, 1) or reads(node, 2):
        raise Refused("the mean or the deviation of the groups is read")
    inner = wide(b, x.dtype)
    value = b.cast(x, inner)
    calm_where_cheap(b, x, least=LIVELY)  # of zeros the sign is another
    calm_where_cheap(b, weight)
    parts = b.op("Reshape", [value, b.ints([0, groups, -1])], None, (x.shape[0], groups, None), symbols=(None,) * 3)
    _, centred, root = _centred(b, parts, 1, eps)
    result = b.reshape(b.op("Div", [centred, root]), b.sizes(x))
    tail = list(range(1, x.rank - 1))
    if weight is not None:
        result = b.op("Mul", [result, b.unsqueeze(b.cast(weight, inner), tail)])
    if bias is not None:
        result = b.op("Add", [result, b.unsqueeze(b.cast(bias, inner), tail)])
    return b.cast(result, x.dtype), None, None


def _batch_norm(
    b: GraphBuilder, x: Value, weight: Value | None, bias: Value | None, mean: Value, var: Value, eps: float
) -> Value:
    inner = wide(b, x.dtype)
    channels = mean.shape[0]
    if channels is None or x.rank < 2:
        raise Refused("the number of channels differs from call to call, or there are none")
    scale = b.cast(weight, inner) if weight is not None else b.expand(b.constant(1.0, inner), [channels])
    shift = b.cast(bias, inner) if bias is not None else b.expand(b.constant(0.0, inner), [channels])
    if b.flavour == "tensorrt":  # whose reader wants constants
        return b.cast(_batch_norm_parts(b, b.cast(x, inner), scale, shift, mean, var, eps), x.dtype)
    calm(b, scale, mean)
    inputs = [b.cast(x, inner), scale, shift, b.cast(mean, inner), b.cast(var, inner)]
    return b.cast(b.op("BatchNormalization", inputs, epsilon=float(eps)), x.dtype)


def _batch_norm_parts(
    b: GraphBuilder, x: Value, scale: Value, shift: Value, mean: Value, var: Value, eps: float
) -> Value:
    """One factor and one addend a channel."""
    mean, var = b.cast(mean, x.dtype), b.cast(var, x.dtype)
    root = b.op("Sqrt", [b.op("Add", [var, b.constant(eps, x.dtype)])])
    factor = b.op("Mul", [b.op("Reciprocal", [root]), scale])
    mean, factor, shift = (b.unsqueeze(one, list(range(1, x.rank - 1))) for one in (mean, factor, shift))
    away = b.op("Sub", [x, mean], shape=x.shape, symbols=x.symbols)
    return b.op("Add", [b.op("Mul", [away, factor], shape=x.shape, symbols=x.symbols), shift])


def check_batch(b: GraphBuilder, x: Value, *others: Value | None) -> None:
    """Require what statistics of a batch are reckoned right from.

    Raises:
        RefusedWhole: of halves, which torch rounds on the way.
    """
    if x.dtype in (torch.float16, torch.bfloat16):
        raise RefusedWhole("statistics of a batch of halves")
    calm(b, x, least=LIVELY)
    calm(b, *others)


@converts(
    "aten.batch_norm.default",
    "aten.native_batch_norm.default",
    "aten._native_batch_norm_legit_no_training.default",
    "aten._batch_norm_no_update.default",
    "aten.cudnn_batch_norm.default",
)
def batch_norm(b: GraphBuilder, node: Node, *args: Any, **kwargs: Any) -> Any:
    given = by_name(node, args, kwargs)
    x, weight, mean, var = (given[name] for name in ("input", "weight", "running_mean", "running_var"))
    if given.get("training"):
        check_batch(b, x, weight)
    others = other_results(node)
    if given.get("training") or mean is None or var is None or any(reads(node, place + 1) for place in range(others)):
        raise Refused("batch statistics in training, or with what else it gives")
    result = _batch_norm(b, x, weight, given["bias"], mean, var, given["epsilon" if "epsilon" in given else "eps"])
    return (result, *[None] * others) if others else result
