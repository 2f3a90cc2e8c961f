"""Numbers that tell engines apart: what replaces a question's harmless tensors, and how answers compare.

A harmless call comes first, so that djinn's own comparison passes; each kind below is a later call.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.testing._internal.opinfo.core import OpInfo

from tests.exam.ops import UNDEFINED, Question, full_name, question_of

#: Samples of each op that are tried, by element type; and one without elements if the first ones hold none.
SAMPLES = {torch.float32: 2, torch.int64: 2, torch.bfloat16: 1, torch.float16: 1, torch.int32: 1, torch.bool: 1}
LOOKED_AT = 24
#: Tensors of a question that are replaced one by one; besides all of them at once.
ALONE = 3

#: Which of equal elements they choose is not defined.
TIES = ("topk", "kthvalue", "median", "nanmedian", "mode", "msort", "argsort", "sort")
#: What they make of a number that the integer type does not hold is not defined in C, nor in torch.
CASTS = ("long", "int", "short", "char", "byte")
#: Decompositions whose factors have signs or an order of their own, and what is made of whatever lies in memory.
LEFT_OUT = (*UNDEFINED, "geqrf", "resize_", "resize_as_", "rand_like", "randn_like", "randint_like")

#: Relative; and absolute, as a share of the largest finite number of the expected tensor, at most that share of 1.
TOLERANCE = {
    torch.float64: (1e-6, 1e-7),
    torch.float32: (1e-3, 1e-5),
    # Of halves eager rounds more often than engines do.
    torch.float16: (2e-2, 2e-2),
    torch.bfloat16: (6e-2, 6e-2),
}


@dataclass(frozen=True)
class Kind:
    """A way of filling a tensor.

    Attributes:
        name: of the kind.
        numbers: put in one after the other.
        everywhere: in all places, again and again; else only in as many as there are numbers, from a third on.
        outside: whether an integer type does not hold them (see :data:`CASTS`).
    """

    name: str
    numbers: tuple[float | int, ...]
    everywhere: bool
    outside: bool = False

    def fill(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy with the numbers put in; same strides."""
        made = torch.clone(tensor, memory_format=torch.preserve_format)
        flat = torch.tensor(self.numbers, dtype=torch.float64 if tensor.is_floating_point() else torch.int64)
        count = made.numel() if self.everywhere else min(len(self.numbers), made.numel())
        start = 0 if self.everywhere else made.numel() // 3
        numbers = flat.to(made.dtype)[torch.arange(count) % len(flat)]
        whole = made.reshape(-1).clone()
        whole[(start + torch.arange(count)) % max(1, made.numel())] = numbers
        return made.copy_(whole.reshape(made.shape))


def float_kinds(dtype: torch.dtype) -> list[Kind]:
    """For a floating-point type."""
    info, nan, inf = torch.finfo(dtype), math.nan, math.inf
    least = info.smallest_normal * info.eps
    return [
        Kind("a NaN", (nan,), False, True),
        Kind("an inf", (inf,), False, True),
        Kind("a -inf", (-inf,), False, True),
        Kind("both infs", (inf, -inf), False, True),
        Kind("all NaN", (nan,), True, True),
        Kind("all inf", (inf,), True, True),
        Kind("all -inf", (-inf,), True, True),
        Kind("zeros", (0.0, -0.0), True),
        Kind("all -0", (-0.0,), True),
        Kind("denormals", (least, -3 * least, info.smallest_normal / 4, -info.smallest_normal / 2), True),
        Kind("smallest", (info.smallest_normal, -info.smallest_normal), True),
        Kind("small", (1e-8, -1e-8, 3e-6), True),
        Kind("a largest", (info.max,), False, True),
        Kind("a lowest", (info.min,), False, True),
        Kind("all largest", (info.max,), True, True),
        Kind("ends of exp", (88.5, -88.5, 89.0, -89.0, -103.0, 11.05, -9.7), True),
        Kind("large", (1e6, -65520.0, 65519.0, 2049.0, -1e4, 3e38), True, True),
        Kind("ties", (0.5, 1.5, -0.5, 2.5, -1.5, 0.49999997, 1.0, -1.0), True),
    ]


def int_kinds(dtype: torch.dtype, sizes: Sequence[int]) -> list[Kind]:
    """For an integer type; ``sizes``: of the question's tensors, beyond which an index may be."""
    info = torch.iinfo(dtype)
    kinds = [
        Kind("a -1", (-1,), False),
        Kind("all -1", (-1,), True),
        Kind("zeros", (0,), True),
        Kind("a zero", (0,), False),
    ]
    for size in sizes:
        kinds += [Kind(f"a {size}", (size,), False), Kind(f"a {size} + 3", (size + 3,), False)]
    kinds += [
        Kind("a largest", (info.max,), False),
        Kind("a lowest", (info.min,), False),
        Kind("lowest and -1", (info.min, -1), True),
    ]
    if dtype is torch.int64:
        kinds += [
            Kind("a 2^31", (2**31 + 5,), False),
            Kind("a -2^31", (-(2**31) - 7,), False),
            Kind("all 2^31", (2**31 + 5, -(2**31) - 7, 1700000000, 2**33 + 1), True),
            Kind("all 2^53", (2**53 + 1, -(2**53) - 3), True),
            Kind("products beyond 2^31", (100000, -70000, 65536), True),
        ]
    if dtype is torch.int32:
        kinds.append(Kind("products beyond 2^31", (100000, -70000, 65536), True))
    return [kind for kind in kinds if all(info.min <= one <= info.max for one in kind.numbers)]


def kinds_of(tensor: torch.Tensor, sizes: Sequence[int]) -> list[Kind]:
    """What may be put into a tensor."""
    if tensor.numel() == 0 or tensor.is_complex() or tensor.layout is not torch.strided or tensor.is_quantized:
        return []
    if tensor.dtype is torch.bool:
        return [Kind("all True", (1,), True), Kind("all False", (0,), True)]
    if tensor.is_floating_point():
        return float_kinds(tensor.dtype) if tensor.dtype in TOLERANCE else []
    return int_kinds(tensor.dtype, sizes)


Case = tuple[str, list[torch.Tensor]]


def cases(question: Question) -> Iterator[Case]:
    """A question's other calls: what was put in, and the tensors to call with (each used once)."""
    sizes = sorted({size for one in question.tensors for size in one.shape if size > 0})[-3:]
    options = [kinds_of(one, sizes) for one in question.tensors]
    names = dict.fromkeys(kind.name for kinds in options for kind in kinds)
    holding = [place for place, kinds in enumerate(options) if kinds]
    wheres: list[tuple[str, list[int]]] = [("", holding)]
    if len(holding) > 1:
        wheres += [(f" in tensor {place}", [place]) for place in holding[:ALONE]]
    for name in names:
        for where, places in wheres:
            chosen = {place: kind for place in places for kind in options[place] if kind.name == name}
            one_by_one = len(chosen) == 1 and len(holding) > 1 and next(iter(chosen)) in holding[:ALONE]
            if not chosen or (not where and one_by_one):
                continue
            if question.name.split(".")[0] in CASTS and any(kind.outside for kind in chosen.values()):
                continue
            tensors = question.arguments()
            for place, kind in chosen.items():
                tensors[place] = kind.fill(tensors[place])
            yield f"{name}{where}", tensors


def questions(op: OpInfo) -> Iterator[tuple[str, Question]]:
    """An op's questions, each with a label: element type and number of the sample."""
    if full_name(op).split(".")[0] in LEFT_OUT:
        return
    rows = [list(_of_type(op, dtype, count)) for dtype, count in SAMPLES.items() if dtype in op.supported_dtypes("cpu")]
    for column in itertools.zip_longest(*rows):  # of every type one, then another
        yield from (one for one in column if one is not None)


def _of_type(op: OpInfo, dtype: torch.dtype, count: int) -> Iterator[tuple[str, Question]]:
    torch.manual_seed(0)
    drawn = list(itertools.islice(op.sample_inputs("cpu", dtype, requires_grad=False), LOOKED_AT))
    kept = drawn[:count]
    if dtype in (torch.float32, torch.int64):
        kept += [one for one in drawn[count:] if isinstance(one.input, torch.Tensor) and not one.input.numel()][:1]
    for number, sample in enumerate(kept):
        question = question_of(full_name(op), number, op.op, sample)
        if question.tensors and all(one.layout is torch.strided for one in question.tensors):
            yield f"{str(dtype).removeprefix('torch.')} {number}", question


# Comparing


def difference(mine: Sequence[Any], others: Sequence[Any], ties: bool = False) -> str | None:
    """What is different between two lists of results; None if nothing is.

    Args:
        mine: the engine's.
        others: eager's.
        ties: which of equal elements is chosen is not compared.
    """
    if len(mine) != len(others):
        return f"{len(mine)} results for {len(others)}"
    for place, (one, other) in enumerate(zip(mine, others, strict=True)):
        found = _one_difference(one, other, ties)
        if found is not None:
            return f"result {place}: {found}"
    return None


def _one_difference(one: Any, other: Any, ties: bool) -> str | None:
    if not isinstance(other, torch.Tensor) or not isinstance(one, torch.Tensor):
        same = type(one) is type(other) and (one == other or (one != one and other != other))
        return None if same else f"{one!r} for {other!r}"
    if (one.dtype, one.shape, one.layout) != (other.dtype, other.shape, other.layout):
        return f"{one.dtype} {list(one.shape)} for {other.dtype} {list(other.shape)}"
    if other.layout is not torch.strided or other.is_quantized:
        return None
    if _strides(one) != _strides(other):
        return f"strides {one.stride()} for {other.stride()}"
    if ties and other.dtype is torch.int64:
        return None
    if other.is_complex():
        return _one_difference(torch.view_as_real(one.resolve_conj()), torch.view_as_real(other.resolve_conj()), ties)
    for name, test in _PLACES if other.is_floating_point() else ():
        if not torch.equal(test(one), test(other)):
            return f"{name}: {_shown(one, other, test(one) != test(other))}"
    signs = (one == 0) & (other == 0) & (torch.signbit(one) != torch.signbit(other))
    if other.is_floating_point() and bool(signs.any()):
        return f"-0: {_shown(one, other, signs)}"
    off = _off(one, other)
    return f"numbers: {_shown(one, other, off)}" if bool(off.any()) else None


def _strides(tensor: torch.Tensor) -> list[int]:
    """Of the dimensions in which there is a step to take."""
    if tensor.numel() < 2:
        return []
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


_PLACES: tuple[tuple[str, Callable[[torch.Tensor], torch.Tensor]], ...] = (
    ("NaN", torch.isnan),
    ("inf", lambda one: torch.isinf(one) & (one > 0)),
    ("-inf", lambda one: torch.isinf(one) & (one < 0)),
)


def _off(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    if not other.is_floating_point():
        return one != other
    relative, absolute = TOLERANCE.get(other.dtype, (0.0, 0.0))
    mine, expected = (torch.nan_to_num(each.double(), 0.0, 0.0, 0.0) for each in (one, other))
    scale = min(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    return (mine - expected).abs() > relative * expected.abs() + absolute * scale


def _shown(one: torch.Tensor, other: torch.Tensor, where: torch.Tensor) -> str:
    return f"{one[where].reshape(-1)[:2].tolist()} for {other[where].reshape(-1)[:2].tolist()}"
