"""Calls that an engine would answer otherwise than torch: eager answers, and the engine serves the next one."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import djinn_fx

ENGINES = ["openvino", "onnxruntime", "packed", "inductor", "auto"]
LENGTH = 12


class Decoder(nn.Module):
    """Two layers with caches of fixed size, written in place; a step's token is a row of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 32)
        self.project = nn.ModuleList(nn.Linear(32, 96) for _ in range(2))
        for layer in range(2):
            self.register_buffer(f"keys{layer}", torch.zeros(1, LENGTH, 32))
            self.register_buffer(f"values{layer}", torch.zeros(1, LENGTH, 32))

    def forward(self, token: Tensor, position: Tensor, scale: Tensor) -> Tensor:
        """token, position: [1]; scale: [1], floating-point: ``position * scale`` is where the caches are written."""
        x = self.table(token)[None]
        place = (position * scale).long()
        for layer, project in enumerate(self.project):
            q, k, v = project(x).chunk(3, -1)
            keys, values = getattr(self, f"keys{layer}"), getattr(self, f"values{layer}")
            keys.index_copy_(1, place, k)
            values.index_copy_(1, place, v)
            weights = (q @ keys.transpose(1, 2) / 6).softmax(-1)
            x = x + weights @ values
        return x


def _steps(run: Any, model: Decoder, steps: list[tuple[int, int, float]]) -> list[Any]:
    """Answers, or the errors' types, and the caches after each step."""
    made: list[Any] = []
    for buffer in model.buffers():
        buffer.zero_()
    for token, position, scale in steps:
        try:
            made.append(run(torch.tensor([token]), torch.tensor([position]), torch.tensor([scale])).clone())
        except (IndexError, RuntimeError) as error:
            made.append(type(error))
        made.append([buffer.clone() for buffer in model.buffers()])
    return made


@pytest.mark.parametrize("engine", ENGINES)
def test_a_decode_loop_that_trips_conditions_in_its_middle(engine: str, tmp_path: Path) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = Decoder().eval()
    compiled = torch.compile(model, backend="djinn", options={"engine": engine, "cache_dir": str(tmp_path)})
    good = [(token % 10, position, 1.0) for token, position in enumerate(range(LENGTH))]
    bad_place, bad_token, past_the_end = (4, 6, 2.0), (11, 4, 1.0), (3, LENGTH - 1, 1.5)
    steps = [*good, *good[:4], bad_place, bad_token, *good[4:7], past_the_end, (-1, 2, 1.0), *good[7:], *good]
    with torch.no_grad():
        expected = _steps(model, model, steps)
        found = _steps(compiled, model, steps)
    assert any(isinstance(one, type) for one in expected)
    for mine, theirs in zip(found, expected, strict=True):
        if isinstance(theirs, type):
            assert isinstance(mine, type)
        else:
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    if engine in ("openvino", "onnxruntime") and importlib.util.find_spec(engine) is not None:
        assert f"runs on {engine}" in str(djinn_fx.status(compiled))
