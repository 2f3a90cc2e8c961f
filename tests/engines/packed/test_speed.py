"""Which way a product is done: measured once, remembered for this machine, packed only where it pays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from djinn_fx.engines.packed import ops as packed_ops
from djinn_fx.engines.packed import speed as product_speed
from djinn_fx.engines.packed.speed import FILE, MARGIN, ProductSpeed, Shape, measure_product

SHAPE = Shape(m=4, k=8, n=16, dtype=torch.float32, bias=True, after="gelu")


class Figures:
    """Says what it is told to, and counts how often it is asked."""

    def __init__(self, **seconds: float) -> None:
        self.seconds, self.asked = seconds, 0

    def __call__(self, shape: Shape) -> dict[str, float]:
        self.asked += 1
        return dict(self.seconds)


@pytest.mark.parametrize(
    ("seconds", "best"),
    [
        ({"aten": 1.0, "mkl": 0.9, "onednn": 0.8}, "onednn"),
        ({"aten": 1.0, "mkl": 0.8, "onednn": 0.9}, "mkl"),
        ({"aten": 1.0, "mkl": 0.8, "onednn": 0.8 + MARGIN / 2}, "onednn"),
        ({"aten": 1.0, "mkl": 0.8, "onednn": 0.99}, "mkl"),
        ({"aten": 1.0, "mkl": 1.0 - MARGIN / 2, "onednn": 1.2}, "aten"),
        ({"aten": 0.5, "mkl": 0.8, "onednn": 0.9}, "aten"),
        ({"aten": 1.0}, "aten"),
    ],
)
def test_a_packed_weight_must_pay(seconds: dict[str, float], best: str) -> None:
    assert ProductSpeed(None, Figures(**seconds)).best(SHAPE) == best


def test_figures_are_remembered_on_disk(tmp_path: Path) -> None:
    first, second = Figures(aten=1.0, mkl=0.5), Figures(aten=1.0)
    speed = ProductSpeed(tmp_path / "cache", first)
    assert [speed.best(SHAPE) for _ in range(3)] == ["mkl"] * 3
    assert ProductSpeed(tmp_path / "cache", second).best(SHAPE) == "mkl"
    assert (first.asked, second.asked) == (1, 0)


def test_figures_belong_to_a_number_of_threads(tmp_path: Path) -> None:
    figures, threads = Figures(aten=1.0), torch.get_num_threads()
    try:
        for count in (1, 2, 1, 2):
            torch.set_num_threads(count)
            ProductSpeed(tmp_path, figures).best(SHAPE)
    finally:
        torch.set_num_threads(threads)
    assert figures.asked == 2


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"schema": 99}', '{"schema": 1, "machines": []}', '{"schema": 1, "machines": {"x": 3}}']
)
def test_a_damaged_file_is_measured_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    figures = Figures(aten=1.0, mkl=0.5)
    assert ProductSpeed(tmp_path, figures).best(SHAPE) == "mkl"
    assert figures.asked == 1
    assert json.loads((tmp_path / FILE).read_text())["content"]["machines"]


def test_figures_that_make_no_sense_are_measured_anew(tmp_path: Path) -> None:
    ProductSpeed(tmp_path, Figures(aten=1.0, mkl=0.5)).best(SHAPE)
    path = tmp_path / FILE
    path.write_text(path.read_text().replace("0.5", '"quick"'))
    figures = Figures(aten=1.0)
    assert ProductSpeed(tmp_path, figures).best(SHAPE) == "aten"
    assert figures.asked == 1


def test_what_cannot_be_written_is_kept_in_memory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    figures = Figures(aten=1.0, mkl=0.5)
    speed = ProductSpeed(tmp_path / "file" / "folder", figures)
    assert [speed.best(SHAPE), speed.best(SHAPE)] == ["mkl", "mkl"]
    assert figures.asked == 1


def test_large_products_are_measured_in_part() -> None:
    large = Shape(m=100_000, k=4096, n=150_000, dtype=torch.float32, bias=False)
    part = large.measured()
    assert part.k == large.k
    assert part.k * part.n * 4 <= product_speed._MAX_WEIGHT_BYTES
    assert part.m <= product_speed._MAX_ROWS
    assert part.measured() == part
    assert SHAPE.measured() == SHAPE


@pytest.mark.skipif(packed_ops.missing() is not None, reason="this torch cannot pack weights")
@pytest.mark.parametrize("after", ["none", "gelu_tanh", "silu", "relu", "sigmoid", "tanh", "gelu", "add", "mul"])
def test_every_way_is_measured(after: str) -> None:
    seconds = measure_product(Shape(m=3, k=8, n=64, dtype=torch.float32, bias=False, after=after))
    assert set(seconds) == {"aten", "onednn"} | ({"mkl"} if packed_ops.has_mkl() else set())
    assert min(seconds.values()) > 0


def test_measuring_while_a_graph_is_traced() -> None:
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        assert "aten" in measure_product(Shape(m=3, k=8, n=64, dtype=torch.float32, bias=True))
