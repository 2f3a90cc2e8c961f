"""One report for all forms: a model with awkward names, over two devices that are not here, with a graph break."""

from __future__ import annotations

from pathlib import Path

import pytest

from djinn_fx.explain.examine import examine
from djinn_fx.explain.finding.model import find_model
from djinn_fx.explain.report import Report
from djinn_fx.settings.table import Settings

#: Markup, quotes, and what other languages read as their own.
AWKWARD = '<script>alert("1")</script>'
MODEL = f"""
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleDict({{{AWKWARD!r}: nn.Linear(64, 64), "b|`*_": nn.Linear(64, 64)}})
    def forward(self, x):
        for part in self.parts.values():
            x = torch.relu(part(x))
        return x

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(6))
    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        torch._dynamo.graph_break()
        return x.softmax(-1)

Net.__name__ = {AWKWARD + ' & "net"'!r}
model = Net()
example_inputs = (torch.zeros(8, 64),)
"""


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The report, of estimates alone."""
    path: Path = tmp_path_factory.mktemp("forms") / "net.py"
    path.write_text(MODEL, "utf-8")
    options = {"topology": "four-l4", "pin": {"layers.0-2": "gpu0", "layers.3-5": "gpu1"}}
    return examine([find_model(f"{path}:model", fake=True)], Settings.load(None, options))
