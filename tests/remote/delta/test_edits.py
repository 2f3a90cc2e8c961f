"""Edits make exactly the new graph, are few where little changed, and are refused where they do not fit."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from djinn_fx.remote.delta.alignment import aligned
from djinn_fx.remote.delta.edits import DoesNotFit, applied, difference
from djinn_fx.remote.delta.graph import GraphForm
from djinn_fx.srg.form.hashing import as_text
from tests.remote.delta.drafts import Draft, Value, drawn, edited

ENOUGH = 10**7


def over_the_wire(edits: Any) -> Any:
    return json.loads(json.dumps(edits))


@given(st.integers(0, 2**32), st.integers(0, 30))
def test_edits_make_the_new_graph(seed: int, ops: int) -> None:
    rng = random.Random(seed)
    draft = drawn(rng, ops)
    old = graph(draft)
    for other in (edited(draft, rng), drawn(rng, ops)):
        new = graph(other)
        made = applied(old, over_the_wire(difference(old, new)), ENOUGH)
        assert made.content == new.content
        assert made.digest == new.digest


def layers(count: int, width: int = 4, weight: int = 0) -> Draft:
    """Ops of a decoder-like graph: each layer reads a weight, the value before and a table that all of them read."""
    made = Draft(inputs=[Value("", [], 0, [width, 5]), Value("", [], 0, [9, 5])])
    value, table = made.inputs
    for layer in range(count):
        own = Value("", [], 0, [5, 5], weight=2 * layer + weight)
        made.inputs.append(own)
        product = Value("aten.mm.default", [value, own], 0, [width, 5])
        turned = Value("aten.mul.Tensor", [product, table], 1, [width, 5])
        value = Value("aten.add.Tensor", [turned, value], 2, [width, 5])
        made.ops += [product, turned, value]
    made.returned = [value]
    return made


def graph(draft: Draft) -> GraphForm:
    return draft.finished()[0]


def size(old: Draft, new: Draft) -> int:
    edits = difference(graph(old), graph(new))
    assert applied(graph(old), over_the_wire(edits), ENOUGH).content == graph(new).content
    return len(as_text(edits))


def test_nothing_changed_is_nearly_nothing() -> None:
    assert size(layers(40), layers(40)) < 60


def test_another_shape_costs_the_same_in_a_deep_model_as_in_a_shallow_one() -> None:
    few, many = size(layers(3), layers(3, width=7)), size(layers(40), layers(40, width=7))
    assert many < few + 10
    assert 20 * many < len(graph(layers(40)).text)


@pytest.mark.parametrize("place", [0, 1, 59, 118, 119])
def test_an_op_put_in_or_taken_out_costs_that_op_and_its_readers(place: int) -> None:
    with_one, without = layers(40), layers(40)
    before = with_one.ops[place]
    extra = Value("aten.tanh.default", [before], 0, before.shape)
    for op in with_one.ops:
        op.reads = [extra if one is before else one for one in op.reads]
    with_one.returned = [extra if one is before else one for one in with_one.returned]
    with_one.ops.insert(place + 1, extra)
    one_op = max(len(as_text(op)) for op in graph(with_one).form["ops"])
    assert size(without, with_one) < 60 + 4 * (one_op + 10)
    assert size(with_one, without) < 60 + 4 * (one_op + 10)


def test_a_layer_taken_out_of_the_middle_costs_no_digest() -> None:
    whole, less = layers(40), layers(40)
    weight, product, value = less.inputs.pop(12), less.ops[30], less.ops[32]
    assert product.reads[1] is weight
    before = product.reads[0]
    del less.ops[30:33]
    for op in less.ops:
        op.reads = [before if one is value else one for one in op.reads]
    edits = difference(graph(whole), graph(less))
    assert "weights" not in edits
    assert len(as_text(edits)) < 1000


def test_other_weights_cost_their_digests_alone() -> None:
    tuned = layers(40)
    tuned.inputs[-1].weight = 1001
    edits = difference(graph(layers(40)), graph(tuned))
    assert set(edits) == {"inputs", "ops", "weights"}
    ((place, digest, _),) = edits["weights"]
    assert (place, digest) == (41, graph(tuned).content["weights"][-1][1])


@given(st.lists(st.integers(0, 5), max_size=40), st.lists(st.integers(0, 5), max_size=40))
def test_pairs_rise_and_are_alike_or_by_place(old: list[int], new: list[int]) -> None:
    pairs = aligned([(old, new)])
    assert all(one < other and this < that for (one, this), (other, that) in itertools.pairwise(pairs))
    if old == new:
        assert pairs == [(place, place) for place in range(len(old))]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 60) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["order", "added"]), inner),
    max_leaves=6,
)


@given(st.integers(0, 2**32), st.data())
def test_edits_of_anybodys_are_applied_or_refused(seed: int, data: st.DataObject) -> None:
    rng = random.Random(seed)
    draft = drawn(rng, 8)
    old, new = graph(draft), graph(edited(draft, rng))
    edits = over_the_wire(difference(old, new))
    before = old.text
    where: Any = edits
    for _ in range(data.draw(st.integers(0, 4))):
        boxes = [one for one in (where.values() if isinstance(where, dict) else where) if isinstance(one, list | dict)]
        where = data.draw(st.sampled_from([one for one in boxes if one] or [where]))
    where[data.draw(st.sampled_from(sorted(where) if isinstance(where, dict) else range(len(where))))] = data.draw(JSON)
    try:
        made = applied(old, edits, ENOUGH)
    except DoesNotFit:
        made = old
    assert as_text(made.content) == made.text
    assert as_text(old.content) == before


def test_edits_make_no_graph_larger_than_allowed() -> None:
    old = graph(layers(200))
    large = ["float32", [1] * 5_000, [1], [0], "cpu"]
    whole = {"inputs": {"order": [[0, 202]]}, "ops": {"order": [[0, 600]]}}
    with pytest.raises(DoesNotFit, match="larger"):
        applied(old, {**whole, "values": [[202, large]]}, 10**6)
    with pytest.raises(DoesNotFit, match="not there"):
        applied(old, {**whole, "ops": {"order": [[0, 600], [0, 600]]}}, ENOUGH)
    with pytest.raises(DoesNotFit):
        applied(old, {**whole, "ops": {"order": [10**12]}}, ENOUGH)
