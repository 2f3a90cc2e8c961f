"""What each operation does to an interval of whole numbers, both ends included. Python's integers: nothing wraps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Interval = tuple[int, int]
Rule = Callable[[Sequence[Interval], Sequence[int]], Interval]

#: By name; each is given the operands' intervals and some numbers.
RULES: dict[str, Rule] = {}

#: Longer shifts and powers than this are any number.
_MOST_BITS = 4096
_ANY: Interval = (-(1 << _MOST_BITS), 1 << _MOST_BITS)


def _rule(function: Rule) -> Rule:
    RULES[function.__name__] = function
    return function


def hull(*given: Interval) -> Interval:
    """The least interval that holds all of these."""
    return min(one[0] for one in given), max(one[1] for one in given)


def within(inner: Interval, outer: Interval) -> bool:
    """Whether one lies in the other."""
    return outer[0] <= inner[0] and inner[1] <= outer[1]


@_rule
def number(_: Sequence[Interval], ends: Sequence[int]) -> Interval:
    """Whatever lies between two numbers."""
    return ends[0], ends[1]


@_rule
def below(_: Sequence[Interval], size: Sequence[int]) -> Interval:
    """A place in something of this size."""
    return 0, max(size[0] - 1, 0)


@_rule
def arange(_: Sequence[Interval], given: Sequence[int]) -> Interval:
    """``range(start, end, step)``."""
    start, end, step = given
    steps = range(start, end, step) if step else range(start, start)
    return hull((steps[0],) * 2, (steps[-1],) * 2) if len(steps) else (start, start)


@_rule
def any_of(given: Sequence[Interval], _: Sequence[int]) -> Interval:
    """An element of one of them."""
    return hull(*given)


@_rule
def wrapped(given: Sequence[Interval], ends: Sequence[int]) -> Interval:
    """As an element type of these ends keeps it: any number of the type if it may be too large."""
    return given[0] if within(given[0], (ends[0], ends[1])) else (ends[0], ends[1])


@_rule
def add(given: Sequence[Interval], factor: Sequence[int]) -> Interval:
    """``x + factor * y``."""
    (a, b), y = given[0], scaled([given[1]], factor)
    return a + y[0], b + y[1]


@_rule
def scaled(given: Sequence[Interval], factor: Sequence[int]) -> Interval:
    """Times a number."""
    ends = given[0][0] * factor[0], given[0][1] * factor[0]
    return min(ends), max(ends)


@_rule
def mul(given: Sequence[Interval], _: Sequence[int]) -> Interval:
    """``x * y``."""
    ends = [one * other for one in given[0] for other in given[1]]
    return min(ends), max(ends)


@_rule
def absolute(given: Sequence[Interval], _: Sequence[int]) -> Interval:
    """``|x|``."""
    least, most = given[0]
    return (0 if least <= 0 <= most else min(abs(least), abs(most))), max(abs(least), abs(most))


@_rule
def minimum(given: Sequence[Interval], _: Sequence[int]) -> Interval:
    """The lesser of two."""
    return min(given[0][0], given[1][0]), min(given[0][1], given[1][1])


@_rule
def maximum(given: Sequence[Interval], _: Sequence[int]) -> Interval:
    """The greater of two."""
    return max(given[0][0], given[1][0]), max(given[0][1], given[1][1])


@_rule
def quotient(given: Sequence[Interval], _: Sequence[int]) -> Interval:
    """``x / y``, rounded to a whole number in whichever direction; of a zero divisor nothing is said."""
    divisors = [one for one in given[1] if one] or [1]
    if given[1][0] < 0 < given[1][1]:
        divisors += [-1, 1]
    elif 0 in given[1]:
        divisors.append(1 if given[1][1] else -1)
    ends = [one // divisor for one in given[0] for divisor in divisors]
    return min(ends), max(ends) + (given[0][0] < 0 or given[1][0] < 0)


@_rule
def remainder(given: Sequence[Interval], _: Sequence[int]) -> Interval:
    """Python's ``x % y``: of the divisor's sign."""
    least, most = given[1]
    return min(least + 1, 0), max(most - 1, 0)


@_rule
def fmod(given: Sequence[Interval], _: Sequence[int]) -> Interval:
    """C's ``x % y``: of the dividend's sign."""
    size = max(absolute([given[1]], ())[1] - 1, 0)
    return (-size if given[0][0] < 0 else 0), (size if given[0][1] > 0 else 0)


@_rule
def bits(given: Sequence[Interval], _: Sequence[int]) -> Interval:
    """And, or, exclusive or: no longer than the longer one."""
    length = max(abs(end + (end < 0)).bit_length() for one in given for end in one)
    return (0 if all(one[0] >= 0 for one in given) else -(1 << length)), (1 << length) - 1


@_rule
def inverted(given: Sequence[Interval], _: Sequence[int]) -> Interval:
    """``~x``."""
    return ~given[0][1], ~given[0][0]


@_rule
def left(given: Sequence[Interval], _: Sequence[int]) -> Interval:
    """``x << y``."""
    if given[1][0] < 0 or given[1][1] > _MOST_BITS:
        return _ANY
    return mul([given[0], (1 << given[1][0], 1 << given[1][1])], ())


@_rule
def right(given: Sequence[Interval], _: Sequence[int]) -> Interval:
    """``x >> y``; shifting to the left by less than nothing is not foreseen."""
    return hull(given[0], (0, 0) if given[0][0] >= 0 else (-1, 0)) if given[1][0] >= 0 else _ANY


@_rule
def power(given: Sequence[Interval], _: Sequence[int]) -> Interval:
    """``x ** y``."""
    size, exponent = absolute([given[0]], ())[1], given[1][1]
    if given[1][0] < 0 or size.bit_length() * exponent > _MOST_BITS:
        return _ANY
    most = max(size**exponent, 1)
    return (0 if given[0][0] >= 0 else -most), most


@_rule
def total(given: Sequence[Interval], count: Sequence[int]) -> Interval:
    """The sum of so many."""
    return given[0][0] * count[0], given[0][1] * count[0]


@_rule
def running(given: Sequence[Interval], count: Sequence[int]) -> Interval:
    """The sum of none, some or all of so many."""
    return min(given[0][0] * count[0], given[0][0], 0), max(given[0][1] * count[0], given[0][1], 0)


@_rule
def product(given: Sequence[Interval], count: Sequence[int]) -> Interval:
    """The product of none, some or all of so many."""
    size = max(absolute([given[0]], ())[1], 1)
    if size.bit_length() * count[0] > _MOST_BITS and size > 1:
        return _ANY
    most = size ** count[0]
    return (0 if given[0][0] >= 0 else -most), most


@_rule
def sign(given: Sequence[Interval], _: Sequence[int]) -> Interval:
    """-1, 0 or 1."""
    least, most = given[0]
    return (least > 0) - (least < 0), (most > 0) - (most < 0)
