"""What the converter hands over: a network, and how the region's inputs and outputs hang on it.

Sizes that differ from call to call are written as a :data:`Formula` over the network's symbols, so that whoever runs
the plan needs neither torch's symbols nor sympy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from djinn_fx.engines.tensorrt.network import Network

#: A number; the name of a symbol (``"k0"``); or an operator and its operands: ``["+", "k0", 1]``.
#: Operators: ``+ *`` (any number), ``// % - min max`` (two; Python's meaning).
Formula = int | str | list[Any]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What may be chosen about a conversion; part of the engine's fingerprint.

    Attributes:
        propagate_nan: NaN goes through relu, clamp, maxima and minima as in torch, at the price of a comparison and a
            selection where TensorRT has one layer that gives back the other operand.
        growth: a symbol without an upper bound may grow to this many times its usual value; calls beyond it are not
            served by the plan.
        wide_accumulation: matrix products of float16 and bfloat16 are described as products of float32 operands cast
            from them, which TensorRT runs as one product that accumulates in float32; without, it may add up in
            float16.
    """

    propagate_nan: bool = True
    growth: int = 8
    wide_accumulation: bool = True

    def to_json(self) -> dict[str, Any]:
        """The options as a JSON object, for fingerprints."""
        return {
            "propagate_nan": self.propagate_nan,
            "growth": self.growth,
            "wide_accumulation": self.wide_accumulation,
        }


@dataclass(frozen=True, kw_only=True)
class FromNetwork:
    """A region output that the network computes.

    Attributes:
        output: which network output, by index; no two region outputs have the same.
        dtype: a key of ``DTYPE_BYTES``.
        shape: sizes.
        strides: in elements, as the readers of this output were compiled for. The network writes it contiguous.
        shown: the network writes the elements in the order of the result's memory, which shows them as they are.
    """

    output: int
    dtype: str
    shape: tuple[Formula, ...]
    strides: tuple[Formula, ...]
    shown: bool = False


@dataclass(frozen=True, kw_only=True)
class FromInput:
    """A region output that is a region input itself, after the copies.

    Attributes:
        input: which region input, by index.
    """

    input: int


@dataclass(frozen=True, kw_only=True)
class ViewOfInput:
    """A region output that shows a region input's memory, after the copies.

    Attributes:
        input: which region input, by index.
        shape: sizes.
        strides: in elements.
        offset: in elements, from the input's own first element.
    """

    input: int
    shape: tuple[Formula, ...]
    strides: tuple[Formula, ...]
    offset: Formula


@dataclass(frozen=True, kw_only=True)
class ViewOfOutput:
    """A region output that shows an earlier one's memory.

    Attributes:
        output: which region output, by index.
        shape: sizes.
        strides: in elements.
        offset: in elements, from that output's own first element.
    """

    output: int
    shape: tuple[Formula, ...]
    strides: tuple[Formula, ...]
    offset: Formula


@dataclass(frozen=True, kw_only=True)
class FromSizes:
    """A region output that is a number reckoned from sizes.

    Attributes:
        value: how.
    """

    value: Formula


@dataclass(frozen=True, kw_only=True)
class Constant:
    """A region output that is the same in every call: None or a number."""

    value: int | float | bool | None


@dataclass(frozen=True, kw_only=True)
class SameAs:
    """A region output that is the very object of an earlier one.

    Attributes:
        output: which region output, by index.
    """

    output: int


Output = FromNetwork | FromInput | ViewOfInput | ViewOfOutput | FromSizes | Constant | SameAs


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A network output that is copied into a region input after the run: the region writes this input.

    Attributes:
        output: which network output, by index.
        input: which region input, by index.
    """

    output: int
    input: int


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A region as a network.

    Attributes:
        network: the description; it has at least one output.
        inputs: the region inputs that the network takes, by index, in the network's order. It takes them contiguous,
            on its device, and of its types: a single float64 number in host memory is to be rounded to float32.
        outputs: how each of the region's outputs is made, in order.
        copies: what is written back, in the order of the graph; each input once.
        symbols: for each symbol of the network, the network input and dimension to read it from; a size that is seen
            in several places must be the same in all of them.
    """

    network: Network
    inputs: tuple[int, ...]
    outputs: tuple[Output, ...]
    copies: tuple[Copy, ...] = ()
    symbols: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def evaluate(formula: Formula, symbols: Mapping[str, int]) -> int:
    """The value of a formula.

    Raises:
        KeyError: a symbol without a value.
        ValueError: not a formula.
    """
    if isinstance(formula, int):
        return formula
    if isinstance(formula, str):
        return symbols[formula]
    operator, *operands = formula
    values = [evaluate(one, symbols) for one in operands]
    if operator == "+":
        return sum(values)
    if operator == "*":
        return math.prod(values)
    first, second = values
    if operator == "-":
        return first - second
    if operator == "//":
        return first // second
    if operator == "%":
        return first % second
    if operator == "min":
        return min(first, second)
    if operator == "max":
        return max(first, second)
    raise ValueError(f"unknown operator {operator!r} in a size")


def evaluate_all(formulas: Sequence[Formula], symbols: Mapping[str, int]) -> tuple[int, ...]:
    """The values of several formulas."""
    return tuple(evaluate(one, symbols) for one in formulas)
