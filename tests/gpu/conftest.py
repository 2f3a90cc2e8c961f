"""Tests that need a CUDA device, a torch with CUDA, and some a TensorRT that runs here; else they say what is missing.

None of these has been run by the people who wrote it: no machine with a GPU was at hand.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import djinn_fx.backend
from djinn_fx.engines.tensorrt.engine import TensorRTEngine


def missing(tensorrt: bool) -> str | None:
    """What a test lacks here; None if nothing. ``tensorrt``: whether it needs that."""
    if not torch.version.cuda:
        return "this torch is built without CUDA"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    if not tensorrt:
        return None
    found = TensorRTEngine().capability()
    if not (found.can_build and found.can_run):
        return f"TensorRT does not build and run here: {found.why_not}"
    return None


@pytest.fixture(autouse=True)
def _needs_a_gpu(request: pytest.FixtureRequest) -> Iterator[None]:
    problem = missing(tensorrt="tensorrt" in request.path.name)
    if problem is not None:
        pytest.skip(problem)
    djinn_fx.backend.reset()
    yield
    djinn_fx.backend.reset()
