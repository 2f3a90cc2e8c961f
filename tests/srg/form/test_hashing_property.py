"""Random graphs, and small changes to them: graphs that behave differently never share a hash."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from torch.fx import GraphModule

from djinn_fx.srg import lower
from djinn_fx.srg.form.digests import Digests
from djinn_fx.srg.form.hashing import canonical_form, structural_hash
from tests.programs import DETERMINISTIC, KINDS, LITERALS, PROGRAMS, Op, Program, arguments_of, behaviour, build


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


def hash_of(gm: GraphModule) -> str:
    srg = lower(gm)
    found = structural_hash(canonical_form(list(srg.ops), srg.inputs, srg.output.args[0]))
    assert Digests(srg).of(list(srg.ops), srg.inputs, srg.output.args[0]) == found
    return found


#: What each hash was seen to stand for, over all examples.
SEEN: dict[str, str] = {}


@DETERMINISTIC
@given(st.data())
def test_different_behaviour_never_shares_a_hash(data: st.DataObject) -> None:
    program = data.draw(PROGRAMS)
    for one in (program, data.draw(changed(program))):
        gm = build(one)
        digest = hash_of(gm)
        does = behaviour(gm, arguments_of(one.transposed))
        assert SEEN.setdefault(digest, does) == does


@DETERMINISTIC
@given(PROGRAMS)
def test_the_same_program_built_again_has_the_same_hash(program: Program) -> None:
    assert hash_of(build(program)) == hash_of(build(program, prefix="other_"))


def test_the_property_can_fail() -> None:
    """The changes do change behaviour, and a hash of op names alone would be caught."""
    first = Program((Op("sub", (0, 1), 0, 0),), (3,), (False, False, False))
    second = replace(first, ops=(replace(first.ops[0], reads=(1, 0)),))
    assert behaviour(build(first), arguments_of(first.transposed)) != behaviour(
        build(second), arguments_of(second.transposed)
    )
    assert [n.target for n in build(first).graph.nodes][:4] == [n.target for n in build(second).graph.nodes][:4]
