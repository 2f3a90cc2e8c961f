"""Pictures made larger or smaller, sampled at given places, and continued beyond their edges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from djinn_fx.engines.onnx.conditions.floats import LIVELY, calm, calm_arguments, within
from djinn_fx.engines.onnx.graph import GraphBuilder, Value
from djinn_fx.engines.onnx.registry import Refused, converts, fake
from djinn_fx.engines.onnx.values import RefusedWhole

_DIMS = {"1d": 1, "2d": 2, "3d": 3}


def _dims(node: Node) -> int:
    name = str(node.target).split(".")[1]
    return next(dims for suffix, dims in _DIMS.items() if suffix in name)


def _factors(node: Node, given: Sequence[Any]) -> list[float | None]:
    """The scale factors that the user gave, if any: torch reckons places from them, not from the sizes."""
    if str(node.target).endswith(".vec"):
        factors = given[-1] if given else None
        return list(factors) if factors is not None else [None] * _dims(node)
    return [*given, *[None] * _dims(node)][: _dims(node)]


def _resized(b: GraphBuilder, node: Node, x: Value, factors: Sequence[float | None], **attributes: Any) -> Value:
    """``Resize`` of the last dimensions, by the user's factors or to the result's sizes."""
    if not x.is_float:
        raise Refused(f"of {x.dtype}")
    if 0 in x.shape:
        raise Refused("of no elements")
    shape = tuple(size if isinstance(size, int) else None for size in fake(node).shape)
    if all(factor is not None for factor in factors):
        scales = b.constant([1.0] * (x.rank - len(factors)) + [float(one) for one in factors if one], torch.float32)
        return b.op("Resize", [x, None, scales], None, shape, **attributes)
    if None in shape or None in x.shape[2:]:
        raise Refused("to a size that is not known before the call")
    return b.op(
        "Resize", [x, None, None, b.ints([int(one) for one in shape if one is not None])], None, shape, **attributes
    )


@converts(*(f"aten.upsample_nearest{dims}.{form}" for dims in _DIMS for form in ("default", "vec")))
def _nearest(b: GraphBuilder, node: Node, x: Value, sizes: Any, *given: Any) -> Value:
    """Whole factors only: there every way to reckon places finds the same."""
    result, dims = fake(node), _dims(node)
    factors = _factors(node, given)
    for place in range(dims):
        factor, size = factors[place], x.shape[x.rank - dims + place]
        wanted = result.shape[result.dim() - dims + place]
        if factor is None and isinstance(wanted, int) and size and wanted % size == 0:
            factor = wanted / size
        if factor is None or factor != int(factor):
            raise Refused("by a factor that is not a whole number")
    return _resized(
        b, node, x, factors, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )


_LINEAR = ("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d")


@converts(*(f"aten.{name}.{form}" for name in _LINEAR for form in ("default", "vec")))
def _linear(b: GraphBuilder, node: Node, x: Value, sizes: Any, align_corners: bool, *given: Any) -> Value:
    mode = "align_corners" if align_corners else "half_pixel"
    factors = [None] * _dims(node) if align_corners else _factors(node, given)
    calm_arguments(b, x)  # infinity times a weight of zero
    return _resized(b, node, x, factors, mode="linear", coordinate_transformation_mode=mode)


@converts("aten.upsample_bicubic2d.default", "aten.upsample_bicubic2d.vec")
def _cubic(b: GraphBuilder, node: Node, x: Value, sizes: Any, align_corners: bool, *given: Any) -> Value:
    mode = "align_corners" if align_corners else "half_pixel"
    factors = [None] * 2 if align_corners else _factors(node, given)
    calm_arguments(b, x)
    return _resized(b, node, x, factors, mode="cubic", coordinate_transformation_mode=mode, cubic_coeff_a=-0.75)


@converts("aten.grid_sampler_2d.default", "aten.grid_sampler_3d.default")
def _grid_sample(
    b: GraphBuilder, node: Node, x: Value, grid: Value, interpolation: int, padding: int, align_corners: bool
) -> Value:
    mode = ("linear", "nearest", "cubic")[interpolation]
    if "3d" in str(node.target) and b.flavour != "onnxruntime":
        raise Refused("of three dimensions")
    shape = (*x.shape[:2], *grid.shape[1:-1])
    if x.dtype in (torch.float16, torch.bfloat16):
        raise RefusedWhole("of halves, in which torch reckons places, too")
    calm(b, x, least=LIVELY)  # of zeros they forget the sign
    # The runtimes read elsewhere in memory for what is not even an integer.
    grid = within(b, grid, -1e4, 1e4)
    return b.op(
        "GridSample", [x, grid], None, shape, mode=mode, padding_mode=("zeros", "border", "reflection")[padding],
        align_corners=int(align_corners),
    )  # fmt: skip


@converts(*(f"aten.{kind}_pad{dims}.default" for kind in ("reflection", "replication") for dims in _DIMS))
def _padded(b: GraphBuilder, node: Node, x: Value, padding: list[int | Value]) -> Value:
    """Continued by its own elements."""
    if not all(isinstance(one, int) for one in padding):
        raise Refused("by numbers that are not known before the call")
    if 0 in x.shape:
        raise Refused("of no elements")
    dims = len(padding) // 2
    low = [0] * (x.rank - dims) + [int(padding[2 * (dims - 1 - place)]) for place in range(dims)]  # type: ignore[arg-type]
    high = [0] * (x.rank - dims) + [int(padding[2 * (dims - 1 - place) + 1]) for place in range(dims)]  # type: ignore[arg-type]
    if min(low + high) < 0:
        raise Refused("by less than nothing")
    shape = tuple(size if isinstance(size, int) else None for size in fake(node).shape)
    mode = "reflect" if "reflection" in str(node.target) else "edge"
    return b.op("Pad", [x, b.ints([*low, *high])], None, shape, mode=mode)
