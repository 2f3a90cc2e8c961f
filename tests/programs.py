"""Small random ATen graphs for property tests: made from plain data, so that hypothesis can change and shrink them."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx import Graph, GraphModule, Node

from tests.examples import examples

aten = torch.ops.aten
SIDE = 4
INPUTS = 3
LITERALS = (0, 1, 2, -1, True, False, 0.0, -0.0, 1.0, 2.0, 0.5, float("nan"), float("inf"), -float("inf"))
#: Kind of op: what it calls, how many values it reads, and its other arguments made of a literal and a small number.
KINDS: dict[str, tuple[Any, int, Callable[[Any, int], tuple[Any, ...]]]] = {
    "add": (aten.add.Tensor, 2, lambda literal, number: ()),
    "sub": (aten.sub.Tensor, 2, lambda literal, number: ()),
    "mul": (aten.mul.Tensor, 2, lambda literal, number: ()),
    "max": (aten.maximum.default, 2, lambda literal, number: ()),
    "mm": (aten.mm.default, 2, lambda literal, number: ()),
    "cat": (aten.cat.default, 2, lambda literal, number: (number % 2,)),
    "add literal": (aten.add.Scalar, 1, lambda literal, number: (literal,)),
    "mul literal": (aten.mul.Scalar, 1, lambda literal, number: (literal,)),
    "div literal": (aten.div.Scalar, 1, lambda literal, number: (literal,)),
    "exp": (aten.exp.default, 1, lambda literal, number: ()),
    "relu": (aten.relu.default, 1, lambda literal, number: ()),
    "permute": (aten.permute.default, 1, lambda literal, number: ([1, 0] if number % 2 else [0, 1],)),
    "slice": (aten.slice.Tensor, 1, lambda literal, number: (number % 2, number % 3, SIDE)),
    "select": (aten.select.int, 1, lambda literal, number: (number % 2, number % 3)),
    "softmax": (aten._softmax.default, 1, lambda literal, number: (number % 2, False)),
    "sum": (aten.sum.dim_IntList, 1, lambda literal, number: ([number % 2], bool(literal))),
    "to": (aten._to_copy.default, 1, lambda literal, number: ()),
    "split": (aten.split.Tensor, 1, lambda literal, number: (2, number % 2)),
    "max along": (aten.max.dim, 1, lambda literal, number: (number % 2,)),
    "random": (aten.rand_like.default, 1, lambda literal, number: ()),
    "mul in place": (aten.mul_.Tensor, 2, lambda literal, number: ()),
    "copy": (aten.copy_.default, 2, lambda literal, number: ()),
}
DTYPES = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Op:
    """One op of a program: values are given by numbers that are taken modulo what is there."""

    kind: str
    reads: tuple[int, int]
    literal: int
    number: int


@dataclass(frozen=True)
class Program:
    """A small graph: its ops, what it returns, and which of its inputs are transposed."""

    ops: tuple[Op, ...]
    outputs: tuple[int, ...]
    transposed: tuple[bool, ...]


OPS = st.builds(
    Op,
    kind=st.sampled_from(sorted(KINDS)),
    reads=st.tuples(st.integers(0, 9), st.integers(0, 9)),
    literal=st.integers(0, len(LITERALS) - 1),
    number=st.integers(0, 5),
)
PROGRAMS = st.builds(
    Program,
    ops=st.lists(OPS, min_size=1, max_size=7).map(tuple),
    outputs=st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple),
    transposed=st.tuples(*[st.booleans()] * INPUTS),
)


#: The same examples in every run, and no time limit for each.
DETERMINISTIC = examples(50)


def build(program: Program, prefix: str = "") -> GraphModule:
    """The program as an ATen graph with fake values; an op whose arguments do not fit becomes a negation."""
    graph = Graph()
    values: list[Node] = []
    with FakeTensorMode():
        for number, turned in enumerate(program.transposed):
            node = graph.placeholder(f"{prefix}input_{number}")
            made = torch.empty(SIDE, SIDE)
            node.meta["val"] = made.t() if turned else made
            values.append(node)
        for op in program.ops:
            values += _call(graph, op, values, prefix)
    graph.output(tuple(values[number % len(values)] for number in program.outputs))
    return GraphModule(torch.nn.Module(), graph)


def _call(graph: Graph, op: Op, values: list[Node], prefix: str) -> list[Node]:
    """Add the op to the graph; what it made, the parts of a tuple one by one."""
    target, count, others = KINDS[op.kind]
    read = [values[number % len(values)] for number in op.reads[:count]]
    first: list[Any] = [read] if target is aten.cat.default else list(read)
    arguments = (*first, *others(LITERALS[op.literal], op.number))
    keywords = {"dtype": DTYPES[op.number % 2]} if op.kind == "to" else {}
    real = torch.fx.node.map_arg(arguments, lambda node: node.meta["val"])
    try:
        value = target(*real, **keywords)
    except (RuntimeError, IndexError):
        target, arguments, keywords = aten.neg.default, (read[0],), {}
        value = target(read[0].meta["val"])
    name = f"{prefix}{op.kind.replace(' ', '_')}" if prefix else None
    node = graph.create_node("call_function", target, arguments, keywords, name=name)
    node.meta["val"] = value
    if isinstance(value, Tensor):
        return [node]
    parts = []
    for number, part in enumerate(value):
        parts.append(graph.call_function(operator.getitem, (node, number)))
        parts[-1].meta["val"] = part
    return parts


def arguments_of(transposed: Sequence[bool]) -> list[Tensor]:
    """Real inputs for a program, the same every time; zeros of both signs among them."""
    source = torch.Generator().manual_seed(1)
    inputs = []
    for turned in transposed:
        made = torch.randn(SIDE, SIDE, generator=source)
        made[0, :2] = torch.tensor([0.0, -0.0])
        inputs.append(made.t() if turned else made)
    return inputs


def behaviour(run: Callable[..., Sequence[Tensor]], inputs: Sequence[Tensor]) -> str:
    """What a callable does with these inputs, as text: results and inputs afterwards, to the last bit."""
    torch.manual_seed(2)
    try:
        results = run(*inputs)
    except (RuntimeError, IndexError):  # fake tensors let some arguments pass that real ones do not
        return "refused"
    digest = hashlib.sha256()
    for tensor in (*results, *inputs):
        digest.update(repr((tensor.dtype, tuple(tensor.shape), tensor.stride())).encode())
        digest.update(_bits(tensor))
    return digest.hexdigest()


def _bits(tensor: Tensor) -> bytes:
    # All NaNs are one: which of them an op returns is not laid down.
    plain = tensor.nan_to_num(nan=float("nan"), posinf=float("inf"), neginf=-float("inf"))
    return bytes(plain.numpy().tobytes())
