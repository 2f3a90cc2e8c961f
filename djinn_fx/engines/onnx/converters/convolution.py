"""Convolutions and the pooling that vision models do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from djinn_fx.engines.onnx.conditions.floats import calm, calm_arguments
from djinn_fx.engines.onnx.converters.pooling import averaged, batched, largest, spread, surplus, unbatched
from djinn_fx.engines.onnx.converters.reduce_basic import reduce
from djinn_fx.engines.onnx.graph import GraphBuilder, Refused, Value
from djinn_fx.engines.onnx.registry import converts, fake


def _inner(dtype: torch.dtype) -> torch.dtype:
    if dtype in (torch.float16, torch.bfloat16):
        return torch.float32
    if dtype is torch.float32:
        return dtype
    raise Refused(f"no kernel convolves {str(dtype).removeprefix('torch.')}")


def _numbers(values: Sequence[Any], count: int) -> list[int]:
    """One number a dimension; a single one counts for all."""
    if not all(isinstance(one, int) for one in values):
        raise Refused("a stride or a padding that differs from call to call")
    return list(values) * count if len(values) == 1 else list(values)


def result_shape(node: Node) -> list[int | None]:
    """The sizes of a node's result, as a value has them."""
    value = fake(node)
    tensor = value[0] if isinstance(value, (tuple, list)) else value
    return [size if isinstance(size, int) else None for size in tensor.shape]


@converts("aten.convolution.default")
def convolution(
    b: GraphBuilder,
    node: Node,
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Value:
    inner = _inner(x.dtype)
    count = weight.rank - 2
    batched = x.rank == weight.rank
    value = b.cast(x if batched else b.unsqueeze(x, [0]), inner)
    # What is padded with zeros is left out of the sum, also where a weight is NaN.
    calm_arguments(b, x, weight, bias)
    # TensorRT takes casts around a convolution of halves into it, but not with a bias.
    apart = bias if b.flavour == "tensorrt" and inner is not x.dtype else None
    given_bias = None if bias is None or apart is not None else b.cast(bias, inner)
    inputs = [value, b.cast(weight, inner), given_bias]
    pads = _numbers(padding, count)
    if any(pad < 0 for pad in pads):
        raise Refused("a negative padding")
    given: dict[str, Any] = {
        "strides": _numbers(stride, count),
        "pads": [*pads, *pads],
        "dilations": _numbers(dilation, count),
        "group": groups,
    }
    if all(isinstance(size, int) for size in weight.shape[2:]):
        given["kernel_shape"] = [size for size in weight.shape[2:] if size is not None]
    shape = result_shape(node) if batched else [1, *result_shape(node)]
    if transposed:
        given["output_padding"] = _numbers(output_padding, count)
        if any(extra >= step for extra, step in zip(given["output_padding"], given["strides"], strict=True)):
            raise Refused("an output padding that is not smaller than the stride")
    result = b.op(
        "ConvTranspose" if transposed else "Conv", inputs, inner, shape, symbols=(None,) * len(shape), **given
    )
    result = b.cast(result, x.dtype)
    if apart is not None:
        spread = b.unsqueeze(apart, [0, *range(2, count + 2)])
        result = b.op("Add", [result, spread], shape=result.shape, symbols=result.symbols)
    return result if batched else b.squeeze(result, [0])


@converts("aten.max_pool2d_with_indices.default", "aten.max_pool2d.default")
def max_pool2d(
    b: GraphBuilder,
    node: Node,
    x: Value,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] | int = 0,
    dilation: Sequence[int] | int = 1,
    ceil_mode: bool = False,
) -> Any:
    """The largest of each window; where it stood is not computed."""
    kernel = spread(kernel_size, 2, ())
    steps, around, apart = spread(stride, 2, kernel), spread(padding, 2, ()), spread(dilation, 2, ())
    value = batched(b, x if b.flavour == "tensorrt" else b.cast(x, _inner(x.dtype)), 2)
    calm(b, value)  # a NaN is passed over, and the least is the lowest finite number
    shape = [*value.shape[:2], *result_shape(node)[-2:]]
    with_places = "indices" in str(node.target)
    result = fake(node)[0] if with_places else fake(node)
    more = surplus(x, result, kernel, steps, around, apart) if ceil_mode else [0, 0]
    pads = [*around, *(one + two for one, two in zip(around, more, strict=True))]
    made = largest(b, value, shape, kernel_shape=kernel, strides=steps, pads=pads, dilations=apart)
    pooled = b.cast(unbatched(b, made, 2, x.rank), x.dtype)
    return (pooled, None) if with_places else pooled


@converts("aten.avg_pool2d.default")
def avg_pool2d(
    b: GraphBuilder,
    node: Node,
    x: Value,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] | int = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    kernel = spread(kernel_size, 2, ())
    steps, around = spread(stride, 2, kernel), spread(padding, 2, ())
    value = b.cast(x, _inner(x.dtype))
    made = averaged(b, node, value, kernel, steps, around, ceil_mode, count_include_pad, divisor_override)
    return b.cast(made, x.dtype)


@converts("aten._adaptive_avg_pool2d.default", "aten.adaptive_avg_pool2d.default")
def adaptive_avg_pool2d(b: GraphBuilder, node: Node, x: Value, output_size: Sequence[int]) -> Value:
    value = b.cast(x, _inner(x.dtype))
    if list(output_size) == [1, 1]:
        return b.cast(reduce(b, "ReduceMean", value, [x.rank - 2, x.rank - 1], True), x.dtype)
    windows = []
    for size, wanted in zip(x.shape[-2:], output_size, strict=True):
        if size is None or not isinstance(wanted, int) or not wanted or size % wanted:
            raise Refused("windows that are not all equally large")
        windows.append(size // wanted)
    return b.cast(averaged(b, node, value, windows, windows, [0, 0], False, False, None), x.dtype)
