"""The evaluator against torch's own functions, layer by layer: each network goes through TensorRT's objects first."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor as Values

from djinn_fx.engines.tensorrt.evaluate import evaluate
from tests.engines.tensorrt.making import assembled, needs_tensorrt, one_layer, run, told, trt

pytestmark = needs_tensorrt

FLOATS = [torch.float32, torch.float16, torch.bfloat16]


def close(got: Values, wanted: Values) -> None:
    """Equal up to the rounding of the type; of exactly that type and shape."""
    assert got.dtype == wanted.dtype
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}.get(wanted.dtype, 0.0)
    torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance, equal_nan=True)


def check(kind: str, inputs: list[Values | None], wanted: Values | tuple[Values, ...], /, **attributes: Any) -> None:
    """A layer gives what torch gives; the description's shapes and types are those of torch's result."""
    results = wanted if isinstance(wanted, tuple) else (wanted,)
    network = one_layer(kind, inputs, [told(one.dtype, *one.shape) for one in results], **attributes)
    for got, expected in zip(run(network, *inputs), results, strict=True):
        close(got, expected)


def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> Values:
    """Random values, the same each time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape) + 1)).to(dtype)


@pytest.mark.parametrize("dtype", FLOATS)
def test_arithmetic(dtype: torch.dtype) -> None:
    a, b = numbers(2, 3, dtype=dtype), numbers(1, 3, dtype=dtype).abs() + 0.5
    check("elementwise", [a, b], a + b, op="sum")
    check("elementwise", [a, b], a - b, op="sub")
    check("elementwise", [a, b], a / b, op="div")
    check("elementwise", [a, b], a // b, op="floor_div")
    check("elementwise", [a.abs(), b], a.abs() ** b, op="pow")
    check("elementwise", [a, b], a > b, op="greater")
    check("unary", [a.abs() + 0.1], torch.rsqrt(a.abs() + 0.1) ** -1, op="sqrt")
    check("unary", [a * 3], torch.round(a * 3), op="round")
    check("matmul", [a, b], a @ b.T, transpose_a=False, transpose_b=True)
    check("matmul", [a, b], a @ b.T, transpose_a=False, transpose_b=True, wide=False)
    check("softmax", [a], torch.softmax(a, 1), axis=1)
    check("cast", [a], a.float(), dtype="float32")
    check("cast", [a * 4], (a * 4).to(torch.int64), dtype="int64")


def test_integers() -> None:
    a, b = torch.tensor([-7, 7, 8]), torch.tensor([2, -2, 3])
    check("elementwise", [a, b], torch.tensor([-3, -3, 2]), op="div")
    check("elementwise", [a, b], torch.tensor([-4, -4, 2]), op="floor_div")
    check("cast", [a.clamp(0)], torch.tensor([False, True, True]), dtype="bool")


def test_shuffle_slice_shape() -> None:
    x = numbers(2, 3, 4)
    check("shuffle", [x], x.permute(2, 0, 1).reshape(4, 6).T, first=[2, 0, 1], reshape=[4, -1], second=[1, 0])
    check("shuffle", [x], x.reshape(2, 2, 6), reshape=[0, 2, -1], zero_keeps=True)
    check("slice", [x], x[:, 1:, ::2], start=[0, 1, 0], size=[2, 2, 2], stride=[1, 1, 2])
    check("slice", [x], x.flip(1), start=[0, 2, 0], size=[2, 3, 4], stride=[1, -1, 1])
    value = torch.tensor(7.0)
    padded = F.pad(x, (1, 2), value=7.0)
    sizes: dict[str, Any] = {"start": [0, 0, -1], "size": [2, 3, 7], "stride": [1, 1, 1]}
    check("slice", [x, None, None, None, value], padded, mode="fill", **sizes)
    check("slice", [x], F.pad(x, (1, 2), mode="reflect"), mode="reflect", **sizes)
    check("slice", [x], F.pad(x, (1, 2), mode="replicate"), mode="clamp", **sizes)
    check("slice", [x], F.pad(x, (1, 2), mode="circular"), mode="wrap", **sizes)
    check("shape", [x], torch.tensor([2, 3, 4]))
    check("unsqueeze", [x], x[:, None, :, :, None], axes=[1, 4])
    check("squeeze", [x[:1, :, :1]], x[0, :, 0], axes=[0, 2])
    check("concatenation", [x, x[:, :1]], torch.cat([x, x[:, :1]], 1), axis=1)


@pytest.mark.parametrize("dtype", FLOATS)
def test_attention(dtype: torch.dtype) -> None:
    q, k, v = (numbers(2, heads, length, 8, dtype=dtype) for heads, length in ((4, 5), (2, 7), (2, 7)))
    scaled = q * 8**-0.5

    def plain(**options: Any) -> Values:
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True, **options)

    check("attention", [scaled, k, v], plain())
    mask = torch.rand(2, 1, 5, 7, generator=torch.Generator().manual_seed(0)) > 0.3
    check("attention", [scaled, k, v, mask], plain(attn_mask=mask))
    added = numbers(1, 4, 5, 7, dtype=dtype)
    check("attention", [scaled, k, v, added], plain(attn_mask=added))
    check("attention", [scaled, k, v], plain(is_causal=True), causal="upper_left")
    last = torch.ones(5, 7, dtype=torch.bool).tril(2)
    check("attention", [scaled, k, v], plain(attn_mask=last), causal="lower_right")


def test_what_tensorrt_does_otherwise_than_torch_is_shown() -> None:
    """A converter that trusts these layers fails its comparison with eager."""
    nan = float("nan")
    a, b = torch.tensor([1.0, nan]), torch.tensor([nan, 2.0])
    check("elementwise", [a, b], torch.tensor([1.0, 2.0]), op="max")
    check("activation", [a], torch.tensor([1.0, 0.0]), op="clip", alpha=0.0, beta=3.0)
    one, tenth = torch.tensor([1.0]), torch.tensor([0.1])
    assert (one // tenth).item() == 9.0
    check("elementwise", [one, tenth], torch.tensor([10.0]), op="floor_div")


def test_layers_may_be_listed_before_what_they_read() -> None:
    network = assembled(one_layer("unary", [told("float32", 3)], [told("float32", 3)], op="exp"))
    first = network.get_layer(0)
    negated = network.add_unary(network.get_input(0), trt.UnaryOperation.NEG)
    first.set_input(0, negated.get_output(0))
    x = numbers(3)
    close(evaluate(trt, network, [x])[0], torch.exp(-x))


def test_inputs_may_be_given_by_name() -> None:
    network = assembled(one_layer("elementwise", [told("float32", 3)] * 2, [told("float32", 3)], op="sub"))
    x, y = numbers(3), numbers(3) * 2
    close(evaluate(trt, network, {"input1": y, "input0": x})[0], x - y)


@pytest.mark.parametrize("value", [torch.ones(4), torch.ones(3, 1), torch.ones(3, dtype=torch.float16)])
def test_inputs_of_another_kind_are_refused(value: Values) -> None:
    network = assembled(one_layer("unary", [told("float32", 3)], [told("float32", 3)], op="exp"))
    with pytest.raises(ValueError):
        evaluate(trt, network, [value])


def test_a_layer_without_a_meaning_is_refused() -> None:
    network = assembled(one_layer("unary", [told("float32", 3)], [told("float32", 3)], op="exp"))
    network.add_non_zero(network.get_input(0), trt.int64)
    with pytest.raises(NotImplementedError):
        evaluate(trt, network, [numbers(3)])


def test_symbols_may_be_any_size_of_their_range() -> None:
    rows = told("float32", "k0", 4)
    network = one_layer("concatenation", [rows, told("float32", "k1", 4)], [told("float32", "k0+k1", 4)], axis=0)
    for first, second in ((1, 5), (3, 2)):
        x, y = numbers(first, 4), numbers(second, 4)
        close(run(network, x, y)[0], torch.cat([x, y]))
