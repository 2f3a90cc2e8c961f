"""The OpenVINO engine: regions as ONNX models, on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from djinn_fx.engines.bound.region import Session, forks
from djinn_fx.engines.onnx.serving.engine import OnnxEngine
from djinn_fx.errors import EngineError


class OpenVinoEngine(OnnxEngine):
    """See :class:`djinn_fx.engines.onnx.serving.engine.OnnxEngine`. Rounds to bfloat16 only with ``allow-bf16``."""

    name = "openvino"
    libraries = ("openvino", "onnx")
    session_version = 2

    def session(self, model: bytes, signature: Any, weights: Mapping[int, torch.Tensor], label: str) -> Session:
        """Open a model; see the base class."""
        if forks():
            raise EngineError(f"openvino: {label}: OpenVINO does not work in a process that was forked off another")
        try:
            from djinn_fx.engines.openvino.session import OpenVinoSession
        except (ImportError, AttributeError) as error:
            raise EngineError(f"openvino: this version of the library is not one djinn-fx knows: {error}") from error

        return OpenVinoSession(
            model,
            signature,
            weights,
            threads=torch.get_num_threads(),
            precision=self.precision,
            label=label,
        )
