"""Runs an exported model on the CPU, to compare it with torch.

ONNX Runtime's CPU kernels run float32, float16 and whole numbers. For bfloat16 it has next to none, so a model that
holds any is run by the reference evaluator of the package ``onnx`` instead: numpy, and slow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch


def run_model(data: bytes, arguments: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """What a model gives.

    Args:
        data: as :func:`djinn_fx.engines.tensorrt.onnx_model.finish` makes it.
        arguments: on the CPU, one per input of the model.

    Raises:
        Exception: the runtime's own, where it has no kernel for an op and a type; ImportError if it is not installed.
    """
    from djinn_fx.engines.tensorrt.onnx_model import for_others, holds_bfloat16

    feeds = {f"in{place}": _to_numpy(value) for place, value in enumerate(arguments)}
    model = for_others(data)
    return [_to_torch(one) for one in (_by_reference if holds_bfloat16(model) else _by_runtime)(model, feeds)]


def _by_runtime(model: bytes, feeds: Mapping[str, Any]) -> Sequence[Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # As it stands: what is checked is the model, not ONNX Runtime's own rewriting of it.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    results: Any = session.run(None, dict(feeds))
    return list(results)


def _by_reference(model: bytes, feeds: Mapping[str, Any]) -> Sequence[Any]:
    import onnx
    from onnx.reference import ReferenceEvaluator

    results: Any = ReferenceEvaluator(onnx.load_from_string(model)).run(None, dict(feeds))
    return list(results)


def _to_numpy(tensor: torch.Tensor) -> Any:
    value = tensor.detach().contiguous()
    if value.dtype is not torch.bfloat16:
        return value.numpy()
    import ml_dtypes  # comes with onnx

    return value.view(torch.int16).numpy().view(ml_dtypes.bfloat16)


def _to_torch(value: Any) -> torch.Tensor:
    if str(value.dtype) != "bfloat16":
        return torch.from_numpy(value.copy())
    return torch.from_numpy(value.view("int16").copy()).view(torch.bfloat16)
