"""Many threads that call compiled functions while they are planned and built, each answer held against eager's."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.backend.support import Options

#: How compiled code comes into being: in the first call, beside the calls, and with engines that open sessions.
MODES: dict[str, Options] = {
    "blocking": {"engine": "packed"},
    "background": {"compile": "background"},
    "lazy": {"compile": "lazy"},
    "packed": {"compile": "background", "engine": "packed"},
    "auto": {"compile": "background", "engine": "auto"},
    "inductor": {},
}


class Layer(nn.Module):
    """A feed-forward layer."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.up, self.down, self.norm = nn.Linear(width, 2 * width), nn.Linear(2 * width, width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.down(F.gelu(self.up(self.norm(x))))
        return y


class Broken(nn.Module):
    """Two layers with a graph break between them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Layer(), Layer()

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        torch._dynamo.graph_break()
        z: Tensor = self.second(y)
        return z


def model(layers: int = 2) -> nn.Module:
    """Some layers."""
    return nn.Sequential(*[Layer() for _ in range(layers)]).eval()


def hammer(work: Callable[[int], None], *, threads: int, seconds: float) -> list[str]:
    """What was raised by threads that do a piece of work again and again, given their number."""
    raised: list[str] = []
    end = time.monotonic() + seconds

    def run(number: int) -> None:
        try:
            work(number)
            while time.monotonic() < end:
                work(number)
        except BaseException as error:  # noqa: BLE001  (what this is about; each is told)
            raised.append(f"{type(error).__name__}: {str(error)[:300]}")

    started = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for one in started:
        one.start()
    for one in started:
        one.join()
    return raised


def one_model(options: Options, *, threads: int, seconds: float) -> list[str]:
    """All threads call one model, each with an input of its own; the inputs are of two sizes."""
    plain = model()
    compiled = torch.compile(plain, backend="djinn", options=options)
    inputs = [torch.randn(4 + number % 2, 32) for number in range(threads)]
    with torch.no_grad():
        expected = [plain(x) for x in inputs]

    def work(number: int) -> None:
        with torch.no_grad():
            torch.testing.assert_close(compiled(inputs[number]), expected[number], rtol=1e-3, atol=1e-4)

    return hammer(work, threads=threads, seconds=seconds)


def many_models(options: Options, *, threads: int, seconds: float) -> list[str]:
    """Each thread goes through several models with graph breaks, in an order of its own."""
    plain = [Broken().eval() for _ in range(4)]
    compiled = [torch.compile(one, backend="djinn", options=options) for one in plain]
    x = torch.randn(4, 32)
    with torch.no_grad():
        expected = [one(x) for one in plain]
    turns = list(range(threads))

    def work(number: int) -> None:
        which = turns[number] % len(plain)
        turns[number] += 1 + number % 3
        with torch.no_grad():
            torch.testing.assert_close(compiled[which](x), expected[which], rtol=1e-3, atol=1e-4)

    return hammer(work, threads=threads, seconds=seconds)


def training(options: Options, *, threads: int, seconds: float) -> list[str]:
    """Each thread trains a model of its own; all share one class's code."""
    plain = [model().train() for _ in range(threads)]
    compiled = [torch.compile(copy.deepcopy(one), backend="djinn", options=options) for one in plain]
    x = torch.randn(4, 32)
    expected = [_gradients(one, x) for one in plain]

    def work(number: int) -> None:
        for found, right in zip(_gradients(compiled[number], x), expected[number], strict=True):
            torch.testing.assert_close(found, right, rtol=1e-3, atol=1e-4)

    return hammer(work, threads=threads, seconds=seconds)


def _gradients(one: Any, x: Tensor) -> list[Tensor]:
    one.zero_grad()
    one(x).square().mean().backward()
    return [parameter.grad.clone() for parameter in one.parameters()]
