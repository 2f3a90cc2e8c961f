"""From labels to regions: whatever the labels say, the regions can run one behind the other and compute the same."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from djinn_fx.passes.cutting.partition import OpList, has_effect, op_list, to_groups
from djinn_fx.srg import SRG, lower
from tests import graphs
from tests.programs import DETERMINISTIC, PROGRAMS, Program, arguments_of, behaviour, build
from tests.running import cut_by_labels, run_by_regions

LABELS = st.lists(st.one_of(st.none(), st.integers(0, 4)), min_size=40, max_size=40)


def labels_of(srg: SRG, wanted: Sequence[int | None]) -> list[int | None]:
    """As many labels as there are ops."""
    count = len(list(srg.ops))
    return [wanted[place % len(wanted)] for place in range(count)]


def names(srg: SRG, group: int) -> list[str]:
    return list(srg.regions[group].nodes)


# Properties, over random graphs with views, writes, tuples and random numbers


@DETERMINISTIC
@given(PROGRAMS, LABELS, st.booleans())
def test_any_labels_give_regions_that_compute_the_same(
    program: Program, labels: list[int | None], join_gaps: bool
) -> None:
    gm = build(program)
    srg = lower(gm)
    cut_by_labels(srg, labels_of(srg, labels), join_gaps=join_gaps)
    by_regions = behaviour(lambda *args: run_by_regions(srg, args), arguments_of(program.transposed))
    assert by_regions == behaviour(gm, arguments_of(program.transposed))


@DETERMINISTIC
@given(PROGRAMS, LABELS, st.booleans())
def test_groups_keep_every_tie(program: Program, labels: list[int | None], join_gaps: bool) -> None:
    srg = lower(build(program))
    ops = op_list(srg)
    groups = to_groups(ops, labels_of(srg, labels), join_gaps=join_gaps)
    assert sorted(set(groups)) == list(range(len(set(groups))))
    for place, ties in enumerate(ops.before):
        assert all(tie < place for tie in ties)
        assert all(groups[tie] <= groups[place] for tie in ties), "a group would have to run before and after another"
        assert groups[ops.same_as[place]] == groups[place]


ABSTRACT = st.integers(1, 25).flatmap(
    lambda count: st.tuples(
        st.tuples(*[st.sets(st.integers(0, max(place - 1, 0)), max_size=3) for place in range(count)]),
        st.lists(st.one_of(st.none(), st.integers(-2, 3)), min_size=count, max_size=count),
        st.lists(st.booleans(), min_size=count, max_size=count),
        st.booleans(),
    )
)


@DETERMINISTIC
@given(ABSTRACT)
def test_groups_of_any_dependencies_are_convex(
    drawn: tuple[tuple[set[int], ...], list[int | None], list[bool], bool],
) -> None:
    before, labels, writes, join_gaps = drawn
    ties = tuple(tuple(sorted(tie for tie in some if tie < place)) for place, some in enumerate(before))
    places = range(len(labels))
    ops = OpList(nodes=(), before=ties, writes=tuple(writes), same_as=tuple(places))
    groups = to_groups(ops, labels, join_gaps=join_gaps)
    for start in places:
        # Everything reachable from an op, with whether the way there left the op's group.
        left = {start: False}
        for place in range(start + 1, len(labels)):
            ways = [left[tie] or groups[tie] != groups[start] for tie in ties[place] if tie in left]
            if ways:
                left[place] = any(ways)
        assert not any(out and groups[place] == groups[start] for place, out in left.items())


# What goes where


def _chain(count: int) -> SRG:
    def function(x: Tensor) -> Tensor:
        for _ in range(count):
            x = x.sin()
        return x

    return graphs.lowered(graphs.trace(function, torch.empty(4)))


def test_what_no_unit_needs_is_the_epilogue_and_what_needs_none_the_prologue() -> None:
    srg = _chain(6)
    groups = cut_by_labels(srg, [None, None, 7, 7, None, None])
    assert groups == (0, 0, 1, 1, 2, 2)


@pytest.mark.parametrize(("join_gaps", "expected"), [(True, (0, 0, 1, 1, 1, 1)), (False, (0, 0, 1, 1, 2, 2))])
def test_ops_between_two_units_join_the_next_or_stay_apart(join_gaps: bool, expected: tuple[int, ...]) -> None:
    assert cut_by_labels(_chain(6), [3, 3, None, None, 1, 1], join_gaps=join_gaps) == expected


def test_without_labels_there_is_one_group() -> None:
    assert set(cut_by_labels(_chain(5), [None] * 5)) == {0}


def test_an_op_that_depends_on_a_later_unit_moves_to_it() -> None:
    # Ops 0, 1, 4 claim to be one unit, but 4 reads what unit 2 made of 1.
    assert cut_by_labels(_chain(5), [1, 1, 2, 2, 1]) == (0, 0, 1, 1, 1)


def test_units_run_in_the_order_of_the_graph_whatever_their_numbers() -> None:
    assert cut_by_labels(_chain(6), [9, 9, 5, 5, 7, 7]) == (0, 0, 1, 1, 2, 2)


def test_parts_stay_with_their_tuple() -> None:
    def function(x: Tensor) -> Tensor:
        first, second = x.max(0)
        return first.sin() * second.cos()

    srg = graphs.lowered(graphs.trace(function, torch.empty(4, 4)))
    labels = [number for number, _ in enumerate(srg.ops)]
    groups = dict(zip([node.name for node in srg.ops], cut_by_labels(srg, labels), strict=True))
    parts = [node for node in srg.ops if node.target is operator.getitem]
    assert len(parts) == 2
    assert {groups[part.name] for part in parts} == {groups[str(parts[0].args[0])]}


# Memory and effects


def test_a_write_stays_behind_reads_and_before_later_reads() -> None:
    srg = graphs.lowered(graphs.writer_and_readers())
    order = [node.name for node in srg.ops]
    for labels in ([0, 1, 2], [2, 1, 0], [1, 0, 1], [None, 0, None], [0, 0, 1]):
        groups = dict(zip(order, cut_by_labels(srg, labels), strict=True))
        assert groups["add"] <= groups["copy_"] <= groups["mul"]


def test_a_write_through_a_view_is_a_write() -> None:
    def function(x: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        old = cache.sum()
        cache[1:].mul_(x)
        return old, cache.sum()

    gm = graphs.trace(function, torch.empty(()), torch.empty(4))
    for labels in ([0, 1, 2, 3], [3, 2, 1, 0], [1, None, 0, 0]):
        srg = graphs.lowered(gm)
        cut_by_labels(srg, labels)
        cache = torch.arange(4.0)
        old, new = run_by_regions(srg, [torch.tensor(10.0), cache])
        assert (old.item(), new.item()) == (6.0, 60.0)


def test_random_ops_keep_their_order() -> None:
    def function(x: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.rand_like(x) for _ in range(6))

    srg = graphs.lowered(graphs.trace(function, torch.empty(3)))
    assert all(has_effect(node) for node in srg.ops)
    for labels in ([5, 4, 3, 2, 1, 0], [0, 1, 0, 1, 0, 1], [None, 1, None, 0, None, 2]):
        groups = cut_by_labels(srg, labels)
        assert list(groups) == sorted(groups)
        torch.manual_seed(3)
        found = run_by_regions(srg, [torch.empty(3)])
        torch.manual_seed(3)
        assert all(torch.equal(mine, torch.rand(3)) for mine in found)


def _assert_then(x: Tensor) -> Tensor:
    torch.ops.aten._assert_async.msg(x.sum() > 0, "a sum of zero")
    return x * 2


def test_what_has_an_effect() -> None:
    gm = graphs.trace(lambda x: torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,)), torch.empty(3))
    cond = [node for node in lower(gm).ops if has_effect(node)]
    assert [node.target.name() for node in cond] == ["cond"]
    effects = [node.name for node in lower(graphs.trace(_assert_then, torch.empty(3))).ops if has_effect(node)]
    assert effects == ["_assert_async"]
    assert not any(has_effect(node) for node in lower(graphs.two_layer_mlp()).ops)


# Whole models, cut in every way


def _decoder_arguments() -> list[Tensor]:
    source = torch.Generator().manual_seed(0)
    width = graphs.HEADS * graphs.HEAD_SIZE
    cache = (graphs.BATCH, graphs.HEADS, graphs.CACHE_LENGTH, graphs.HEAD_SIZE)
    return [
        torch.randn(graphs.BATCH, 1, width, generator=source),
        torch.tensor([3]),
        torch.randn(3 * width, width, generator=source),
        torch.randn(cache, generator=source),
        torch.randn(cache, generator=source),
    ]


DECODER = graphs.decoder_step_with_kv_cache()


@DETERMINISTIC
@given(LABELS)
def test_a_step_that_writes_its_cache_computes_and_writes_the_same(labels: list[int | None]) -> None:
    srg = graphs.lowered(DECODER)
    cut_by_labels(srg, labels_of(srg, labels))
    expected, found = _decoder_arguments(), _decoder_arguments()
    torch.testing.assert_close(run_by_regions(srg, found), [DECODER(*expected)], rtol=0, atol=0)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def _sizes_and_values(x: Tensor, w: Tensor) -> tuple[Any, ...]:
    rows, columns = x.shape
    h = (x @ w).view(rows, -1, 2)
    h = h.permute(1, 0, 2).reshape(-1, 2 * rows)
    return h * rows, x.new_full((rows + columns,), 0.5), rows * 2, h.softmax(-1)


def _mlp(x: Tensor, *w: Tensor) -> Tensor:
    return torch.nn.functional.linear(torch.relu(torch.nn.functional.linear(x, w[0], w[1])), w[2], w[3])


SYMBOLIC: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...], tuple[Tensor, ...]]] = {
    "sizes as values": (
        _sizes_and_values,
        (torch.empty(5, 7), torch.empty(7, 6)),
        (torch.randn(3, 4), torch.randn(4, 8)),
    ),
    "two layers": (
        _mlp,
        (torch.empty(5, 7), torch.empty(9, 7), torch.empty(9), torch.empty(4, 9), torch.empty(4)),
        (torch.randn(2, 3), torch.randn(8, 3), torch.randn(8), torch.randn(5, 8), torch.randn(5)),
    ),
}
TRACED = {name: graphs.trace(f, *args, symbolic=True) for name, (f, args, _) in SYMBOLIC.items()}


@pytest.mark.parametrize("name", SYMBOLIC)
def test_symbolic_sizes_at_other_sizes(name: str) -> None:
    @DETERMINISTIC
    @given(LABELS)
    def every_cut(labels: list[int | None]) -> None:
        srg = graphs.lowered(TRACED[name])
        cut_by_labels(srg, labels_of(srg, labels))
        arguments = SYMBOLIC[name][2]
        expected = TRACED[name](*arguments)
        expected = expected if isinstance(expected, (tuple, list)) else (expected,)
        torch.testing.assert_close(run_by_regions(srg, arguments), list(expected), rtol=0, atol=0)

    every_cut()
