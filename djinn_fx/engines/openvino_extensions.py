"""OpenVINO's one core, and the operators of our own domain that its ONNX reader is taught.

Where OpenVINO has an operator that ONNX lacks, the converter writes one of the domain ``djinn``:

    ScaledDotProductAttention(query, key, value[, mask[, scale]]), attribute causal
        query [B, H, L, E], key [B, H, S, E], value [B, H, S, V] → [B, H, L, V]; mask is boolean (True: attend) or is
        added; scale is a 0-d number. → ``opset13.scaled_dot_product_attention``
"""

from __future__ import annotations

import functools
from typing import Any

import openvino
from openvino import opset13
from openvino.frontend.onnx import ConversionExtension

DOMAIN = "djinn"


@functools.cache
def core() -> Any:
    """The process's OpenVINO."""
    made = openvino.Core()
    made.add_extension(ConversionExtension("ScaledDotProductAttention", DOMAIN, _attention))
    return made


def _attention(node: Any) -> list[Any]:
    inputs = [node.get_input(place) for place in range(node.get_input_size())]
    causal = bool(node.get_attribute("causal", 0))
    return opset13.scaled_dot_product_attention(*inputs, causal=causal).outputs()
