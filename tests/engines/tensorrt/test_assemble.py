"""Descriptions become TensorRT's networks and plans; what is broken or means something else is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor as Values

from djinn_fx.engines.tensorrt.kinds import KINDS
from djinn_fx.engines.tensorrt.network import Layer, Network, NetworkWriter, Tensor
from djinn_fx.engines.tensorrt.worker import build
from djinn_fx.pool.jobs import BuildError
from tests.engines.tensorrt.making import RANGES, assembled, constant, needs_tensorrt, one_layer, told

pytestmark = needs_tensorrt

FLOATS = ("float32", "float16", "bfloat16")


def plan(network: Network, target: str = "sm89") -> bytes:
    """A plan of a network, by way of JSON as it comes to a child."""
    data = json.loads(json.dumps(network.to_json()))
    return build({"network": data, "flavour": "tensorrt_rtx", "target": target}, network.blobs)[1]


def refused(network: Network, stage: str = "convert") -> BuildError:
    """The error a network is refused with."""
    with pytest.raises(BuildError) as caught:
        plan(network)
    assert caught.value.stage == stage, caught.value.detail
    return caught.value


_WINDOW: dict[str, Any] = {"stride": [2, 2], "pad_before": [1, 1], "pad_after": [0, 1]}
_KERNEL: dict[str, Any] = {"kernel": [3, 3], "dilation": [1, 1], "groups": 1, **_WINDOW}


def _attention(d: str) -> Network:
    q, k = told(d, 2, 4, 5, 16), told(d, 2, 2, 7, 16)
    return one_layer("attention", [q, k, k], [q], causal="lower_right")


#: For each kind of layer, a network of it in a type; symbols where sizes may be symbols.
NETWORKS: dict[str, Callable[[str], Network]] = {
    "elementwise": lambda d: one_layer("elementwise", [told(d, "k0", 3), told(d, 1, 3)], [told(d, "k0", 3)], op="div"),
    "unary": lambda d: one_layer("unary", [told(d, "k0", 3)], [told(d, "k0", 3)], op="erf"),
    "activation": lambda d: one_layer("activation", [told(d, "k0", 3)], [told(d, "k0", 3)], op="elu", alpha=1.0),
    "cast": lambda d: one_layer("cast", [told(d, "k0", 3)], [told("int32", "k0", 3)], dtype="int32"),
    "identity": lambda d: one_layer("identity", [told(d, "k0", 3)], [told(d, "k0", 3)]),
    "matmul": lambda d: one_layer(
        "matmul",
        [told(d, "k0", 3, 8), told(d, 1, 4, 8)],
        [told(d, "k0", 3, 4)],
        transpose_a=False,
        transpose_b=True,
    ),
    "shuffle": lambda d: one_layer(
        "shuffle",
        [told(d, "k0", 3, 8)],
        [told(d, 3, "k0", 2, 4)],
        first=[1, 0, 2],
        reshape=[0, 0, 2, 4],
        zero_keeps=True,
    ),
    "squeeze": lambda d: one_layer("squeeze", [told(d, "k0", 1)], [told(d, "k0")], axes=[1]),
    "unsqueeze": lambda d: one_layer("unsqueeze", [told(d, "k0", 3)], [told(d, 1, "k0", 3)], axes=[0]),
    "slice": lambda d: one_layer(
        "slice", [told(d, 4, 8), None, None, None, told(d)], [told(d, 2, 12)], **_SLICE, mode="fill"
    ),
    "concatenation": lambda d: one_layer(
        "concatenation", [told(d, "k0", 3), told(d, "k0", 2)], [told(d, "k0", 5)], axis=1
    ),
    "shape": lambda d: one_layer("shape", [told(d, "k0", 3)], [told("int64", 2)]),
    "reduce": lambda d: one_layer("reduce", [told(d, "k0", 3)], [told(d, "k0", 1)], op="avg", axes=[1], keep=True),
    "softmax": lambda d: one_layer("softmax", [told(d, "k0", 3)], [told(d, "k0", 3)], axis=1),
    "topk": lambda d: one_layer(
        "topk", [told(d, "k0", 9)], [told(d, "k0", 2), told("int64", "k0", 2)], op="max", k=2, axis=1
    ),
    "gather": lambda d: one_layer(
        "gather", [told(d, 50, 8), told("int64", "k0", 3)], [told(d, "k0", 3, 8)], mode="default", axis=0
    ),
    "scatter": lambda d: one_layer(
        "scatter", [told(d, 5, 8), told("int64", 3, 1), told(d, 3, 8)], [told(d, 5, 8)], mode="nd"
    ),
    "select": lambda d: one_layer("select", [told("bool", "k0", 1), told(d, 1, 3), told(d, 1, 1)], [told(d, "k0", 3)]),
    "convolution": lambda d: one_layer(
        "convolution", [told(d, "k0", 4, 9, 9), told(d, 8, 4, 3, 3), told(d, 8)], [told(d, "k0", 8, 4, 5)], **_CONV
    ),
    "deconvolution": lambda d: one_layer(
        "deconvolution", [told(d, "k0", 4, 5, 5), told(d, 4, 6, 3, 3)], [told(d, "k0", 6, 10, 9)], **_KERNEL
    ),
    "pooling": lambda d: one_layer(
        "pooling", [told(d, "k0", 4, 9, 9)], [told(d, "k0", 4, 4, 5)], op="average", window=[3, 3], **_POOL
    ),
    "resize": lambda d: one_layer(
        *("resize", [told(d, 1, 4, 8, 8)], [told(d, 1, 4, 12, 16)]),
        sizes=[1, 4, 12, 16],
        mode="linear",
        coordinates="half_pixel",
    ),
    "normalization": lambda d: one_layer(
        "normalization", [told(d, "k0", 3, 8), told(d, 1, 1, 8), told(d, 1, 1, 8)], [told(d, "k0", 3, 8)], **_NORM
    ),
    "attention": _attention,
    "rotary": lambda d: one_layer(
        "rotary", [told(d, 2, 4, 5, 16), told(d, 2, 5, 8), told(d, 2, 5, 8)], [told(d, 2, 4, 5, 16)], interleaved=False
    ),
    "kv_update": lambda d: one_layer(
        "kv_update", [told(d, 2, 4, 32, 16), told(d, 2, 4, 3, 16), told("int32", 2)], [told(d, 2, 4, 32, 16)]
    ),
    "cumulative": lambda d: one_layer("cumulative", [told(d, "k0", 3)], [told(d, "k0", 3)], axis=1),
    "einsum": lambda d: one_layer(
        "einsum", [told(d, "k0", 3), told(d, 3, 4)], [told(d, "k0", 4)], equation="ij,jk->ik"
    ),
    "one_hot": lambda d: one_layer("one_hot", [told("int32", "k0"), told(d, 2)], [told(d, "k0", 6)], depth=6, axis=1),
}
_SLICE: dict[str, Any] = {"start": [1, -2], "size": [2, 12], "stride": [2, 1]}
_POOL: dict[str, Any] = {"stride": [2, 2], "pad_before": [0, 1], "pad_after": [0, 1]}
_CONV: dict[str, Any] = {**_KERNEL, "pad_before": [0, 1], "pad_after": [0, 1]}
_NORM: dict[str, Any] = {"axes": [2], "epsilon": 1e-5}


def test_every_kind_is_tried() -> None:
    assert set(NETWORKS) | {"constant", "fill"} == set(KINDS)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("kind", NETWORKS)
def test_every_kind_builds(kind: str, dtype: str) -> None:
    assert len(plan(NETWORKS[kind](dtype))) > 1000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool])
@pytest.mark.parametrize("shape", [(2, 3), (), (0, 4)])
def test_constants_of_every_type_and_shape(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    writer = NetworkWriter()
    given = writer.input(told(dtype, *shape))
    values: Values = torch.ones(shape).to(dtype)
    pair = [given, constant(writer, values)]
    made = writer.one("elementwise", pair, told("bool", *shape), op="equal")
    assert len(plan(writer.network([made], {}))) > 1000


def test_layers_are_named_by_their_place_and_kind_not_by_graph_nodes() -> None:
    network = assembled(NETWORKS["matmul"]("float16"))
    names = [network.get_layer(index).name for index in range(network.num_layers)]
    assert all(name.startswith("[0] matmul") for name in names)
    assert len(set(names)) == len(names) == 4  # cast, cast, multiply in float32, cast


def test_one_symbol_is_one_size_everywhere() -> None:
    network = assembled(one_layer("elementwise", [told("float32", "k0")] * 2, [told("float32", "k0")], op="sum"))
    assert [network.get_input(index).get_dimension_name(0) for index in (0, 1)] == ["k0", "k0"]
    assert tuple(network.get_output(0).shape) == (-1,)


@pytest.mark.parametrize(
    "output",
    [
        told("float32", "k0", 4),  # another size
        told("float32", "k0"),  # another rank
        told("float16", "k0", 3),  # another type
        told("float32", "k0", "k1"),  # TensorRT knows a size that the description has a symbol for: it was baked in
    ],
)
def test_a_description_that_disagrees_with_tensorrt_is_refused(output: Tensor) -> None:
    network = one_layer("unary", [told("float32", "k0", 3)], [output], op="exp")
    assert "the description says" in refused(network).detail


def test_the_error_names_the_graph_node() -> None:
    writer = NetworkWriter()
    a, b = writer.input(told("float32", 2, 3)), writer.input(told("float32", 4, 5))
    writer.node = "model.layers.3.mlp: mm_7"
    made = writer.one("matmul", [a, b], told("float32", 2, 5), transpose_a=False, transpose_b=False)
    error = refused(writer.network([made], {}))
    assert error.node == "model.layers.3.mlp: mm_7"
    assert "TensorRT says" in error.detail


def test_settings_that_tensorrt_would_ignore_are_refused() -> None:
    """It logs such a one and builds another network than the one described."""
    value = told("float32", 2, 3)
    refused(one_layer("softmax", [value], [value], axis=2))
    refused(one_layer("softmax", [value], [value], axis=-1))
    refused(one_layer("concatenation", [value, value], [told("float32", 4, 3)], axis=-2))
    refused(one_layer("unary", [value], [value], op="exp", alpha=1.0))
    image = told("float32", 1, 2, 8, 8)
    refused(one_layer("pooling", [image], [image], op="max", window=[1, 1], **{**_POOL, "stride": [0, 0]}))
    q, mask = told("float32", 1, 2, 4, 8), told("bool", 1, 1, 4, 4)
    refused(one_layer("attention", [q, q, q, mask], [q], causal="upper_left"))


def test_types_that_mean_something_else_are_refused() -> None:
    for kind, dtype, attributes in [
        ("activation", "int32", {"op": "relu"}),
        ("elementwise", "bool", {"op": "max"}),
        ("reduce", "bool", {"op": "max", "axes": [0], "keep": True}),
        ("unary", "int64", {"op": "sqrt"}),
    ]:
        value = told(dtype, 1, 3)
        inputs = [value, value] if kind == "elementwise" else [value]
        refused(one_layer(kind, inputs, [value], **attributes))
    half, single = told("float16", 1, 3), told("float32", 1, 3)
    refused(one_layer("elementwise", [half, single], [single], op="sum"))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e300, 2**200, "1", None, True])
def test_parameters_are_finite_numbers(number: Any) -> None:
    value = told("float32", 2, 3)
    with pytest.raises(BuildError):
        assembled(one_layer("activation", [value], [value], op="elu", alpha=number))
    ends = {"op": "linspace", "shape": [3], "dtype": "int32", "beta": 1}
    writer = NetworkWriter()
    given = writer.input(told("int32", 3))
    made = writer.one("fill", [], told("int32", 3), alpha=number, **ends)
    total = writer.one("elementwise", [given, made], told("int32", 3), op="sum")
    with pytest.raises(BuildError):
        assembled(writer.network([total], {}))


def test_elements_outside_are_refused() -> None:
    refused(one_layer("slice", [told("float32", 4)], [told("float32", 3)], start=[2], size=[3], stride=[1]))
    refused(one_layer("slice", [told("float32", "k0")], [told("float32", 2)], start=[0], size=[2], stride=[-1]))


def test_inputs_whose_values_decide_sizes_are_refused() -> None:
    writer = NetworkWriter()
    x, sizes = writer.input(told("float32", 6)), writer.input(told("int64", 2))
    made = writer.one("shuffle", [x, sizes], told("float32", "?", "?"))
    assert "decide sizes" in refused(writer.network([made], {})).detail


def _broken(network: Network) -> list[Network]:
    layer = network.layers[0]

    def with_layer(**changes: Any) -> Network:
        return replace(network, layers=(replace(layer, **changes),))

    return [
        replace(network, inputs=()),
        replace(network, outputs=()),
        replace(network, outputs=(0,)),
        replace(network, outputs=(2, 2)),
        replace(network, outputs=(7,)),
        replace(network, outputs=(-1,)),
        replace(network, symbols={}),
        replace(network, symbols={"k0": replace(RANGES["k0"], least=9)}),
        replace(network, inputs=(told("float32", "2*k0", 3), network.inputs[1])),
        replace(network, inputs=(told("float32", -3, 3), network.inputs[1])),
        replace(network, inputs=(told("float32", *[1] * 9), network.inputs[1])),
        replace(network, inputs=(told("float32", 2**33, 3), network.inputs[1])),
        with_layer(kind="nonsense"),
        with_layer(inputs=(0,)),
        with_layer(inputs=(0, None)),
        with_layer(inputs=(0, 2)),
        with_layer(inputs=(0, -1)),
        with_layer(inputs=(0, True)),
        with_layer(outputs=()),
        with_layer(attributes={}),
        with_layer(attributes={"op": "nonsense"}),
        with_layer(attributes={"op": ["sum"]}),
        with_layer(attributes={"op": "sum", "more": 1}),
    ]


@pytest.mark.parametrize("case", range(23))
def test_a_broken_description_is_refused_before_tensorrt_sees_it(case: int) -> None:
    refused(_broken(NETWORKS["elementwise"]("float32"))[case])


@pytest.mark.parametrize(
    "attributes",
    [
        {"dtype": "float32", "shape": [5], "blob": 0},  # more than there is: TensorRT would read past it
        {"dtype": "float32", "shape": [3], "blob": 1},
        {"dtype": "float32", "shape": [-3], "blob": 0},
        {"dtype": "int64", "shape": [3], "blob": 0},
        {"dtype": "float32", "shape": [3]},
    ],
)
def test_constants_have_their_bytes(attributes: dict[str, Any]) -> None:
    shape = tuple(attributes["shape"])
    layer = Layer(kind="constant", inputs=(), outputs=(told("float32", *shape),), attributes=attributes)
    sum_of = Layer(kind="elementwise", inputs=(0, 1), outputs=(told("float32", *shape),), attributes={"op": "sum"})
    network = Network(inputs=(told("float32", *shape),), layers=(layer, sum_of), outputs=(2,), blobs=(bytes(12),))
    refused(network)


@pytest.mark.parametrize(("kind", "dtype"), [("matmul", "float32"), ("einsum", "float32"), ("unary", "bfloat16")])
def test_what_sm75_lacks_is_refused_with_the_node(kind: str, dtype: str) -> None:
    network = NETWORKS[kind](dtype)
    network = replace(network, layers=(replace(network.layers[0], node="mm_7"),))
    with pytest.raises(BuildError) as caught:
        plan(network, "sm75")
    assert caught.value.stage == "support"
    assert "sm75" in caught.value.detail


def test_sm75_multiplies_half_precision_and_accumulates_in_single() -> None:
    assert len(plan(NETWORKS["matmul"]("float16"), "sm75")) > 1000


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_products_are_accumulated_in_float32(dtype: str) -> None:
    """TensorRT for RTX writes into a plan how: 2 is float32, 0 its own choice."""
    pair = [told(dtype, 4, 64, 128), told(dtype, 1, 128, 256)]
    for wide, kind in ((True, b"accumulation_type=2"), (False, b"accumulation_type=0")):
        network = one_layer("matmul", pair, [told(dtype, 4, 64, 256)], transpose_a=False, transpose_b=False, wide=wide)
        assert kind in plan(network)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", ["softmax", "normalization", "activation"])
def test_half_precision_steps_are_one_kernel_in_float32(kind: str, dtype: str) -> None:
    """A kernel is called after its steps: it casts first and last, and rounds nothing in between."""
    names = set(re.findall(rb"__myl_(\w+?)_0x", plan(NETWORKS[kind](dtype))))
    assert len(names) == 1
    name = names.pop()
    assert name.startswith(b"Cast")
    assert name.endswith(b"Cast")


@pytest.mark.parametrize("size", [8, 320])
def test_half_precision_attention_without_a_kernel_is_computed_in_float32(size: int) -> None:
    q = told("float16", 1, 2, 16, size)
    network = one_layer("attention", [q, q, q], [q], causal="lower_right")
    text = plan(network)
    assert b"_mha" not in text
    assert b"__myln_exp___myln_float___myln_float(" in text


def test_attention_with_a_kernel_is_one() -> None:
    q, k = told("float16", "k0", 4, "k1", 64), told("float16", "k0", 2, "k1", 64)
    assert b"_mha" in plan(one_layer("attention", [q, k, k], [q], causal="lower_right"))
