"""Runs a conversion on the CPU: the network in the evaluator, the region's inputs and outputs around it.

For tests of the converter, and for the generated table of ops; a GPU session does the same with a plan.
"""

from __future__ import annotations

from typing import Any

import torch

from djinn_fx.engines.base import RegionCallable
from djinn_fx.engines.tensorrt.assemble import assemble
from djinn_fx.engines.tensorrt.conversion import (
    Constant,
    Conversion,
    FromInput,
    FromNetwork,
    FromSizes,
    Output,
    SameAs,
    ViewOfInput,
    evaluate_all,
)
from djinn_fx.engines.tensorrt.conversion import evaluate as number
from djinn_fx.engines.tensorrt.evaluate import evaluate
from djinn_fx.engines.tensorrt.flavour import logger


def simulated(trt: Any, conversion: Conversion) -> RegionCallable:
    """The region as a callable on CPU tensors.

    Raises:
        BuildError: TensorRT does not take the network.
    """
    definition = assemble(trt, conversion.network, trt.Builder(logger(trt)))

    def run(args: list[Any]) -> list[Any]:
        types = [getattr(torch, told.dtype) for told in conversion.network.inputs]
        given = [args[index].contiguous().to(dtype) for index, dtype in zip(conversion.inputs, types, strict=True)]
        symbols = sizes_of(conversion, given)
        made = evaluate(trt, definition, given)
        for copy in conversion.copies:
            args[copy.input].copy_(made[copy.output])
        outputs: list[Any] = []
        for one in conversion.outputs:
            outputs.append(outputs[one.output] if isinstance(one, SameAs) else _output(one, args, made, symbols))
        return outputs

    return run


def sizes_of(conversion: Conversion, given: list[torch.Tensor]) -> dict[str, int]:
    """The symbols' values in a call.

    Raises:
        ValueError: the network does not serve these sizes.
    """
    symbols = {name: int(given[place].shape[axis]) for name, (place, axis) in conversion.symbols.items()}
    for index, (tensor, told) in enumerate(zip(given, conversion.network.inputs, strict=True)):
        wanted = tuple(symbols[size] if isinstance(size, str) else size for size in told.shape)
        if tuple(tensor.shape) != wanted:
            raise ValueError(f"input {index} is {list(tensor.shape)}, not {list(told.shape)}")
    for name, known in conversion.network.symbols.items():
        if not known.least <= symbols[name] <= known.most:
            raise ValueError(f"{name} is {symbols[name]}, outside {known.least} to {known.most}")
    return symbols


def _output(one: Output, args: list[Any], made: list[torch.Tensor], symbols: dict[str, int]) -> Any:
    if isinstance(one, FromNetwork):
        value = made[one.output]
        if tuple(value.shape) != evaluate_all(one.shape, symbols):
            raise ValueError(f"output {one.output} is {list(value.shape)}, not {list(one.shape)}")
        target = torch.empty_strided(value.shape, evaluate_all(one.strides, symbols), dtype=value.dtype)
        return _filled(target, value)
    if isinstance(one, FromInput):
        return args[one.input]
    if isinstance(one, ViewOfInput):
        source = args[one.input]
        shape, strides = evaluate_all(one.shape, symbols), evaluate_all(one.strides, symbols)
        return torch.as_strided(source, shape, strides, source.storage_offset() + number(one.offset, symbols))
    if isinstance(one, FromSizes):
        return number(one.value, symbols)
    assert isinstance(one, Constant)
    return one.value


def _filled(target: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Elements of an expanded tensor share memory; they are equal, so one of them is written."""
    place = target
    for axis, stride in enumerate(target.stride()):
        if stride == 0:
            place, value = place.narrow(axis, 0, 1), value.narrow(axis, 0, 1)
    place.copy_(value)
    return target
