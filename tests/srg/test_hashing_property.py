"""Random graphs, and small changes to them: graphs that behave differently never share a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx import Graph, GraphModule, Node

from djinn_fx.srg import lower
from djinn_fx.srg.hashing import canonical_form, structural_hash

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


@st.composite
def changed(draw: st.DrawFn, program: Program) -> Program:
    """The program with one thing different."""
    place = draw(st.integers(0, len(program.ops) - 1))
    op = program.ops[place]
    what = draw(st.sampled_from(("operands", "literal", "number", "kind", "drop", "exchange", "outputs", "input")))
    if what == "outputs":
        return replace(program, outputs=draw(st.sampled_from((program.outputs[::-1], program.outputs * 2))))
    if what == "input":
        return replace(program, transposed=(not program.transposed[0], *program.transposed[1:]))
    if what == "drop":
        return replace(program, ops=program.ops[:place] + program.ops[place + 1 :])
    if what == "exchange":
        following = program.ops[place + 1 : place + 2]
        return replace(program, ops=(*program.ops[:place], *following, op, *program.ops[place + 2 :]))
    new = {
        "operands": lambda: replace(op, reads=op.reads[::-1]),
        "literal": lambda: replace(op, literal=draw(st.integers(0, len(LITERALS) - 1))),
        "number": lambda: replace(op, number=draw(st.integers(0, 5))),
        "kind": lambda: replace(op, kind=draw(st.sampled_from(sorted(KINDS)))),
    }[what]()
    return replace(program, ops=(*program.ops[:place], new, *program.ops[place + 1 :]))


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
            values.append(_call(graph, op, values, prefix))
    graph.output(tuple(values[number % len(values)] for number in program.outputs))
    return GraphModule(torch.nn.Module(), graph)


def _call(graph: Graph, op: Op, values: list[Node], prefix: str) -> Node:
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
    # A tensor changed in place keeps its own description: the SRG tells memory apart by it.
    node.meta["val"] = value
    return node


def hash_of(gm: GraphModule) -> str:
    srg = lower(gm)
    return structural_hash(canonical_form(list(srg.ops), srg.inputs, srg.output.args[0]))


def behaviour(gm: GraphModule, transposed: Sequence[bool]) -> str:
    """What the graph does with fixed inputs, as text: results and inputs afterwards, to the last bit."""
    source = torch.Generator().manual_seed(1)
    inputs = []
    for turned in transposed:
        made = torch.randn(SIDE, SIDE, generator=source)
        made[0, :2] = torch.tensor([0.0, -0.0])
        inputs.append(made.t() if turned else made)
    try:
        results = gm(*inputs)
    except RuntimeError:  # fake tensors do not know that the operands of a product need one dtype
        return "refused"
    digest = hashlib.sha256()
    for tensor in (*results, *inputs):
        digest.update(repr((tensor.dtype, tuple(tensor.shape), tensor.stride())).encode())
        digest.update(_bits(tensor))
    return digest.hexdigest()


def _bits(tensor: Tensor) -> bytes:
    # All NaNs are one: which of them an op returns is not laid down.
    plain = torch.where(tensor.isnan(), torch.full_like(tensor, float("nan")), tensor)
    return bytes(plain.contiguous().view(torch.uint8).flatten().tolist())


#: What each hash was seen to stand for, over all examples.
SEEN: dict[str, str] = {}

DETERMINISTIC = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=250,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


@DETERMINISTIC
@given(st.data())
def test_different_behaviour_never_shares_a_hash(data: st.DataObject) -> None:
    program = data.draw(PROGRAMS)
    for one in (program, data.draw(changed(program))):
        gm = build(one)
        digest = hash_of(gm)
        does = behaviour(gm, one.transposed)
        assert SEEN.setdefault(digest, does) == does


@DETERMINISTIC
@given(PROGRAMS)
def test_the_same_program_built_again_has_the_same_hash(program: Program) -> None:
    assert hash_of(build(program)) == hash_of(build(program, prefix="other_"))


def test_the_property_can_fail() -> None:
    """The changes do change behaviour, and a hash of op names alone would be caught."""
    first = Program((Op("sub", (0, 1), 0, 0),), (3,), (False, False, False))
    second = replace(first, ops=(replace(first.ops[0], reads=(1, 0)),))
    assert behaviour(build(first), first.transposed) != behaviour(build(second), second.transposed)
    assert [n.target for n in build(first).graph.nodes][:4] == [n.target for n in build(second).graph.nodes][:4]
