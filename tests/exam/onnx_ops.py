"""torch's database of ops through our ONNX converter, ONNX Runtime and OpenVINO: one verdict an op, runtime and type.

The runtimes run in a child process, which is started again where one crashes or hangs: that is a verdict, too.
``python -m tests.exam.onnx_ops`` is the child: it reads requests and writes answers, JSON lines both.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import selectors
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo import core
from torch.utils import _pytree as pytree

from djinn_fx.engines.base import Declined
from djinn_fx.engines.onnx.convert import convert
from djinn_fx.engines.onnx.values import Refused
from djinn_fx.engines.ranges.program import Checked
from tests.engines.onnx.running import FLAVOURS, opened, region_of

#: Samples of an op that are tried in each type, and samples of special numbers in float32 besides.
SAMPLES = {"float32": 3, "int64": 2, "bool": 1, "float16": 1}
SPECIAL = 1
#: Seconds an op may take.
PATIENCE = 240.0

LIMITS = {torch.float32: {"rtol": 1e-4, "atol": 2e-5}, torch.float16: {"rtol": 5e-3, "atol": 5e-3}}

#: Their results are whatever lies in memory.
UNDEFINED = ("empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided")

#: What they make of NaN and of infinity is not defined.
CASTS = ("long", "int", "short", "char", "byte")


@dataclass(frozen=True)
class Verdict:
    """What became of an op in one type.

    Attributes:
        converted: samples that came out as eager's.
        refused: reasons, and how many samples each of them.
        wrong: what is not as it must be.
    """

    converted: int
    refused: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """A verdict and what it is about."""

    op: str
    flavour: str
    dtype: str
    verdict: Verdict


def full_name(op: Any) -> str:
    """Unique within the database."""
    return op.name + (f".{op.variant_test_name}" if op.variant_test_name else "")


@functools.cache
def _by_name() -> dict[str, Any]:
    return {full_name(op): op for op in op_db}


def names() -> list[str]:
    """All ops, in the database's order."""
    return list(_by_name())


# Asking the child


def ask(ops: Sequence[str], flavours: Sequence[str] = FLAVOURS) -> Iterator[Answer]:
    """Try ops in a child process; an op without a sample of a type has no answer."""
    child = _Child()
    try:
        for op in ops:
            found = child.answer(op, flavours)
            if found is None:
                for flavour in flavours:
                    yield from child.answer(op, [flavour]) or [
                        Answer(op, flavour, "float32", Verdict(0, {}, ["the process that ran it ended, or hung"]))
                    ]
            else:
                yield from found
    finally:
        child.end()


class _Child:
    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def answer(self, op: str, flavours: Sequence[str]) -> list[Answer] | None:
        """The child's verdicts; None if it crashed or took too long."""
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([op, list(flavours)]).encode() + b"\n")
        process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            line = process.stdout.readline() if selector.select(PATIENCE) else b""
        if not line:
            self.end()
            return None
        return [Answer(op, flavour, dtype, Verdict(**data)) for flavour, dtype, data in json.loads(line)]

    def _start(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.exam.onnx_ops"],
            cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        return self._process

    def end(self) -> None:
        """End the child, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


# In the child


def judge(name: str, flavours: Sequence[str]) -> Iterator[Answer]:
    """Try an op on its samples; nothing for a type without a sample that holds a tensor."""
    op = _by_name()[name]
    for dtype, most in SAMPLES.items():
        if getattr(torch, dtype) not in op.supported_dtypes("cpu"):
            continue
        found: dict[str, list[str | None]] = {flavour: [] for flavour in flavours}
        try:
            for function, tensors in _samples(op, getattr(torch, dtype), most):
                for flavour, verdict in _attempt(function, tensors, flavours, op.name).items():
                    found[flavour].append(verdict)
        except Exception as error:  # noqa: BLE001 (recorded in the verdict)
            for verdicts in found.values():
                verdicts.append(f"its samples cannot be drawn: {type(error).__name__}")
        for flavour, verdicts in found.items():
            if verdicts:
                yield Answer(name, flavour, dtype, _summed(verdicts))


def _summed(verdicts: Sequence[str | None]) -> Verdict:
    wrong = sorted({one[1:] for one in verdicts if one is not None and one.startswith("!")})
    refused = Counter(one for one in verdicts if one is not None and not one.startswith("!"))
    return Verdict(sum(one is None for one in verdicts), dict(sorted(refused.items())), wrong)


Question = tuple[Callable[..., Any], list[torch.Tensor]]


def _samples(op: Any, dtype: torch.dtype, most: int) -> Iterator[Question]:
    torch.manual_seed(0)
    for sample in itertools.islice(op.sample_inputs("cpu", dtype, requires_grad=False), most):
        yield from _question(op, sample)
    if dtype is not torch.float32 or op.name in CASTS:
        return
    # NaN, infinities and zeros, for functions of one or two tensors.
    if isinstance(op, core.UnaryUfuncInfo):
        drawn = core.generate_elementwise_unary_extremal_value_tensors(op, device="cpu", dtype=dtype)
    elif isinstance(op, core.BinaryUfuncInfo):
        drawn = core.generate_elementwise_binary_extremal_value_tensors(op, device="cpu", dtype=dtype)
    else:
        return
    for sample in itertools.islice(drawn, SPECIAL):
        yield from _question(op, sample)


def _question(op: Any, sample: Any) -> Iterator[Question]:
    values, structure = pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
    places = [place for place, value in enumerate(values) if isinstance(value, torch.Tensor)]
    if not places or any(values[place].layout is not torch.strided for place in places):
        return

    def function(*tensors: torch.Tensor) -> Any:
        filled = list(values)
        for place, tensor in zip(places, tensors, strict=True):
            filled[place] = tensor
        first, args, kwargs = pytree.tree_unflatten(filled, structure)
        results = pytree.tree_leaves(op.op(first, *args, **kwargs))
        # Copies: of a view of an argument there would be nothing to compute.
        return [one.clone() for one in results if isinstance(one, torch.Tensor)]

    yield function, [values[place] for place in places]


def _attempt(
    function: Callable[..., Any], tensors: list[torch.Tensor], flavours: Sequence[str], name: str
) -> dict[str, str | None]:
    """For each runtime None if it came out right; a reason; or, after an exclamation mark, what is wrong."""
    torch.manual_seed(0)
    try:
        expected = function(*(one.clone() for one in tensors))
    except Exception as error:  # noqa: BLE001 (recorded in the verdict)
        return dict.fromkeys(flavours, f"a sample that eager refuses: {type(error).__name__}")
    try:
        region = region_of(function, tensors)
    except Exception as error:  # noqa: BLE001 (recorded in the verdict)
        return dict.fromkeys(flavours, f"not traced: {type(error).__name__}")
    found: dict[str, Any] = {flavour: _run(region, flavour, tensors, expected, name) for flavour in flavours}
    if not any(one.dtype is torch.float16 for one in expected):
        return found
    torch.manual_seed(0)
    exact = function(*(one.float() if one.dtype is torch.float16 else one.clone() for one in tensors))
    for flavour, verdict in found.items():
        if isinstance(verdict, list):
            found[flavour] = _further(verdict, expected, exact)
    return found


def _further(actual: list[Any], expected: list[torch.Tensor], exact: list[torch.Tensor]) -> str | None:
    """What is wrong if we are further than eager from what float32 gives: eager may add up in half precision."""
    for mine, other, best in zip(actual, expected, exact, strict=True):
        errors = [(one - best).abs().nan_to_num().max().item() for one in (mine.float(), other.float())]
        finite = (best.to(other.dtype).isfinite(), other.isfinite())  # eager may overflow on its way
        if not any(torch.equal(mine.isfinite(), one) for one in finite) or errors[0] > 2 * errors[1] + 1e-6:
            return f"!off by {errors[0]:.3g} from float32's result, eager by {errors[1]:.3g}"
    return None


def _run(region: Any, flavour: str, tensors: list[torch.Tensor], expected: list[torch.Tensor], name: str) -> Any:
    """The verdict; of halves that differ from eager's the results themselves."""
    try:
        converted = convert(region, flavour)
    except Refused as refused:
        return str(refused).split(" (at ")[0]
    except Exception as error:  # noqa: BLE001 (recorded in the verdict)
        return f"!the converter failed: {type(error).__name__}: {str(error)[:200]}"
    try:
        run = opened(converted.model, flavour)
    except Exception as error:  # noqa: BLE001 (recorded in the verdict)
        return f"the runtime does not take it: {_kernel(str(error))}"
    arguments = [one.clone() for one in tensors]
    signature = converted.signature
    try:
        Checked(signature.program, signature.symbols)(arguments)
        fed = [arguments[one.place].contiguous() for one in signature.fed]
        outputs = run([one.name for one in signature.fed], fed)
        signature.check(outputs)
    except Declined:
        return None  # torch answers such a call
    except Exception as error:  # noqa: BLE001 (recorded in the verdict)
        return f"!it does not run: {type(error).__name__}: {str(error)[-160:]}"
    signature.write_back(outputs, arguments)
    actual = signature.assemble(outputs, arguments)
    found = _difference(actual, expected, name not in UNDEFINED, name == "topk")
    if (
        found is not None
        and found.startswith(("!Tensor-likes", "!Scalars"))
        and all(one.dtype is torch.float16 for one in expected)
    ):
        return actual
    return found


def _kernel(text: str) -> str:
    """What a runtime says of an operator it has no kernel for, short."""
    for mark in ("Could not find an implementation for ", "Type '", "INVALID_GRAPH"):
        if mark in text:
            return (mark + text.split(mark, 1)[1]).split(" with name")[0].split("\n")[0][:100]
    return re.sub(r"_\d+", "", " ".join(text.split())[-120:])


def _difference(actual: list[Any], expected: list[torch.Tensor], defined: bool, by_value: bool) -> str | None:
    if len(actual) != len(expected):
        return f"!{len(actual)} results for {len(expected)}"
    for mine, other in zip(actual, expected, strict=True):
        if (mine.shape, mine.dtype) != (other.shape, other.dtype):
            return f"!{mine.dtype} {list(mine.shape)} for {other.dtype} {list(other.shape)}"
        if by_value and other.dtype is torch.int64:
            continue  # which of equal elements is chosen is not defined
        if mine.stride() != other.stride() and mine.numel() > 1:
            return f"!strides {mine.stride()} for {other.stride()}"
        if defined:
            try:
                torch.testing.assert_close(mine, other, equal_nan=True, **LIMITS.get(other.dtype, {}))
            except AssertionError as error:
                return "!" + " ".join(str(error).split())[:160]
    return None


def main() -> None:
    """Answer requests until there are no more."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a runtime prints is no answer
    for line in sys.stdin:
        name, flavours = json.loads(line)
        found = [(one.flavour, one.dtype, asdict(one.verdict)) for one in judge(name, flavours)]
        answers.write(json.dumps(found) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
