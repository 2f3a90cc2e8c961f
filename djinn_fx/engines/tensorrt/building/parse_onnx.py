"""An ONNX model as an ``INetworkDefinition``, by TensorRT's own parser, with what the parser keeps quiet about refused.

Needs TensorRT and the `onnx` package, not torch. The parser takes any bytes for an empty model, turns float64 into
float32 without a word, and lets 8-bit arithmetic through, which means something else to TensorRT (quantized values).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from djinn_fx.engines.tensorrt.building.messages import logger, messages, strongly_typed
from djinn_fx.pool.jobs import BuildError

#: torch's names of the element types that TensorRT has, as the attributes of its module.
TYPES = ("float32", "float16", "bfloat16", "int64", "int32", "bool")
#: Element types that mean the same to ONNX and TensorRT.
_TYPES = ("FLOAT", "FLOAT16", "BFLOAT16", "INT64", "INT32", "BOOL")
_LAYER_TYPES = ("FLOAT", "HALF", "BF16", "INT64", "INT32", "BOOL")
#: TensorRT's attribute of an attention that it may take apart.
_DECOMPOSABLE = "TRT_decomposable"
#: Ops whose result is another each time.
_RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli")
#: TensorRT's limit on a model that is one message.
_LARGEST = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Range:
    """The values a size may have, both ends included."""

    least: int
    usual: int
    most: int


def parse(trt: Any, model: bytes, builder: Any) -> Any:
    """The strongly typed network of a model.

    Args:
        trt: the flavour's module.
        model: a serialized ONNX model without external data. The network's inputs and outputs are called as its.
        builder: made with the flavour's logger.

    Raises:
        BuildError: stage ``parse``: says which node and what the parser says of it.
    """
    try:
        told = _check(model)
    except ValueError as error:  # text that is no text, a type that is none
        raise BuildError(f"the ONNX model is broken: {error}", stage="parse") from error
    network = strongly_typed(trt, builder)  # held by name: the parser keeps no hold of it
    said, mark = messages(trt), messages(trt).mark()
    parser = trt.OnnxParser(network, logger(trt))
    ok = parser.parse(model)
    if not ok or parser.num_errors:
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        node = next((one.node_name() for one in errors if one.node_name()), "")
        ops = ", ".join(sorted({one.node_operator() for one in errors if one.node_operator()}))
        why = " / ".join(" ".join(one.desc().split()) for one in errors) or " / ".join(said.since(mark))
        raise BuildError(f"the ONNX parser refuses{f' {ops}' if ops else ''}: {why}", stage="parse", node=node)
    if said.errors(mark):
        raise BuildError(f"the ONNX parser says: {' / '.join(said.errors(mark))}", stage="parse")
    if not network.num_layers:
        raise BuildError("the ONNX parser made nothing of the model", stage="parse")
    _check_ends(network, told)
    _look_through(trt, network)
    if said.errors(mark):
        raise BuildError(f"the ONNX parser says: {' / '.join(said.errors(mark))}", stage="parse")
    return network


def _check(model: bytes) -> tuple[list[str], list[str]]:
    """The model is whole and means the same to TensorRT; the names of its inputs and outputs."""
    try:
        import onnx  # not needed for anything else here
    except ImportError as error:
        raise BuildError(
            "an ONNX model can be checked only with the onnx package: pip install onnx", stage="support"
        ) from error
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if not 0 < len(model) <= _LARGEST:
        raise BuildError(f"an ONNX model of {len(model)} bytes", stage="parse")
    try:
        proto = onnx.load_from_string(model)
    except DecodeError as error:
        raise BuildError("these bytes are no ONNX model", stage="parse") from error
    try:
        onnx.checker.check_model(_without_extensions(proto))  # the parser crashes on some of what this finds
    except onnx.checker.ValidationError as error:
        raise BuildError(f"the ONNX model is broken: {' '.join(str(error).split())[:500]}", stage="parse") from error
    if not proto.graph.node or not proto.graph.output:
        raise BuildError("the ONNX model is empty", stage="parse")
    for dtype, node in _types(proto):
        name = onnx.TensorProto.DataType.Name(dtype)
        if name not in _TYPES:
            raise BuildError(f"{name} means something else to TensorRT, or nothing", stage="parse", node=node)
    for graph in _graphs(proto):
        for initializer in graph.initializer:
            if initializer.external_data:
                raise BuildError(f"{initializer.name} lies in a file beside the model", stage="parse")
        for node in graph.node:
            if node.op_type in _RANDOM:
                raise BuildError(
                    f"{node.op_type}: TensorRT's random numbers are not torch's", stage="parse", node=node.name
                )
    inputs, outputs = [one.name for one in proto.graph.input], [one.name for one in proto.graph.output]
    return inputs, outputs


def _without_extensions(proto: Any) -> Any:
    """The model without what only TensorRT's parser knows: attributes called ``TRT_…``."""
    copy = type(proto)()
    copy.CopyFrom(proto)
    for graph in _graphs(copy):
        for node in graph.node:
            kept = [attribute for attribute in node.attribute if not attribute.name.startswith("TRT_")]
            if len(kept) < len(node.attribute):
                del node.attribute[:]
                node.attribute.extend(kept)
    return copy


def _graphs(proto: Any) -> Iterator[Any]:
    """The model's graph, and those in its nodes' attributes."""
    waiting = [proto.graph]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                waiting.extend(attribute.graphs)
                if attribute.HasField("g"):
                    waiting.append(attribute.g)


def _types(proto: Any) -> Iterator[tuple[int, str]]:
    """Every element type the model names, with the node that names it."""
    for graph in _graphs(proto):
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type:
                yield value.type.tensor_type.elem_type, value.name
        for initializer in graph.initializer:
            yield initializer.data_type, initializer.name
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t.data_type, node.name
                if attribute.name in ("to", "dtype", "output_dtype") and attribute.i:
                    yield attribute.i, node.name


def _check_ends(network: Any, told: tuple[list[str], list[str]]) -> None:
    made = (
        [network.get_input(index).name for index in range(network.num_inputs)],
        [network.get_output(index).name for index in range(network.num_outputs)],
    )
    for names, tensors in zip(told, made, strict=True):
        if tensors != names:
            raise BuildError(f"the ONNX parser made {tensors} of {names}", stage="parse")


def kind_of(trt: Any, layer: Any) -> str:
    """TensorRT's name of a layer's kind."""
    return str(trt.ILayer.type.fget(layer)).rpartition(".")[2]


def _look_through(trt: Any, network: Any) -> None:
    """No layer of the parser's computes in a type, or draws numbers, that means something else."""
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        kind = kind_of(trt, layer)
        if kind == "FILL":
            layer.__class__ = trt.IFillLayer
            if str(layer.operation).rpartition(".")[2] != "LINSPACE":
                raise BuildError("TensorRT's random numbers are not torch's", stage="parse", node=layer.name)
        for place in range(layer.num_outputs):
            dtype = str(layer.get_output(place).dtype).rpartition(".")[2]
            if dtype not in _LAYER_TYPES:
                raise BuildError(f"the parser computes in {dtype}", stage="parse", node=layer.name)


def with_wide_attention(model: bytes) -> bytes:
    """The model with attention of halves done in float32, where TensorRT has no kernel and may take it apart."""
    import onnx

    proto = onnx.load_from_string(model)
    helper, nodes = onnx.helper, []
    for node in proto.graph.node:
        if node.op_type != "Attention" or any(one.name == _DECOMPOSABLE for one in node.attribute):
            nodes.append(node)
            continue
        kind = _type_of(proto, node.output[0])
        for place, name in enumerate(node.input[:3]):
            node.input[place] = f"{name}/{node.name}/wide"
            nodes.append(helper.make_node("Cast", [name], [node.input[place]], to=onnx.TensorProto.FLOAT))
        (result,) = node.output
        node.output[0] = f"{result}/wide"
        node.attribute.append(helper.make_attribute(_DECOMPOSABLE, 1))
        mask = node.input[3] if len(node.input) > 3 else ""
        if mask and _type_of(proto, mask) != onnx.TensorProto.BOOL:
            node.input[3] = f"{mask}/{node.name}/wide"
            nodes.append(helper.make_node("Cast", [mask], [node.input[3]], to=onnx.TensorProto.FLOAT))
        nodes += [node, helper.make_node("Cast", [node.output[0]], [result], to=kind)]
    copies = [onnx.NodeProto.FromString(one.SerializeToString()) for one in nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(copies)
    widened: bytes = proto.SerializeToString(deterministic=True)
    return widened


def _type_of(proto: Any, name: str) -> int:
    """The element type of a value."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(_without_extensions(proto)).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    return next((int(one.type.tensor_type.elem_type) for one in values if one.name == name), 0)


def profile(network: Any, ranges: Mapping[str, Range], builder: Any) -> Any:
    """The optimization profile of the sizes' ranges; None if every size is a number.

    Args:
        network: a parsed network.
        ranges: by the names that the sizes have in the model.
        builder: what made the network.

    Raises:
        BuildError: stage ``parse``: a size without a range.
    """
    made = builder.create_optimization_profile()
    dynamic = False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if tensor.is_shape_tensor:
            raise BuildError(f"the values of input {index} would decide sizes: refused", stage="parse")
        shape = tuple(tensor.shape)
        if -1 not in shape:
            continue
        dynamic = True
        try:
            names = [tensor.get_dimension_name(axis) for axis in range(len(shape))]
        except UnicodeDecodeError as error:
            raise BuildError(f"input {index} has a size whose name is no text", stage="parse") from error
        missing = [name for name, size in zip(names, shape, strict=True) if size == -1 and name not in ranges]
        if missing:
            raise BuildError(f"input {index} has the sizes {missing} without a range", stage="parse")
        ends = [
            tuple(getattr(ranges[name], end) if size == -1 else size for name, size in zip(names, shape, strict=True))
            for end in ("least", "usual", "most")
        ]
        try:
            made.set_shape(tensor.name, *ends)
        except (ValueError, RuntimeError) as error:
            raise BuildError(
                f"sizes from {ends[0]} to {ends[2]} of input {index} are refused", stage="parse"
            ) from error
    return made if dynamic else None
