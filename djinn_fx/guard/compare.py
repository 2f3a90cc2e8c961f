"""In what an engine's answer differs from eager's: form, layout, NaN and Inf, numbers, shared memory.

A difference of form is one whatever was computed. A difference of numbers may be a matter of rounding: it says so
(:attr:`Miss.numbers`), and :mod:`djinn_fx.guard.judge` can ask a run in float64 who is nearer to the truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from djinn_fx.guard.tolerance import Tolerance, tolerance

#: The bounds for one of eager's tensors; None: must be equal.
Bounds = Callable[[torch.Tensor], Tolerance | None]

#: Elements looked at together: 8 MB a temporary.
_CHUNK = 1 << 20
#: Larger numbers are compared one by one. They are what masks are made of, and beside them all else would be nothing.
_HUGE = 1e15
#: Of tensors of these types single precision tells whether a gap is below this share of its limits, if the largest
#: magnitude is between these two: squares are finite then, and what they lose is nothing beside it.
_SINGLE = (torch.float32, torch.float16, torch.bfloat16)
_SQUARES = (1e-6, 1e12)
_CLEARLY = 0.95
#: Where eager's values are all zero, a share of ``Tolerance.worst`` is allowed as it stands.
_OF_ZERO = 1e-3


@dataclass(frozen=True, kw_only=True)
class Miss:
    """One difference.

    Attributes:
        place: of the pair that differs.
        detail: what is wrong, a sentence without its subject.
        numbers: whether rounding could explain it.
    """

    place: int
    detail: str
    numbers: bool = False


@dataclass(frozen=True, kw_only=True)
class Gap:
    """How far two tensors of one form are apart. Differences below the smallest normal number count as none.

    Attributes:
        norm: of the difference, as a vector, over the elements that are finite in both and not huge.
        worst: the largest difference among them.
        of_norm: norm of the reference.
        of_worst: its largest magnitude.
        huge: the largest relative difference of the huge elements.
        odd: in what undefined or infinite elements differ, in words; empty if in nothing.
        zero: whether the tensor is zero throughout.
    """

    norm: float = 0.0
    worst: float = 0.0
    of_norm: float = 0.0
    of_worst: float = 0.0
    huge: float = 0.0
    odd: str = ""
    zero: bool = False

    @property
    def relative(self) -> float:
        """Relative error of the whole."""
        return self.norm / self.of_norm if self.of_norm else float("inf") if self.norm else 0.0

    @property
    def share(self) -> float:
        """Largest difference as a share of the largest value."""
        return self.worst / self.of_worst if self.of_worst else float("inf") if self.worst else 0.0

    def within(self, bounds: Tolerance) -> bool:
        """Whether it is no more than two right answers may be apart."""
        if self.odd or self.huge > bounds.worst:
            return False
        if not self.of_worst:
            return self.worst <= bounds.worst * _OF_ZERO
        return self.relative <= bounds.whole and self.share <= bounds.worst


#: In the place of strides: the engine chooses them itself.
ANY = "any"


def difference(found: Sequence[Any], expected: Sequence[Any], bounds: Bounds = tolerance) -> str | None:
    """In what an answer differs from eager's by more than two right answers may; None if in nothing."""
    if len(found) != len(expected):
        return f"{len(found)} results, not {len(expected)}"
    first = next(misses(found, expected, bounds), None)
    return f"result {first.place} {first.detail}" if first is not None else None


def misses(
    found: Sequence[Any], expected: Sequence[Any], bounds: Bounds = tolerance, layouts: Sequence[Any] = ()
) -> Iterator[Miss]:
    """The differences between values, pair by pair.

    Args:
        found: the engine's tensors and numbers.
        expected: eager's, as many.
        bounds: of each of eager's tensors.
        layouts: by place, strides that are right as well as eager's (what the tracer promised); None: only eager's;
            :data:`ANY`: whatever they are.
    """
    for place, (one, other) in enumerate(zip(found, expected, strict=True)):
        promised = layouts[place] if place < len(layouts) else None
        problem = _of_form(one, other, promised)
        if problem is not None:
            yield Miss(place=place, detail=problem)
        elif isinstance(other, torch.Tensor):
            problem = _of_numbers(one, other, bounds)
            if problem is not None:
                yield Miss(place=place, detail=problem, numbers=True)


def _of_form(found: Any, expected: Any, promised: Any) -> str | None:
    if not isinstance(expected, torch.Tensor):
        same = type(found) is type(expected) and (found == expected or (found != found and expected != expected))
        return None if same else f"is {found!r:.80}, not {expected!r:.80}"
    if not isinstance(found, torch.Tensor):
        return f"is {type(found).__name__}, not a tensor"
    if _kind(found) != _kind(expected):
        return f"is {form(found)}, not {form(expected)}"
    if expected.layout is not torch.strided or not expected.numel():
        return None
    given = strides_that_count(found.shape, found.stride())
    if promised == ANY:
        return None
    right = [strides_that_count(expected.shape, expected.stride())]
    if promised is not None and len(promised) == expected.dim():
        right.append(strides_that_count(expected.shape, promised))
    return None if given in right else f"has strides {found.stride()}, not {expected.stride()}"


def _kind(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.dtype, tensor.device, tensor.layout


def strides_that_count(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """Strides, as far as they say anything: a dimension of one element has none."""
    return tuple(stride for size, stride in zip(shape, strides, strict=True) if size > 1)


def form(tensor: torch.Tensor) -> str:
    """``(2, 3) float32 on cpu``."""
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')} on {tensor.device}"


def _of_numbers(found: torch.Tensor, expected: torch.Tensor, bounds: Bounds) -> str | None:
    if not expected.numel():
        return None
    limits = bounds(expected)
    if limits is None:
        count = unequal(found, expected)
        return f"differs in {count} of {expected.numel()} elements" if count else None
    if _clearly_within(found, expected, limits):
        return None
    gap = gap_of(found, expected)
    return None if gap.within(limits) else describe(gap, limits)


def _clearly_within(found: torch.Tensor, expected: torch.Tensor, limits: Tolerance) -> bool:
    """Whether a gap is within its limits by more than single precision can be off in saying so.

    That is so for nearly all answers, and takes a few hundredths of the time of :func:`gap_of`. Where numbers are not
    finite, or so large or small that their squares are not, it does not say so.
    """
    if expected.dtype not in _SINGLE or found.dtype != expected.dtype or expected.layout is not torch.strided:
        return False
    smallest, most = _SQUARES[0], min(_SQUARES[1], _huge_from(expected.dtype))
    worst = largest = squares = of_squares = 0.0
    for one, other in zip(_chunks(found), _chunks(expected), strict=True):
        e = other.float()
        apart = one.float() - e
        largest = max(largest, _largest(e))
        worst = max(worst, _largest(apart))
        if not (largest < most and worst < math.inf):
            return False
        squares += float(torch.linalg.vector_norm(apart)) ** 2
        of_squares += float(torch.linalg.vector_norm(e)) ** 2
    near = largest > smallest and worst <= _CLEARLY * limits.worst * largest
    return near and math.sqrt(squares) <= _CLEARLY * limits.whole * math.sqrt(of_squares)


def _largest(values: torch.Tensor) -> float:
    """The largest magnitude; infinite if a number is undefined."""
    low, high = map(float, torch.aminmax(values))
    return max(-low, high) if low == low else math.inf


def describe(gap: Gap, limits: Tolerance) -> str:
    """A gap that is too wide, in words with numbers."""
    if gap.odd:
        return gap.odd
    if gap.zero and gap.of_worst:
        return "is zero throughout"
    if not gap.of_worst and gap.worst:
        return f"reaches {gap.worst:.3g} where eager's is zero throughout"
    if gap.huge > limits.worst:
        return f"has a huge element that is {gap.huge:.2g} of itself off (allowed: {limits.worst:g})"
    return (
        f"has a relative error of {gap.relative:.2g} (allowed: {limits.whole:g}), "
        f"at worst {gap.share:.2g} of the largest value (allowed: {limits.worst:g})"
    )


def unequal(found: torch.Tensor, expected: torch.Tensor) -> int:
    """In how many elements two tensors differ."""
    if expected.layout is not torch.strided:
        found, expected = found.to_dense(), expected.to_dense()
    return 0 if torch.equal(found, expected) else int((found != expected).sum())


def gap_of(found: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype | None = None) -> Gap:
    """How far two floating tensors of one shape are apart; their types may differ.

    Args:
        found: what is judged.
        expected: the reference.
        dtype: the type whose range says what is huge and what is nothing; None: the reference's.
    """
    if expected.layout is not torch.strided:
        found, expected = found.to_dense(), expected.to_dense()
    if expected.is_complex():
        found, expected = (torch.view_as_real(one.resolve_conj()) for one in (found, expected))
    dtype = expected.dtype if dtype is None or dtype.is_complex else dtype
    huge_from, tiny = _huge_from(dtype), torch.finfo(dtype).tiny
    sums = [0.0] * 2
    peaks = [0.0] * 3
    zero = True
    wide = torch.float32 if expected.device.type == "mps" else torch.float64
    for one, other in zip(_chunks(found), _chunks(expected), strict=True):
        p, e = one.to(wide), other.to(wide)
        finite = p.isfinite() & e.isfinite()
        if not bool(finite.all()):
            odd = _odd(p, e)
            if odd:
                return Gap(odd=odd)
            p, e = p[finite], e[finite]
        apart = (p - e).abs_()
        apart[apart <= tiny] = 0.0
        zero = zero and not bool(p.any())
        size = e.abs()
        huge = size >= huge_from
        if bool(huge.any()):
            peaks[2] = max(peaks[2], float((apart[huge] / size[huge]).max()))
            apart, size = apart[~huge], size[~huge]
        if size.numel():
            sums = [sums[0] + float(apart.square().sum()), sums[1] + float(size.square().sum())]
            peaks[:2] = [max(peaks[0], float(apart.max())), max(peaks[1], float(size.max()))]
    return Gap(norm=sums[0] ** 0.5, worst=peaks[0], of_norm=sums[1] ** 0.5, of_worst=peaks[1], huge=peaks[2], zero=zero)


def _huge_from(dtype: torch.dtype) -> float:
    return float(min(_HUGE, 0.9 * torch.finfo(dtype).max))


def _chunks(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    return iter(tensor.detach().reshape(-1).split(_CHUNK))


def _odd(p: torch.Tensor, e: torch.Tensor) -> str:
    for name, test in (("undefined", torch.isnan), ("infinite", torch.isposinf), ("infinite", torch.isneginf)):
        mine, other = test(p), test(e)
        if not torch.equal(mine, other):
            return f"has {int(mine.sum())} {name} elements, or in other places, not {int(other.sum())}"
    return ""


# Shared memory


def alias_miss(
    found: Sequence[Any], given: Sequence[Any], expected: Sequence[Any], arguments: Sequence[Any]
) -> Miss | None:
    """The first result that shares memory with other arguments or results than eager's does.

    Args:
        found: the engine's results.
        given: the arguments it had.
        expected: eager's results.
        arguments: the arguments eager had, which share memory among themselves as ``given`` do.
    """
    if len(found) != len(expected):
        return None
    for place, (mine, right) in enumerate(zip(_shared(found, given), _shared(expected, arguments), strict=True)):
        if mine != right:
            return Miss(place=place, detail=f"shares memory with {_named(mine)}, not with {_named(right)}")
    return None


_Sharing = tuple[tuple[int, ...], tuple[int, ...]]


def _shared(results: Sequence[Any], arguments: Sequence[Any]) -> list[_Sharing]:
    """For each result the arguments and the earlier results it shares memory with."""
    spans = [span(one) for one in arguments]
    known: list[tuple[Any, int, int] | None] = []
    shared: list[_Sharing] = []
    for result in results:
        mine = span(result)
        shared.append((_touching(mine, spans), _touching(mine, known)))
        known.append(mine)
    return shared


def span(value: Any) -> tuple[Any, int, int] | None:
    """The memory behind a tensor: device, first and last address + 1; None if there is none."""
    if not isinstance(value, torch.Tensor) or value.layout is not torch.strided:
        return None
    storage = value.untyped_storage()
    nbytes = storage.nbytes()
    if not nbytes or not value.numel():
        return None
    start = storage.data_ptr()
    return (value.device, start, start + nbytes) if start else None


def overlap(one: tuple[Any, int, int] | None, other: tuple[Any, int, int] | None) -> bool:
    """Whether two spans of memory have a byte in common."""
    if one is None or other is None:
        return False
    return bool(one[0] == other[0] and one[1] < other[2] and other[1] < one[2])


def _touching(mine: Any, spans: Sequence[Any]) -> tuple[int, ...]:
    return tuple(place for place, other in enumerate(spans) if overlap(mine, other))


def _named(shared: _Sharing) -> str:
    parts = [f"argument {place}" for place in shared[0]] + [f"result {place}" for place in shared[1]]
    return ", ".join(parts) or "nothing"
