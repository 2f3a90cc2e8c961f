"""Convolutions of the packed engine: batch norms folded, sums and relus fused, results in eager's memory order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from djinn_fx.engines.packed import ops as packed_ops
from djinn_fx.engines.packed.conv import ConvShape
from djinn_fx.engines.packed.graph import convolutions, rewritten
from djinn_fx.engines.packed.speed import measure_product
from djinn_fx.reasons import ReasonKind
from tests.concrete import concrete, copied
from tests.engines.packed.packing import differences, engine_of, region_of

pytestmark = pytest.mark.skipif(packed_ops.missing() is not None, reason="this torch cannot pack weights")


class Bottleneck(nn.Module):
    """Two convolutions with their norms, and a residual."""

    def __init__(self, channels: int = 8, affine: bool = True, bias: bool = False) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(channels, channels, 3, padding=1, bias=bias) for _ in range(2))
        self.norm, self.other = (nn.BatchNorm2d(channels, affine=affine) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.other(self.two(torch.relu(self.norm(self.one(x))))))


IMAGE = torch.randn(2, 8, 7, 5)

Shown = Callable[[Tensor, nn.Module], Any]
SHOWN: list[Shown] = [
    lambda x, conv: conv(x),
    lambda x, conv: conv(x).flatten(2).transpose(1, 2),
    lambda x, conv: (conv(x).view(2, -1), conv(x).sum(1)),
    lambda x, conv: (lambda y: (y, torch.relu(y)))(conv(x)),
    lambda x, conv: (lambda y: (y, y.permute(0, 2, 3, 1)))(conv(x)),
    lambda x, conv: nn.functional.adaptive_avg_pool2d(conv(x), 1),
    lambda x, conv: nn.functional.max_pool2d(conv(x), 2, return_indices=True),
    lambda x, conv: torch.cat([conv(x), x], 1),
    lambda x, conv: conv(x).mean((2, 3), keepdim=True) * conv(x),
    lambda x, conv: conv(conv(x)) + x,
    lambda x, conv: conv(x.to(memory_format=torch.channels_last)),
    lambda x, conv: conv(x[:, :, 1:, ::2]).contiguous(),
    lambda x, conv: conv(x).argmax(1),
]


def check(region: Any, way: str) -> None:
    run = engine_of(way).compile(region).ready
    args = concrete(region.example_inputs)
    with torch.no_grad():
        for _ in range(2):
            given = copied(args)
            assert differences(run(list(given)), region.gm(*args), 1e-4) == []
            assert differences(given, args) == []


@pytest.mark.parametrize("way", ["aten", "onednn"])
@pytest.mark.parametrize("number", range(len(SHOWN)))
def test_results_lie_in_memory_as_eagers_do(number: int, way: str) -> None:
    conv = nn.Conv2d(8, 8, 3, padding=1)
    check(region_of(lambda x: SHOWN[number](x, conv), IMAGE), way)


@pytest.mark.parametrize("way", ["aten", "onednn"])
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"bias": True}])
def test_norms_sums_and_relus_are_taken_in(options: dict[str, bool], way: str) -> None:
    region = region_of(Bottleneck(**options).eval(), IMAGE)
    graph = rewritten(region.gm, region.weights).graph
    assert [node.args[7] for node in convolutions(graph)] == ["relu", "add_relu"]
    assert not graph.find_nodes(op="call_function", target=torch.ops.aten._native_batch_norm_legit_no_training.default)
    check(region, way)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 6, (3, 1), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
        nn.Conv2d(8, 4, 1, bias=False),
        nn.Conv2d(8, 4, 3, padding="same"),
        nn.ConvTranspose2d(8, 4, 3),
    ],
)
def test_kinds_of_convolutions(conv: nn.Module) -> None:
    region = region_of(nn.Sequential(conv, nn.SiLU()), IMAGE)
    if isinstance(conv, nn.ConvTranspose2d):
        reason = engine_of("onednn").supports(region)
        assert reason is not None
        assert reason.kind is ReasonKind.ENGINE_REFUSED
    else:
        check(region, "onednn")


def test_a_norm_that_changes_is_followed() -> None:
    region = region_of(Bottleneck().eval(), IMAGE)
    run = engine_of("onednn").compile(region).ready
    args = concrete(region.example_inputs)
    with torch.no_grad():
        for place in region.weights:
            assert differences(run(list(args)), region.gm(*args), 1e-4) == []
            args[place].data.mul_(1.25)
        assert differences(run(list(args)), region.gm(*args), 1e-4) == []


def test_other_sizes_than_those_it_was_packed_for() -> None:
    region = region_of(Bottleneck().eval(), IMAGE, dynamic=True)
    run = engine_of("onednn").compile(region).ready
    symbols = [str(one.node.expr) for one in region.example_inputs if isinstance(one, torch.SymInt)]
    for sizes in ((2, 7, 5), (3, 9, 4), (4, 6, 8)):
        args = concrete(region.example_inputs, sizes=dict(zip(symbols, sizes, strict=False)))
        with torch.no_grad():
            assert differences(run(list(args)), region.gm(*args), 1e-4) == []


@pytest.mark.parametrize("after", ["none", "relu", "silu", "add", "add_relu"])
def test_both_ways_are_measured(after: str) -> None:
    sizes = {"x": (1, 8, 6, 6), "weight": (8, 8, 3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
    seconds = measure_product(ConvShape(**sizes, groups=1, dtype=torch.float32, after=after))
    assert set(seconds) == {"aten", "onednn"}
