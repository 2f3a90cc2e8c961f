"""Write docs/tensorrt_ops.md: which ops of torch's database TensorRT is given, and why not the others.

    python tools/tensorrt_table.py [--check] [--part K/N --json FILE] [--from FILE …] [OP …]

Every op and element type is tried on samples of the database: traced, converted, read by TensorRT's parser, run by ONNX
Runtime and compared with eager. With names of ops, their rows are printed and nothing is written. With ``--part K/N``
every N-th op from the K-th on is tried and ``--json`` keeps the rows; ``--from`` writes the page of such files.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorrt_rtx as trt
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo
from torch.utils import _pytree as pytree

from djinn_fx.engines.base import Declined, RegionGraph
from djinn_fx.engines.onnx.convert import OnnxRegion, convert
from djinn_fx.engines.onnx.values import Refused
from djinn_fx.engines.ranges.program import Checked
from djinn_fx.engines.tensorrt.building import parse_onnx
from djinn_fx.engines.tensorrt.building.messages import logger
from djinn_fx.engines.tensorrt.building.rehearsal import Rehearsal
from djinn_fx.pool.jobs import BuildError

PAGE = Path(__file__).parent.parent / "docs" / "tensorrt_ops.md"

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool)

#: Samples of an op and type that are tried.
SAMPLES = 6

#: What results may be off by: additions in another order, and halves rounded where TensorRT rounds them.
LIMITS = {
    torch.float32: {"rtol": 2e-5, "atol": 2e-5},
    torch.float16: {"rtol": 4e-3, "atol": 4e-3},
    torch.bfloat16: {"rtol": 3e-2, "atol": 3e-2},
}

HALVES = (torch.float16, torch.bfloat16)

#: Their results are whatever lies in memory.
UNDEFINED = ("empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided")


@dataclass(frozen=True)
class Verdict:
    """What became of an op with one element type.

    Attributes:
        converted: samples that came out as eager's.
        refused: reasons, and how many samples each of them.
        wrong: what is not as it must be; empty in any table that is published.
    """

    converted: int
    refused: tuple[tuple[str, int], ...]
    wrong: tuple[str, ...]

    @property
    def text(self) -> str:
        """For the table."""
        if self.wrong:
            return "WRONG: " + "; ".join(self.wrong)
        total = self.converted + sum(count for _, count in self.refused)
        reasons = "; ".join(reason for reason, _ in self.refused)
        if not self.refused:
            return "yes"
        return f"{self.converted} of {total}: {reasons}" if self.converted else reasons


def full_name(op: OpInfo) -> str:
    """Unique within the database."""
    return op.name + (f".{op.variant_test_name}" if op.variant_test_name else "")


def judge(op: OpInfo, dtype: torch.dtype) -> Verdict | None:
    """Try an op on samples; None if torch has no such op, or no sample with a tensor."""
    if dtype not in op.supported_dtypes("cpu"):
        return None
    converted, refused, wrong, tried = 0, Counter[str](), [], 0
    for function, tensors in _samples(op, dtype):
        tried += 1
        found = _attempt(function, tensors, op.name not in UNDEFINED)
        if found is None:
            converted += 1
        elif found.startswith("!"):
            wrong.append(found[1:])
        else:
            refused[found] += 1
    if not tried:
        return None
    return Verdict(converted, tuple(sorted(refused.items())), tuple(sorted(set(wrong))))


def _samples(op: OpInfo, dtype: torch.dtype) -> Iterator[tuple[Callable[..., Any], list[torch.Tensor]]]:
    torch.manual_seed(0)
    drawn = itertools.islice(op.sample_inputs("cpu", dtype, requires_grad=False), SAMPLES)
    for sample in drawn:
        values, structure = pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
        places = [place for place, value in enumerate(values) if isinstance(value, torch.Tensor)]
        if not places or any(values[place].numel() == 0 for place in places):
            continue

        def function(
            *tensors: torch.Tensor, values: Any = values, structure: Any = structure, places: Any = places
        ) -> Any:
            filled = list(values)
            for place, tensor in zip(places, tensors, strict=True):
                filled[place] = tensor
            first, args, kwargs = pytree.tree_unflatten(filled, structure)
            results = pytree.tree_leaves(op.op(first, *args, **kwargs))
            # Copies: of a view of an argument the network would have nothing to compute.
            return [one.clone() for one in results if isinstance(one, torch.Tensor)]

        yield function, [values[place] for place in places]


def _copies(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in tensors]


def _attempt(function: Callable[..., Any], tensors: list[torch.Tensor], defined: bool) -> str | None:
    """None if it came out right; a reason; or, after an exclamation mark, what is wrong."""
    with torch.no_grad():
        torch.manual_seed(0)
        try:
            expected = function(*_copies(tensors))
        except Exception as error:  # noqa: BLE001 (recorded in the table)
            return f"a sample that eager refuses: {type(error).__name__}"
        try:
            graph = make_fx(torch.func.functionalize(function, remove="mutations"), tracing_mode="fake")(*tensors)
        except Exception as error:  # noqa: BLE001 (recorded in the table)
            return f"not traced: {type(error).__name__}"
        region = region_of(graph)
        found = examine(region, _copies(tensors), expected, defined)
        if isinstance(found, str):
            return found
        if found is None or not any(one.dtype in HALVES for one in expected):
            return None if found is None else f"!{found.problem}"
        return f"!{found.problem}" if _further(found.results, expected, function, tensors) else None


def region_of(graph: torch.fx.GraphModule) -> RegionGraph:
    """A traced graph as a region."""
    fakes = tuple(node.meta["val"] for node in graph.graph.find_nodes(op="placeholder"))
    return RegionGraph(
        gm=graph, structural_hash="", canonical=None, kind="inference", label="sample", example_inputs=fakes
    )


@dataclass(frozen=True)
class Different:
    """Results that are not eager's, and in what."""

    results: list[Any]
    problem: str


def examine(
    region: RegionGraph, tensors: list[torch.Tensor], expected: list[torch.Tensor], defined: bool
) -> Different | str | None:
    """None if the model gives what eager gives; a reason why there is none; or what it gives."""
    try:
        found = convert(region, "tensorrt")
    except Refused as refused:
        return str(refused).split(" (at ")[0]
    if not found.signature.fed:
        return "it takes no tensor"
    if not found.outputs:
        return "it computes no tensor"
    try:
        parse_onnx.parse(trt, found.model, trt.Builder(logger(trt)))
    except BuildError as error:
        return f"TensorRT's parser: {error.detail[:160]}"
    try:
        actual = run(found, tensors)
    except Declined:
        return None  # torch answers such a call
    except Exception as error:  # noqa: BLE001 (recorded in the table)
        return f"!{type(error).__name__}: {str(error).splitlines()[0][-160:]}"
    difference = _difference(actual, expected, defined)
    return None if difference is None else Different(actual, difference[1:])


def run(found: OnnxRegion, arguments: Sequence[Any]) -> list[Any]:
    """The region's results, its model run by ONNX Runtime.

    Raises:
        Declined: torch would answer.
    """
    signature, given = found.signature, list(arguments)
    Checked(signature.program, signature.symbols)(given)
    outputs = Rehearsal(found.model)([given[one.place] for one in signature.fed])
    signature.check(outputs)
    signature.write_back(outputs, given)
    return signature.assemble(outputs, given)


def _further(
    actual: Sequence[Any], expected: Sequence[torch.Tensor], function: Callable[..., Any], tensors: list[torch.Tensor]
) -> bool:
    """Whether we are further than eager from what float32 gives: eager may add up in half precision, or overflow."""
    torch.manual_seed(0)
    wide = function(*(one.float() if one.dtype in HALVES else one.clone() for one in tensors))
    for mine, other, exact in zip(actual, expected, wide, strict=True):
        errors = [float((one.float() - exact.float()).abs().nan_to_num().max()) for one in (mine, other)]
        finite = (exact.to(other.dtype).isfinite(), other.isfinite())
        if not any(torch.equal(mine.isfinite(), one) for one in finite) or errors[0] > 2 * errors[1] + 1e-6:
            return True
        if mine.dtype not in HALVES and not torch.equal(mine, other):
            return True
    return False


def _difference(actual: list[Any], expected: list[torch.Tensor], defined: bool) -> str | None:
    if len(actual) != len(expected):
        return f"!{len(actual)} results for {len(expected)}"
    for mine, other in zip(actual, expected, strict=True):
        if (mine.shape, mine.dtype) != (other.shape, other.dtype):
            return f"!{mine.dtype} {list(mine.shape)} for {other.dtype} {list(other.shape)}"
        if defined:
            try:
                torch.testing.assert_close(
                    mine, other, equal_nan=True, check_stride=False, **LIMITS.get(other.dtype, {})
                )
            except AssertionError as error:
                return "!" + " ".join(str(error).split())[:160]
    return None


def row(op: OpInfo) -> str:
    """The op's line of the table: types with the same verdict together."""
    verdicts: dict[str, list[str]] = {}
    for dtype in DTYPES:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = judge(op, dtype)
        if found is not None:
            verdicts.setdefault(found.text, []).append(str(dtype).removeprefix("torch."))
    cells = [f"{', '.join(names) if len(verdicts) > 1 else 'all'}: {text}" for text, names in verdicts.items()]
    return f"| `{full_name(op)}` | {'<br>'.join(cell.replace('|', '/') for cell in cells) or 'no tensor to take'} |"


def page(rows: Sequence[str]) -> str:
    """The whole document."""
    yes = sum(row.endswith("| all: yes |") for row in rows)
    some = sum("yes" in row or " of " in row for row in rows) - yes
    return "\n".join(
        [
            "# Ops that TensorRT is given",
            "",
            "Written by `python tools/tensorrt_table.py`: each op of torch's own database of ops, in each of float32,",
            f"float16, bfloat16, int64, int32 and bool, tried on up to {SAMPLES} of its samples: traced, converted to",
            "ONNX, read by TensorRT's parser, run by ONNX Runtime (in float32, halves rounded after each operator)",
            "and compared with eager. *yes*: all samples came out as eager's, or are left to it for their values.",
            "Otherwise how many did, and the reasons of the others. float64, complex and 8-bit types are always",
            "refused, and so are random numbers and tensors without elements, whose samples are left out here.",
            "",
            f"Of {len(rows)} ops {yes} are taken whole and {some} in part.",
            "",
            "| op | by element type |",
            "| --- | --- |",
            *rows,
            "",
        ]
    )


def rows_of(text: str) -> dict[str, str]:
    """The lines of a page, by the op's name."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return {line.split("`")[1]: line for line in lines}


def main(arguments: list[str]) -> int:
    """Entry point; 1 if a row is wrong, or under --check if the page is out of date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--from", dest="sources", type=Path, action="append", default=[])
    parser.add_argument("ops", nargs="*")
    given = parser.parse_args(arguments)
    place, parts = (int(number) for number in given.part.split("/"))
    chosen = [op for op in op_db if not given.ops or full_name(op) in given.ops or op.name in given.ops]
    found = {name: line for source in given.sources for name, line in json.loads(source.read_text("utf-8")).items()}
    for op in chosen[place::parts] if not given.sources else ():
        found[full_name(op)] = row(op)
        if given.ops or "WRONG" in found[full_name(op)]:
            print(found[full_name(op)], flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1), "utf-8")
    wrong = int(any("WRONG" in one for one in found.values()))
    if given.ops or parts > 1:
        return wrong
    text = page([found[name] for name in dict.fromkeys(map(full_name, op_db))])
    if given.check:
        return int(PAGE.read_text("utf-8") != text)
    PAGE.write_text(text, "utf-8")
    return wrong


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
