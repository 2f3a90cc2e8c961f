"""Builders of the layers that are a piece of a neural network each: convolution, normalization, attention, …"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from djinn_fx.engines.tensorrt.attributes import Attributes
from djinn_fx.engines.tensorrt.kinds import (
    FLOATS,
    INTEGERS,
    NUMBERS,
    Known,
    Values,
    given,
    kind,
    mask_of,
    member,
    names,
    same_ranks,
    tensor,
    types,
    vector,
)
from djinn_fx.engines.tensorrt.network import Dim, Layer

if TYPE_CHECKING:
    from djinn_fx.engines.tensorrt.assemble import Assembly


def _spatial(attributes: Attributes, known: Known) -> int:
    """How many dimensions a window moves in."""
    rank = tensor(known, 0).rank
    if rank not in (4, 5):
        raise attributes.error(f"its input has {rank} dimensions, not 4 or 5")
    return rank - 2


def _number(attributes: Attributes, size: Dim, what: str) -> int:
    if not isinstance(size, int):
        raise attributes.error(f"{what} is {size!r}, not known when built")
    return size


def _windowed(a: Assembly, made: Any, attributes: Attributes, spatial: int) -> tuple[tuple[int, ...], ...]:
    """Set stride and padding; gives the paddings."""
    before, after = (attributes.integers(f"pad_{side}", spatial, 0) for side in ("before", "after"))
    a.set(made, stride_nd=attributes.integers("stride", spatial, 1), pre_padding=before, post_padding=after)
    return before, after


def _convolve(a: Assembly, method: str, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    """Kernel and bias are inputs; their sizes are checked here, for TensorRT looks at them late or not at all."""
    back = method == "add_deconvolution_nd"
    spatial = _spatial(attributes, known)
    one, kernel = tensor(known, 0), tensor(known, 1)
    dtype = one.dtype
    for place in range(3):
        types(attributes, known, place, (dtype,))
    types(attributes, known, 0, FLOATS)
    groups = attributes.integer("groups", 1, 2**31 - 1)
    window = attributes.integers("kernel", spatial, 1)
    if kernel.rank != spatial + 2 or tuple(kernel.shape[2:]) != window:
        raise attributes.error(f"kernel of shape {list(kernel.shape)} for a window of {list(window)}")
    channels = _number(attributes, one.shape[1], "the number of channels")
    outer, inner = (_number(attributes, size, "a kernel's size") for size in kernel.shape[:2])
    maps = inner * groups if back else outer
    if (outer if back else inner * groups) != channels or maps % groups or channels % groups or not maps:
        raise attributes.error(f"kernel of shape {list(kernel.shape)}, {groups} groups, for {channels} channels")
    # Half precision is accumulated in float32 by casts that TensorRT takes into the layer; it fails to if the layer has
    # a bias, which is added afterwards.
    half = dtype != "float32"
    wide = a.cast(values[0], "float32"), a.cast(values[1], "float32")
    made = a.add(method, wide[0], maps, window, a.trt.Weights(a.dtype("float32")))
    made.set_input(1, wide[1])
    bias = given(values, 2)
    if bias is not None and tensor(known, 2).shape != (maps,):
        raise attributes.error(f"bias of shape {list(tensor(known, 2).shape)} for {maps} maps")
    if bias is not None and not half:
        made.set_input(2, bias)
    _windowed(a, made, attributes, spatial)
    a.set(made, dilation_nd=attributes.integers("dilation", spatial, 1), num_groups=groups)
    result = a.cast(made.get_output(0), dtype)
    if bias is None or not half:
        return [result]
    spread = a.add("add_shuffle", bias)
    a.set(spread, reshape_dims=(1, maps, *[1] * spatial))
    return [a.add("add_elementwise", result, spread.get_output(0), a.trt.ElementWiseOperation.SUM).get_output(0)]


@kind("convolution", 2, 3)
def _convolution(a: Assembly, layer: Layer, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    return _convolve(a, "add_convolution_nd", attributes, values, known)


@kind("deconvolution", 2, 3)
def _deconvolution(a: Assembly, layer: Layer, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    return _convolve(a, "add_deconvolution_nd", attributes, values, known)


@kind("pooling", 1)
def _pooling(a: Assembly, layer: Layer, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    types(attributes, known, 0, FLOATS)
    spatial = _spatial(attributes, known)
    op = member(a.trt.PoolingType, attributes.choice("op", names("max", "average")))
    window = attributes.integers("window", spatial, 1)
    made = a.add("add_pooling_nd", values[0], op, window)
    for padding in _windowed(a, made, attributes, spatial):
        if any(size >= own for size, own in zip(padding, window, strict=True)):
            raise attributes.error(f"padding {list(padding)} for a window of {list(window)}: some windows hold nothing")
    up = attributes.flag("ceil", False)
    a.set(
        made,
        average_count_excludes_padding=not attributes.flag("count_padding", False),
        padding_mode=a.trt.PaddingMode.EXPLICIT_ROUND_UP if up else a.trt.PaddingMode.EXPLICIT_ROUND_DOWN,
    )
    return [made.get_output(0)]


@kind("normalization", 3)
def _normalization(a: Assembly, layer: Layer, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    types(attributes, known, 0, FLOATS)
    same_ranks(attributes, known)
    one = tensor(known, 0)
    axes, groups = attributes.axes("axes", one.rank), attributes.integer("groups", 1, 2**31 - 1, 1)
    for place in (1, 2):
        if any(size not in (1, own) for size, own in zip(tensor(known, place).shape, one.shape, strict=True)):
            raise attributes.error(f"input {place} of shape {list(tensor(known, place).shape)} for {list(one.shape)}")
    epsilon = attributes.number("epsilon")
    if epsilon < 0:
        raise attributes.error(f"epsilon is {epsilon}")
    # TensorRT computes means in float32, but scales in half precision.
    made = a.add("add_normalization_v2", *(a.cast(value, "float32") for value in values), mask_of(axes))
    a.set(made, epsilon=epsilon, num_groups=groups)
    return [a.cast(made.get_output(0), one.dtype)]


_CAUSAL = {"none": "NONE", "upper_left": "UPPER_LEFT", "lower_right": "LOWER_RIGHT"}


def _same(one: Sequence[Dim], two: Sequence[Dim]) -> bool:
    """Sizes that are not known to differ."""
    return all(a == b or not (isinstance(a, int) and isinstance(b, int)) for a, b in zip(one, two, strict=True))


@kind("attention", 3, 4)
def _attention(a: Assembly, layer: Layer, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    q, k, v = (tensor(known, place) for place in range(3))
    types(attributes, known, 0, FLOATS)
    same_ranks(attributes, known[:3])
    causal = attributes.choice("causal", _CAUSAL, "none")
    # TensorRT compares neither the batches nor the sizes of heads.
    if q.rank != 4 or not _same(k.shape, v.shape) or not _same((q.shape[0], q.shape[3]), (k.shape[0], k.shape[3])):
        raise attributes.error(f"q {list(q.shape)}, k {list(k.shape)} and v {list(v.shape)} do not fit together")
    mask = given(values, 3)
    if mask is not None:
        told = tensor(known, 3)
        types(attributes, known, 3, ("bool", q.dtype))
        full = (*q.shape[:3], k.shape[2])
        if causal != "NONE":
            raise attributes.error("both a mask and causal")
        if told.rank != 4 or any(size != 1 and not _same((size,), (own,)) for size, own in zip(told.shape, full)):  # noqa: B905 (rank checked)
            raise attributes.error(f"mask of shape {list(told.shape)} for {list(full)}")
    # Taken apart, half precision would be rounded after each step: it goes through one kernel, or in float32.
    apart = attributes.flag("decomposable", True)
    dtype = q.dtype if a.fused_attention else "float32"
    inputs = [a.cast(value, dtype) for value in values[:3]]
    norm, kind_of = a.trt.AttentionNormalizationOp.SOFTMAX, member(a.trt.CausalMaskKind, causal)
    made = a.add("add_attention_v2", *inputs, norm, kind_of)
    a.set(made, decomposable=apart and dtype == "float32")
    if mask is not None:
        a.set(made, mask=mask if tensor(known, 3).dtype == "bool" else a.cast(mask, dtype))
    return [a.cast(made.get_output(0), q.dtype)]


def _cache(attributes: Attributes, known: Known) -> None:
    """TensorRT compares heads and sizes late, and takes positions of another type until it builds."""
    cache, update, at = (tensor(known, place) for place in range(3))
    types(attributes, known, 2, ("int32",))
    same_ranks(attributes, known[:2])
    length, room = (update.shape[2], cache.shape[2]) if cache.rank == 4 else (0, 0)
    if cache.rank != 4 or not _same([*cache.shape[:2], cache.shape[3]], [*update.shape[:2], update.shape[3]]):
        raise attributes.error(f"a cache of shape {list(cache.shape)} with an update of {list(update.shape)}")
    if at.rank != 1 or not _same(at.shape, cache.shape[:1]):
        raise attributes.error(f"positions of shape {list(at.shape)} for a cache of {list(cache.shape)}")
    if isinstance(length, int) and isinstance(room, int) and length > room:
        raise attributes.error(f"an update of {length} places for a cache of {room}")


@kind("kv_update", 3)
def _kv_update(a: Assembly, layer: Layer, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    _cache(attributes, known)
    return [a.add("add_kv_cache_update", *values, a.trt.KVCacheMode.LINEAR).get_output(0)]


@kind("rotary", 3, 4)
def _rotary(a: Assembly, layer: Layer, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    one = tensor(known, 0)
    for place in range(3):
        types(attributes, known, place, (one.dtype,) if one.dtype in FLOATS else FLOATS)
    if one.rank != 4 or not isinstance(one.shape[3], int):
        raise attributes.error(f"its input is of shape {list(one.shape)}")
    dim = attributes.integer("dim", 0, one.shape[3], 0)
    if dim % 2:
        raise attributes.error(f"dim is {dim}, an odd number")
    made = a.add("add_rotary_embedding", *values[:3], attributes.flag("interleaved"), dim)
    if given(values, 3) is not None:
        types(attributes, known, 3, INTEGERS)
        made.set_input(3, values[3])
    return [made.get_output(0)]


@kind("cumulative", 1)
def _cumulative(a: Assembly, layer: Layer, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    types(attributes, known, 0, NUMBERS)
    axis = attributes.integer("axis", 0, tensor(known, 0).rank - 1)
    ends = attributes.flag("exclusive", False), attributes.flag("reverse", False)
    at = a.numbers("int32", (), [axis])
    return [a.add("add_cumulative", values[0], at, a.trt.CumulativeOperation.SUM, *ends).get_output(0)]


@kind("fill", 0, 3)
def _fill(a: Assembly, layer: Layer, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    """Start and step go in as constants: the layer's own properties are floats, also for integers."""
    op = member(a.trt.FillOperation, attributes.choice("op", {"linspace": "LINSPACE"}))  # the others are random
    dtype = attributes.choice("dtype", {one: one for one in ("float32", "int32", "int64")})
    rank = layer.outputs[0].rank
    shape = attributes.integers_or_none("shape", rank, 0, None)
    if (shape is None) == (given(values, 0) is None):
        raise attributes.error("the shape must be given once: as an attribute or as an input")
    vector(attributes, known, 0, rank)
    made = a.add("add_fill", shape if shape is not None else (1,) * rank, op, a.dtype(dtype))
    if given(values, 0) is not None:
        made.set_input(0, values[0])
    for place, name, wanted in ((1, "alpha", ()), (2, "beta", (rank,))):
        number, value = attributes.number_or_none(name), given(values, place)
        if (number is None) == (value is None) or (value is None and rank != 1):
            raise attributes.error(f"{name} must be given once: as an attribute for rank 1, or as an input")
        if value is None:
            if dtype != "float32" and number != int(number or 0):
                raise attributes.error(f"{name} is {number} for integers")
            assert number is not None
            value = a.numbers(dtype, wanted, [number if dtype == "float32" else int(number)])
        else:
            types(attributes, known, place, (dtype,))
            if tensor(known, place).shape != wanted:
                raise attributes.error(f"{name} is of shape {list(tensor(known, place).shape)}, not {list(wanted)}")
        made.set_input(place, value)
    return [made.get_output(0)]


@kind("one_hot", 2)
def _one_hot(a: Assembly, layer: Layer, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    types(attributes, known, 0, ("int32",))
    if tensor(known, 1).shape != (2,):
        raise attributes.error(f"the values off and on are of shape {list(tensor(known, 1).shape)}")
    depth = a.numbers("int32", (), [attributes.integer("depth", 1, 2**31 - 1)])
    axis = attributes.integer("axis", 0, tensor(known, 0).rank)
    return [a.add("add_one_hot", *values, depth, axis).get_output(0)]


_COORDINATES = names("align_corners", "asymmetric", "half_pixel")
_ROUNDING = names("half_up", "half_down", "floor", "ceil")


@kind("resize", 1, 2)
def _resize(a: Assembly, layer: Layer, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    types(attributes, known, 0, FLOATS)
    rank = tensor(known, 0).rank
    sizes = attributes.integers_or_none("sizes", rank, 1, None)
    if (sizes is None) == (given(values, 1) is None):
        raise attributes.error("sizes must be given once: as an attribute or as an input")
    vector(attributes, known, 1, rank)
    made = a.add("add_resize", values[0])
    a.set(
        made,
        resize_mode=member(a.trt.InterpolationMode, attributes.choice("mode", names("nearest", "linear", "cubic"))),
        coordinate_transformation=member(
            a.trt.ResizeCoordinateTransformation, attributes.choice("coordinates", _COORDINATES)
        ),
        selector_for_single_pixel=a.trt.ResizeSelector.FORMULA,
        nearest_rounding=member(a.trt.ResizeRoundMode, attributes.choice("rounding", _ROUNDING, "floor")),
        cubic_coeff=attributes.number("cubic", -0.75),
        exclude_outside=attributes.flag("exclude_outside", False),
    )
    if sizes is not None:
        a.set(made, shape=sizes)
    else:
        made.set_input(1, values[1])
    return [made.get_output(0)]
