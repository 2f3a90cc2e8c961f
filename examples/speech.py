"""Whisper's encoder with random weights on ten seconds of sound: ``python -m djinn_fx.explain examples/speech.py``."""

from __future__ import annotations

import torch
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

FRAMES = 1000


def get_model() -> WhisperEncoder:
    """Four layers, the width of the smallest published model."""
    config = WhisperConfig(
        d_model=384,
        encoder_layers=4,
        encoder_attention_heads=6,
        encoder_ffn_dim=1536,
        num_mel_bins=80,
        max_source_positions=FRAMES // 2,
    )
    return WhisperEncoder(config).eval()


def get_inputs() -> dict[str, torch.Tensor]:
    """Log-mel frames, a hundred for each second."""
    return {"input_features": torch.linspace(-1, 1, 80 * FRAMES).reshape(1, 80, FRAMES)}
