"""A ConvNeXt with random weights for images: ``python -m djinn_fx.explain examples/vision.py``."""

from __future__ import annotations

import torch
from transformers import ConvNextConfig, ConvNextForImageClassification


def get_model() -> ConvNextForImageClassification:
    """Four stages, narrower than the published ones."""
    config = ConvNextConfig(hidden_sizes=[48, 96, 192, 384], depths=[2, 2, 4, 2], num_labels=100)
    return ConvNextForImageClassification(config).eval()


def get_inputs() -> dict[str, torch.Tensor]:
    """Two images."""
    return {"pixel_values": torch.linspace(-1, 1, 2 * 3 * 160 * 160).reshape(2, 3, 160, 160)}
