"""Work of torch's own database of ops: operations equal torch's wherever torch has a formula; few ops are unpriced."""

from __future__ import annotations

import warnings
from collections import Counter

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from djinn_fx.costmodels.work.work import KINDS, Work
from djinn_fx.costmodels.work.work_of import work_of
from djinn_fx.srg import SRG, lower
from tests.exam.ops import Question, all_ops, full_name, part_of, questions
from tests.sweeps import some_of

#: Ops of the database without a rule: sparse tensors, histograms in several dimensions, and what is not one kernel.
UNPRICED = {
    "_to_sparse",
    "sparse_sampled_addmm",
    "_sparse_mm_reduce_impl",
    "segment_reduce",
    "hash_tensor",
    "_pdist_forward",
    "_histogramdd_bin_edges",
    "_histogramdd_from_bin_cts",
    "_histogramdd_from_bin_tensors",
    "_linear_cross_entropy_batch_chunked",
    "_linear_cross_entropy_batch_chunked_no_reduction",
}

#: Every op whose name says that torch counts it, and some whose decomposition ends there.
COUNTED = (
    "mm addmm bmm baddbmm addbmm matmul __rmatmul__ linalg.multi_dot linalg.vander einsum tensordot inner outer "
    "nn.functional.linear nn.functional.bilinear nn.functional.conv1d nn.functional.conv2d nn.functional.conv3d "
    "nn.functional.conv_transpose1d nn.functional.conv_transpose2d nn.functional.conv_transpose3d "
    "nn.functional.scaled_dot_product_attention nn.functional.multi_head_attention_forward chain_matmul cov corrcoef"
).split()


def graph_of(question: Question) -> SRG | None:
    """The graph of a sample; None if its result's size depends on the data."""
    try:
        return lower(make_fx(question.function, tracing_mode="fake")(*question.arguments()))
    except Exception:  # noqa: BLE001  # data-dependent sizes raise many things; the exam judges capture, not this test
        return None


def counted(srg: SRG) -> dict[str, int]:
    """Operations by op, of those that torch has a formula for."""
    found: Counter[str] = Counter()
    for node in srg.ops:
        packet = getattr(node.target, "overloadpacket", None)
        if packet in flop_registry:
            found[str(packet)] += work_of(srg, node).flops
    return dict(found)


def by_torch(srg: SRG, question: Question) -> dict[str, int]:
    """The same, by torch while the graph runs."""
    with FlopCounterMode(display=False) as counter:
        srg.gm(*question.arguments())
    return {str(op): count for op, count in counter.get_flop_counts().get("Global", {}).items()}


@pytest.mark.parametrize("name", some_of(COUNTED))
def test_operations_equal_torchs(name: str) -> None:
    asked = 0
    for op in all_ops():
        if op.name != name:
            continue
        for question in questions(op, 8):
            srg = graph_of(question)
            if srg is not None:
                assert counted(srg) == by_torch(srg, question)
                asked += 1
    if not asked:
        pytest.skip(f"this torch's database has no {name}")


@pytest.mark.parametrize("name", ["nn.functional.conv2d", "nn.functional.conv_transpose1d", "nn.functional.conv3d"])
def test_operations_of_gradients_equal_torchs(name: str) -> None:
    op = next(op for op in all_ops() if op.name == name)
    asked = 0
    for question in questions(op, 8):
        tensors = [tensor.requires_grad_() for tensor in question.arguments()]

        def gradients(*given: torch.Tensor, ask: Question = question) -> list[torch.Tensor]:
            (result,) = ask.function(*given)
            return list(torch.autograd.grad(result.sum(), given))

        srg = lower(make_fx(gradients)(*tensors))
        with FlopCounterMode(display=False) as counter:
            srg.gm(*tensors)
        expected = {str(op): count for op, count in counter.get_flop_counts().get("Global", {}).items()}
        assert counted(srg) == expected
        assert any("backward" in op for op in expected)
        asked += 1
    assert asked >= 3


@pytest.mark.parametrize("share", [16, pytest.param(1, marks=pytest.mark.exam)], ids=["a sixteenth", "all"])
def test_every_op_of_the_database_is_priced(share: int) -> None:
    unpriced: set[str] = set()
    priced = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for op in part_of(all_ops(), share):
            for question in questions(op, 1):
                srg = graph_of(question)
                if srg is None:
                    continue
                for node in srg.ops:
                    work = work_of(srg, node)
                    _check(work, full_name(op))
                    if work.problem is None:
                        priced += 1
                    else:
                        unpriced.add(work.op.rpartition(".")[2])
    assert priced > 800 // share
    assert unpriced <= UNPRICED


def _check(work: Work, name: str) -> None:
    assert work.kind in KINDS, name
    numbers = (work.matmul_flops, work.vector_flops, work.special_flops, work.weight_bytes, work.read_bytes)
    numbers += (work.write_bytes, work.strided_bytes, work.gather_bytes, work.elements)
    assert all(isinstance(number, int) and number >= 0 for number in numbers), (name, work)
    assert work.strided_bytes <= work.nbytes, (name, work)
