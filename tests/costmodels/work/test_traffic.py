"""Bytes an op moves: what it must read and write, no more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from djinn_fx.costmodels.work.traffic import LINE_BYTES, node_bytes, packet_name, touched_bytes
from djinn_fx.costmodels.work.work import Work
from djinn_fx.costmodels.work.work_of import work_of
from djinn_fx.srg import SRG, TensorMeta
from tests import graphs

M, N, ROWS = 3, 8, 100
FLOAT, LONG = torch.float32.itemsize, torch.int64.itemsize


def last_work(function: Callable[..., Any], *args: Any, symbolic: bool = False) -> Work:
    """What the last op of a function's graph does."""
    srg: SRG = graphs.lowered(graphs.trace(function, *args, symbolic=symbolic))
    *_, node = (node for node in srg.ops if not srg.record(node).is_view or srg.record(node).mutates)
    return work_of(srg, node)


def last_op(function: Callable[..., Any], *args: Any, symbolic: bool = False) -> tuple[int, int]:
    """Bytes read and written by it."""
    work = last_work(function, *args, symbolic=symbolic)
    return work.weight_bytes + work.read_bytes, work.write_bytes


MATRIX = M * N * FLOAT


@pytest.mark.parametrize(
    ("function", "args", "read", "write"),
    [
        (torch.add, (torch.ones(M, N), torch.ones(N)), MATRIX + N * FLOAT, MATRIX),
        (lambda x: x + x, (torch.ones(M, N),), MATRIX, MATRIX),
        (lambda x: x.sum(), (torch.ones(M, N),), MATRIX, FLOAT),
        (lambda x: x.add_(1), (torch.ones(M, N),), MATRIX, MATRIX),
        (lambda x, y: x.add_(y), (torch.ones(M, N), torch.ones(M, N)), 2 * MATRIX, MATRIX),
        (lambda x, y: x.copy_(y), (torch.ones(M, N), torch.ones(N)), N * FLOAT, MATRIX),
        (lambda x: x.zero_(), (torch.ones(M, N),), 0, MATRIX),
        (torch.zeros_like, (torch.ones(M, N),), 0, MATRIX),
        (lambda x: x.expand(ROWS, N) * 2, (torch.ones(1, N),), N * FLOAT, ROWS * N * FLOAT),
        (
            lambda w, i: F.embedding(i, w),
            (torch.ones(ROWS, N), torch.zeros(M, dtype=torch.int64)),
            MATRIX + M * LONG,
            MATRIX,
        ),
        (
            lambda w, i: w.index_select(0, i),
            (torch.ones(ROWS, N), torch.zeros(M, dtype=torch.int64)),
            MATRIX + M * LONG,
            MATRIX,
        ),
        (
            lambda cache, i, x: cache.index_copy_(0, i, x),
            (torch.ones(ROWS, N), torch.zeros(M, dtype=torch.int64), torch.ones(M, N)),
            MATRIX + M * LONG,
            MATRIX,
        ),
        (
            lambda cache, i, x: cache.index_copy(0, i, x),
            (torch.ones(ROWS, N), torch.zeros(M, dtype=torch.int64), torch.ones(M, N)),
            ROWS * N * FLOAT + MATRIX + M * LONG,
            ROWS * N * FLOAT,
        ),
    ],
)
def test_bytes(function: Callable[..., Any], args: tuple[Tensor, ...], read: int, write: int) -> None:
    assert last_op(function, *args) == (read, write)


def test_a_symbolic_broadcast_is_read_once() -> None:
    read, write = last_op(
        lambda x, y: x.expand(y.shape[0], N) * 2, torch.ones(1, N), torch.ones(ROWS, M), symbolic=True
    )
    assert (read, write) == (N * FLOAT, ROWS * N * FLOAT)


def test_touched_bytes_of_a_broadcast() -> None:
    whole = TensorMeta(
        shape=(M, N),
        dtype="float32",
        strides=(N, 1),
        device="cpu",
        layout="strided",
        storage_offset=0,
        storage=0,
        nbytes=MATRIX,
        is_symbolic=False,
    )
    assert touched_bytes(whole) == MATRIX
    assert touched_bytes(TensorMeta(**{**vars(whole), "strides": (0, 1)})) == N * FLOAT


def test_node_bytes_sums_all_outputs() -> None:
    srg = graphs.lowered(graphs.trace(lambda x: F.layer_norm(x, (N,)), torch.ones(M, N)))
    assert node_bytes(srg, srg.node("native_layer_norm")) == MATRIX + 2 * M * FLOAT


def test_names_lose_their_overload() -> None:
    assert packet_name("aten.add.Tensor") == "aten.add"


def test_weights_are_counted_apart() -> None:
    work = last_work(lambda x, w: torch.mm(x, w.t()), torch.ones(M, N), torch.ones(ROWS, N))
    assert (work.weight_bytes, work.read_bytes) == (ROWS * N * FLOAT, MATRIX)


@pytest.mark.parametrize(
    ("function", "shape", "read", "strided"),
    [
        (lambda x: x.t().clone(memory_format=torch.contiguous_format), (64, 32), 64 * 32, 64 * 32),
        (lambda x: x * 2, (64, 32), 64 * 32, 0),
        (lambda x: x.t() * 2, (64, 32), 64 * 32, 0),  # the result is laid out as the input is: nothing is crossed
        (lambda x: x[:, :32] * 2, (64, 128), 64 * 32, 0),  # rows of 128 bytes: two cache lines each
        (lambda x: x[:, :2] * 2, (64, 128), 64 * 2, 64 * 2),  # rows of 8 bytes
        (lambda x: x[:, ::4] * 2, (64, 128), 64 * 128 - 3, 64 * 128 - 3),  # every line is touched
        (lambda x: x.transpose(1, 2).clone(memory_format=torch.contiguous_format), (2, 8, 4, 16), 2 * 8 * 4 * 16, 0),
    ],
)
def test_strided_reads(function: Callable[..., Any], shape: tuple[int, ...], read: int, strided: int) -> None:
    work = last_work(function, torch.ones(shape))
    assert (work.read_bytes, work.strided_bytes) == (read * FLOAT, strided * FLOAT)


def test_what_lies_closer_than_a_cache_line_is_one_piece() -> None:
    step = LINE_BYTES // FLOAT
    near = last_work(lambda x: x[::step] * 2, torch.ones(step * 8))
    assert near.read_bytes == 7 * LINE_BYTES + FLOAT  # a gap of less than a line


def test_rows_looked_up_are_gathered() -> None:
    index = torch.zeros(M, dtype=torch.int64)
    work = last_work(lambda w, i: F.embedding(i, w), torch.ones(ROWS, N), index)
    assert work.gather_bytes == work.weight_bytes == MATRIX
    scattered = last_work(lambda x, i, y: x.index_add(0, i, y), torch.ones(ROWS, N), index, torch.ones(M, N))
    assert scattered.gather_bytes == MATRIX
