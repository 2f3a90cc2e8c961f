"""Writing at places, moving elements, windows, pictures: places from the end, several at one place, odd sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

from tests.engines.onnx.running import check, check_sizes


def _picture(*sizes: int) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(sizes)


INDEX = torch.tensor([[0, 1, 1], [2, 0, 1]])
SOURCE = torch.tensor([[1.0, 2.0, 3.0, 9.0], [4.0, 5.0, 6.0, 9.0]])
BASE = torch.arange(12.0).reshape(3, 4)


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("reduce", ["sum", "prod", "amax", "amin", "mean"])
def test_several_at_one_place(reduce: str, include_self: bool) -> None:
    def scatter(x: torch.Tensor, index: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        return x.scatter_reduce(0, index, source, reduce, include_self=include_self)

    check(scatter, BASE, INDEX, SOURCE)


def test_nan_is_an_extreme_of_its_place() -> None:
    source = SOURCE.clone()
    source[0, 1] = math.nan
    check(lambda x, i, s: [x.scatter_reduce(0, i, s, "amax"), x.scatter_reduce(1, i, s, "amin")], BASE, INDEX, source)


def test_adding_at_places() -> None:
    def adding(x: torch.Tensor, index: torch.Tensor, source: torch.Tensor) -> list[torch.Tensor]:
        row = index[0]
        return [
            x.scatter_add(1, index, source), x.index_add(0, row, x, alpha=2), x.index_add(-1, row, x[:, :3]),
            x.scatter(0, index, source, reduce="add"), x.scatter(0, index, 2.0, reduce="multiply"),
        ]  # fmt: skip

    check(adding, BASE, INDEX, SOURCE)


def test_places_counted_from_the_end() -> None:
    def places(x: torch.Tensor, index: torch.Tensor) -> list[torch.Tensor]:
        return [
            x.index_fill(0, index, -1.0), x.index_fill(1, index, x[0, 0]), x.take(index), x.put(index, x[0, :3]),
            x.put(index, x[0, :3], accumulate=True),
        ]  # fmt: skip

    check(places, BASE, torch.tensor([-1, 0, 1]))


MOVES: dict[str, Callable[[torch.Tensor], Any]] = {
    "flip": lambda x: [x.flip(0), x.flip(-1, 1)],
    "roll": lambda x: [x.roll(1, 1), x.roll((-2, 3), (0, 2)), x.roll(2)],
    "triangle": lambda x: [x.tril(), x.triu(1), x.tril(-1), x.triu(-2)],
    "diagonal": lambda x: [x.diagonal(0, 1, 2) + 0, x.diagonal(1, 0, 2) + 0, x.diagonal(-1, 1, 2) + 0],
    "diagonals": lambda x: [torch.diag_embed(x, o, *d) for o in (0, 2, -1) for d in ((-2, -1), (0, 2), (3, 1))],
    "written diagonal": lambda x: [x.diagonal_scatter(x[:, 0, :3] * 2, 1, 1, 2)],
    "windows": lambda x: [x.unfold(1, 2, 1) * 1, x.unfold(-1, 3, 2) * 1],
    "turned": lambda x: [torch.rot90(x, 1, (0, 2)), torch.rot90(x, 3, (1, 2))],
}


@pytest.mark.parametrize("name", sorted(MOVES))
def test_moved(name: str) -> None:
    check(MOVES[name], _picture(3, 3, 4))


def test_triangles_have_no_nan_outside() -> None:
    check(lambda x: [x.tril(), x.triu(), (x > 0).tril()], torch.full((3, 5), math.nan))


PICTURES: dict[str, Callable[[torch.Tensor], Any]] = {
    "nearest": lambda x: [F.interpolate(x, scale_factor=2.0), F.interpolate(x, size=(5, 9))],
    "linear": lambda x: [
        F.interpolate(x, size=(9, 5), mode="bilinear"), F.interpolate(x, scale_factor=1.7, mode="bilinear"),
        F.interpolate(x, size=(3, 13), mode="bilinear", align_corners=True),
    ],
    "cubic": lambda x: [F.interpolate(x, size=(9, 13), mode="bicubic")],
    "padded": lambda x: [F.pad(x, (1, 2, 3, 0), mode="reflect"), F.pad(x, (2, 0, 1, 4), mode="replicate")],
    "shuffled": lambda x: [F.pixel_shuffle(x, 2), F.channel_shuffle(x, 2)],
    "windows": lambda x: [F.unfold(x, 3, padding=1)],
    "pooled": lambda x: [F.adaptive_max_pool2d(x, (3, 1)), F.avg_pool1d(x[0], 3, 2, 1), F.max_pool1d(x[0], 2)],
    "sampled": lambda x: [
        F.grid_sample(x, torch.tanh(x[:, :2].permute(0, 2, 3, 1)) * 1.2, mode, padding, align_corners=corners)
        for mode in ("bilinear", "nearest") for padding in ("zeros", "border") for corners in (True, False)
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(PICTURES))
def test_pictures(name: str) -> None:
    check(PICTURES[name], _picture(2, 4, 6, 7), rtol=1e-4, atol=1e-5)


def test_three_dimensions() -> None:
    def pooled(x: torch.Tensor) -> list[torch.Tensor]:
        return [
            F.max_pool3d(x, 2, 2, 1), F.max_pool3d(x, 3, 2, ceil_mode=True), F.avg_pool3d(x, 2, 1),
            F.avg_pool3d(x, 2, 2, 1, count_include_pad=False), F.avg_pool3d(x, 2, 2, divisor_override=3),
            F.adaptive_avg_pool3d(x, (2, 3, 1)), F.interpolate(x, size=(8, 5, 6), mode="trilinear"),
        ]  # fmt: skip

    check(pooled, _picture(2, 2, 4, 6, 5), rtol=1e-4, atol=1e-5)


def test_numbers_made() -> None:
    def made(x: torch.Tensor) -> list[torch.Tensor]:
        return [x + torch.eye(4), x * torch.linspace(0, 1, 4), x + torch.tril_indices(4, 4, -1).sum()]

    check(made, _picture(4, 4))


def test_losses() -> None:
    def losses(x: torch.Tensor, y: torch.Tensor, target: torch.Tensor) -> list[torch.Tensor]:
        return [
            F.cross_entropy(x, target), F.nll_loss(x.log_softmax(1), target, reduction="none"), F.mse_loss(x, y),
            F.smooth_l1_loss(x, y), F.huber_loss(x, y), F.l1_loss(x, y), F.kl_div(x, y.softmax(1)),
            F.binary_cross_entropy_with_logits(x, y.sigmoid()), F.cosine_similarity(x, y), F.soft_margin_loss(x, y),
        ]  # fmt: skip

    check(losses, _picture(5, 7), _picture(5, 7).flip(0), torch.tensor([0, 6, 3, 1, 1]), rtol=1e-5, atol=1e-5)


def test_shapes_of_activation() -> None:
    def gates(x: torch.Tensor) -> list[torch.Tensor]:
        return [
            F.glu(x), F.celu(x, 0.5), F.selu(x), F.prelu(x, x[0, :1].abs()), F.threshold(x, 0.1, -3.0), F.softshrink(x),
            F.hardshrink(x), F.logsigmoid(x), F.tanhshrink(x), F.softsign(x), F.softmin(x, 1), F.normalize(x),
        ]  # fmt: skip

    check(gates, _picture(4, 6), rtol=1e-5, atol=1e-5)


def test_sizes_that_are_symbols() -> None:
    def several(x: torch.Tensor) -> list[torch.Tensor]:
        index = (x * 0).long()
        return [x.tril(), x.triu(1), x.flip(1), x.scatter_add(1, index, x), x.index_fill(0, index[0, :2], 1.0)]

    check_sizes(several, [_picture(5, 7)], [_picture(3, 11)])


def test_pictures_whose_sizes_are_symbols() -> None:
    def several(x: torch.Tensor) -> list[torch.Tensor]:
        return [F.interpolate(x, scale_factor=2.0), F.interpolate(x, scale_factor=2.0, mode="bilinear")]

    calls = [_picture(2, 3, 5, 7)], [_picture(3, 3, 6, 4)]
    check_sizes(several, *calls, flavours=["onnxruntime"], rtol=1e-4, atol=1e-5)
