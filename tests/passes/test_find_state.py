"""find-state: caches written or grown, running statistics, counters; and what is not state."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Node

from djinn_fx.passes.annotate_phase import AnnotatePhase
from djinn_fx.passes.base import PassContext
from djinn_fx.passes.find_state import FindState
from djinn_fx.reasons import ReasonKind
from djinn_fx.srg import SRG, GraphKind, Residency
from tests.capture import capture
from tests.phase_table import graphs_of


def states(srg: SRG) -> list[Node]:
    """The inputs that find-state marks; each has its reason."""
    passes = (FindState(),) if srg.made_by == "annotate-phase" else (AnnotatePhase(), FindState())
    for one in passes:
        one.run(srg, PassContext())
    found = [node for node in srg.inputs if srg.record(node).residency is Residency.STATE]
    for node in found:
        assert ReasonKind.STATE in {reason.kind for reason in srg.record(node).reasons}
    return found


def shapes(nodes: list[Node]) -> list[tuple[int, ...]]:
    """Shapes of inputs that have a shape at all, with the scalars left out."""
    return sorted(tuple(node.meta["val"].shape) for node in nodes if node.meta["val"].dim())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama/decode-growing", [(2, 2, 10, 8)] * 4),
        ("qwen3/prefill-chunk", [(2, 2, 10, 8)] * 4),
        ("qwen3/decode-fixed", [(2, 2, 24, 8)] * 4),
        ("gpt2/decode-fixed", [(2, 4, 24, 8)] * 4),
        ("gemma2/decode-fixed", [(2, 2, 16, 8)] * 2 + [(2, 2, 24, 8)] * 2),
        ("t5/decode", [(2, 4, 5, 8)] * 4),
        ("mamba/decode", [(2, 64, 4)] * 4),
        ("functional/decode", [(2, 4, 11, 8)] * 6),
        ("functional/decode-written", [(2, 4, 24, 8)] * 6),
        ("llama/prefill", []),
        ("bert/padded", []),
        ("vit/encode", []),
        ("t5/whole", []),
    ],
)
def test_caches(name: str, expected: list[tuple[int, ...]]) -> None:
    graphs = graphs_of(name)
    assert shapes([node for srg in graphs for node in states(srg)]) == sorted(expected)


def _normed(training: bool) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).train(training)


@pytest.mark.parametrize("training", [False, True])
def test_running_statistics_and_their_counter(training: bool) -> None:
    graphs = capture(_normed(True), (torch.randn(2, 3, 10, 10),), training=training)
    found = {srg.kind: states(srg) for srg in graphs}
    kind = GraphKind.FORWARD if training else GraphKind.INFERENCE
    assert sorted(node.meta["val"].shape for node in found[kind]) == [(), (8,), (8,)]
    assert not found.get(GraphKind.BACKWARD)


def test_statistics_that_are_only_read_are_no_state() -> None:
    (srg,) = capture(_normed(False), (torch.randn(2, 3, 10, 10),))
    assert states(srg) == []


def test_optimiser_step_writes_parameters_that_stay_parameters() -> None:
    weight = nn.Parameter(torch.randn(4, 5))

    def f(gradient: Tensor) -> None:
        weight.sub_(gradient, alpha=0.1)

    (srg,) = capture(f, (torch.randn(4, 5),))
    assert states(srg) == []


def test_input_written_through_a_view() -> None:
    def f(x: Tensor, log: Tensor) -> Tensor:
        log[2:4].copy_(x)
        return log.sum()

    (srg,) = capture(f, (torch.randn(2, 5), torch.zeros(6, 5)))
    assert shapes(states(srg)) == [(6, 5)]


def test_skip_connection_that_is_joined_and_returned_is_no_state() -> None:
    """What a densely connected network does with its input looks like a growing cache, but nothing is generated."""

    def f(x: Tensor, w: Tensor) -> Any:
        joined = torch.cat([x, torch.relu(nn.functional.conv2d(x, w, padding=1))], 1)
        return joined, joined.mean()

    (srg,) = capture(f, (torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3)))
    assert states(srg) == []
