"""Pools of one to three dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from djinn_fx.engines.onnx.conditions.floats import calm, plain_extremes
from djinn_fx.engines.onnx.converters.parts import binary, isnan, less, reduce, select, wide
from djinn_fx.engines.onnx.graph import GraphBuilder, Value
from djinn_fx.engines.onnx.registry import Refused, converts, fake


def _inner(x: Value) -> torch.dtype:
    """The type to compute in.

    Raises:
        Refused: runtimes pool no such numbers.
    """
    if not x.is_float or x.dtype is torch.float64:
        raise Refused(f"of {x.dtype}")
    return wide(x.dtype)


def spread(given: int | Sequence[int] | None, dims: int, default: Sequence[int]) -> list[int]:
    """A number for each dimension."""
    if given is None or (not isinstance(given, int) and not given):
        return list(default)
    numbers = [given] if isinstance(given, int) else list(given)
    return numbers * dims if len(numbers) == 1 else numbers


def batched(b: GraphBuilder, x: Value, dims: int) -> Value:
    """With a batch dimension."""
    return x if x.rank == dims + 2 else b.unsqueeze(x, [0])


def unbatched(b: GraphBuilder, x: Value, dims: int, rank: int) -> Value:
    """Without the batch dimension that :func:`batched` put in."""
    return x if rank == dims + 2 else b.squeeze(x, [0])


def surplus(
    x: Value, result: Any, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> list[int]:
    """How far the last windows reach beyond the padding on the far side (``ceil_mode``).

    Raises:
        Refused: a size is not known.
    """
    dims, found = len(kernel), []
    for place in range(dims):
        size, wanted = x.shape[x.rank - dims + place], result.shape[result.dim() - dims + place]
        if size is None or not isinstance(wanted, int):
            raise Refused("with sizes rounded up that are not known before the call")
        reach = (wanted - 1) * stride[place] + dilation[place] * (kernel[place] - 1) + 1
        found.append(max(0, reach - size - 2 * padding[place]))
    return found


def largest(b: GraphBuilder, value: Value, shape: Sequence[int | None], **window: Any) -> Value:
    """The largest of each window. TensorRT passes over NaN, so where one is is found out by a pool of its own."""
    symbols = (None,) * len(shape)
    if b.flavour != "tensorrt":
        made = b.op("MaxPool", [value], None, shape, symbols=symbols, **window)
        plain_extremes(b, value, made)
        return made
    if any(apart != 1 for apart in window.get("dilations", ())):
        raise Refused("with gaps in the window")
    window.pop("dilations", None)
    if any(pad >= size for pad, size in zip(window.get("pads", ()), window["kernel_shape"] * 2, strict=False)):
        raise Refused("with padding as large as the window")
    made = b.op("MaxPool", [value], None, shape, symbols=symbols, **window)
    broken = b.cast(isnan(b, value), value.dtype)
    broken = b.op("MaxPool", [broken], None, shape, symbols=symbols, **window)
    met = less(b, 0.0, broken)
    return select(b, met, math.nan, made)


def _sizes(tensor: Any, dims: int) -> list[int | None]:
    return [size if isinstance(size, int) else None for size in tensor.shape[-dims:]]


@converts("aten.max_pool2d.default", "aten.max_pool2d_with_indices.default", "aten.max_pool3d_with_indices.default")
def _max_pool(
    b: GraphBuilder,
    node: Node,
    x: Value,
    kernel_size: list[int],
    stride: list[int] = (),  # type: ignore[assignment]
    padding: list[int] | int = 0,
    dilation: list[int] | int = 1,
    ceil_mode: bool = False,
) -> Any:
    """The largest of each window; where it stood is not computed."""
    dims = _dims(node)
    kernel = spread(kernel_size, dims, ())
    steps, around, apart = spread(stride, dims, kernel), spread(padding, dims, ()), spread(dilation, dims, ())
    inner = _inner(x)
    with_places = "indices" in str(node.target)
    result = fake(node)[0] if with_places else fake(node)
    more = surplus(x, result, kernel, steps, around, apart) if ceil_mode else [0] * dims
    value = batched(b, x if b.flavour == "tensorrt" else b.cast(x, inner), dims)
    calm(b, value)  # a NaN is passed over, and the least is the lowest finite number
    pads = [*around, *(one + two for one, two in zip(around, more, strict=True))]
    shape = [*value.shape[:2], *_sizes(result, dims)]
    made = largest(b, value, shape, kernel_shape=kernel, strides=steps, pads=pads, dilations=apart)
    pooled = b.cast(unbatched(b, made, dims, x.rank), x.dtype)
    return (pooled, None) if with_places else pooled


def _dims(node: Node) -> int:
    """How many dimensions an operator's name says it pools."""
    return next(dims for dims in (1, 2, 3) if f"{dims}d" in str(node.target))


@converts("aten.avg_pool1d.default", "aten.avg_pool2d.default", "aten.avg_pool3d.default")
def _avg_pool(
    b: GraphBuilder,
    node: Node,
    x: Value,
    kernel_size: list[int],
    stride: list[int] = (),  # type: ignore[assignment]
    padding: list[int] | int = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    dims = _dims(node)
    kernel = spread(kernel_size, dims, ())
    steps, around = spread(stride, dims, kernel), spread(padding, dims, ())
    return averaged(b, node, x, kernel, steps, around, ceil_mode, count_include_pad, divisor_override)


def averaged(
    b: GraphBuilder,
    node: Node,
    x: Value,
    kernel: list[int],
    steps: list[int],
    around: list[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Value:
    """An average pool of any number of dimensions, as torch divides."""
    dims = len(kernel)
    inner = _inner(x)
    result = fake(node)
    if ceil_mode and any(surplus(x, result, kernel, steps, around, [1] * dims)):
        raise Refused("with windows that reach beyond the padding")
    value = b.cast(batched(b, x, dims), inner)
    shape = [*value.shape[:2], *_sizes(result, dims)]
    inside = count_include_pad or divisor_override is not None
    made = b.op(
        "AveragePool", [value], None, shape, kernel_shape=kernel, strides=steps, pads=[*around, *around],
        count_include_pad=int(inside and any(around)),
    )  # fmt: skip
    if divisor_override is not None:
        total = 1
        for size in kernel:
            total *= size
        made = binary(b, "Mul", made, total / divisor_override)
    return b.cast(unbatched(b, made, dims, x.rank), x.dtype)


def _even(x: Value, sizes: Sequence[Any]) -> list[int]:
    """The windows of an adaptive pool, where all are equally large.

    Raises:
        Refused: they are not, or a size is not known.
    """
    windows = []
    for place, wanted in enumerate(sizes):
        size = x.shape[x.rank - len(sizes) + place]
        if size is None or not isinstance(wanted, int) or not wanted or size % wanted:
            raise Refused("with windows that are not all equally large")
        windows.append(size // wanted)
    return windows


@converts("aten.adaptive_avg_pool2d.default", "aten._adaptive_avg_pool2d.default", "aten._adaptive_avg_pool3d.default")
def _adaptive_average(b: GraphBuilder, node: Node, x: Value, output_size: list[int]) -> Value:
    if list(output_size) == [1, 1]:
        mean = reduce(b, "ReduceMean", b.cast(x, _inner(x)), [x.rank - 2, x.rank - 1], True)
        return b.cast(mean, x.dtype)
    windows = _even(x, output_size)
    return averaged(b, node, x, windows, windows, [0] * len(windows), False, False, None)


@converts("aten.adaptive_max_pool2d.default", "aten.adaptive_max_pool3d.default")
def _adaptive_max(b: GraphBuilder, node: Node, x: Value, output_size: list[int]) -> tuple[Value | None, ...]:
    windows = _even(x, output_size)
    dims, value = len(windows), batched(b, x, len(windows))
    calm(b, value)
    made = largest(b, value, [*value.shape[:2], *output_size], kernel_shape=windows, strides=windows)
    return unbatched(b, made, dims, x.rank), None
