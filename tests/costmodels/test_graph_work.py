"""The work of a part of a graph, cut out of the whole, is the work of that part."""

from __future__ import annotations

import random

import pytest
import torch

from djinn_fx.costmodels.choose import pricing
from djinn_fx.costmodels.graph_work import GraphWork, part_of, priced
from djinn_fx.costmodels.work.work_of import work_graph
from djinn_fx.passes.base import PassContext, run_passes
from djinn_fx.passes.estimate_cost import EstimateCost
from djinn_fx.passes.find_regions import whole_region
from tests import graphs


@pytest.mark.parametrize("name", graphs.BUILDERS)
def test_any_part_is_as_if_counted_alone(name: str) -> None:
    srg = graphs.lowered(graphs.BUILDERS[name]())
    names = [node.name for node in srg.ops]
    draw = random.Random(1)
    known = GraphWork(srg)
    for _ in range(5):
        first, last = sorted(draw.sample(range(len(names) + 1), 2))
        part, alone = known.part(names[first:last]), work_graph(srg, names[first:last])
        assert part.ops == alone.ops
        assert part.names == alone.names
        assert [[read.producer for read in reads] for reads in part.reads] == [
            [read.producer for read in reads] for reads in alone.reads
        ]
        busy = [place for place, work in enumerate(part.ops) if not work.costs_nothing]
        assert [part.escapes[place] for place in busy] == [alone.escapes[place] for place in busy]


def test_the_whole_is_not_copied() -> None:
    srg = graphs.lowered(graphs.two_layer_mlp())
    known = GraphWork(srg)
    assert known.part([node.name for node in srg.ops]) is known.whole


def test_ops_that_were_added_later_are_counted() -> None:
    srg = graphs.lowered(graphs.two_layer_mlp())
    run_passes(srg, [EstimateCost()], PassContext())
    before = [node.name for node in srg.ops]
    last = next(node for node in srg.nodes if node.name == before[-1])
    with srg.gm.graph.inserting_after(last):
        added = srg.gm.graph.call_function(torch.ops.aten.neg.default, (last,))
    added.meta["val"] = last.meta["val"]
    again = graphs.lowered(srg.gm)
    assert part_of(again, [added.name]).names == (added.name,)


def test_a_region_is_priced_for_each_engine_and_costs_what_the_first_takes() -> None:
    srg = graphs.lowered(graphs.two_layer_mlp())
    region = whole_region(srg)
    assert region is not None
    made = priced(region, work_graph(srg), pricing("datasheet"), ("inductor", "eager", "inductor"))
    assert [one.engine for one in made.times] == ["inductor", "eager"]
    assert made.cost.time_s == made.times[0].time_s > 0
    assert made.cost.low_s <= made.cost.time_s <= made.cost.high_s
    assert made.eager_s == made.times[1].time_s
    assert made.cost.flops == sum(work.flops for work in work_graph(srg))
    assert made.time_on("tensorrt") is None
