"""Weights of matrix products as 8-bit whole numbers with a scale for each output, as OpenVINO's products can read them.

A decode step takes as long as reading the weights does, so a quarter of the bytes takes down to a quarter of the time.
A number is rounded to the nearest of 255, evenly spread from minus to plus the largest of those that make one output:
it moves by 1/254 of that at most. OpenVINO knows the pattern Constant(i8) -> Convert -> Multiply(scale) ->
MatMul and gives it to one kernel; its sums are those of float32, or of bfloat16 where the processor has such products.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from djinn_fx.engines.openvino.extensions import core
from djinn_fx.engines.optional import optional

openvino = optional("openvino")
opset13 = optional("openvino.opset13")

#: A weight of fewer elements stays as it is: it is in a cache, and reading it takes no time to speak of.
LEAST_ELEMENTS = 1 << 16
#: Of more rows than these a product takes as long with the numbers as they are: without bfloat16, and with it.
MOST_ROWS, MOST_ROWS_BF16 = 64, 4
#: A weight with a larger number, or with one that is not finite, stays as it is: products with it leave float32.
_MOST = 1e30
#: Steps from 0 to a row's largest number.
_STEPS = 127
#: Elements that are rounded at once.
_BLOCK = 1 << 22


def compress(weight: torch.Tensor, source: Any) -> int:
    """Have the matrix products that read a weight read it as 8-bit whole numbers.

    Args:
        weight: its numbers.
        source: the output of the model's node that stands for it. Other readers of it are left as they are.

    Returns:
        Bytes that this keeps: of the numbers and scales themselves, and of the kernels' copies; 0: no product does.
    """
    if weight.dim() != 2 or weight.dtype is not torch.float32 or weight.numel() < LEAST_ELEMENTS:
        return 0
    readers = [one for one in _products(source, turned=False) if _is_short(one[0])]
    made: dict[bool, Any] = {}
    taken = 0
    for product, by_row in readers:
        if by_row not in made:
            rounded = round_rows(weight if by_row else weight.t())
            if rounded is None:
                return taken
            made[by_row] = _decompressed(*rounded)
            taken += 2 * sum(one.nbytes for one in rounded)
        _read_by_row(product, made[by_row])
    return taken


def _products(source: Any, turned: bool) -> Iterator[tuple[Any, bool]]:
    """The products of something with a weight, and whether a row of it (not a column) makes one of their outputs."""
    for target in source.get_target_inputs():
        node = target.get_node()
        if node.get_type_name() == "MatMul" and target.get_index() == 1:
            yield node, node.get_attributes()["transpose_b"] is not turned
        elif not turned and _swaps(node):
            yield from _products(node.output(0), turned=True)


def _is_short(product: Any) -> bool:
    """Whether a product has few rows, or is not known to have many."""
    sizes = product.input_value(0).get_partial_shape()
    if sizes.is_dynamic:
        return True
    *rows, inner = sizes.to_shape()
    if product.get_attributes()["transpose_a"]:
        rows[-1:] = [inner]
    return bool(math.prod(rows) <= (MOST_ROWS_BF16 if _has_bf16() else MOST_ROWS))


@functools.cache
def _has_bf16() -> bool:
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _swaps(node: Any) -> bool:
    """Whether a node transposes a matrix."""
    if node.get_type_name() != "Transpose":
        return False
    order = node.input_value(1).get_node()
    return bool(order.get_type_name() == "Constant" and order.get_vector().tolist() == [1, 0])


def round_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """A matrix as whole numbers from -127 to 127 and a scale for each row, [n, 1]; None if its numbers forbid that."""
    most = weight.abs().amax(1, keepdim=True)
    if not bool((most < _MOST).all()):  # NaN is in no order
        return None
    scales = (most / _STEPS).clamp_(min=torch.finfo(torch.float32).tiny)
    numbers = torch.empty(weight.shape, dtype=torch.int8)
    rows = max(1, _BLOCK // weight.shape[1])
    for start in range(0, weight.shape[0], rows):
        part = slice(start, start + rows)
        numbers[part] = (weight[part] / scales[part]).round_().clamp_(-_STEPS, _STEPS)
    return numbers, scales


def _decompressed(numbers: torch.Tensor, scales: torch.Tensor) -> Any:
    whole, factors = (openvino.op.Constant(one.numpy()) for one in (numbers, scales))
    return opset13.multiply(opset13.convert(whole, np.float32), factors)


def _read_by_row(product: Any, weight: Any) -> None:
    """Put in a product's place one that reads this [n, k] weight."""
    transposed = product.get_attributes()["transpose_a"]
    other = opset13.matmul(product.input_value(0), weight, transposed, True)
    other.set_friendly_name(product.get_friendly_name())
    product.output(0).replace(other.output(0))
