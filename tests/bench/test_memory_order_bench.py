"""bench/memory/order.py: what counts, and one of its measurements on a model of no size."""

from __future__ import annotations

import pytest
import torch

from bench.memory import order
from bench.memory.graphs import built
from bench.memory.order_child import KINDS, _compared
from djinn_fx.passes.memory.order_ops import OrderOps


def test_a_gain_is_a_share_of_the_peak_as_traced() -> None:
    one = {"as_traced": 200, "ours": 150, "bound": 100}
    assert (order.gain(one), order.room(one)) == (0.25, 0.5)


def test_quick_measures_less() -> None:
    few, all_of_them = (order.works(order.arguments_of(argv)) for argv in (["--quick"], []))
    assert set(few) < set(all_of_them)
    assert {kind for _, kind in all_of_them} == set(KINDS)


@pytest.mark.parametrize("kind", ["momentum", "step with adam"])
def test_both_orders_give_the_same_and_ours_takes_less(kind: str) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(64, 64) for _ in range(6)))
    pairs = []
    for without in ((OrderOps.name,), ()):
        step, args, loss = KINDS[kind](model, (torch.randn(4, 64),))
        pairs.append(built(step, args, {}, "eager", loss_of=loss, without=without))
    (found,) = [_compared("a test", *pair) for pair in zip(*pairs, strict=True)]
    assert found["equal"]
    assert found["moved"]
    assert found["bound"] <= found["ours"] < 0.85 * found["as_traced"]
