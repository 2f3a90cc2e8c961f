"""Questions of the exam: torch's own database of ops, as functions of a flat list of tensors."""

from __future__ import annotations

import itertools
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

if TYPE_CHECKING:
    from torch.testing._internal.opinfo.core import OpInfo

#: In the order in which they are tried; the first that an op knows is used.
DTYPES = (torch.float32, torch.int64, torch.complex64, torch.bool)

#: Their results are whatever lies in memory.
UNDEFINED = ("empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided")


@dataclass(frozen=True)
class Question:
    """One sample of one op.

    Attributes:
        name: of the op, e.g. ``"nn.functional.gelu"``, with ``_`` appended for the variant in place.
        number: of the sample.
        function: takes ``tensors``, returns a list of tensors and plain values.
        tensors: its arguments; a function in place writes into the first.
    """

    name: str
    number: int
    function: Callable[..., list[Any]]
    tensors: tuple[torch.Tensor, ...]

    @property
    def defined(self) -> bool:
        """Whether the result's numbers mean anything."""
        return self.name.rstrip("_") not in UNDEFINED

    def arguments(self) -> list[torch.Tensor]:
        """Copies to call the function with."""
        return [tensor.clone() if tensor.layout is not torch.strided else _copy(tensor) for tensor in self.tensors]


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """Same strides, memory of its own."""
    copy: torch.Tensor = torch.clone(tensor, memory_format=torch.preserve_format)
    return copy


def full_name(op: OpInfo) -> str:
    """Unique within the database."""
    return op.name + (f".{op.variant_test_name}" if op.variant_test_name else "")


def all_ops() -> list[OpInfo]:
    """In the database's order. Imported here, as it takes seconds and who asks for models does not need it."""
    from torch.testing._internal.common_methods_invocations import op_db

    return list(op_db)


def part_of(ops: Iterable[OpInfo], share: int) -> list[OpInfo]:
    """One op of so many, chosen by a checksum of its name: an op that comes or goes moves no other."""
    return [op for op in ops if zlib.crc32(full_name(op).encode()) % share == 0]


def dtype_of(op: OpInfo) -> torch.dtype | None:
    """float32 if the op knows it, else another; None if it knows none of ours."""
    known = op.supported_dtypes("cpu")
    return next((dtype for dtype in DTYPES if dtype in known), None)


def questions(op: OpInfo, samples: int) -> Iterator[Question]:
    """The op's first samples, and its variant in place on the first of them."""
    dtype = dtype_of(op)
    if dtype is None:
        return
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drawn = list(itertools.islice(op.sample_inputs("cpu", dtype, requires_grad=False), samples))
    for number, sample in enumerate(drawn):
        yield question_of(full_name(op), number, op.op, sample)
    if op.inplace_variant is not None and drawn and isinstance(drawn[0].input, torch.Tensor):
        for number, sample in enumerate(drawn[:1]):
            if not sample.broadcasts_input and op.supports_inplace_autograd:
                yield question_of(full_name(op) + "_", number, op.inplace_variant, sample)


def question_of(name: str, number: int, call: Callable[..., Any], sample: Any) -> Question:
    """A sample as a function of its tensors."""
    values, structure = pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
    places = [place for place, value in enumerate(values) if isinstance(value, torch.Tensor)]

    def function(*tensors: torch.Tensor) -> list[Any]:
        filled = list(values)
        for place, tensor in zip(places, tensors, strict=True):
            filled[place] = tensor
        first, args, kwargs = pytree.tree_unflatten(filled, structure)
        result: list[Any] = pytree.tree_leaves(call(first, *args, **kwargs))
        return result

    return Question(name, number, function, tuple(values[place] for place in places))


def differences(actual: list[Any], expected: list[Any], numbers: bool = True, loose: bool = False) -> str | None:
    """What is different between two lists of results; None if nothing is.

    Args:
        actual: ours.
        expected: eager's.
        numbers: compare numbers too, not only sizes and types.
        loose: for compilers that change the order of additions.
    """
    if len(actual) != len(expected):
        return f"{len(actual)} results instead of {len(expected)}"
    for place, (mine, other) in enumerate(zip(actual, expected, strict=True)):
        if not isinstance(other, torch.Tensor):
            if not numbers or (mine is None and other is None):
                continue
            if isinstance(mine, torch.Tensor):
                return f"result {place}: a tensor instead of {other!r}"
            if mine != other and not (mine != mine and other != other):
                return f"result {place}: {mine!r} instead of {other!r}"
            continue
        if not isinstance(mine, torch.Tensor):
            return f"result {place}: no tensor"
        if (mine.shape, mine.dtype, mine.layout) != (other.shape, other.dtype, other.layout):
            return f"result {place}: {mine.dtype} {tuple(mine.shape)} for {other.dtype} {tuple(other.shape)}"
        if numbers:
            try:
                limits = {"rtol": 1e-3, "atol": 1e-4} if loose and other.is_floating_point() else {}
                torch.testing.assert_close(mine, other, equal_nan=True, check_stride=False, **limits)
            except AssertionError as error:
                return f"result {place}: {str(error).splitlines()[0]}"
    return None
