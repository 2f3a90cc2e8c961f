"""What comes out of the exporter made into bytes that say only what is computed, and checked against what is expected.

The exporter writes into a model where each op came from, in whose file, and by which versions it was made. Without all
that, and with values named by their place, the bytes are the same for every identical layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from djinn_fx.engines.optional import optional
from djinn_fx.errors import useful_line

onnx = optional("onnx")

_BFLOAT16 = 16
#: The types TensorRT computes with, by the number the ONNX standard gives them (TensorProto.DataType).
DTYPES: dict[int, str] = {1: "float32", 6: "int32", 7: "int64", 9: "bool", 10: "float16", _BFLOAT16: "bfloat16"}

#: Ops that draw random numbers, or whose results have sizes that depend on data.
_NOT_TAKEN = frozenset(
    "NonZero Unique Compress StringNormalizer TfIdfVectorizer Bernoulli Multinomial RandomNormal RandomNormalLike "
    "RandomUniform RandomUniformLike Dropout NonMaxSuppression ImageDecoder".split()
)

#: A model larger than this holds something that should have been an argument.
MAX_BYTES = 64 << 20

#: TensorRT's own attribute of an Attention: it may be built of other layers where there is no kernel for it. Without,
#: a mask or a type that no kernel takes makes the whole build fail. Nobody else knows it: see :func:`for_others`.
DECOMPOSABLE = "TRT_decomposable"

Shape = Sequence[int | str]


class NotTaken(Exception):
    """The exported model is not what TensorRT should be given; the message says why."""


def finish(model: Any, inputs: Sequence[tuple[str, Shape]], outputs: Sequence[tuple[str, Shape]]) -> bytes:
    """The model's bytes.

    Args:
        model: an ``onnx.ModelProto``, with functions inlined; it is changed.
        inputs: the type and sizes that each input must have; sizes are numbers and symbols' names.
        outputs: the same of each output; a size that is no number is not checked.

    Raises:
        NotTaken: an op, a type or a size that cannot be given to TensorRT, or is not what was expected.
    """
    graph = model.graph
    if model.functions or graph.sparse_initializer:
        raise NotTaken("the exported model holds functions or sparse tensors")
    if len(graph.input) != len(inputs) or len(graph.output) != len(outputs):
        raise NotTaken(f"{len(graph.input)} inputs and {len(graph.output)} outputs were exported")
    _check_ops(model)
    _check_pads(graph)
    _strip(model)
    _compute_outputs(graph)
    _rename(graph)
    for info, (dtype, shape) in zip(graph.input, inputs, strict=True):
        if DTYPES.get(info.type.tensor_type.elem_type) != dtype:
            raise NotTaken(f"an input of {dtype} was exported as another type")
        _set_shape(info, shape)
    _check_results(model, outputs)
    for info, (_, shape) in zip(graph.output, outputs, strict=True):
        _set_shape(info, shape)
    for node in graph.node:
        if node.op_type == "Attention":
            node.attribute.append(onnx.helper.make_attribute(DECOMPOSABLE, 1))
    if model.ByteSize() > MAX_BYTES:
        raise NotTaken(f"the model has {model.ByteSize()} bytes of constants; weights should be arguments")
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def for_others(data: bytes) -> bytes:
    """A model without what only TensorRT understands."""
    model = onnx.load_from_string(data)
    for node in model.graph.node:
        kept = [onnx.AttributeProto.FromString(one.SerializeToString()) for one in node.attribute]
        kept = [one for one in kept if one.name != DECOMPOSABLE]
        del node.attribute[:]
        node.attribute.extend(kept)
    bare: bytes = model.SerializeToString(deterministic=True)
    return bare


def holds_bfloat16(data: bytes) -> bool:
    """Whether a model computes with bfloat16 anywhere, as far as its inputs, outputs, constants and casts say."""
    graph = onnx.load_from_string(data).graph
    types = {info.type.tensor_type.elem_type for info in (*graph.input, *graph.output)}
    types |= {one.data_type for one in graph.initializer}
    types |= {one.i for node in graph.node if node.op_type == "Cast" for one in node.attribute if one.name == "to"}
    return _BFLOAT16 in types


def _check_ops(model: Any) -> None:
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise NotTaken(f"the op {node.domain}::{node.op_type}, which is none of ONNX's own")
        if node.op_type in _NOT_TAKEN:
            raise NotTaken(f"the op {node.op_type}")
        if any(one.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for one in node.attribute):
            raise NotTaken(f"the op {node.op_type}, which is control flow")


def _check_pads(graph: Any) -> None:
    """Negative padding of any kind but by a constant: runtimes do not agree on what it means."""
    constants = {one.name: one for one in graph.initializer}
    for node in graph.node:
        modes = [one.s for one in node.attribute if one.name == "mode"]
        if node.op_type == "Pad" and modes not in ([], [b"constant"]):
            pads = constants.get(node.input[1])
            if pads is None or bool((onnx.numpy_helper.to_array(pads) < 0).any()):
                raise NotTaken("padding by less than nothing, or by sizes not known, that repeats the input")


def _strip(model: Any) -> None:
    """Remove everything that says how the model was made."""
    model.producer_name = "djinn-fx"
    for field in ("producer_version", "domain", "doc_string", "model_version"):
        model.ClearField(field)
    del model.metadata_props[:]
    kept = [one for one in model.opset_import if one.domain in ("", "ai.onnx")]
    del model.opset_import[:]
    model.opset_import.extend(kept[:1])
    graph = model.graph
    graph.name = "region"
    del graph.value_info[:]
    for part in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("doc_string")
        del part.metadata_props[:]
    for node in graph.node:
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
        ordered = sorted(node.attribute, key=lambda one: str(one.name))
        copies = [onnx.AttributeProto.FromString(one.SerializeToString()) for one in ordered]
        del node.attribute[:]
        node.attribute.extend(copies)


def _compute_outputs(graph: Any) -> None:
    """Give outputs that are constants an op: TensorRT gives back only what a layer makes."""
    constants = {one.name for one in graph.initializer}
    for info in graph.output:
        if info.name in constants:
            value = f"{info.name}/constant"
            next(one for one in graph.initializer if one.name == info.name).name = value
            for node in graph.node:
                for index, name in enumerate(node.input):
                    if name == info.name:
                        node.input[index] = value
            graph.node.append(onnx.helper.make_node("Identity", [value], [info.name]))


def _rename(graph: Any) -> None:
    """Name values by their place: inputs ``in0``, outputs ``out0``, all others ``v0`` in order of first use."""
    names = {info.name: f"in{place}" for place, info in enumerate(graph.input)}
    if len(names) != len(graph.input) or any(info.name in names for info in graph.output):
        raise NotTaken("an input was exported twice, or as an output")
    names.update({info.name: f"out{place}" for place, info in enumerate(graph.output)})
    if len(names) != len(graph.input) + len(graph.output):
        raise NotTaken("two outputs were exported as one")
    count = 0
    for place, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{place}"
        for values in (node.input, node.output):
            for index, name in enumerate(values):
                if not name:
                    continue
                if name not in names:
                    names[name] = f"v{count}"
                    count += 1
                values[index] = names[name]
    used = [one for one in graph.initializer if one.name in names]
    for one in used:
        one.name = names[one.name]
    used.sort(key=lambda one: (one.name[0], int(one.name.lstrip("inoutv"))))
    copies = [onnx.TensorProto.FromString(one.SerializeToString()) for one in used]
    del graph.initializer[:]
    graph.initializer.extend(copies)
    for info in (*graph.input, *graph.output):
        info.name = names[info.name]


def _set_shape(info: Any, shape: Shape) -> None:
    sizes = info.type.tensor_type.shape
    sizes.Clear()
    sizes.SetInParent()
    for size in shape:
        dim = sizes.dim.add()
        if type(size) is int:
            dim.dim_value = size
        elif size:
            dim.dim_param = str(size)


def _check_results(model: Any, outputs: Sequence[tuple[str, Shape]]) -> None:
    """Infer types and sizes anew, from the inputs alone, and compare them with what the region's own are."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for info in bare.graph.output:
        info.type.Clear()
    try:
        inferred = onnx.shape_inference.infer_shapes(bare, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:
        raise NotTaken(f"ONNX finds no consistent types and sizes: {useful_line(error)[:300]}") from error
    for info in (*inferred.graph.value_info, *inferred.graph.output, *_initializers(inferred)):
        number = info.data_type if isinstance(info, onnx.TensorProto) else info.type.tensor_type.elem_type
        if number not in DTYPES:
            kind = onnx.TensorProto.DataType.Name(number) if number else "no known type"
            raise NotTaken(f"the exported model computes {info.name} as {kind}, which TensorRT has no arithmetic for")
    for info, (dtype, shape) in zip(inferred.graph.output, outputs, strict=True):
        found = info.type.tensor_type
        if DTYPES.get(found.elem_type) != dtype:
            raise NotTaken(f"an output of {dtype} was exported as {DTYPES.get(found.elem_type)}")
        if not found.HasField("shape"):
            continue
        sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in found.shape.dim]
        if len(sizes) != len(shape) or any(
            made is not None and type(size) is int and made != size for made, size in zip(sizes, shape, strict=True)
        ):
            raise NotTaken(f"an output of sizes {list(shape)} was exported with sizes {sizes}")
    for info, original in zip(inferred.graph.output, model.graph.output, strict=True):
        original.type.tensor_type.elem_type = info.type.tensor_type.elem_type


def _initializers(model: Any) -> Iterable[Any]:
    yield from model.graph.initializer
