"""order: after what is read; reads and writes of one memory as the graph has them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from djinn_fx.errors import PassError
from djinn_fx.passes.base import PassContext, run_passes
from djinn_fx.passes.order import Order, dependencies
from djinn_fx.reasons import ReasonKind
from djinn_fx.srg import SRG
from djinn_fx.srg.verify import verify
from tests import graphs


def ordered(srg: SRG) -> tuple[int, ...]:
    result = Order().run(srg, PassContext())
    assert [reason.kind for reason in result.reasons] == [ReasonKind.ORDERED]
    verify(srg, ["order-valid"])
    return srg.order


def regroup(srg: SRG, *groups: list[str]) -> SRG:
    """Regions with these ops, in this order of indices."""
    srg.regions = tuple(graphs.region_of(srg, index, group) for index, group in enumerate(groups))
    for region in srg.regions:
        for name in region.nodes:
            srg.update(srg.node(name), region=region.index)
    return srg


@pytest.mark.parametrize("name", graphs.BUILDERS)
@pytest.mark.parametrize("size", [1, 3])
def test_graph_order_is_kept_where_it_is_valid(name: str, size: int) -> None:
    srg = graphs.lowered(graphs.BUILDERS[name]())
    count = len(list(srg.ops))
    graphs.cut(srg, *[size] * (count // size))
    assert ordered(srg) == tuple(range(len(srg.regions)))


def test_a_region_follows_what_it_reads() -> None:
    srg = regroup(
        graphs.lowered(graphs.repeated_layers(2)), ["mm_2", "tanh_1", "mm_3", "add_1"], ["mm", "tanh", "mm_1", "add"]
    )
    assert ordered(srg) == (1, 0)


@pytest.mark.parametrize("groups", [["copy_", "add", "mul"], ["mul", "copy_", "add"], ["add", "mul", "copy_"]])
def test_memory_keeps_reads_and_writes_in_order(groups: list[str]) -> None:
    srg = regroup(graphs.lowered(graphs.writer_and_readers()), *[[name] for name in groups])
    assert [srg.regions[index].nodes[0] for index in ordered(srg)] == ["add", "copy_", "mul"]


def test_a_write_through_a_view_counts_as_a_write_of_the_base() -> None:
    def model(x: Tensor, cache: Tensor) -> tuple[Tensor, Tensor]:
        old = cache * 2
        cache[0].copy_(x)
        return old, cache * 3

    srg = graphs.lowered(graphs.trace(model, torch.empty(4), torch.empty(3, 4)))
    srg = regroup(srg, ["mul_1"], ["select", "copy_"], ["mul"])
    assert ordered(srg) == (2, 1, 0)


def test_random_numbers_are_drawn_in_graph_order() -> None:
    def model(x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.rand_like(x), torch.rand_like(x)

    srg = graphs.lowered(graphs.trace(model, torch.empty(4)))
    assert ordered(regroup(srg, ["rand_like_1"], ["rand_like"])) == (1, 0)


def test_independent_regions_do_not_wait_for_each_other() -> None:
    srg = graphs.lowered(graphs.encoder_decoder())
    names = [node.name for node in srg.ops]
    encoder = names[: names.index("relu") + 1]
    query = [name for name in names if name in ("t_1", "view_1", "mm_1", "_unsafe_view_1", "view_2", "transpose")]
    rest = [name for name in names if name not in encoder and name not in query]
    assert dependencies(regroup(srg, encoder, query, rest)) == {0: set(), 1: set(), 2: {0, 1}}


def test_a_region_follows_what_it_reads_only_for_its_size() -> None:
    def model(x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.cat([x, x])
        return y, x.new_zeros(y.shape[0])

    srg = graphs.lowered(graphs.trace(model, torch.empty(5), symbolic=True))
    sizes = [node.name for node in srg.ops if not srg.record(node).outputs]
    regroup(srg, [*sizes, "new_zeros"], ["cat"])
    for name in sizes:  # in every region that needs it, and so in none
        srg.update(srg.node(name), region=None)
    assert "cat" in srg.regions[0].inputs
    Order().run(srg, PassContext())
    assert srg.order == (1, 0)


def test_regions_in_a_circle_are_refused_by_name() -> None:
    srg = regroup(graphs.lowered(graphs.repeated_layers(1)), ["mm", "mm_1"], ["tanh", "add"])
    srg.regions = tuple(
        replace(region, label=label) for region, label in zip(srg.regions, ("left", "right"), strict=True)
    )
    with pytest.raises(PassError, match="in a circle: left, right"):
        run_passes(srg, [_Unordered()], PassContext())


class _Unordered(Order):
    """The pass without its predecessors."""

    after = ()
