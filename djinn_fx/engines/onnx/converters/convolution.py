"""Convolutions of one to three dimensions, and transposed ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from djinn_fx.engines.onnx.conditions.floats import calm_arguments
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
