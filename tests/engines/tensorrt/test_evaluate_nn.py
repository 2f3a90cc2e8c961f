"""The evaluator against torch's own functions: layers that index, convolve, pool, normalize, resize, attend."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from djinn_fx.engines.tensorrt.network import NetworkWriter
from tests.engines.tensorrt.making import RANGES, constant, needs_tensorrt, run, told
from tests.engines.tensorrt.test_evaluate import FLOATS, check, numbers

pytestmark = needs_tensorrt


@pytest.mark.parametrize("dtype", FLOATS)
def test_convolution(dtype: torch.dtype) -> None:
    x, kernel, bias = numbers(2, 4, 7, 9, dtype=dtype), numbers(6, 2, 3, 2, dtype=dtype), numbers(6, dtype=dtype)
    wanted = F.conv2d(x.float(), kernel.float(), bias.float(), (2, 1), (1, 0), (1, 2), 2).to(dtype)
    sizes = {"kernel": [3, 2], "stride": [2, 1], "pad_before": [1, 0], "pad_after": [1, 0], "dilation": [1, 2]}
    check("convolution", [x, kernel, bias], wanted, groups=2, **sizes)
    lopsided = F.conv2d(F.pad(x.float(), (0, 1, 2, 0)), kernel.float(), None, (2, 1), 0, (1, 2), 2).to(dtype)
    check("convolution", [x, kernel], lopsided, groups=2, **{**sizes, "pad_before": [2, 0], "pad_after": [0, 1]})


def test_convolution_3d_and_back() -> None:
    x, kernel = numbers(1, 2, 5, 6, 7), numbers(3, 2, 2, 2, 2)
    sizes = {"kernel": [2] * 3, "stride": [2] * 3, "pad_before": [1] * 3, "pad_after": [1] * 3, "dilation": [1] * 3}
    check("convolution", [x, kernel], F.conv3d(x, kernel, stride=2, padding=1), groups=1, **sizes)
    places = {"kernel": [3, 3], "stride": [2, 2], "pad_before": [1, 1], "pad_after": [0, 0], "dilation": [1, 1]}
    back = numbers(4, 3, 3, 3)
    y = numbers(2, 4, 5, 5)
    for grouped, kernel in ((1, back), (2, back)):
        wanted = F.conv_transpose2d(y, kernel, numbers(3 * grouped), 2, 1, 1, grouped)  # output_padding 1
        given = [y, kernel, numbers(3 * grouped)]
        check("deconvolution", given, wanted, groups=grouped, **places)


@pytest.mark.parametrize("dtype", FLOATS)
def test_pooling(dtype: torch.dtype) -> None:
    x = numbers(1, 2, 7, 6, dtype=dtype)
    wide = x.float()
    sizes = {"window": [3, 2], "stride": [2, 2], "pad_before": [1, 0], "pad_after": [1, 0]}
    check("pooling", [x], F.max_pool2d(wide, (3, 2), 2, (1, 0)).to(dtype), op="max", **sizes)
    for count in (True, False):
        wanted = F.avg_pool2d(wide, (3, 2), 2, (1, 0), count_include_pad=count).to(dtype)
        check("pooling", [x], wanted, op="average", count_padding=count, **sizes)
        up = F.avg_pool2d(wide, (4, 4), 3, (1, 1), ceil_mode=True, count_include_pad=count).to(dtype)
        sizes_up = {"window": [4, 4], "stride": [3, 3], "pad_before": [1, 1], "pad_after": [1, 1]}
        check("pooling", [x], up, op="average", count_padding=count, ceil=True, **sizes_up)


@pytest.mark.parametrize("dtype", FLOATS)
def test_normalization(dtype: torch.dtype) -> None:
    x, scale, bias = numbers(2, 6, 4, 5, dtype=dtype), numbers(5, dtype=dtype), numbers(5, dtype=dtype)
    wide = [one.float() for one in (x, scale, bias)]
    wanted = F.layer_norm(wide[0], (5,), wide[1], wide[2], 1e-3).to(dtype)
    shaped = [x, scale.reshape(1, 1, 1, 5), bias.reshape(1, 1, 1, 5)]
    check("normalization", shaped, wanted, axes=[3], epsilon=1e-3)
    scale, bias = numbers(6, dtype=dtype), numbers(6, dtype=dtype)
    shaped = [x, scale.reshape(1, 6, 1, 1), bias.reshape(1, 6, 1, 1)]
    grouped = F.group_norm(x.float(), 3, scale.float(), bias.float(), 1e-3).to(dtype)
    check("normalization", shaped, grouped, axes=[2, 3], epsilon=1e-3, groups=3)
    alone = F.instance_norm(x.float(), weight=scale.float(), bias=bias.float(), eps=1e-3).to(dtype)
    check("normalization", shaped, alone, axes=[2, 3], epsilon=1e-3)


def test_gather_and_scatter() -> None:
    x = numbers(4, 5, 6)
    at = torch.tensor([[3, 0], [1, 1]])
    check("gather", [x, at], x[:, at], mode="default", axis=1)
    check("gather", [x, torch.tensor(2)], x[2], mode="default")
    rows = torch.tensor([[0, 4], [1, 1], [2, 0], [3, 3]])
    check("gather", [x, rows], torch.stack([x[i, rows[i]] for i in range(4)]), mode="default", axis=1, batch=1)
    places = torch.randint(5, (4, 2, 6), generator=torch.Generator().manual_seed(0))
    check("gather", [x, places], x.gather(1, places), mode="element", axis=1)
    pairs = torch.tensor([[3, 4], [0, 1], [2, 2]])
    check("gather", [x, pairs], x[pairs[:, 0], pairs[:, 1]], mode="nd")
    check("gather", [x, rows[:, :1]], torch.stack([x[i, rows[i, 0]] for i in range(4)]), mode="nd", batch=1)
    new = numbers(4, 1, 6)
    places = places[:, :1]
    check("scatter", [x, places, new], x.scatter(1, places, new), mode="element", axis=1)
    check("scatter", [x, pairs, new[:3, 0]], x.index_put((pairs[:, 0], pairs[:, 1]), new[:3, 0]), mode="nd")


def test_an_index_out_of_range_is_not_guessed() -> None:
    for at in (torch.tensor([5]), torch.tensor([-1])):
        with pytest.raises(IndexError):
            check("gather", [numbers(5, 2), at], numbers(1, 2), mode="default")


def test_selecting_and_reducing() -> None:
    x, y, condition = numbers(3, 4), numbers(1, 4), torch.tensor([[True], [False], [True]])
    check("select", [condition, x, y], torch.where(condition, x, y))
    check("reduce", [x], x.sum((0, 1)), op="sum", axes=[0, 1], keep=False)
    check("reduce", [x], x.amax(1, keepdim=True), op="max", axes=[1], keep=True)
    check("reduce", [x], x.prod(0), op="prod", axes=[0], keep=False)
    check("reduce", [x], x.mean(1), op="avg", axes=[1], keep=False)
    top = torch.topk(x, 2, 1)
    check("topk", [x], (top.values, top.indices), op="max", k=2, axis=1)
    least = torch.topk(x, 3, 0, largest=False)
    check("topk", [x], (least.values, least.indices.int()), op="min", k=3, axis=0)
    check("cumulative", [x], x.cumsum(1), axis=1)
    check("cumulative", [x], x.flip(0).cumsum(0).flip(0) - x, axis=0, exclusive=True, reverse=True)
    check("einsum", [x, y], torch.einsum("ij,kj->ik", x, y), equation="ij,kj->ik")
    hot = F.one_hot(torch.tensor([2, 0]), 3)
    check("one_hot", [torch.tensor([2, 0], dtype=torch.int32), torch.tensor([0, 1])], hot, depth=3, axis=1)
    check("one_hot", [torch.tensor([2, 0], dtype=torch.int32), torch.tensor([0, 1])], hot.T, depth=3, axis=0)


@pytest.mark.parametrize("op", ["exp", "erf", "sign", "floor", "neg", "tan", "asinh", "isinf"])
def test_unary(op: str) -> None:
    x = numbers(3, 5)
    check("unary", [x], getattr(torch, op)(x), op=op)


def test_activations() -> None:
    x = numbers(4, 9) * 3
    for op, wanted, alpha, beta in [
        ("relu", F.relu(x), 0.0, 0.0),
        ("sigmoid", torch.sigmoid(x), 0.0, 0.0),
        ("tanh", torch.tanh(x), 0.0, 0.0),
        ("gelu_erf", F.gelu(x), 0.0, 0.0),
        ("gelu_tanh", F.gelu(x, approximate="tanh"), 0.0, 0.0),
        ("softsign", F.softsign(x), 0.0, 0.0),
        ("leaky_relu", F.leaky_relu(x, 0.2), 0.2, 0.0),
        ("elu", F.elu(x, 0.7), 0.7, 0.0),
        ("selu", F.selu(x), 1.6732632423543772, 1.0507009873554805),
        ("softplus", F.softplus(x, 2.0), 0.5, 2.0),
        ("clip", x.clamp(-1, 2), -1.0, 2.0),
        ("hard_sigmoid", F.hardsigmoid(x), 1 / 6, 0.5),
        ("scaled_tanh", 2 * torch.tanh(0.5 * x), 2.0, 0.5),
        ("thresholded_relu", F.threshold(x, 0.5, 0.0), 0.5, 0.0),
    ]:
        check("activation", [x], wanted, op=op, alpha=alpha, beta=beta)


def test_fill() -> None:
    for dtype in (torch.float32, torch.int32, torch.int64):
        writer = NetworkWriter()
        given = writer.input(told(dtype, 5))
        made = writer.one("fill", [], told(dtype, 5), op="linspace", dtype=str(dtype)[6:], shape=[5], alpha=1, beta=2)
        ends = constant(writer, torch.tensor(1, dtype=dtype)), constant(writer, torch.tensor([10, 2], dtype=dtype))
        size = constant(writer, torch.tensor([3, 5]))
        grid = writer.one("fill", [size, *ends], told(dtype, 3, 5), op="linspace", dtype=str(dtype)[6:])
        total = writer.one("elementwise", [given, made], told(dtype, 5), op="sum")
        got, many = run(writer.network([total, grid], RANGES), torch.zeros(5, dtype=dtype))
        assert got.tolist() == [1, 3, 5, 7, 9]
        assert many.tolist() == [[1 + 10 * i + 2 * j for j in range(5)] for i in range(3)]


@pytest.mark.parametrize("dtype", FLOATS)
def test_rotary(dtype: torch.dtype) -> None:
    x = numbers(2, 3, 5, 8, dtype=dtype)
    angles = numbers(2, 5, 4)
    cos, sin = torch.cos(angles).to(dtype), torch.sin(angles).to(dtype)
    one, two = x.float().chunk(2, -1)
    c, s = cos.float().unsqueeze(1), sin.float().unsqueeze(1)
    wanted = torch.cat([one * c - two * s, two * c + one * s], -1).to(dtype)
    check("rotary", [x, cos, sin], wanted, interleaved=False)
    as_complex = torch.view_as_complex(x.float().reshape(2, 3, 5, 4, 2).contiguous()) * torch.complex(c, s)
    check("rotary", [x, cos, sin], torch.view_as_real(as_complex).flatten(-2).to(dtype), interleaved=True)
    at = torch.tensor([[4, 3, 2, 1, 0], [0, 1, 2, 3, 4]])
    tables = cos[0], sin[0]
    again = torch.stack([tables[0][at], tables[1][at]]).float().unsqueeze(2)
    one, two = x[..., :4].float().chunk(2, -1)
    again = again[..., :2]
    part = torch.cat([one * again[0] - two * again[1], two * again[0] + one * again[1]], -1).to(dtype)
    half = [x, tables[0][:, :2].contiguous(), tables[1][:, :2].contiguous(), at]
    check("rotary", half, torch.cat([part, x[..., 4:]], -1), interleaved=False, dim=4)


def test_kv_update() -> None:
    cache, update, at = numbers(2, 3, 8, 4), numbers(2, 3, 2, 4), torch.tensor([0, 6], dtype=torch.int32)
    wanted = cache.clone()
    wanted[0, :, 0:2], wanted[1, :, 6:8] = update[0], update[1]
    check("kv_update", [cache, update, at], wanted)


@pytest.mark.parametrize("dtype", FLOATS)
def test_resize(dtype: torch.dtype) -> None:
    x = numbers(1, 2, 4, 6, dtype=dtype)
    wide = x.float()
    sizes = [1, 2, 7, 9]
    for mode, corners, wanted in [
        ("linear", True, F.interpolate(wide, (7, 9), mode="bilinear", align_corners=True)),
        ("linear", False, F.interpolate(wide, (7, 9), mode="bilinear")),
        ("cubic", True, F.interpolate(wide, (7, 9), mode="bicubic", align_corners=True)),
        ("cubic", False, F.interpolate(wide, (7, 9), mode="bicubic")),
    ]:
        coordinates = "align_corners" if corners else "half_pixel"
        check("resize", [x], wanted.to(dtype), sizes=sizes, mode=mode, coordinates=coordinates)
    wanted = F.interpolate(wide, (7, 9), mode="nearest").to(dtype)
    check("resize", [x], wanted, sizes=sizes, mode="nearest", coordinates="asymmetric")
    exact = F.interpolate(wide, (7, 9), mode="nearest-exact").to(dtype)
    check("resize", [x], exact, sizes=sizes, mode="nearest", coordinates="half_pixel", rounding="half_up")
