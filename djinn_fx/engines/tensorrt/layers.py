"""Builders of the layers that are arithmetic, shapes and indices."""

from __future__ import annotations

import re
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
from djinn_fx.engines.tensorrt.network import MAX_RANK, Layer, Tensor

if TYPE_CHECKING:
    from djinn_fx.engines.tensorrt.assemble import Assembly


@kind("constant", 0)
def _constant(a: Assembly, layer: Layer, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    blob = attributes.integer("blob", 0, len(a.network.blobs) - 1)
    dtype, shape = attributes.dtype("dtype"), attributes.integers("shape", None, 0)
    return [a.constant(dtype, shape, a.network.blobs[blob])]


_ARITHMETIC = names("sum", "prod", "max", "min", "sub", "div", "pow", "floor_div", "greater", "less")
_LOGIC = names("and", "or", "xor")


@kind("elementwise", 2)
def _elementwise(a: Assembly, layer: Layer, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    op = attributes.choice("op", {**_ARITHMETIC, **_LOGIC, "equal": "EQUAL"})
    same_ranks(attributes, known)
    # Integers are raised to a power in float32 and come back without their last digits.
    others = {"EQUAL": (*NUMBERS, "bool"), "POW": FLOATS}.get(op, NUMBERS)
    types(attributes, known, 0, ("bool",) if op.lower() in _LOGIC else others)
    return [a.add("add_elementwise", *values, member(a.trt.ElementWiseOperation, op)).get_output(0)]


_UNARY = names(
    *"exp log sqrt recip sin cos tan sinh cosh asin acos atan asinh acosh atanh ceil floor erf round".split(),
    *"isinf isnan abs neg sign not".split(),
)


@kind("unary", 1)
def _unary(a: Assembly, layer: Layer, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    op = attributes.choice("op", _UNARY)
    types(attributes, known, 0, {"NOT": ("bool",), "ABS": NUMBERS, "NEG": NUMBERS, "SIGN": NUMBERS}.get(op, FLOATS))
    return [a.add("add_unary", values[0], member(a.trt.UnaryOperation, op)).get_output(0)]


_ACTIVATIONS = names(
    *"relu sigmoid tanh gelu_erf gelu_tanh softsign leaky_relu elu selu softplus clip hard_sigmoid".split(),
    *"scaled_tanh thresholded_relu".split(),
)


@kind("activation", 1)
def _activation(a: Assembly, layer: Layer, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    op = attributes.choice("op", _ACTIVATIONS)
    types(attributes, known, 0, FLOATS)
    dtype = tensor(known, 0).dtype
    one = values[0] if op == "RELU" else a.cast(values[0], "float32")  # TensorRT would round after each step
    made = a.add("add_activation", one, member(a.trt.ActivationType, op))
    a.set(made, alpha=attributes.number("alpha", 0.0), beta=attributes.number("beta", 0.0))
    return [a.cast(made.get_output(0), dtype)]


@kind("cast", 1)
def _cast(a: Assembly, layer: Layer, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    return [a.add("add_cast", values[0], a.dtype(attributes.dtype("dtype"))).get_output(0)]


@kind("identity", 1)
def _identity(a: Assembly, layer: Layer, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    return [a.add("add_identity", values[0]).get_output(0)]


@kind("matmul", 2)
def _matmul(a: Assembly, layer: Layer, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    same_ranks(attributes, known)
    types(attributes, known, 0, FLOATS)
    if tensor(known, 0).rank < 2:
        raise attributes.error("its inputs have less than 2 dimensions")
    ops = [
        a.trt.MatrixOperation.TRANSPOSE if attributes.flag(f"transpose_{side}") else a.trt.MatrixOperation.NONE
        for side in "ab"
    ]
    dtype = tensor(known, 0).dtype
    # TensorRT takes the casts into the product: half-precision inputs, accumulated in float32.
    wide = attributes.flag("wide", True)
    one, two = (a.cast(value, "float32") if wide else value for value in values)
    product = a.add("add_matrix_multiply", one, ops[0], two, ops[1]).get_output(0)
    return [a.cast(product, dtype)]


@kind("shuffle", 1, 2)
def _shuffle(a: Assembly, layer: Layer, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    shape = given(values, 1)
    made = a.add("add_shuffle", values[0])
    rank = tensor(known, 0).rank
    first, reshape = attributes.permutation("first", rank), attributes.integers_or_none("reshape", None, -1, None)
    a.set(made, zero_is_placeholder=attributes.flag("zero_keeps", False))
    if first is not None:
        a.set(made, first_transpose=first)
    if shape is not None:
        if reshape is not None:
            raise attributes.error("sizes are given twice: as an attribute and as an input")
        vector(attributes, known, 1, layer.outputs[0].rank)
        made.set_input(1, shape)
        rank = layer.outputs[0].rank
    elif reshape is not None:
        a.set(made, reshape_dims=reshape)
        rank = len(reshape)
    second = attributes.permutation("second", rank)
    if second is not None:
        a.set(made, second_transpose=second)
    return [made.get_output(0)]


@kind("squeeze", 1)
def _squeeze(a: Assembly, layer: Layer, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    axes = attributes.axes("axes", tensor(known, 0).rank)
    return [a.add("add_squeeze", values[0], a.numbers("int64", (len(axes),), axes)).get_output(0)]


@kind("unsqueeze", 1)
def _unsqueeze(a: Assembly, layer: Layer, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    axes = attributes.axes("axes", layer.outputs[0].rank)
    return [a.add("add_unsqueeze", values[0], a.numbers("int64", (len(axes),), axes)).get_output(0)]


_MODES = {"strict": "STRICT_BOUNDS", "fill": "FILL", "clamp": "CLAMP", "reflect": "REFLECT", "wrap": "WRAP"}


@kind("slice", 1, 5)
def _slice(a: Assembly, layer: Layer, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    one = tensor(known, 0)
    rank = one.rank
    if rank == 0:
        raise attributes.error("a scalar cannot be sliced")
    sizes: dict[str, tuple[int, ...] | None] = {}
    for place, (name, least) in enumerate((("start", -(2**62)), ("size", 0), ("stride", -(2**62))), start=1):
        sizes[name] = attributes.integers_or_none(name, rank, least)
        if (sizes[name] is None) == (given(values, place) is None):
            raise attributes.error(f"{name} must be given once: as an attribute or as an input")
        vector(attributes, known, place, rank)
    mode = attributes.choice("mode", _MODES, "strict")
    start, size, stride = (sizes[name] for name in ("start", "size", "stride"))
    if mode == "STRICT_BOUNDS" and start is not None and size is not None and stride is not None:
        _within(attributes, one, start, size, stride)
    made = a.add("add_slice", values[0], start or (0,) * rank, size or (1,) * rank, stride or (1,) * rank)
    a.set(made, mode=member(a.trt.SampleMode, mode))
    for place in (1, 2, 3):
        if given(values, place) is not None:
            made.set_input(place, values[place])
    fill = given(values, 4)
    if (fill is not None) != (mode == "FILL"):
        raise attributes.error("a value goes with the mode fill, and only with it")
    if fill is not None:
        types(attributes, known, 4, (one.dtype,))
        if tensor(known, 4).shape not in ((), (1,)):
            raise attributes.error("the value to fill with has more than one element")
        made.set_input(4, fill)
    return [made.get_output(0)]


def _within(
    attributes: Attributes, one: Tensor, start: Sequence[int], size: Sequence[int], stride: Sequence[int]
) -> None:
    """No element outside is asked for: TensorRT would notice late, or for symbols never."""
    for axis, length in enumerate(one.shape):
        if size[axis] == 0:
            continue
        ends = (start[axis], start[axis] + (size[axis] - 1) * stride[axis])
        if min(ends) < 0 or (isinstance(length, int) and max(ends) >= length):
            raise attributes.error(f"axis {axis} of size {length} has no elements {ends[0]} to {ends[1]}")


@kind("concatenation", 1, 10000)
def _concatenation(a: Assembly, layer: Layer, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    if any(value is None for value in values):
        raise attributes.error("an input is missing")
    same_ranks(attributes, known)
    axis = attributes.integer("axis", 0, tensor(known, 0).rank - 1)
    made = a.add("add_concatenation", list(values))
    a.set(made, axis=axis)
    return [made.get_output(0)]


@kind("shape", 1)
def _shape(a: Assembly, layer: Layer, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    return [a.add("add_shape", values[0]).get_output(0)]


@kind("reduce", 1)
def _reduce(a: Assembly, layer: Layer, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    types(attributes, known, 0, NUMBERS)
    op = member(a.trt.ReduceOperation, attributes.choice("op", names("sum", "prod", "max", "min", "avg")))
    axes = attributes.axes("axes", tensor(known, 0).rank)
    return [a.add("add_reduce", values[0], op, mask_of(axes), attributes.flag("keep")).get_output(0)]


@kind("softmax", 1)
def _softmax(a: Assembly, layer: Layer, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    types(attributes, known, 0, FLOATS)
    made = a.add("add_softmax", a.cast(values[0], "float32"))  # the exponents would be rounded to half precision
    a.set(made, axes=1 << attributes.integer("axis", 0, tensor(known, 0).rank - 1))
    return [a.cast(made.get_output(0), tensor(known, 0).dtype)]


@kind("topk", 1, outputs=2)
def _topk(a: Assembly, layer: Layer, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    types(attributes, known, 0, NUMBERS)
    rank = tensor(known, 0).rank
    if rank < 2:
        raise attributes.error("its input has less than 2 dimensions")
    op = member(a.trt.TopKOperation, attributes.choice("op", names("max", "min")))
    k, axis = attributes.integer("k", 1, 3840), attributes.integer("axis", max(0, rank - 4), rank - 1)
    if layer.outputs[1].dtype not in INTEGERS:
        raise attributes.error(f"indices of type {layer.outputs[1].dtype}")
    made = a.add("add_topk", values[0], op, k, 1 << axis, a.dtype(layer.outputs[1].dtype))
    return [made.get_output(0), made.get_output(1)]


@kind("gather", 2)
def _gather(a: Assembly, layer: Layer, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    types(attributes, known, 1, INTEGERS)
    mode = attributes.choice("mode", names("default", "element", "nd"))
    rank = tensor(known, 0).rank
    axis, batch = attributes.integer("axis", 0, rank - 1, 0), attributes.integer("batch", 0, MAX_RANK, 0)
    if batch > {"DEFAULT": 1, "ELEMENT": 0, "ND": rank - 1}[mode]:
        raise attributes.error(f"{batch} batch dimensions in mode {mode.lower()}")
    made = a.add("add_gather_v2", values[0], values[1], member(a.trt.GatherMode, mode))
    a.set(made, num_elementwise_dims=batch)
    if mode != "ND":
        a.set(made, axis=axis)
    return [made.get_output(0)]


@kind("select", 3)
def _select(a: Assembly, layer: Layer, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    types(attributes, known, 0, ("bool",))
    same_ranks(attributes, known[1:])
    if tensor(known, 0).rank != tensor(known, 1).rank:
        raise attributes.error("condition and values have different ranks")
    return [a.add("add_select", *values).get_output(0)]


@kind("einsum", 1, 16)
def _einsum(a: Assembly, layer: Layer, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    equation = attributes.text("equation")
    for index in range(len(values)):
        types(attributes, known, index, FLOATS)
    if len({tensor(known, index).dtype for index in range(len(values))}) > 1:
        raise attributes.error("inputs of different types")
    terms, arrow, result = equation.partition("->")
    labels = terms.split(",")
    letters = all(re.fullmatch("[a-z]*", term) and len(set(term)) == len(term) for term in (*labels, result))
    if not arrow or not letters or not set(result) <= set("".join(labels)):
        raise attributes.error(f"equation {equation!r} is not one TensorRT has")
    if [len(term) for term in labels] != [tensor(known, index).rank for index in range(len(values))]:
        raise attributes.error(f"equation {equation!r} does not fit the inputs' ranks")
    made = a.add("add_einsum", [a.cast(value, "float32") for value in values], equation)
    return [a.cast(made.get_output(0), tensor(known, 0).dtype)]


@kind("scatter", 3)
def _scatter(a: Assembly, layer: Layer, attributes: Attributes, values: Values, known: Known) -> list[Any]:
    types(attributes, known, 1, INTEGERS)
    types(attributes, known, 2, (tensor(known, 0).dtype,))
    mode = attributes.choice("mode", names("element", "nd"))
    axis = attributes.integer("axis", 0, max(0, tensor(known, 0).rank - 1), 0)
    made = a.add("add_scatter", *values, member(a.trt.ScatterMode, mode))
    if mode == "ELEMENT":
        a.set(made, axis=axis)
    return [made.get_output(0)]
