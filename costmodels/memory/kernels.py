"""What torch's CPU kernels for attention and convolution take beside their results, in bytes.

Attention: the sizes of its blocks stand in torch's FlashAttentionKernel.cpp; a thread holds one block of scores, the
largest and the sum of each row, and a block of results. Convolutions: oneDNN has layouts of its own, and what does not
lie in them is copied; which of torch's two implementations is taken stands in its ConvUtils.h. Both were held against
measured bytes (tests/costmodels/memory/test_workspace.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.fx import Node

from djinn_fx.costmodels.work.call import Call
from djinn_fx.costmodels.work.sizes import item_bytes
from djinn_fx.srg.record import TensorMeta

Kernel = Callable[[Call, int], int]

#: Rows of a block of scores, by how many rows there are at least; columns at most.
_ROWS, _COLUMNS = ((768, 256), (192, 64), (0, 32)), 512
#: Channels that oneDNN does not lay out anew.
_FEW_CHANNELS = 4
#: The longest side of a kernel that oneDNN has code for.
_WIDEST = 14
#: How many sums of a weight's gradient it keeps where each channel has a kernel of its own wider than 3.
_SUMS = 256
#: Places beside a gradient that its copy for each thread has room for.
_ROOM = 8


def contiguous(meta: TensorMeta) -> bool:
    """Whether a tensor's elements lie one after another in the order of its dimensions."""
    expected = 1
    for size, stride in zip(reversed(meta.shape), reversed(meta.strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= int(size)
    return True


def _block(query: TensorMeta, key: TensorMeta) -> tuple[int, int]:
    rows, columns = int(query.shape[-2]), int(key.shape[-2])
    return min(rows, next(size for least, size in _ROWS if rows >= least)), min(columns, _COLUMNS)


def attention(call: Call, threads: int) -> int:
    """``_scaled_dot_product_flash_attention_for_cpu``: accumulates in float32."""
    query, key = call.tensor(0), call.tensor(1)
    rows, columns = _block(query, key)
    head = int(query.shape[-1])
    half = item_bytes(query.dtype) < 4
    reduced = rows * columns * item_bytes(query.dtype) if half else 0
    return threads * (max(4, item_bytes(query.dtype)) * (rows * columns + 2 * rows + rows * head) + reduced)


def attention_backward(call: Call, threads: int) -> int:
    """Its backward: a block of scores and one of their gradients, and a sum for each row."""
    query, key = call.tensor(1), call.tensor(2)
    rows, columns = _block(query, key)
    return threads * max(4, item_bytes(query.dtype)) * (2 * rows * columns + rows)


def convolution(call: Call, threads: int) -> int:
    """By oneDNN: input and weight copied into its layouts, then the result out of them; else columns of a batch."""
    source, weight = call.tensor(0), call.tensor(1)
    result, groups = call.outputs[0], int(call.argument(8))
    if not _by_onednn(source, weight, call, threads):
        return _columns(weight, result) * int(result.shape[0]) + _copied(source)
    if groups > 1 and _is_wide(weight):
        return min(threads, groups * int(source.shape[0])) * _columns(weight, result) + _copied(source)
    if _channels_last(result) and not _told_wrong(call):
        return weight.nbytes if groups == _channels(source) else 2 * weight.nbytes
    moved, copied = _moved(source) + weight.nbytes, source.nbytes if _told_wrong(call) else _copied(source)
    if _strided_point(weight, call.argument(3)):
        return moved + result.nbytes + copied
    return max(moved, result.nbytes) + copied


def convolution_backward(call: Call, threads: int) -> int:
    """Gradient and input copied into oneDNN's layouts, or what one gives copied out of them, whichever is more."""
    gradient, source, weight = call.tensor(0), call.tensor(1), call.tensor(2)
    groups, wanted = int(call.argument(9)), call.argument(10)
    if not _by_onednn(source, weight, call, threads, first=4):
        return _columns(weight, gradient) * int(gradient.shape[0]) + _copied(gradient)
    if _is_wide(weight):  # each thread sums gradients of the weight for itself
        workers = min(threads, groups * int(source.shape[0]))
        return workers * (4 * weight.nbytes + _columns(weight, gradient)) + _copied(gradient)
    if wanted[0] and _channels_last(call.outputs[0]) and groups == _channels(source):
        return (1 + _SUMS if max(map(int, weight.shape[2:])) > 3 else 2) * weight.nbytes
    if not wanted[0]:
        return gradient.nbytes + _moved(source) + weight.nbytes
    if _strided_point(weight, call.argument(4)):
        return max(2 * source.nbytes, weight.nbytes)
    plain = max(gradient.nbytes + source.nbytes, weight.nbytes)
    steps = int(call.argument(4)[-1])
    if len(source.shape) != 3 or int(source.shape[-1]) % steps == 0 or groups > 1:
        return plain
    return max(plain, gradient.nbytes + _uneven_steps(gradient, source, steps, threads))


def _uneven_steps(gradient: TensorMeta, source: TensorMeta, steps: int, threads: int) -> int:
    """What oneDNN takes for the gradient of a sequence whose length is no multiple of the steps.

    Each thread has one gradient of the batch with some room beside it, and results for each step go through a buffer.
    That is one as long as the sequence, or one for each of the batch at a time; oneDNN, which weighs how to share the
    work, may also choose shorter ones, or one more: then this is up to twice too much or too little.
    """
    batch = int(source.shape[0])
    row = gradient.nbytes // batch // int(gradient.shape[-1])
    padded = (int(gradient.shape[-1]) + _ROOM) * row
    return min(threads, batch) * steps * source.nbytes // batch + threads * padded


def _by_onednn(source: TensorMeta, weight: TensorMeta, call: Call, threads: int, first: int = 3) -> bool:
    """As torch decides: only what is large enough. ``first``: place of the stride among the arguments."""
    if source.dtype != "float32":
        return False
    stride, dilation, groups = call.argument(first), call.argument(first + 2), call.argument(first + 5)
    kernel = [1] * (4 - len(weight.shape)) + list(map(int, weight.shape[2:]))
    steps = any(step != 1 for step in (*stride, *dilation))
    wide = threads > 1 or steps or int(source.shape[0]) >= 16 or any(side != 1 for side in kernel)
    elements = math.prod(map(int, source.shape))
    return wide and (
        int(groups) > 1 or all(side > 3 for side in kernel[-2:]) or int(source.shape[0]) > 1 or elements > 20480
    )


def _is_wide(weight: TensorMeta) -> bool:
    """Whether oneDNN's own kernels do not take it: then it makes columns, and multiplies matrices."""
    return max(map(int, weight.shape[2:])) > _WIDEST


def _columns(weight: TensorMeta, result: TensorMeta) -> int:
    """The patches of one of the batch and one group as a matrix; none for a kernel of one element."""
    if all(side == 1 for side in weight.shape[2:]):
        return 0
    patch = math.prod(map(int, weight.shape[1:]))
    places = math.prod(map(int, result.shape[2:]))
    return int(patch * places * item_bytes(weight.dtype))


def _channels_last(source: TensorMeta) -> bool:
    """Whether the channels of one place lie together: torch makes such results where oneDNN was given such inputs."""
    sizes, strides = tuple(map(int, source.shape)), tuple(map(int, source.strides))
    return len(sizes) == 4 and strides == (sizes[1] * sizes[2] * sizes[3], 1, sizes[1] * sizes[3], sizes[1])


def _told_wrong(call: Call) -> bool:
    """Whether torch will not see that channels lie together: a view of a batch of one strides otherwise than traced."""
    source = call.node.args[0]
    is_view = isinstance(source, Node) and source.target is torch.ops.aten.view.default
    return is_view and call.shape(0)[0] == 1 and not contiguous(call.tensor(0))


def _channels(source: TensorMeta) -> int:
    return int(source.shape[1])


def _moved(source: TensorMeta) -> int:
    return source.nbytes if _channels(source) > _FEW_CHANNELS else 0


def _copied(source: TensorMeta) -> int:
    return 0 if contiguous(source) else source.nbytes


def _strided_point(weight: TensorMeta, stride: Any) -> bool:
    return all(side == 1 for side in weight.shape[2:]) and any(step != 1 for step in stride)


def gelu_backward(call: Call, threads: int) -> int:
    """Both arguments are copied where they lie in different orders."""
    gradient, source = call.tensor(0), call.tensor(1)
    return gradient.nbytes + source.nbytes if gradient.strides != source.strides else 0


KERNELS: Mapping[str, Kernel] = {
    "_scaled_dot_product_flash_attention_for_cpu": attention,
    "_scaled_dot_product_flash_attention_for_cpu_backward": attention_backward,
    "convolution": convolution,
    "convolution_backward": convolution_backward,
    "gelu_backward": gelu_backward,
}
