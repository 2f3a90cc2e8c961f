"""Powers for TensorRT, whose own is trusted for positive bases only: elsewhere it is put together.

Imported by the converters that need it; it enters none itself.
"""

from __future__ import annotations

import math

from djinn_fx.engines.onnx.converters.parts import binary, both, either, equal, isnan, less, select, unary
from djinn_fx.engines.onnx.graph import GraphBuilder, Refused, Value

#: Whole exponents up to this are products.
_MOST = 64


def power(b: GraphBuilder, base: Value, exponent: Value | float) -> Value:
    """The power of floats, in their type.

    Raises:
        Refused: of an exponent that is no finite number, or a whole one that is too large.
    """
    if isinstance(exponent, Value):
        return _of_tensors(b, base, exponent)
    if exponent == 0.5:
        return unary(b, "Sqrt", base)
    if exponent < 0 and (exponent == int(exponent) or exponent == -0.5):
        return unary(b, "Reciprocal", power(b, base, -exponent))
    if not math.isfinite(exponent) or (exponent == int(exponent) and exponent > _MOST):
        raise Refused(f"with the exponent {exponent}")
    if exponent == int(exponent):
        return _product(b, base, int(exponent))
    made = binary(b, "Pow", unary(b, "Abs", base), exponent)
    # Of negative bases torch gives NaN; of minus infinity what it gives of infinity.
    undefined = both(b, less(b, base, 0.0), less(b, -math.inf, base))
    return select(b, undefined, math.nan, made)


def _product(b: GraphBuilder, base: Value, count: int) -> Value:
    """By products, so that no sign is lost."""
    if count == 0:
        return b.expand(b.constant(1.0, base.dtype), b.sizes(base))
    result, square = None, base
    while count:
        if count & 1:
            result = square if result is None else binary(b, "Mul", result, square)
        count >>= 1
        if count:
            square = binary(b, "Mul", square, square)
    assert result is not None, "the count is positive"
    return result


def _of_tensors(b: GraphBuilder, base: Value, exponent: Value) -> Value:
    """By the power of the base's size, with what the sign makes of it; 1 where C says so for NaN, too."""
    size = unary(b, "Abs", base)
    unit = either(b, equal(b, base, 1.0), equal(b, exponent, 0.0))
    endless = both(b, equal(b, base, -1.0), equal(b, unary(b, "Abs", exponent), math.inf))
    made = select(b, either(b, unit, endless), 1.0, binary(b, "Pow", size, exponent))
    # One over minus zero is less than zero, as minus zero itself is not.
    negative = either(b, less(b, base, 0.0), less(b, unary(b, "Reciprocal", base), 0.0))
    whole = equal(b, unary(b, "Floor", exponent), exponent)
    half = binary(b, "Mul", exponent, 0.5)
    odd = both(b, whole, b.opposite(equal(b, unary(b, "Floor", half), half)))
    made = select(b, both(b, negative, odd), unary(b, "Neg", made), made)
    infinite = either(b, equal(b, size, math.inf), equal(b, base, 0.0))
    undefined = both(b, both(b, negative, b.opposite(infinite)), b.opposite(whole))
    undefined = both(b, undefined, b.opposite(isnan(b, exponent)))
    return select(b, undefined, math.nan, made)


__all__ = ["power"]
