"""colocate: state ties the regions that touch it; weights do not."""

from __future__ import annotations

import torch

from djinn_fx.passes.base import PassContext, run_passes
from djinn_fx.passes.colocate import Colocate, colocation_groups
from djinn_fx.reasons import ReasonKind
from djinn_fx.srg import Residency
from tests import graphs


def test_one_device_changes_nothing_and_says_so() -> None:
    srg = graphs.cut(graphs.lowered(graphs.decoder_step_with_kv_cache()), 6)
    before = [srg.record(node) for node in srg.nodes]
    result = run_passes(srg, [graphs.CutByHand(first=6), Colocate()], PassContext(), check=True)
    assert [srg.record(node) for node in srg.nodes] == before
    assert not result.timings[-1].modified
    assert [reason.kind for reason in result.reasons] == [ReasonKind.COLOCATED]


def test_state_ties_the_regions_that_touch_it() -> None:
    srg = graphs.cut(graphs.lowered(graphs.writer_and_readers()), 1, 1)
    tied, alone = colocation_groups(srg)
    assert (tied.values, tied.regions) == (("cache_1",), (0, 1))
    assert (alone.values, alone.regions) == ((), (2,))


def test_a_shared_weight_ties_nothing_and_belongs_to_nobody() -> None:
    gm = graphs.trace(lambda x, w: (x @ w) @ w, torch.empty(3, 3), torch.empty(3, 3))
    srg = graphs.cut(graphs.lowered(gm), 1)
    assert srg.record(srg.node("w_1")).residency is Residency.PARAMETER
    assert [(group.values, group.regions) for group in colocation_groups(srg)] == [((), (0,)), ((), (1,))]


def test_a_weight_goes_with_its_only_region() -> None:
    srg = graphs.cut(graphs.lowered(graphs.repeated_layers(2)), 4)
    assert [group.values for group in colocation_groups(srg)] == [("w_1", "w_2"), ("w_3", "w_4")]
