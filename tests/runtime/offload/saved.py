"""A small model, saved, and its offloaded twin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

import djinn_fx
from djinn_fx.runtime.offload.load import weights_of
from djinn_fx.runtime.offload.weights import Weights

#: Kept for activations in tests: far more than this process grows meanwhile, so that nothing is let go by chance.
WORKING = 1 << 30
WIDTH, DEPTH = 768, 4


class Stack(nn.Module):
    """An embedding, layers of two matrices each with a norm, and a head that may be the embedding."""

    def __init__(self, *, tied: bool = False, width: int = WIDTH, depth: int = DEPTH) -> None:
        super().__init__()
        self.table = nn.Embedding(1000, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.up = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth))
        self.head = nn.Linear(width, 1000, bias=False)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        for norm, up, down in zip(self.norms, self.up, self.down, strict=True):
            x = x + down(F.gelu(up(norm(x))))
        return self.head(x)


def save(model: nn.Module, folder: Path) -> Path:
    """The model's tensors, each once, as one file."""
    seen: set[int] = set()
    tensors = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor.detach().contiguous()
    save_file(tensors, folder / "model.safetensors")
    return folder


def bytes_of(model: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def offloaded(made: Any, folder: Path, room: int, **options: Any) -> Any:
    """``made()`` on the meta device, with so many bytes for weights and ring."""
    with torch.device("meta"):
        model = made()
    return djinn_fx.load_offloaded(model, folder, budget=room + WORKING, working=WORKING, held=0, **options)


def lender(model: nn.Module) -> Weights:
    return weights_of(model)
