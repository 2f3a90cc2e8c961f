"""Every operator that a rule knows: what torch computes of random whole numbers lies where the rule says."""

from __future__ import annotations

import itertools
import operator
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing._internal.common_methods_invocations import op_db

from djinn_fx.engines.lowering.formulas import Formulas
from djinn_fx.engines.ranges.analysis import Ranges, is_whole
from djinn_fx.engines.ranges.intervals import RULES, within
from djinn_fx.engines.ranges.operators import TABLE
from djinn_fx.engines.ranges.program import Checked, extremes
from djinn_fx.srg.graph import fake_value, tensors_of

#: Ops of every other one of op_db that end in ATen ops with a rule, as found by tracing: at least so many must stay.
LEAST_COVERED = 25


class _Watched(Interpreter):
    """Runs a graph; every whole number must lie in its node's interval, as the arguments' extremes tell it."""

    def __init__(self, gm: GraphModule, given: list[Any]) -> None:
        super().__init__(gm)
        places = {node: place for place, node in enumerate(gm.graph.find_nodes(op="placeholder"))}
        self.ranges = Ranges(places, Formulas(given))
        self.given, self.ruled = given, 0

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.op != "output":
            self._look(n, value)
        return value

    def _look(self, node: Node, value: Any) -> None:
        slots = self.ranges._slot(node)
        slots = slots if isinstance(slots, tuple) else (slots,)
        for slot, tensor in zip(slots, tensors_of(value), strict=False):
            whole = tensor.layout is torch.strided and is_whole(tensor.dtype) and tensor.numel()
            if slot is None or not whole:
                continue
            low, high = self._interval(slot)
            assert within(extremes(tensor), (low, high)), f"{node.format_node()}: {value}"
            self.ruled += node.op == "call_function"

    def _interval(self, slot: int) -> tuple[int, int]:
        """What the interval is once the arguments are known: the program's, found by asking it for too little."""
        ranges, found = self.ranges, []
        for step in ranges._steps[: slot + 1]:
            place = ranges._inputs.get(len(found))
            if place is not None:
                found.append(extremes(self.given[place]))
            else:
                found.append(RULES[step.rule]([found[one] for one in step.slots], step.numbers))  # type: ignore[arg-type]
        return found[slot]


def _samples(op: Any, dtype: torch.dtype, most: int) -> Iterator[Any]:
    try:
        yield from list(itertools.islice(op.sample_inputs("cpu", dtype), most))
    except Exception:  # noqa: BLE001  (op_db cannot make samples of this type: nothing to test)
        return


def _watch(op: Any, sample: Any) -> int:
    """Calls of operators with a rule that were compared, for one sample."""
    flat, spec = torch.utils._pytree.tree_flatten((sample.input, sample.args, sample.kwargs))
    tensors = [one for one in flat if isinstance(one, torch.Tensor)]
    places = [place for place, one in enumerate(flat) if isinstance(one, torch.Tensor)]

    def call(*given: torch.Tensor) -> Any:
        values = list(flat)
        for place, value in zip(places, given, strict=True):
            values[place] = value
        first, args, kwargs = torch.utils._pytree.tree_unflatten(values, spec)
        return op.op(first, *args, **kwargs)

    try:
        gm = make_fx(call, tracing_mode="fake")(*tensors)
    except Exception:  # noqa: BLE001  (an op that cannot be traced: nothing to test)
        return 0
    watched = _Watched(gm, tensors)
    watched.run(*tensors)
    return sum(
        node.op == "call_function"
        and str(node.target).rpartition(".")[0] in TABLE
        and bool(tensors_of(fake_value(node)))
        for node in gm.graph.nodes
    )


@pytest.mark.parametrize(
    ("dtype", "most", "stride"),
    [
        (torch.int64, 1, 6),
        *(pytest.param(dtype, 20, 1, marks=pytest.mark.exam) for dtype in (torch.int64, torch.uint8)),
    ],
)
def test_what_torch_computes_lies_in_the_interval(dtype: torch.dtype, most: int, stride: int) -> None:
    torch.manual_seed(0)
    covered = 0
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for op in op_db[::stride]:
            if dtype in op.supported_dtypes("cpu"):
                covered += sum(_watch(op, sample) for sample in _samples(op, dtype, most)) > 0
    assert covered >= LEAST_COVERED * 2 // max(stride, 2)


def test_ends_of_a_type_wrap_around() -> None:
    most = torch.iinfo(torch.int64).max
    given = [torch.tensor([most, 3]), torch.tensor([2, -(2**62)])]
    for function in (operator.add, operator.sub, operator.mul, lambda x, y: (-x, ~y), lambda x, y: x.abs() - y.abs()):
        _Watched(make_fx(function, tracing_mode="fake")(*given), given).run(*given)


def test_a_program_declines_no_call_of_a_table_that_is_large_enough() -> None:
    def look(table: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return table[(x * 2 + 1).clamp(max=9) // 3]

    gm = make_fx(look, tracing_mode="fake")(torch.randn(4, 2), torch.arange(3))
    places = {node: place for place, node in enumerate(gm.graph.find_nodes(op="placeholder"))}
    ranges = Ranges(places, Formulas([torch.randn(4, 2), torch.arange(3)]))
    (index,) = [node for node in gm.graph.nodes if "index" in str(node.target)]
    assert ranges.demand(index.args[1][0], -4, 3, "an index is out of range")
    checked = Checked(ranges.program(), {})
    checked([None, torch.tensor([1, 2, 500])])
