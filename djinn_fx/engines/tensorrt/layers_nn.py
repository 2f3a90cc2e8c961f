"""Builders of the layers that are a piece of a neural network each: convolution, normalization, attention, …"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from djinn_fx.engines.tensorrt.attributes import Attributes
from djinn_fx.engines.tensorrt.kinds import (
    FLOATS,
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


def _windowed(a: Assembly, made: Any, attributes: Attributes, spatial: int) -> None:
    a.set(
        made,
        stride_nd=attributes.integers("stride", spatial, 1),
        pre_padding=attributes.integers("pad_before", spatial, 0),
        post_padding=attributes.integers("pad_after", spatial, 0),
    )


def _convolve(a: Assembly, method: str, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    """Kernel and bias are inputs; their sizes are checked here, for TensorRT looks at them late or not at all."""
    back = method == "add_deconvolution_nd"
    spatial = _spatial(attributes, known)
    one, kernel = tensor(known, 0), tensor(known, 1)
    dtype = one.dtype
    for place in range(3):
        types(attributes, known, place, (dtype,))
    types(attributes, known, 0, ("float32", "float16") if back else FLOATS)  # no bfloat16 kernels go backwards
    groups = attributes.integer("groups", 1, 2**31 - 1)
    window = attributes.integers("kernel", spatial, 1)
    if kernel.rank != spatial + 2 or tuple(kernel.shape[2:]) != window:
        raise attributes.error(f"kernel of shape {list(kernel.shape)} for a window of {list(window)}")
    channels = _number(attributes, one.shape[1], "the number of channels")
    outer, inner = (_number(attributes, size, "a kernel's size") for size in kernel.shape[:2])
    maps = inner * groups if back else outer
    if (outer if back else inner * groups) != channels or maps % groups or channels % groups or not maps:
        raise attributes.error(f"kernel of shape {list(kernel.shape)}, {groups} groups, for {channels} channels")
    made = a.add(method, values[0], maps, window, a.trt.Weights(a.dtype(dtype)))
    made.set_input(1, values[1])
    if given(values, 2) is not None:
        if tensor(known, 2).shape != (maps,):
            raise attributes.error(f"bias of shape {list(tensor(known, 2).shape)} for {maps} maps")
        made.set_input(2, values[2])
    _windowed(a, made, attributes, spatial)
    a.set(made, dilation_nd=attributes.integers("dilation", spatial, 1), num_groups=groups)
    return [made.get_output(0)]


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
    _windowed(a, made, attributes, spatial)
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
    made = a.add("add_normalization_v2", *values, mask_of(axes))
    a.set(made, epsilon=epsilon, num_groups=groups)
    return [made.get_output(0)]


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
    made = a.add(
        "add_attention_v2", *values[:3], a.trt.AttentionNormalizationOp.SOFTMAX, member(a.trt.CausalMaskKind, causal)
    )
    a.set(made, decomposable=attributes.flag("decomposable", True))
    if mask is not None:
        a.set(made, mask=mask)
    return [made.get_output(0)]
