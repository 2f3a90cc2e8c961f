"""Memory that ops take beside their results: the rules against torch's own allocator, to the byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from djinn_fx.calibrate.live_memory import measured
from djinn_fx.costmodels.memory.workspace import Workspaces, formulas
from djinn_fx.costmodels.work.work_of import sizes_of
from djinn_fx.engines.eager import as_callable
from djinn_fx.errors import SettingsError
from djinn_fx.srg import lower
from tests import graphs

aten = torch.ops.aten


def turned(*shape: int) -> Tensor:
    """A tensor whose last two dimensions lie the other way round."""
    return torch.randn(*shape).transpose(-1, -2)


def plain(*shape: int) -> Tensor:
    return torch.randn(*shape)


ATTENTION = aten._scaled_dot_product_flash_attention_for_cpu.default

#: A call of one op, and its arguments.
CASES: dict[str, tuple[Callable[..., Any], list[Tensor]]] = {
    "attention": (lambda q, k: ATTENTION(q, k, k), [plain(1, 2, 20, 16)] * 2),
    "attention, a long text": (lambda q, k: ATTENTION(q, k, k), [plain(1, 2, 800, 8)] * 2),
    "attention, one token": (lambda q, k: ATTENTION(q, k, k), [plain(1, 2, 1, 16), plain(1, 2, 90, 16)]),
    "softmax": (lambda x: aten._softmax.default(x, -1, False), [plain(8, 64)]),
    "softmax, turned": (lambda x: aten._softmax.default(x, -1, False), [turned(8, 64)]),
    "layer norm, turned": (lambda x: aten.native_layer_norm.default(x, [64], None, None, 1e-5), [turned(64, 8)]),
    "add, types differ": (lambda x, y: x + y, [plain(64), torch.ones(64, dtype=torch.int64)]),
    "add a number": (lambda x: x + 1.5, [plain(64)]),
    "add a whole number": (lambda x: x + 2, [torch.ones(64, dtype=torch.int64)]),
    "less, types differ": (lambda x, y: x < y, [plain(64), torch.ones(64, dtype=torch.int64)]),
    "sine of whole numbers": (torch.sin, [torch.ones(64, dtype=torch.int64)]),
    "sum of truths": (lambda x: aten.sum.dim_IntList(x, [0]), [torch.ones(64, dtype=torch.bool)]),
    "running sum of truths": (lambda x: aten.cumsum.default(x, 0), [torch.ones(64, dtype=torch.bool)]),
    "where": (torch.where, [torch.ones(64, dtype=torch.bool), plain(64), plain(64)]),
    "mean": (lambda x: aten.mean.dim(x, [-1]), [plain(8, 64)]),
    "dropout": (lambda x: aten.native_dropout.default(x, 0.5, True), [plain(64)]),
    "batch norm": (
        lambda x, w: aten._native_batch_norm_legit_no_training.default(x, w, w, w, w * w, 0.1, 1e-5),
        [plain(2, 8, 9, 9), plain(8)],
    ),
    "few patches": (lambda x, w: torch.conv2d(x, w), [plain(1, 3, 32, 32), plain(8, 3, 3, 3)]),
    "convolution": (lambda x, w: torch.conv2d(x, w, padding=1), [plain(1, 64, 28, 28), plain(32, 64, 3, 3)]),
    "convolution with steps": (
        lambda x, w: torch.conv2d(x, w, padding=1, stride=2),
        [plain(1, 32, 28, 28), plain(64, 32, 3, 3)],
    ),
    "a convolution each channel": (
        lambda x, w: torch.conv2d(x, w, padding=3, groups=64),
        [plain(1, 64, 28, 28), plain(64, 1, 7, 7)],
    ),
    "a convolution each channel, channels last": (
        lambda x, w: torch.conv2d(x, w, padding=3, groups=64),
        [plain(1, 64, 28, 28).contiguous(memory_format=torch.channels_last), plain(64, 1, 7, 7)],
    ),
    "patches of an image": (lambda x, w: torch.conv2d(x, w, stride=16), [plain(1, 3, 224, 224), plain(96, 3, 16, 16)]),
}


@pytest.mark.parametrize("name", CASES)
def test_as_much_as_torch_takes(name: str) -> None:
    function, args = CASES[name]
    gm = graphs.trace(
        lambda *given: function(*given), *(torch.empty_strided(a.shape, a.stride(), dtype=a.dtype) for a in args)
    )
    srg = lower(gm)
    rules = Workspaces(sizes_of(srg), torch.get_num_threads())
    foretold = max(rules.of(node) for node in srg.ops)
    with torch.no_grad():
        events = measured(as_callable(srg.gm), args).events
    total = peak = 0
    for event in events:
        total += event.nbytes
        peak = max(peak, total)
    makers = [
        node for node in srg.ops if isinstance(node.target, torch._ops.OpOverload) and not srg.record(node).is_view
    ]
    made = sum(srg.record(node).nbytes for node in makers)
    assert foretold == peak - made


@pytest.mark.parametrize("steps", [2, 4])
def test_a_convolution_whose_steps_do_not_divide_a_sequence_has_a_buffer_for_its_gradient(steps: int) -> None:
    source, weight = plain(1, 256, 1599), plain(256, 256, 3)
    gradient = torch.randn_like(torch.conv1d(source, weight, stride=steps))

    def backward(given: Tensor, source: Tensor, weight: Tensor) -> Any:
        arguments = ([0], [steps], [0], [1], False, [0], 1, [True, True, False])
        return aten.convolution_backward.default(given, source, weight, *arguments)

    srg = lower(graphs.trace(backward, gradient, source, weight))
    (node,) = [one for one in srg.ops if "convolution_backward" in one.name]
    foretold = Workspaces(sizes_of(srg), 1).of(node)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # with more, oneDNN weighs how to share the work
    try:
        truth = measured(lambda args: [*backward(*args)][:2], [gradient, source, weight])
    finally:
        torch.set_num_threads(threads)
    taken = truth.peak - truth.held - source.nbytes - weight.nbytes
    # With two steps oneDNN does without on some processors (seen on an EPYC of 2025): by the size of their caches.
    assert foretold == pytest.approx(taken, rel=0.02) or (steps == 2 and foretold > taken)
    assert foretold > steps * source.nbytes


def test_a_table_with_an_error_says_where(tmp_path: Path) -> None:
    file = tmp_path / "workspace.yaml"
    file.write_text("schema: djinn_fx.workspace/1\nrows:\n  - bytes: in0\n    ops: one two one\n")
    with pytest.raises(SettingsError, match=r"workspace.yaml:3:5: 'one' is here twice"):
        formulas(file)
    file.write_text("schema: another\nrows: []\n")
    with pytest.raises(SettingsError, match="expected schema"):
        formulas(file)
