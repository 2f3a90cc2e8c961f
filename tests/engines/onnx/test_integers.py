"""Calls that a runtime would answer otherwise than torch are declined; all others are served."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from djinn_fx.engines.base import Declined
from djinn_fx.engines.onnx.values import Refused
from tests.engines.onnx.running import FLAVOURS, Converted, region_of

TABLE = torch.arange(20.0).view(10, 2)
GOOD = torch.tensor([3, 0, 9])

#: What is looked up, and whether negative indices count from the end.
LOOKUPS: dict[str, tuple[Callable[[Tensor, Tensor], Any], bool]] = {
    "embedding": (lambda table, i: F.embedding(i, table), False),
    "index_select": (lambda table, i: table.index_select(0, i), False),
    "gather": (lambda table, i: table.gather(0, i[:, None].expand(3, 2)), False),
    "index": (lambda table, i: table[i], True),
    "index of two": (lambda table, i: table[i, i % 2], True),
    "take": (lambda table, i: table.take(i + 10), True),
    "scatter": (lambda table, i: table.scatter(0, i[:, None].expand(3, 2), 1.0), False),
    "scatter_add": (lambda table, i: table.scatter_add(0, i[:, None].expand(3, 2), table[:3]), False),
    "index_add": (lambda table, i: table.index_add(0, i, table[:3]), False),
    "index_copy": (lambda table, i: table.index_copy(0, i, table[:3]), False),
    "index_fill": (lambda table, i: table.index_fill(0, i, 7.0), True),
    "index_put": (lambda table, i: table.index_put((i,), table[:3]), True),
}


@pytest.mark.parametrize("name", list(LOOKUPS))
@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("reckoned", [False, True], ids=["given", "reckoned"])
def test_an_index_out_of_range_is_never_answered(name: str, flavour: str, reckoned: bool) -> None:
    lookup, from_end = LOOKUPS[name]
    if reckoned:  # from numbers whose range nobody knows before the call
        converted = Converted(region_of(lambda table, x: lookup(table, x.long()), [TABLE, GOOD.float()]), flavour)
    else:
        converted = Converted(region_of(lookup, [TABLE, GOOD]), flavour)

    def call(index: Tensor) -> Any:
        return converted(TABLE.clone(), index.float() if reckoned else index)[0]

    for index in (GOOD, torch.tensor([1, 2, 3]), *([torch.tensor([-1, 3, -2])] if from_end else ())):
        torch.testing.assert_close(call(index), lookup(TABLE.clone(), index))
    for wrong in (10, 13, -1 if not from_end else -11, 2**20):
        index = torch.tensor([3, wrong, 2])
        if name == "take" and wrong in (-11, 10):
            continue  # in range of the flat table
        with pytest.raises((Declined, RuntimeError)):
            call(index)
        with pytest.raises((IndexError, RuntimeError)):
            lookup(TABLE.clone(), index)
    torch.testing.assert_close(call(GOOD), lookup(TABLE.clone(), GOOD))


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_classes_that_are_left_out_are_no_index(flavour: str) -> None:
    scores, target = torch.randn(4, 5), torch.tensor([0, 4, -100, 2])
    converted = Converted(region_of(F.cross_entropy, [scores, target]), flavour)
    torch.testing.assert_close(converted(scores, target)[0], F.cross_entropy(scores, target))
    for wrong in (5, -1, -99, 100):
        with pytest.raises(Declined):
            converted(scores, torch.tensor([0, wrong, -100, 2]))


WIDE: dict[str, tuple[Callable[[Tensor], Tensor], list[int], list[int]]] = {
    "product": (lambda x: x * x, [3, -4], [100000, 5]),
    "sum": (lambda x: x.sum(), [3, 4], [1700000000, 1700000000]),
    "negative": (lambda x: -x - x, [3, 4], [2**31 - 1, 4]),
    "compared": (lambda x: x * 1000 > 5, [3, 0], [5000000, 5]),
    "neighbours": (lambda x: x[:1] < x[1:], [3, 4], [2**24, 2**24 + 1]),
    "equal": (lambda x: x == 2**24 - 1, [3, 2**24 - 1], [2**30, 2**30 + 1]),
    "greatest": (lambda x: x.max(), [3, 4], [2**31 - 1, 5]),
    "running": (lambda x: x.cumsum(0), [3, 4], [2**31 - 1, 5]),
    "remainder": (lambda x: x % 7, [3, -4], [2**30 + 1, -(2**30) - 3]),
    "power": (lambda x: x**3, [3, -4], [4097, 5]),
    "argument": (lambda x: x.flip(0), [3, 4], [2**40, 5]),
}


@pytest.mark.parametrize("name", list(WIDE))
def test_openvino_computes_no_whole_number_that_it_does_not_hold(name: str) -> None:
    function, good, wide = (WIDE[name][0], *map(torch.tensor, WIDE[name][1:]))
    converted = Converted(region_of(function, [good]), "openvino")
    for _ in range(2):
        torch.testing.assert_close(converted(good)[0], function(good))
        with pytest.raises(Declined):
            converted(wide)


def test_onnxruntime_computes_whole_numbers_of_64_bits() -> None:
    for name, (function, good, wide) in WIDE.items():
        if name == "power":
            continue  # in double precision
        converted = Converted(region_of(function, [torch.tensor(good)]), "onnxruntime")
        torch.testing.assert_close(converted(torch.tensor(wide))[0], function(torch.tensor(wide)))


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_floats_become_whole_numbers_as_torch_makes_them(flavour: str, dtype: torch.dtype) -> None:
    small = torch.tensor([0.0, 3.7, 100.0])
    converted = Converted(region_of(lambda x: x.to(dtype), [small]), flavour)
    torch.testing.assert_close(converted(small)[0], small.to(dtype))
    for odd in (5e9, -5e9, float("nan"), float("inf"), -float("inf"), 300.0, -2.0):
        x = torch.tensor([odd, 1.0, 2.0])
        try:
            found = converted(x)[0]
        except Declined:
            continue
        torch.testing.assert_close(found, x.to(dtype))


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_number_that_is_not_chosen_may_be_lost(flavour: str) -> None:
    """As T5's buckets of positions: the logarithm of 0 becomes a whole number, and is not taken."""

    def bucket(x: Tensor) -> Tensor:
        far = 8 + (torch.log(x.float() / 8) * 3).to(torch.long)
        return torch.where(x < 8, x, torch.minimum(far, torch.full_like(far, 15)))

    x = torch.arange(12)
    converted = Converted(region_of(bucket, [x]), flavour)
    torch.testing.assert_close(converted(x)[0], bucket(x))


def test_openvino_refuses_what_it_cannot_keep_apart() -> None:
    with pytest.raises(Refused):
        Converted(region_of(lambda x: x.long() * 5000000, [GOOD.float()]), "openvino")


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_nothing_is_written_by_a_call_that_is_declined(flavour: str) -> None:
    def step(cache: Tensor, x: Tensor, place: Tensor) -> Tensor:
        cache.index_copy_(0, place.long(), x)
        return cache.sum(0)

    cache, x = torch.zeros(4, 2), torch.ones(1, 2)
    converted = Converted(region_of(step, [cache, x, torch.tensor([1.0])]), flavour)
    converted(cache, x, torch.tensor([2.0]))
    assert cache[2].tolist() == [1.0, 1.0]
    before = cache.clone()
    with pytest.raises(Declined):
        converted(cache, x, torch.tensor([4.0]))
    assert torch.equal(cache, before)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_boundaries_out_of_order_are_searched_by_torch(flavour: str) -> None:
    x, bounds = torch.tensor([0.5, 2.5, 9.0]), torch.tensor([1.0, 2.0, 3.0])
    converted = Converted(region_of(torch.bucketize, [x, bounds]), flavour)
    torch.testing.assert_close(converted(x, bounds)[0], torch.bucketize(x, bounds))
    for wrong in ([3.0, 2.0, 1.0], [1.0, float("nan"), 2.0]):
        with pytest.raises(Declined):
            converted(x, torch.tensor(wrong))


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_mask_chooses_no_more_than_there_is(flavour: str) -> None:
    x, mask, source = torch.zeros(4), torch.tensor([True, False, True, False]), torch.tensor([5.0, 6.0])
    converted = Converted(region_of(torch.masked_scatter, [x, mask, source]), flavour)
    torch.testing.assert_close(converted(x, mask, source)[0], torch.masked_scatter(x, mask, source))
    with pytest.raises(Declined):
        converted(x, torch.ones(4, dtype=torch.bool), source)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_whose_place_it_is_among_equals_is_torchs_choice(flavour: str) -> None:
    x = torch.tensor([[3.0, 1.0, 2.0, 0.0], [0.0, 5.0, -1.0, 9.0]])
    for function in (lambda x: x.topk(2), lambda x: x.kthvalue(2), lambda x: x.median(1)):
        converted = Converted(region_of(function, [x]), flavour)
        torch.testing.assert_close(tuple(converted(x)), tuple(function(x)))
        with pytest.raises(Declined):
            converted(torch.tensor([[3.0, 1.0, 1.0, 1.0], [0.0, -0.0, 0.0, -0.0]]))
    converted = Converted(region_of(lambda x: x.topk(1)[0], [x]), flavour)
    ties = torch.tensor([[3.0, 1.0, 1.0, 1.0], [0.0, 7.0, -0.0, -0.0]])
    torch.testing.assert_close(converted(ties)[0], ties.topk(1)[0])


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_numbers_that_leave_their_type_on_the_way(flavour: str) -> None:
    x = torch.tensor([0.5, 1.0, -2.0, 3.0])
    converted = Converted(region_of(F.hardswish, [x]), flavour)
    torch.testing.assert_close(converted(x)[0], F.hardswish(x))
    for odd in (1e38, 3e38, float("inf"), -float("inf"), float("nan")):
        wild = torch.tensor([odd, 1.0, -2.0, 0.0])
        try:
            found = converted(wild)[0]
        except Declined:
            continue
        torch.testing.assert_close(found, F.hardswish(wild), equal_nan=True)
