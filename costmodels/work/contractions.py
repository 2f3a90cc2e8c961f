"""Operations and sizes of matrix products and convolutions, as ``torch.utils.flop_counter`` counts them."""

from __future__ import annotations

import math
from typing import Any

from djinn_fx.costmodels.work.call import Call, Counted, CountRule, numel
from djinn_fx.costmodels.work.tables import names


def _product(batch: Any, m: Any, n: Any, k: Any) -> Counted:
    return 2 * batch * m * n * k, 0, 0, (batch, m, n, k)


def _mm(place: int) -> CountRule:
    """[m, k] x [k, n], the first of them at a position."""

    def rule(call: Call) -> Counted:
        m, k = call.shape(place)
        inner, n = call.shape(place + 1)
        _same(k, inner)
        return _product(1, m, n, k)

    return rule


def _bmm(place: int) -> CountRule:
    """[b, m, k] x [b, k, n]."""

    def rule(call: Call) -> Counted:
        batch, m, k = call.shape(place)
        _, inner, n = call.shape(place + 1)
        _same(k, inner)
        return _product(batch, m, n, k)

    return rule


def _same(k: Any, inner: Any) -> None:
    if type(k) is int and type(inner) is int and k != inner:
        raise ValueError(f"the inner sizes {k} and {inner} differ")


def _linear(call: Call) -> Counted:
    """[..., k] x [n, k]."""
    *rows, k = call.shape(0)
    weight = call.shape(1)
    return _product(1, math.prod(rows), weight[0] if len(weight) > 1 else 1, k)


def _matmul(call: Call) -> Counted:
    """numpy's product: vectors, matrices, batches; a batch against one matrix is one tall matrix."""
    left, right = call.shape(0), call.shape(1)
    k = left[-1]
    n = right[-1] if len(right) > 1 else 1
    if len(right) <= 2:
        return _product(1, math.prod(left[:-1]), n, k)
    m = left[-2] if len(left) > 1 else 1
    both = call.output_shape()
    batch = both[: len(both) - (len(left) > 1) - 1]
    return _product(math.prod(batch), m, n, k)


def _vector(place: int) -> CountRule:
    """[m, k] or [k] x [k]."""

    def rule(call: Call) -> Counted:
        *rows, k = call.shape(place)
        return _product(1, math.prod(rows), 1, k)

    return rule


def _by_output(call: Call) -> Counted:
    """x [m, k] against a packed weight: n is read off the output."""
    *rows, k = call.shape(0)
    return _product(1, math.prod(rows), call.output_shape()[-1], k)


def _trilinear(call: Call) -> Counted:
    """A product of three, each stretched along dimensions of its own, then summed (``nn.Bilinear``)."""
    stretched = []
    for place in range(3):
        shape = list(call.shape(place))
        for dim in sorted(call.argument(3 + place)):
            shape.insert(dim, 1)
        stretched.append(shape)
    products = math.prod(max(sizes, key=lambda size: size != 1) for sizes in zip(*stretched, strict=True))
    return 2 * products, products, 0, ()


def _recurrent(times: int) -> CountRule:
    """A layer of an LSTM or GRU: every step multiplies by both matrices."""

    def rule(call: Call) -> Counted:
        steps, batch, _ = call.shape(0)
        (gates, given), (_, hidden) = call.shape(1), call.shape(2)
        flops, _, _, sides = _product(1, steps * batch, gates, given + hidden)
        return times * flops, 0, 0, sides

    return rule


def _distances(call: Call) -> Counted:
    """Distances of rows [..., p, k] and [..., r, k]: subtract, square, add; a root each."""
    out = numel(call.outputs[0])
    k = call.shape(0)[-1]
    return 0, 3 * out * k, out, ()


def _convolved(call: Call, groups: int, transposed: bool = False) -> Counted:
    """A kernel position of every channel pair for every output (transposed: every input) position; perhaps no batch."""
    x, w, out = call.shape(0), call.shape(1), call.output_shape()
    batch, spatial = (x[0] if len(x) == len(w) else 1), len(w) - 2
    places, kernel = math.prod((x if transposed else out)[-spatial:]), math.prod(w[2:])
    return 2 * batch * w[0] * w[1] * places * kernel, 0, 0, (batch, *_channels(w, groups, transposed), places, kernel)


def _channels(w: Any, groups: int, transposed: bool) -> tuple[int, int, int]:
    """Output channels, input channels of a group, and groups."""
    return (w[1] * groups, w[0] // groups, groups) if transposed else (w[0], w[1], groups)


def _convolution(call: Call) -> Counted:
    return _convolved(call, call.argument(8, "groups", 1), bool(call.argument(6, "transposed", False)))


def _plain_convolution(groups_place: int | None) -> CountRule:
    """A kernel library's convolution, never transposed, with the groups at a position."""
    return lambda call: _convolved(call, 1 if groups_place is None else call.argument(groups_place, "groups", 1))


def _depthwise(call: Call) -> Counted:
    """``_conv_depthwise2d`` and the like: one input channel a group."""
    return _convolved(call, call.shape(1)[0])


def _composite_convolution(call: Call) -> Counted:
    """``conv2d`` and the like, before they are decomposed: groups at position 6, perhaps no batch."""
    return _convolved(call, call.argument(6, "groups", 1), "transpose" in call.op)


def _convolution_backward(call: Call) -> Counted:
    """The gradients asked for, each a convolution; torch credits the weight's of a grouped one as if not grouped."""
    grad, x, w = (call.shape(place) for place in range(3))
    transposed, groups = bool(call.argument(7)), call.argument(9)
    wants_input, wants_weight = call.argument(10)[:2]
    kernel = math.prod(w[2:])
    places = math.prod((x if transposed else grad)[2:])
    flops = 0
    if wants_input:
        flops += 2 * grad[0] * w[0] * w[1] * places * kernel
    if wants_weight:
        flops += 2 * x[0] * x[1] * grad[1] * places * kernel
    return flops, 0, 0, (x[0], *_channels(w, groups, transposed), places, kernel)


CONTRACTIONS: dict[str, CountRule] = {
    "mm": _mm(0),
    "_int_mm": _mm(0),
    "_scaled_mm": _mm(0),
    "addmm": _mm(1),
    "_addmm_activation": _mm(1),
    "bmm": _bmm(0),
    "baddbmm": _bmm(1),
    "addbmm": _bmm(1),
    "linear": _linear,
    "matmul": _matmul,
    "mv": _vector(0),
    "dot": _vector(0),
    "vdot": _vector(0),
    "addmv": _vector(1),
    **dict.fromkeys(
        names("_weight_int8pack_mm _weight_int4pack_mm _grouped_mm _scaled_grouped_mm grouped_mm grouped_mm_fallback"),
        _by_output,
    ),
    "_trilinear": _trilinear,
    "mkldnn_rnn_layer": _recurrent(1),
    "mkldnn_rnn_layer_backward": _recurrent(2),
}
CONVOLUTIONS: dict[str, CountRule] = {
    **dict.fromkeys(names("convolution _convolution convolution_overrideable"), _convolution),
    **dict.fromkeys(names("convolution_backward convolution_backward_overrideable"), _convolution_backward),
    "_slow_conv2d_forward": _plain_convolution(None),
    "slow_conv3d_forward": _plain_convolution(None),
    "thnn_conv2d": _plain_convolution(None),
    "cudnn_convolution": _plain_convolution(5),
    "miopen_convolution": _plain_convolution(6),
    "mkldnn_convolution": _plain_convolution(6),
    **dict.fromkeys(names("conv_depthwise3d _conv_depthwise2d"), _depthwise),
    **dict.fromkeys(
        names("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d"), _composite_convolution
    ),
}
DISTANCES: dict[str, CountRule] = dict.fromkeys(names("_cdist_forward _euclidean_dist cdist"), _distances)
