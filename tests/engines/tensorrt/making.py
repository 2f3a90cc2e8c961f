"""Networks of one layer or a few, as descriptions, TensorRT's networks and plans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor as Values

from djinn_fx.engines.tensorrt.assemble import assemble
from djinn_fx.engines.tensorrt.evaluate import evaluate
from djinn_fx.engines.tensorrt.flavour import logger
from djinn_fx.engines.tensorrt.network import Dim, Network, NetworkWriter, Range, Tensor

try:
    import tensorrt_rtx as trt
except ImportError:
    trt = None

needs_tensorrt = pytest.mark.skipif(
    trt is None, reason="tensorrt_rtx is missing: pip install --no-build-isolation tensorrt_rtx"
)

RANGES = {"k0": Range(least=1, usual=3, most=8), "k1": Range(least=1, usual=5, most=16)}


def dtype_name(dtype: torch.dtype) -> str:
    """Our name of a type of torch's."""
    return str(dtype).removeprefix("torch.")


def told(dtype: str | torch.dtype, *shape: Dim) -> Tensor:
    """A value of a description."""
    return Tensor(dtype=dtype if isinstance(dtype, str) else dtype_name(dtype), shape=shape)


def constant(writer: NetworkWriter, values: Values) -> int:
    """A constant of these values."""
    raw = values.contiguous().view(torch.int16).numpy() if values.dtype == torch.bfloat16 else values.numpy()
    return writer.constant(dtype_name(values.dtype), values.shape, np.ascontiguousarray(raw).tobytes())


def one_layer(
    kind: str, inputs: Sequence[Values | Tensor | None], outputs: Sequence[Tensor], /, **attributes: Any
) -> Network:
    """A description of one layer that reads the network's inputs; a Tensor among them is one with symbols."""
    writer = NetworkWriter()
    numbers = [
        None if one is None else writer.input(one if isinstance(one, Tensor) else told(one.dtype, *one.shape))
        for one in inputs
    ]
    made = writer.add(kind, numbers, outputs, **attributes)
    return writer.network(made, RANGES)


def assembled(network: Network) -> Any:
    """TensorRT's network of a description."""
    return assemble(trt, network, trt.Builder(logger(trt)))


def run(network: Network, *values: Values | None) -> list[Values]:
    """What the network gives, by the evaluator."""
    return evaluate(trt, assembled(network), [value for value in values if value is not None])
