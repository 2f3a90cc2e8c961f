"""The ONNX Runtime engine: regions as ONNX models, on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from djinn_fx.engines.bound.region import Session
from djinn_fx.engines.onnx.serving.engine import OnnxEngine
from djinn_fx.errors import EngineError


class OnnxRuntimeEngine(OnnxEngine):
    """See :class:`~djinn_fx.engines.onnx.serving.engine.OnnxEngine`. Float32 is float32 with either ``precision``."""

    name = "onnxruntime"
    libraries = ("onnxruntime", "onnx")

    def session(self, model: bytes, signature: Any, weights: Mapping[int, torch.Tensor], label: str) -> Session:
        """Open a model; see the base class."""
        try:
            from djinn_fx.engines.onnxruntime.session import OrtSession
        except (ImportError, AttributeError) as error:
            raise EngineError(f"onnxruntime: this version of the library is not one djinn-fx knows: {error}") from error

        return OrtSession(model, signature, weights, threads=torch.get_num_threads(), label=label)
