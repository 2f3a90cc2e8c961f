"""Regions of small modules, and engines that do every product the way a test wants it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from djinn_fx.engines.base import RegionGraph
from djinn_fx.engines.packed import ops as packed_ops
from djinn_fx.engines.packed.engine import PackedEngine
from djinn_fx.engines.packed.speed import ProductSpeed, Shape
from tests.capture import capture
from tests.concrete import whole

WAYS = ("aten", "mkl", "onednn")


def speed_of(way: str) -> ProductSpeed:
    """Figures by which one way is the fastest wherever this machine has it."""

    def measure(shape: Shape) -> dict[str, float]:
        there = {"aten": True, "mkl": packed_ops.has_mkl() and shape.dtype in packed_ops.MKL_TYPES, "onednn": True}
        return {"aten": 1.0, **({way: 0.5} if way != "aten" and there[way] else {})}

    return ProductSpeed(None, measure)


def engine_of(way: str, **options: Any) -> PackedEngine:
    """The packed engine that does all products one way."""
    return PackedEngine(speed=speed_of(way), **options)


def region_of(model: Callable[..., Any], *args: Any, dynamic: bool | None = None, **kwargs: Any) -> RegionGraph:
    """A model's graph as one region with its weights."""
    return whole(capture(model, args, kwargs, dynamic=dynamic)[0])


def differences(got: Sequence[Any], want: Sequence[Any], tolerance: float = 1e-5) -> list[str]:
    """Where results are not eager's: values, types, shapes, strides."""
    found = [] if len(got) == len(want) else [f"{len(got)} results instead of {len(want)}"]
    for place, (one, other) in enumerate(zip(got, want, strict=False)):
        if not isinstance(other, torch.Tensor):
            found += [] if one == other else [f"{place}: {one} instead of {other}"]
            continue
        if (one.dtype, one.shape, one.stride()) != (other.dtype, other.shape, other.stride()):
            found.append(f"{place}: {one.dtype} {one.shape} {one.stride()} instead of {other.dtype} {other.stride()}")
        elif not torch.allclose(one.double(), other.double(), rtol=tolerance, atol=tolerance, equal_nan=True):
            found.append(f"{place}: off by {(one.double() - other.double()).abs().max().item():.2e}")
    return found
