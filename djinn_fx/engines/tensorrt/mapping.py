"""From a region to its model for TensorRT and what a plan's session needs: how it is called, between which sizes.

Torch names its symbols by where they came from; here they are named by where they are read, so that identical layers
have equal mappings.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily

from djinn_fx.engines.base import RegionGraph
from djinn_fx.engines.bound.signature import Given, Result, Size, View
from djinn_fx.engines.lowering.formulas import Formula
from djinn_fx.engines.onnx.convert import OnnxRegion
from djinn_fx.engines.onnx.convert import convert as to_onnx
from djinn_fx.engines.onnx.proto import size_name
from djinn_fx.engines.onnx.values import Refused
from djinn_fx.engines.ranges.program import CheckProgram
from djinn_fx.engines.tensorrt.building.parse_onnx import Range
from djinn_fx.engines.tensorrt.run.calling import Calling, Copy, Limit, Made, Place, Taken
from djinn_fx.reasons import Reason, ReasonKind

#: See :func:`convert`.
GROWTH = 8
#: The largest size TensorRT has.
_LARGEST = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A region as TensorRT is given it.

    Attributes:
        model: the ONNX model; weights are among its inputs.
        ranges: of the sizes of its inputs that differ from call to call, by their names in it.
        calling: how a plan of it is called as the region.
        nodes: of each of the model's nodes, in order: the region's node it comes from. For messages only.
    """

    model: bytes
    ranges: Mapping[str, Range]
    calling: Calling
    nodes: tuple[str, ...]

    def request(self) -> dict[str, Any]:
        """What the builder in the child is asked, besides flavour, target and options; the model is its one blob."""
        ranges = {name: [one.least, one.usual, one.most] for name, one in self.ranges.items()}
        return {"ranges": ranges, "calling": self.calling.to_json()}

    def digest(self) -> str:
        """SHA-256 of everything that decides what is built, and of how it is called."""
        checksum = hashlib.sha256(json.dumps(self.request(), sort_keys=True, separators=(",", ":")).encode())
        checksum.update(hashlib.sha256(self.model).digest())
        return checksum.hexdigest()


def convert(region: RegionGraph, *, growth: int = GROWTH) -> Conversion | Reason:
    """The region as a model, or why not.

    Args:
        region: its example inputs are fake; nothing is computed.
        growth: a size without an upper bound may grow to this many times its usual value; calls beyond it are not
            served by the plan.
    """
    try:
        with unset_fake_temporarily():  # AOTAutograd's is on while it compiles: constants would be fake
            found = to_onnx(region, "tensorrt")
            ranges = ranges_of(found.sizes, growth)
            calling = calling_of(found, ranges, region.example_inputs)
    except Refused as refused:
        return _refusal(region, "support", refused)
    except Exception as error:  # noqa: BLE001 (recorded: a mistake of ours costs this engine only)
        return _refusal(region, "convert", f"the converter failed: {type(error).__name__}: {error}")
    if not found.signature.fed:
        return _refusal(region, "convert", "it takes no tensor, so its device is not known")
    if not found.outputs:
        return _refusal(region, "convert", "it computes no tensor")
    return Conversion(model=found.model, ranges=ranges, calling=calling, nodes=found.sources)


def _refusal(region: RegionGraph, stage: str, why: Refused | str) -> Reason:
    node = getattr(why, "node", None) or region.label
    return Reason(kind=ReasonKind.ENGINE_REFUSED, detail=f"tensorrt, {stage}: {why}", node=node)


def ranges_of(sizes: Mapping[str, torch.SymInt], growth: int) -> dict[str, Range]:
    """What each size that differs from call to call may be: torch's bounds, open ends closed.

    Args:
        sizes: of a model's inputs, in their order.
        growth: to how many times its usual value a size without an upper bound may grow.
    """
    return {size_name(place): _range(size, growth) for place, size in enumerate(sizes.values())}


def _range(value: torch.SymInt, growth: int) -> Range:
    from torch.utils._sympy.value_ranges import ValueRanges, bound_sympy

    environment, expression = value.node.shape_env, value.node.expr
    bounds = {symbol: _bounds(environment, symbol, growth) for symbol in expression.free_symbols}
    found = bound_sympy(expression, {symbol: ValueRanges(low, high) for symbol, (low, _, high) in bounds.items()})
    least, most = max(1, int(found.lower)), min(_LARGEST, int(found.upper))
    usual = int(expression.xreplace({symbol: middle for symbol, (_, middle, _) in bounds.items()}))
    return Range(least=least, usual=min(max(usual, least), most), most=max(most, least))


def _bounds(environment: Any, symbol: Any, growth: int) -> tuple[int, int, int]:
    """Of a symbol: the least, the usual and the most.

    Usual is the example's size, up to the next power of two: examples of about the same size share a plan.
    """
    known = environment.var_to_range.get(symbol)
    values = environment.backed_var_to_val
    hint = int(values[symbol]) if symbol in values else 1
    usual = 1 << max(0, hint - 1).bit_length()
    least = int(known.lower) if known is not None and known.lower.is_Integer else 1
    least = max(1, least)
    most = growth * max(usual, least)
    if known is not None and known.upper.is_Integer:
        most = min(most, int(known.upper))
    return least, min(max(usual, least), max(most, hint)), max(most, hint)


def calling_of(region: OnnxRegion, ranges: Mapping[str, Range], arguments: Sequence[Any]) -> Calling:
    """How a plan of the model is called as the region.

    Args:
        region: the region as a model.
        ranges: of its inputs' sizes, by name.
        arguments: the region's example arguments.
    """
    signature = region.signature
    texts = {text: size_name(place) for place, text in enumerate(region.sizes)}
    inputs = tuple(
        Taken(
            name=one.name,
            argument=one.place,
            dtype=one.dtype,
            shape=tuple(
                size if size is not None else texts[str(arguments[one.place].shape[dim].node.expr)]
                for dim, size in enumerate(one.sizes)
            ),
        )
        for one in signature.fed
    )
    names, extra = _names(signature.symbols, texts)
    named = functools.partial(_named, names=names)
    shapes = [tuple(map(named, shape)) for _, shape in region.outputs]
    types = [str(dtype).removeprefix("torch.") for dtype, _ in region.outputs]
    outputs = tuple(
        Made(name=f"out{place}", dtype=dtype, shape=shape)
        for place, (dtype, shape) in enumerate(zip(types, shapes, strict=True))
    )
    return Calling(
        arguments=len(arguments),
        inputs=inputs,
        outputs=outputs,
        results=tuple(_result(one, shapes, named) for one in signature.results),
        copies=tuple(Copy(output=output, input=place) for place, output in signature.mutated),
        limits=tuple(Limit(symbol=name, least=one.least, most=one.most) for name, one in ranges.items()),
        elsewhere=extra,
        flag=signature.flag,
        program=_renamed(signature.program, named),
    )


def _renamed(program: CheckProgram, named: Callable[[Formula], Formula]) -> CheckProgram:
    steps = (replace(one, numbers=tuple(map(named, one.numbers))) for one in program.steps)
    checks = (replace(one, least=named(one.least), most=named(one.most)) for one in program.checks)
    return CheckProgram(places=program.places, steps=tuple(steps), checks=tuple(checks))


def _names(
    symbols: Mapping[str, tuple[int, int | None]], texts: Mapping[str, str]
) -> tuple[dict[str, str], tuple[Place, ...]]:
    """What torch's symbols are called here, and where those are read that are no input's size."""
    names: dict[str, str] = {}
    extra: list[Place] = []
    for symbol, (argument, dim) in sorted(symbols.items(), key=lambda one: (one[1][0], one[1][1] or 0)):
        if symbol in texts:
            names[symbol] = texts[symbol]
            continue
        assert dim is not None, "only tensors' sizes tell symbols"
        names[symbol] = f"n{len(extra)}"
        extra.append(Place(names[symbol], argument, dim))
    return names, tuple(extra)


def _named(formula: Formula, names: Mapping[str, str]) -> Formula:
    if isinstance(formula, str):
        return names[formula]
    if not isinstance(formula, list):
        return formula
    operator, *operands = formula
    made = [_named(one, names) for one in operands]
    return [operator, *(sorted(made, key=repr) if operator in ("+", "*") else made)]


def _result(one: Result, shapes: Sequence[tuple[Formula, ...]], named: Callable[[Formula], Formula]) -> Result:
    """With a plan's symbols, and with the sizes of what the plan computes."""
    if isinstance(one, Size):
        return replace(one, formula=named(one.formula))
    if isinstance(one, Given) and (one.sizes is None or one.strides is None):
        shape = shapes[one.output]
        return replace(one, sizes=shape, strides=_contiguous(shape), dense=False)
    if isinstance(one, (Given, View)):
        one = replace(one, sizes=tuple(map(named, one.sizes or ())), strides=tuple(map(named, one.strides or ())))
    return replace(one, offset=named(one.offset)) if isinstance(one, View) else one


def _contiguous(shape: Sequence[Formula]) -> tuple[Formula, ...]:
    strides: list[Formula] = []
    total: Formula = 1
    for size in reversed(shape):
        strides.append(total)
        if isinstance(total, int) and isinstance(size, int):
            total = total * max(size, 1)
        else:
            total = size if total == 1 else ["*", size, total]
    return tuple(reversed(strides))
