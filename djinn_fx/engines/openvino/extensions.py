"""OpenVINO's one core, and the operators of our own domain that its ONNX reader is taught.

Where OpenVINO has an operator that ONNX lacks, the converter writes one of the domain ``djinn``:

    ScaledDotProductAttention(query, key, value[, mask[, scale]]), attribute causal
        query [B, H, L, E], key [B, H, S, E], value [B, H, S, V] → [B, H, L, V]; mask is boolean (True: attend) or is
        added; scale is a 0-d number. → ``opset13.scaled_dot_product_attention``
    Rounded(x), attribute half: 1 for float16, 0 for bfloat16
        float32 rounded to that type, which OpenVINO leaves out of a plain conversion.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from djinn_fx.engines.openvino.exact import rounded
from djinn_fx.engines.optional import optional

openvino = optional("openvino")
opset13 = optional("openvino.opset13")

DOMAIN = "djinn"


@functools.cache
def core() -> Any:
    """The process's OpenVINO."""
    made = openvino.Core()
    extension = optional("openvino.frontend.onnx").ConversionExtension
    made.add_extension(extension("ScaledDotProductAttention", DOMAIN, _attention))
    made.add_extension(extension("Rounded", DOMAIN, _rounded))
    return made


def _rounded(node: Any) -> list[Any]:
    if not node.get_attribute("half", 1):
        return [rounded(node.get_input(0), "bf16")]
    # What is of float16 becomes float32 but for this node, and then nothing takes the two beside each other.
    single = opset13.convert(rounded(node.get_input(0), "f16"), "f32")
    return list(opset13.convert(single, "f16").outputs())


def _attention(node: Any) -> list[Any]:
    count = node.get_input_size()
    query, key, value = (node.get_input(place) for place in range(3))
    mask = _given(node.get_input(3)) if count > 3 else None
    scale = _given(node.get_input(4)) if count > 4 else None
    causal = bool(node.get_attribute("causal", 0))
    if mask is None and scale is not None and _is_usual(scale, query):
        scale = None
    if mask is None and scale is not None:
        mask = opset13.constant(0.0, scale.get_element_type()).output(0)  # a scale comes after a mask; this one is none
    made = opset13.scaled_dot_product_attention(query, key, value, mask, scale, causal)
    return list(made.outputs())


def _given(output: Any) -> Any:
    """An input; None if it was left out."""
    return None if output.get_node().get_type_name() == "NullNode" else output


def _is_usual(scale: Any, query: Any) -> bool:
    """Whether a scale is the one that attention has by itself: one over the root of the last size."""
    node, sizes = scale.get_node(), query.get_partial_shape()
    if node.get_type_name() != "Constant" or sizes.rank.is_dynamic or sizes[len(sizes) - 1].is_dynamic:
        return False
    usual = sizes[len(sizes) - 1].get_length() ** -0.5
    return bool(np.float32(node.get_vector()[0]) == np.float32(usual))
