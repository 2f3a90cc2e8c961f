"""A region as a model for TensorRT: which operators, which types, which sizes, and what a session does with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from djinn_fx.engines.tensorrt.building.parse_onnx import parse
from djinn_fx.engines.tensorrt.mapping import Conversion
from djinn_fx.reasons import Reason, ReasonKind
from tests.engines.tensorrt.converting import check, noise, ops, run, same

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

HALVES = (torch.float16, torch.bfloat16)


def one(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Conversion:
    """The conversion of a function of one graph, which gives what eager gives."""
    session, actual, expected = run(function, args, **kwargs)
    assert not session.refusals, session.refusals
    same(actual, expected)
    (conversion,) = session.conversions
    return conversion


def refused(function: Callable[..., Any], *args: Any) -> Reason:
    """Why a function of one graph is not converted."""
    session, _, _ = run(function, args)
    (reason,) = session.refusals
    assert reason.kind is ReasonKind.ENGINE_REFUSED
    return reason


def types_of(found: Conversion) -> set[int]:
    """The element types that a model names in its casts."""
    nodes = onnx.load_from_string(found.model).graph.node
    return {given.i for node in nodes for given in node.attribute if given.name == "to"}


@pytest.mark.parametrize("dtype", HALVES)
def test_halves_are_computed_as_halves_where_that_rounds_once(dtype: torch.dtype) -> None:
    found = one(lambda x, y: torch.where(x > y, x * y + x, -x).abs(), noise(3, 4, dtype=dtype), noise(4, dtype=dtype))
    assert "Cast" not in ops(found)


@pytest.mark.parametrize("dtype", HALVES)
def test_attention_of_halves_is_one_operator_of_halves(dtype: torch.dtype) -> None:
    q, k = noise(2, 4, 6, 16, dtype=dtype), noise(2, 2, 6, 16, dtype=dtype)

    def attend(q: Tensor, k: Tensor, mask: Tensor) -> list[Tensor]:
        return [
            F.scaled_dot_product_attention(q, k, k, is_causal=True, enable_gqa=True),
            F.scaled_dot_product_attention(q, q, q, mask),
        ]

    found = one(attend, q, k, torch.ones(6, 6, dtype=torch.bool).tril())
    assert ops(found).count("Attention") == 2
    assert "Softmax" not in ops(found)


def test_weights_are_inputs_and_identical_layers_one_model() -> None:
    def conversion(seed: int) -> Conversion:
        torch.manual_seed(seed)
        layer = torch.nn.TransformerEncoderLayer(32, 2, 48, 0.0, batch_first=True, norm_first=True).train()
        session, _, _ = run(layer, (noise(2, 5, 32),))
        return session.conversions[0]

    first, second = conversion(0), conversion(1)
    assert first.digest() == second.digest()
    model = onnx.load_from_string(first.model)
    assert len(model.graph.input) == 13
    assert sum(len(one.raw_data) for one in model.graph.initializer) < 1000


def test_sizes_that_change_have_names_by_place_and_ranges() -> None:
    def model(x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([x, y], 0) * x.shape[0]

    x, y = noise(5, 4), noise(9, 4)
    torch._dynamo.mark_dynamic(x, 0, min=2, max=40)
    torch._dynamo.mark_dynamic(y, 0)
    session, _, _ = run(model, (x, y), dynamic=None, copies=False)
    (found,) = session.conversions
    assert set(found.ranges) == {"k0", "k1"}
    ends = {(one.least, one.usual, one.most) for one in found.ranges.values()}
    assert (2, 8, 40) in ends, "the example's 5 up to a power of two"
    assert (2, 16, 128) in ends, "eight times as much, as is usual"


def test_an_index_out_of_range_is_left_to_torch() -> None:
    def pick(x: Tensor, index: Tensor) -> Tensor:
        return x[index] + x.index_select(0, index.abs())

    x = noise(4, 3)
    session, _, _ = run(pick, (x, torch.tensor([1, 3])), (x, torch.tensor([0, -1])))
    assert (session.calls, session.declined) == (2, 0)
    with pytest.raises(IndexError):
        run(pick, (x, torch.tensor([1, 4])))


def test_what_follows_from_computed_numbers_leaves_the_plan_as_a_flag() -> None:
    def pick(x: Tensor, y: Tensor) -> Tensor:
        return x[(y * 2).to(torch.int64)]

    session, _, _ = run(pick, (noise(4, 3), torch.tensor([0.5, 1.5])))
    assert session.conversions[0].calling.flag is not None
    with pytest.raises(IndexError):
        run(pick, (noise(4, 3), torch.tensor([0.5, 2.5])))


def test_a_number_in_double_precision_is_rounded_by_the_caller() -> None:
    def scale(x: Tensor, factor: float) -> Tensor:
        return x * factor

    session, actual, expected = run(scale, (noise(3), 0.1), (noise(3), 0.3), dynamic=True)
    assert not session.refusals
    for mine, other in zip(actual, expected, strict=True):
        same(mine, other)


def test_the_parser_takes_what_is_declared() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    from djinn_fx.engines.tensorrt.building.messages import logger

    found = one(lambda x: (x @ x.t()).softmax(-1), noise(4, 5, dtype=torch.float16))
    network = parse(trt, found.model, trt.Builder(logger(trt)))
    assert network.num_inputs == 1
    assert network.num_outputs == 1


def test_results_that_show_another_and_orders_of_memory() -> None:
    def model(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = x + 1
        return y.t(), y.t()[1:], (x + 2).unsqueeze(0).expand(3, 2, 5)

    check(model, (noise(2, 5),))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.double() * 3,
        lambda x: (x.long() & 3).float(),
        lambda x: torch.rand_like(x) + x,
        lambda x: x % 0.3,
        lambda x: torch.fft.rfft(x).abs(),
    ],
)
def test_what_tensorrt_has_no_equal_for_is_refused(function: Callable[..., Any]) -> None:
    refused(function, noise(8))


def test_what_is_made_of_numbers_alone_still_takes_a_tensor() -> None:
    found = one(lambda x: torch.zeros_like(x) + 1, noise(3, 4))
    assert len(found.calling.inputs) == 1, "its device is the result's"
