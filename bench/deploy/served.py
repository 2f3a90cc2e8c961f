"""Six models that take 20 to 200 ms on one core, and four workflows of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from djinn_fx.deploy.reading.workload import Config, ModelInfo, NodeInfo

#: What every model takes and returns.
ROWS, COLUMNS = 64, 1024
GB = 10**9
#: Nodes of each workflow: name, model, those before it.
WORKFLOWS = {
    "answer": (("read", "embed", ()), ("write", "draft", ("read",)), ("weigh", "judge", ("write",))),
    "look": (("see", "vision", ()), ("write", "draft", ("see",))),
    "rank": (("read", "embed", ()), ("weigh", "judge", ("read",))),
    "report": (
        ("see", "vision", ()),
        ("read", "embed", ()),
        ("write", "draft", ("see", "read")),
        ("polish", "polish", ("write",)),
        ("tone", "tone", ("write",)),
    ),
}  # fmt: skip
MODELS = ("embed", "vision", "draft", "judge", "polish", "tone")


class Layers(torch.nn.Module):
    """Two matrices and an activation, several times."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        pairs = [[torch.nn.Linear(COLUMNS, COLUMNS), torch.nn.GELU()] for _ in range(depth)]
        self.inside = torch.nn.Sequential(*(one for pair in pairs for one in pair))
        self.norm = torch.nn.LayerNorm(COLUMNS)

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        """Of the mean of what comes in."""
        found: torch.Tensor = self.norm(self.inside(torch.stack(values).mean(0)))
        return found


class Attention(torch.nn.Module):
    """Encoder layers of a transformer over 256 places."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        layers = [torch.nn.TransformerEncoderLayer(256, 4, 1024, dropout=0.0, batch_first=True) for _ in range(depth)]
        self.inside = torch.nn.Sequential(*layers)

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        """Of the mean of what comes in."""
        found: torch.Tensor = self.inside(torch.stack(values).mean(0).reshape(1, 256, 256))
        return found.reshape(ROWS, COLUMNS)


class Convolutions(torch.nn.Module):
    """Convolutions over an image of 64 by 64 with 16 channels."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        pairs = [[torch.nn.Conv2d(16 if n == 0 else 64, 64, 3, padding=1), torch.nn.ReLU()] for n in range(depth)]
        self.inside = torch.nn.Sequential(*(one for pair in pairs for one in pair), torch.nn.Conv2d(64, 16, 1))
        self.norm = torch.nn.LayerNorm(COLUMNS)

    def forward(self, *values: torch.Tensor) -> torch.Tensor:
        """Of the mean of what comes in."""
        found: torch.Tensor = self.inside(torch.stack(values).mean(0).reshape(1, 16, 64, 64))
        return self.norm(found.reshape(ROWS, COLUMNS))  # type: ignore[no-any-return]


def prepare(data: Mapping[str, Any], results: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
    """Results of the nodes before, or numbers of the request's own."""
    if results:
        return tuple(results.values())
    return (torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(int(data["seed"]))),)


Made = tuple[torch.nn.Module, Callable[..., Any]]


def embed() -> Made:
    """A stack."""
    return Layers(24), prepare


def vision() -> Made:
    """Convolutions."""
    return Convolutions(16), prepare


def draft() -> Made:
    """A deep transformer."""
    return Attention(10), prepare


def judge() -> Made:
    """A long stack."""
    return Layers(36), prepare


def polish() -> Made:
    """A transformer."""
    return Attention(8), prepare


def tone() -> Made:
    """A shorter stack."""
    return Layers(20), prepare


def config() -> Config:
    """Models of 1 GB each, as a planner sees them, and the workflows."""
    models = {name: ModelInfo(name, GB, expected_s=0.05, entry=f"bench.deploy.served:{name}") for name in MODELS}
    workflows = {
        name: tuple(NodeInfo(node, model, before, (0,) * len(before)) for node, model, before in nodes)
        for name, nodes in WORKFLOWS.items()
    }
    return Config("bench/deploy/served.py", models, workflows)
