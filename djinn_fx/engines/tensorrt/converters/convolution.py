"""Convolutions and pooling. TensorRT has them over two or three dimensions; over one is done as over two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from djinn_fx.engines.tensorrt.call import Call
from djinn_fx.engines.tensorrt.conversion import Formula
from djinn_fx.engines.tensorrt.converters.unary import truth
from djinn_fx.engines.tensorrt.emitter import Emitter, Value
from djinn_fx.engines.tensorrt.support import FLOATS, Refused, converts


def numbers(given: Any, count: int) -> list[int]:
    """One number a dimension, from a list that may hold one for all.

    Raises:
        Refused: one is a symbol.
    """
    values = list(given) if isinstance(given, (list, tuple)) else [given]
    if not all(isinstance(value, int) for value in values):
        raise Refused("with a window that is not known when built")
    return values * count if len(values) == 1 else values


@converts("convolution.default", "_convolution.default", types=FLOATS)
def _convolution(emitter: Emitter, call: Call) -> Value:
    value, kernel, bias = call.tensor("input"), call["weight"], call["bias"]
    spatial = kernel.rank - 2
    if not 1 <= spatial <= 3:
        raise Refused(f"over {spatial} dimensions")
    if not all(isinstance(size, int) for size in (*kernel.shape, value.shape[-spatial - 1])):
        raise Refused("with sizes of the kernel that are not known when built")
    stride, padding, dilation = (numbers(call[name], spatial) for name in ("stride", "padding", "dilation"))
    extra, back = numbers(call["output_padding"], spatial), bool(call["transposed"])
    single = value.rank == spatial + 1
    if single:
        value = emitter.unsqueeze(value, [0])
    shape = list(call.shape) if not single else [1, *call.shape]
    after = [pad - more for pad, more in zip(padding, extra, strict=True)] if back else padding
    if min(after) < 0:
        raise Refused("with more padding of the output than of the input")
    # No deconvolution of bfloat16 is to be had.
    dtype = "float32" if back and value.dtype == "bfloat16" else value.dtype
    value, kernel = emitter.cast(value, dtype), emitter.cast(kernel, dtype)
    bias = None if bias is None else emitter.cast(bias, dtype)
    if spatial == 1:
        value, kernel = emitter.unsqueeze(value, [2]), emitter.unsqueeze(kernel, [2])
        stride, dilation = [1, *stride], [1, *dilation]
        padding, after = [0, *padding], [0, *after]
        shape.insert(2, 1)
    made = emitter.layer(
        "deconvolution" if back else "convolution",
        [value, kernel, bias],
        dtype,
        shape,
        kernel=list(kernel.shape[2:]),
        stride=stride,
        pad_before=padding,
        pad_after=after,
        dilation=dilation,
        groups=call["groups"],
    )
    if spatial == 1:
        made = emitter.squeeze(made, [2])
    if single:
        made = emitter.squeeze(made, [0])
    return emitter.cast(made, call.dtype)


def _windowed(emitter: Emitter, value: Value, op: str, shape: Sequence[Formula], window: dict[str, Any]) -> Value:
    """A pooling layer over the last one, two or three dimensions of a value with a batch and channels."""
    spatial, sizes = len(window["window"]), list(shape)
    line = spatial == 1
    if line:
        value = emitter.unsqueeze(value, [value.rank - 1])
        sizes.insert(len(sizes) - 1, 1)
        window = {
            **window,
            **{name: [first, *window[name]] for name, first in
               (("window", 1), ("stride", 1), ("pad_before", 0), ("pad_after", 0))},
        }  # fmt: skip
    single = value.rank == len(window["window"]) + 1
    if single:
        value, sizes = emitter.unsqueeze(value, [0]), [1, *sizes]
    made = emitter.layer("pooling", [value], value.dtype, sizes, op=op, **window)
    if single:
        made = emitter.squeeze(made, [0])
    return emitter.squeeze(made, [made.rank - 2]) if line else made


def _rounds_up(call: Call, value: Value, shape: Sequence[Formula], window: Sequence[int], stride: Sequence[int],
               padding: Sequence[int]) -> None:  # fmt: skip
    """Refuse windows that reach beyond the padding."""
    if not call["ceil_mode"]:
        return
    for place, (own, made) in enumerate(zip(value.shape[-len(window) :], shape[-len(window) :], strict=True)):
        if not isinstance(own, int) or made != (own + 2 * padding[place] - window[place]) // stride[place] + 1:
            raise Refused("with sizes rounded up")


@converts(
    "max_pool2d_with_indices.default", "max_pool3d_with_indices.default", "max_pool2d.default", "max_pool1d.default",
    "max_pool3d.default", types=FLOATS, unused=frozenset({1}),
)  # fmt: skip
def _max_pool(emitter: Emitter, call: Call) -> Any:
    value = call.tensor("self")
    spatial = int(call.name.split("pool")[1][0])
    window = numbers(call["kernel_size"], spatial)
    stride = numbers(call["stride"], spatial) if call["stride"] else window
    padding, dilation = numbers(call["padding"], spatial), numbers(call["dilation"], spatial)
    if set(dilation) != {1}:
        raise Refused("with gaps in the window")
    _rounds_up(call, value, call.shape, window, stride, padding)
    given = {"window": window, "stride": stride, "pad_before": padding, "pad_after": padding}
    made = _windowed(emitter, value, "max", call.shape, given)
    if emitter.options.propagate_nan:
        broken = emitter.cast(emitter.unary("isnan", value), value.dtype)
        broken = truth(emitter, _windowed(emitter, broken, "max", call.shape, given))
        made = emitter.select(broken, emitter.scalar(float("nan"), made.dtype, made.rank), made)
    return [made, None] if "indices" in call.name else made


@converts("avg_pool1d.default", "avg_pool2d.default", "avg_pool3d.default", types=FLOATS)
def _avg_pool(emitter: Emitter, call: Call) -> Value:
    value = call.tensor("self")
    spatial = int(call.name.split("pool")[1][0])
    if call.has("divisor_override") and call["divisor_override"] is not None:
        raise Refused("with a divisor of its own")
    window = numbers(call["kernel_size"], spatial)
    stride = numbers(call["stride"], spatial) if call["stride"] else window
    padding = numbers(call["padding"], spatial)
    _rounds_up(call, value, call.shape, window, stride, padding)
    given = {"window": window, "stride": stride, "pad_before": padding, "pad_after": padding}
    given["count_padding"] = bool(call["count_include_pad"])  # type: ignore[assignment]
    made = _windowed(emitter, emitter.cast(value, "float32"), "average", call.shape, given)
    return emitter.cast(made, call.dtype)


@converts("_adaptive_avg_pool2d.default", "adaptive_avg_pool1d.default", "adaptive_avg_pool2d.default",
          "_adaptive_avg_pool3d.default", types=FLOATS)  # fmt: skip
def _adaptive(emitter: Emitter, call: Call) -> Value:
    """Where every window has the same size."""
    value = call.tensor("self")
    wanted = numbers(call["output_size"], len(call["output_size"]))
    spatial = len(wanted)
    over = list(range(value.rank - spatial, value.rank))
    wide = emitter.cast(value, "float32")
    if set(wanted) == {1}:
        return emitter.cast(emitter.reduce("avg", wide, over, True), call.dtype)
    window = [
        size // more for axis, more in zip(over, wanted, strict=True) if isinstance(size := value.shape[axis], int)
    ]
    if [one * more for one, more in zip(window, wanted, strict=False)] != [value.shape[axis] for axis in over]:
        raise Refused("to windows of different, or not known, sizes")
    none = [0] * spatial
    given = {"window": window, "stride": window, "pad_before": none, "pad_after": none}
    return emitter.cast(_windowed(emitter, wide, "average", call.shape, given), call.dtype)


@converts("upsample_nearest2d.default", "upsample_nearest2d.vec", types=FLOATS)
def _nearest(emitter: Emitter, call: Call) -> Value:
    """By whole factors: each element as a block."""
    value, shape = call.tensor("self") if call.has("self") else call.tensor("input"), call.shape
    apart: list[Formula] = []
    wider: list[Formula] = []
    for axis, (own, made) in enumerate(zip(value.shape, shape, strict=True)):
        if axis < value.rank - 2:
            apart.append(own)
            wider.append(own)
            continue
        if not isinstance(own, int) or not isinstance(made, int) or made % own:
            raise Refused("by something else than whole, known factors")
        apart += [own, 1]
        wider += [own, made // own]
    return emitter.reshape(emitter.broadcast(emitter.reshape(value, apart), wider), shape)
