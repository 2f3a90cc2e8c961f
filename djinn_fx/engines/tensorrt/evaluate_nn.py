"""The evaluator's layers that index, convolve, normalize, attend and resize."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Inputs = list[Tensor | None]


def _name(member: Any) -> str:
    return str(member).rpartition(".")[2]


def _take(given: Inputs, count: int) -> list[Tensor]:
    taken = [value for value in given[:count] if value is not None]
    if len(taken) != count:
        raise ValueError(f"one of the first {count} inputs is missing")
    return taken


def _optional(given: Inputs, place: int) -> Tensor | None:
    return given[place] if place < len(given) else None


def _in_range(layer: Any, indices: Tensor, length: int) -> Tensor:
    """Indices as int64; TensorRT promises nothing for others, negative ones included."""
    if indices.numel() and (int(indices.min()) < 0 or int(indices.max()) >= length):
        raise IndexError(f"{layer.name}: an index is out of range for a size of {length}")
    return indices.long()


def _gather(layer: Any, given: Inputs) -> Tensor:
    data, indices = _take(given, 2)
    mode, batch = _name(layer.mode), layer.num_elementwise_dims
    if mode == "ELEMENT":
        return torch.gather(data, layer.axis, _in_range(layer, indices, data.shape[layer.axis]))
    if mode == "DEFAULT":
        at = _in_range(layer, indices, data.shape[layer.axis])
        if not batch:
            taken = data.index_select(layer.axis, at.reshape(-1))
            return taken.reshape(*data.shape[: layer.axis], *at.shape, *data.shape[layer.axis + 1 :])
        rows = [
            row.index_select(layer.axis - 1, one.reshape(-1)).reshape(
                *row.shape[: layer.axis - 1], *one.shape, *row.shape[layer.axis :]
            )
            for row, one in zip(data, at, strict=True)
        ]
        return torch.stack(rows)
    lead = data.shape[:batch]
    depth = indices.shape[-1]
    flat, at = data.reshape(-1, *data.shape[batch:]), indices.reshape(-1, *indices.shape[batch:])
    rows = []
    for row, one in zip(flat, at, strict=True):
        parts = [_in_range(layer, one[..., place], row.shape[place]) for place in range(depth)]
        rows.append(row[tuple(parts)])
    return torch.stack(rows).reshape(*lead, *rows[0].shape)


def _scatter(layer: Any, given: Inputs) -> Tensor:
    data, indices, updates = _take(given, 3)
    if _name(layer.mode) == "ELEMENT":
        return data.scatter(layer.axis, _in_range(layer, indices, data.shape[layer.axis]), updates)
    depth = indices.shape[-1]
    parts = tuple(_in_range(layer, indices[..., place], data.shape[place]) for place in range(depth))
    result = data.clone()
    result[parts] = updates
    return result


def _weights(layer: Any, given: Inputs, transposed: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Input, kernel and bias, of which the last two may be inputs or the layer's own weights."""
    x = _take(given, 1)[0]
    kernel, bias = _optional(given, 1), _optional(given, 2)
    if kernel is None:
        maps, channels, groups = layer.num_output_maps, x.shape[1], layer.num_groups
        shape = (channels, maps // groups) if transposed else (maps, channels // groups)
        kernel = torch.from_numpy(layer.kernel.copy()).reshape(*shape, *tuple(layer.kernel_size_nd))
    if bias is None and layer.bias is not None and layer.bias.size:
        bias = torch.from_numpy(layer.bias.copy()).reshape(-1)
    return x, kernel, bias


def _explicit(layer: Any) -> None:
    if not _name(layer.padding_mode).startswith("EXPLICIT"):
        raise NotImplementedError(f"{layer.name}: padding mode {_name(layer.padding_mode)}")


def _pads(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Padding as torch's pad takes it: last dimension first."""
    return [size for pair in reversed(list(zip(before, after, strict=True))) for size in pair]


def _convolution(layer: Any, given: Inputs) -> Tensor:
    _explicit(layer)
    x, kernel, bias = _weights(layer, given, transposed=False)
    wide = F.pad(x.float(), _padding(layer))
    function: Any = F.conv2d if x.ndim == 4 else F.conv3d
    y: Tensor = function(
        wide,
        kernel.float(),
        None if bias is None else bias.float(),
        stride=tuple(layer.stride_nd),
        dilation=tuple(layer.dilation_nd),
        groups=layer.num_groups,
    )
    return y.to(x.dtype)


def _padding(layer: Any) -> list[int]:
    return _pads(tuple(layer.pre_padding), tuple(layer.post_padding))


def _deconvolution(layer: Any, given: Inputs) -> Tensor:
    """The whole of what the kernel reaches, then padding is cut off both ends."""
    _explicit(layer)
    x, kernel, bias = _weights(layer, given, transposed=True)
    function: Any = F.conv_transpose2d if x.ndim == 4 else F.conv_transpose3d
    y: Tensor = function(
        x.float(),
        kernel.float(),
        None if bias is None else bias.float(),
        stride=tuple(layer.stride_nd),
        dilation=tuple(layer.dilation_nd),
        groups=layer.num_groups,
    )
    return F.pad(y, [-size for size in _padding(layer)]).to(x.dtype)


def _pooling(layer: Any, given: Inputs) -> Tensor:
    _explicit(layer)
    x = _take(given, 1)[0]
    spatial = x.ndim - 2
    window, stride = tuple(layer.window_size_nd), tuple(layer.stride_nd)
    before, after = list(layer.pre_padding), list(layer.post_padding)
    extra = [0] * spatial
    if _name(layer.padding_mode) == "EXPLICIT_ROUND_UP":
        for axis in range(spatial):
            rest = (x.shape[2 + axis] + before[axis] + after[axis] - window[axis]) % stride[axis]
            extra[axis] = stride[axis] - rest if rest else 0
    beyond = [a + b for a, b in zip(after, extra, strict=True)]
    op = _name(layer.type)
    function: Any = F.max_pool2d if spatial == 2 else F.max_pool3d
    average: Any = F.avg_pool2d if spatial == 2 else F.avg_pool3d
    if op == "MAX":
        wide = F.pad(x.float(), _pads(before, beyond), value=-torch.inf)
        largest: Tensor = function(wide, window, stride)
        return largest.to(x.dtype)
    if op != "AVERAGE":
        raise NotImplementedError(f"{layer.name}: pooling {op}")
    total: Tensor = average(F.pad(x.float(), _pads(before, beyond)), window, stride, divisor_override=1)
    ones = torch.ones(1, 1, *x.shape[2:])
    if not layer.average_count_excludes_padding:
        ones = F.pad(ones, _pads(before, after), value=1.0)
        before, beyond = [0] * spatial, extra
    count: Tensor = average(F.pad(ones, _pads(before, beyond)), window, stride, divisor_override=1)
    return (total / count).to(x.dtype)


def _normalization(layer: Any, given: Inputs) -> Tensor:
    x, scale, bias = _take(given, 3)
    axes = [axis for axis in range(x.ndim) if layer.axes >> axis & 1]
    wide = x.float()
    if layer.num_groups > 1:  # the channels of a group are averaged together
        grouped = wide.reshape(x.shape[0], layer.num_groups, x.shape[1] // layer.num_groups, *x.shape[2:])
        axes = [2, *(axis + 1 for axis in axes)]
        wide = grouped
    mean = wide.mean(axes, keepdim=True)
    variance = ((wide - mean) ** 2).mean(axes, keepdim=True)
    normal = ((wide - mean) / torch.sqrt(variance + layer.epsilon)).reshape(x.shape)
    return (normal * scale.float() + bias.float()).to(x.dtype)


def _attention_input(layer: Any, given: Inputs) -> Tensor:
    """All of attention: the pair of layers it is made of passes only its result on."""
    whole = layer.attention
    if _name(whole.norm_op) != "SOFTMAX" or _name(whole.query_form) != "PADDED_BHND" or whole.key_value_lengths:
        raise NotImplementedError(f"{layer.name}: attention in another form than padded softmax")
    q, k, v = (value.float() for value in _take(given, 3))
    repeat = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
    scores = q @ k.transpose(-1, -2)
    mask = _optional(given, 3)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask.float()
    causal = _name(whole.causal_kind)
    if causal != "NONE":
        rows, columns = scores.shape[-2:]
        offset = columns - rows if causal == "LOWER_RIGHT" else 0
        allowed = torch.ones(rows, columns, dtype=torch.bool).tril(offset)
        scores = scores.masked_fill(~allowed, -torch.inf)
    first = given[0]
    assert first is not None
    return (torch.softmax(scores, -1) @ v).to(first.dtype)


def _pass_on(layer: Any, given: Inputs) -> Tensor:
    return _take(given, 1)[0]


def _rotary(layer: Any, given: Inputs) -> Tensor:
    x, cos, sin = _take(given, 3)
    at = _optional(given, 3)
    if at is not None:
        rows = _in_range(layer, at, cos.shape[0])
        cos, sin = cos[rows], sin[rows]
    size = layer.rotary_embedding_dim or x.shape[3]
    turned, rest = x[..., :size].float(), x[..., size:]
    cos, sin = cos.float().unsqueeze(1), sin.float().unsqueeze(1)
    if layer.interleaved:
        one, two = turned[..., 0::2], turned[..., 1::2]
    else:
        one, two = turned.chunk(2, -1)
    pair = one * cos - two * sin, one * sin + two * cos
    turned = torch.stack(pair, -1).flatten(-2) if layer.interleaved else torch.cat(pair, -1)
    return torch.cat([turned.to(x.dtype), rest], -1)


def _kv_update(layer: Any, given: Inputs) -> Tensor:
    cache, update, at = _take(given, 3)
    result = cache.clone()
    for row, first in enumerate(_in_range(layer, at, cache.shape[2] - update.shape[2] + 1).tolist()):
        result[row, :, first : first + update.shape[2]] = update[row]
    return result


def _cumulative(layer: Any, given: Inputs) -> Tensor:
    x, axis = _take(given, 2)
    at = int(axis)
    y = x.float() if x.is_floating_point() else x
    y = y.flip(at) if layer.reverse else y
    total = torch.cumsum(y, at, dtype=y.dtype)
    if layer.exclusive:
        total = total - y
    return (total.flip(at) if layer.reverse else total).to(x.dtype)


def _fill(layer: Any, given: Inputs) -> Tensor:
    if _name(layer.operation) != "LINSPACE":
        raise NotImplementedError(f"{layer.name}: random numbers")
    sizes, alpha, beta = (_optional(given, place) for place in range(3))
    if alpha is None or beta is None:
        raise NotImplementedError(f"{layer.name}: start and step that are no inputs")
    shape = tuple(layer.shape) if sizes is None else tuple(sizes.tolist())
    result = alpha.expand(shape)
    for axis, step in enumerate(beta):
        place = [1] * len(shape)
        place[axis] = shape[axis]
        result = result + step * torch.arange(shape[axis], dtype=beta.dtype).reshape(place)
    return result


def _einsum(layer: Any, given: Inputs) -> Tensor:
    values = _take(given, len(given))
    return torch.einsum(layer.equation, *(value.float() for value in values)).to(values[0].dtype)


def _one_hot(layer: Any, given: Inputs) -> Tensor:
    indices, values, depth = _take(given, 3)
    count = int(depth)
    hot = F.one_hot(_in_range(layer, indices, count), count).bool()
    rank = indices.ndim + 1
    return torch.where(hot, values[1], values[0]).movedim(-1, layer.axis % rank)


def _resize(layer: Any, given: Inputs) -> Tensor:
    """One axis after another: every mode of the layer is separable."""
    x = _take(given, 1)[0]
    vector = _optional(given, 1)
    sizes = vector.tolist() if vector is not None else list(layer.shape)
    mode, y = _name(layer.resize_mode), x.float()
    for axis, size in enumerate(sizes):
        if size == x.shape[axis]:  # every transformation maps each coordinate to itself
            continue
        where = _coordinates(_name(layer.coordinate_transformation), x.shape[axis], size)
        taps, weights = _taps(layer, mode, where, x.shape[axis])
        shape = [1] * y.ndim
        shape[axis] = size
        parts = [
            y.index_select(axis, at.clamp(0, x.shape[axis] - 1)) * weight.reshape(shape)
            for at, weight in zip(taps, weights, strict=True)
        ]
        y = torch.stack(parts).sum(0)
    return y.to(x.dtype)


def _coordinates(transformation: str, length: int, size: int) -> Tensor:
    """Where in the original each place of the result is."""
    at = torch.arange(size, dtype=torch.float64)
    if transformation == "ALIGN_CORNERS":
        return at * ((length - 1) / (size - 1) if size > 1 else 0.0)
    if transformation == "ASYMMETRIC":
        return at * (length / size)
    return (at + 0.5) * (length / size) - 0.5


def _taps(layer: Any, mode: str, where: Tensor, length: int) -> tuple[list[Tensor], list[Tensor]]:
    """Which original places make up each place of the result, and their weights."""
    low = where.floor()
    if mode == "NEAREST":
        rounding = _name(layer.nearest_rounding)
        halves = {
            "FLOOR": low,
            "CEIL": where.ceil(),
            "HALF_UP": (where + 0.5).floor(),
            "HALF_DOWN": (where - 0.5).ceil(),
        }
        return [halves[rounding].long()], [torch.ones_like(where).float()]
    part = where - low
    if mode == "LINEAR":
        taps, weights = [low.long(), low.long() + 1], [1 - part, part]
    else:
        a = layer.cubic_coeff
        taps = [low.long() + step for step in (-1, 0, 1, 2)]
        distances = [part + 1, part, 1 - part, 2 - part]
        weights = [
            ((a + 2) * d - (a + 3)) * d * d + 1 if near else ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
            for d, near in zip(distances, (False, True, True, False), strict=True)
        ]
    if layer.exclude_outside:
        weights = [
            torch.where((at >= 0) & (at < length), weight, 0.0) for at, weight in zip(taps, weights, strict=True)
        ]
        total = torch.stack(weights).sum(0)
        weights = [weight / total for weight in weights]
    return taps, [weight.float() for weight in weights]


LAYERS: dict[str, tuple[str, Callable[[Any, Inputs], Tensor | tuple[Tensor, ...]]]] = {
    "GATHER": ("IGatherLayer", _gather),
    "SCATTER": ("IScatterLayer", _scatter),
    "CONVOLUTION": ("IConvolutionLayer", _convolution),
    "DECONVOLUTION": ("IDeconvolutionLayer", _deconvolution),
    "POOLING": ("IPoolingLayer", _pooling),
    "NORMALIZATION": ("INormalizationLayer", _normalization),
    "ATTENTION_INPUT": ("IAttentionInputLayer", _attention_input),
    "ATTENTION_OUTPUT": ("IAttentionOutputLayer", _pass_on),
    "ROTARY_EMBEDDING": ("IRotaryEmbeddingLayer", _rotary),
    "KV_CACHE_UPDATE": ("IKVCacheUpdateLayer", _kv_update),
    "CUMULATIVE": ("ICumulativeLayer", _cumulative),
    "FILL": ("IFillLayer", _fill),
    "EINSUM": ("IEinsumLayer", _einsum),
    "ONE_HOT": ("IOneHotLayer", _one_hot),
    "RESIZE": ("IResizeLayer", _resize),
}
